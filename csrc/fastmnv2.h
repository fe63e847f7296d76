/* fastmnv2: MobileNet V2 as one forward pass on the CPU.
 *
 * The public C API. Models are opaque and immutable once made, so any number of threads may call
 * fm_forward on one model at the same time. There are no mutable globals. Every call that can fail
 * returns an fm_status, and changes its outputs only if it returns FM_OK. */
#ifndef FASTMNV2_H
#define FASTMNV2_H

#include <stddef.h>
#include <stdint.h>

typedef enum fm_status {
    FM_OK,
    FM_NO_MEMORY,
    FM_NO_LOGITS,
    FM_NO_NETWORK /* no member of the family has this multiplier or size */
} fm_status;

/* ---- the network as data ------------------------------------------------------------------- */

enum {
    FM_BLOCKS = 17, /* inverted residual blocks */
    FM_LAYERS = 3 * FM_BLOCKS + 2,
    FM_ENDPOINTS = 4 * FM_BLOCKS + 2 /* named intermediate outputs, 'default' not counted */
};

/* One inverted residual block: 1x1 expand -> 3x3 depthwise -> 1x1 project. Block 0 has no expansion; the first
 * convolution, which reads the image, takes its place. Heights and widths are those of the maps before and after the
 * depthwise convolution, whose first window begins `pad_top` rows above the map and `pad_left` columns left of it. */
typedef struct fm_block {
    int height, width, out_height, out_width;
    int pad_top, pad_left;
    int in, expand, out; /* channels */
    int stride;
    int residual; /* whether the input is added to the output */
} fm_block;

/* One member of the family. A plain value: made once for each model, freely copied, never changed. */
typedef struct fm_network {
    double multiplier;     /* of channels */
    int height, width;     /* of an image, pixels */
    int pad_top, pad_left; /* of the first convolution */
    int colours;           /* of a pixel */
    int features;          /* length of a feature vector */
    int classes;           /* logits; index 0 is "background" */
    fm_block blocks[FM_BLOCKS];
} fm_network;

/* The network that TF-Slim's rule gives. FM_NO_NETWORK unless 0.25 <= multiplier <= 2, and height and width are from 32
 * to 512 each. */
fm_status fm_network_make(double multiplier, int height, int width, fm_network *network);

typedef enum fm_kind { FM_CONV, FM_DEPTHWISE, FM_POINTWISE } fm_kind;

/* One convolution. `scope` is its TF-Slim variable scope. */
typedef struct fm_layer {
    char scope[48];
    fm_kind kind;
    int kernel, stride;
    int in_height, in_width, out_height, out_width; /* of the maps */
    int pad_top, pad_left;
    int in_channels, out_channels;
    int relu6;    /* clamp to [0,6] after the bias */
    int residual; /* add the block's input after the bias */
} fm_layer;

/* One named output of the module: [height][width][channels]. */
typedef struct fm_endpoint {
    char name[48];
    int height, width, channels;
} fm_endpoint;

/* Layers in order, the logits last: 0 <= index < FM_LAYERS. Endpoints in order, followed by the blocks' projections
 * (see fm_request): 0 <= index < FM_ENDPOINTS + FM_BLOCKS. */
fm_layer fm_layer_info(const fm_network *network, int index);
fm_endpoint fm_endpoint_info(const fm_network *network, int index);

/* ---- instruction sets ---------------------------------------------------------------------- */

typedef struct fm_isa fm_isa;

int fm_isa_count(void);             /* compiled in, slowest first */
const fm_isa *fm_isa_at(int index); /* 0 <= index < fm_isa_count() */
const char *fm_isa_name(const fm_isa *isa);
int fm_isa_supported(const fm_isa *isa); /* by this processor and this operating system */

/* The instruction set that a tier ("float32", "int8" or "image") uses if `isa` is requested: `isa` itself or, if it has
 * no kernels for the tier, the next slower one that has kernels and that this machine can run. */
const fm_isa *fm_isa_for(const char *tier, const fm_isa *isa);
int fm_isa_images(const fm_isa *isa); /* images that take one thread about ten milliseconds */

/* For measurements: performs at least `macs` multiply-adds at the instruction set's full rate, on the
 * calling thread; returns how many. Divide this by the time that the call took. */
double fm_peak_macs(const fm_isa *isa, double macs);

uint64_t fm_ticks(void); /* the clock of fm_request.ticks, of unknown rate */

/* For measurements: the ticks of that clock that a cache line takes from one processor to another; 0 if two threads
 * don't get a processor each. */
double fm_ping_ticks(void);

/* For measurements: how many calls of this process stopped splitting an image among threads, because the system kept a
 * thread from running. Calls with fewer images than threads then use fewer threads for up to two seconds. */
unsigned long fm_late_teams(void);

/* ---- models -------------------------------------------------------------------------------- */

typedef struct fm_model fm_model;

/* Folded weights in TF-Slim's layouts, indexed by layer: convolution [3][3][in][out], depthwise [3][3][C][1],
 * pointwise [in][out]; biases [out]. The last entry, the logits, may be NULL in both. The weights are copied. */
typedef struct fm_weights {
    const float *const *kernels;
    const float *const *biases;
    float black, white; /* the values of an image's 0 and 1 before the first convolution: -1 and 1 in the module */
} fm_weights;

fm_status fm_model_new(const fm_isa *isa, const fm_network *network, const fm_weights *weights, fm_model **model);
void fm_model_free(fm_model *model); /* NULL is allowed */
size_t fm_model_bytes(const fm_model *model);

typedef enum fm_dtype { FM_FLOAT32, FM_UINT8 } fm_dtype;

/* n images in, features (and any endpoints) out. All arrays are C-contiguous, need no alignment and
 * must not overlap. */
typedef struct fm_request {
    const void *images; /* [n][height][width][3], RGB: float32 in [0,1], or uint8 */
    fm_dtype dtype;
    size_t n;
    float *features; /* [n][features] */
    /* NULL, or the output array of each endpoint by index, NULL to skip it: float (8-bit models: uint8_t)
     * [n][height][width][channels]. In 8-bit models, the blocks' projections before the residual follow the
     * endpoints: [FM_ENDPOINTS + FM_BLOCKS]. */
    void *const *endpoints;
    int threads;     /* >= 1; the most threads to use */
    uint64_t *ticks; /* NULL, or [FM_LAYERS]: the time spent in each layer is added; for one thread only */
} fm_request;

/* Sets `*out_of_range` to 1 if any float pixel is below -0.25 or above 1.25, so that the caller can warn that [0,1] was
 * expected, and otherwise leaves it unchanged. Such pixels are computed like any other. If black and white are not
 * opposite numbers, the wider of the two limits applies to both sides. */
fm_status fm_forward(const fm_model *model, const fm_request *request, int *out_of_range);

/* features [n][features] -> logits [n][classes]; FM_NO_LOGITS if the weights have no logits layer. */
fm_status fm_logits(const fm_model *model, const float *features, size_t n, float *logits);

/* ---- fully connected layers ------------------------------------------------------------------ */

typedef struct fm_dense fm_dense;

/* y = x kernel + bias: kernel [inputs][outputs], bias [outputs]; both are copied. inputs, outputs >= 1. Each output is
 * one chain of fused multiply-adds in the order of the inputs, then the bias, so it has the same bits for any n and any
 * instruction set. Immutable once made, like models. */
fm_status fm_dense_new(const fm_isa *isa, int inputs, int outputs, const float *kernel, const float *bias,
                       fm_dense **dense);
void fm_dense_free(fm_dense *dense);                                          /* NULL is allowed */
void fm_dense_run(const fm_dense *dense, const float *x, size_t n, float *y); /* [n][inputs] -> [n][outputs] */

/* ---- 8-bit models -------------------------------------------------------------------------- */

/* Activations and weights are unsigned bytes. For int8 files, 128 is added to values and zero points. */

/* One convolution: kernel in the layout of fm_weights, bias [out], and the factor of each sum, scale [out]. */
typedef struct fm_int8_layer {
    const uint8_t *kernel; /* NULL for missing logits */
    const int32_t *bias;
    const float *scale;
    int kernel_zero, in_zero, out_zero, low, high; /* outputs are clamped to [low, high] */
} fm_int8_layer;

/* A residual addition of the block's output (a) and its input (b):
 * (ma * (a - a_zero) + mb * (b - b_zero) + 2^(shift - 1)) >> shift, plus out_zero, clamped. */
typedef struct fm_int8_sum {
    int32_t ma, mb;
    int shift, a_zero, b_zero, out_zero, low, high;
} fm_int8_sum;

typedef struct fm_int8_weights {
    const fm_int8_layer *layers; /* [FM_LAYERS], the logits last */
    const fm_int8_sum *sums;     /* by block; read only if the block has a residual */
    const uint8_t *pool;         /* [pixels * 255 + 1]: the average for each sum over the last map's pixels */
    const float *feature;        /* [256]: the value of each byte of a feature */
    const float *logit;          /* [256]: the same for logits; NULL without them */
} fm_int8_weights;

double fm_int8_peak_macs(const fm_isa *isa, double macs); /* like fm_peak_macs */

/* An 8-bit model; all calls above accept it. Its endpoints are bytes. float32 images are rounded to bytes, half to
 * even. If an image has a NaN, its features are NaN. fm_logits accepts only the model's own features. */
fm_status fm_int8_model_new(const fm_isa *isa, const fm_network *network, const fm_int8_weights *weights,
                            fm_model **model);

/* ---- threads ------------------------------------------------------------------------------- */

int fm_openmp(void);      /* 1 if built with OpenMP */
int fm_max_threads(void); /* OpenMP's current limit for the calling thread; 1 without OpenMP and after some forks */

/* Notices forks from now on (pthread_atfork). If a process with several threads forks, the thread in the child computes
 * alone, because OpenMP would wait forever for workers that the child does not have. Call this before any fork; the
 * first call that uses threads does it too. */
void fm_watch_forks(void);

#endif
