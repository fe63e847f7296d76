/* The only code that knows packed layouts, beside the kernels that read them. */
#ifndef FM_INT8_PACK_H
#define FM_INT8_PACK_H

#include "fastmnv2.h"
#include "int8/kernels.h"
#include "net/layers.h"

/* Memory that is first measured (`block` NULL: nothing is written) and then filled, by the same calls. */
typedef struct fm_int8_store {
    char *block;
    size_t used;
} fm_int8_store;

/* A panel of a convolution: `vecs` vectors of output channels from channel `start` on. */
typedef struct fm_int8_panel {
    int start, vecs, doubles, singles, steps;
    const int32_t *offsets; /* [2 * doubles + singles + steps]: where the quads of a pixel stand */
    const char *weights;    /* quads of bytes, [2 * doubles + singles][vecs * lanes]; [steps][parts][vecs * lanes] */
} fm_int8_panel;

typedef struct fm_int8_conv {
    const fm_int8_kernels *kernels;
    const fm_int8_panel *panels;
    int count, columns;          /* columns: of the layer, up to a multiple of 8 */
    const int32_t *bias;         /* [columns], the input's zero point taken up; zeros up to whole vectors */
    const float *scale, *offset; /* likewise; see fm_int8_output */
    fm_int8_output output;
} fm_int8_conv;

/* `repeat`: how many pixels of a row make the `channels` that the kernel sees as one (see fm_int8_repeat). */
typedef struct fm_int8_depthwise {
    const fm_int8_kernels *kernels;
    const char *packed;
    int sets, channels, repeat;
    fm_int8_output output;
} fm_int8_depthwise;

typedef struct fm_int8_add {
    const fm_int8_kernels *kernels;
    const char *packed;
    int32_t bias;
    int shift;
    fm_int8_output output;
} fm_int8_add;

/* `row_bytes`: from one image row to the next, which the first convolution needs. */
fm_int8_conv fm_int8_pack_conv(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                               const fm_int8_layer *weights, int row_bytes);
fm_int8_depthwise fm_int8_pack_depthwise(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                                         const fm_int8_layer *weights);
fm_int8_add fm_int8_pack_add(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_int8_sum *weights);

/* Fills in the weights of a convolution's columns [from, to) that lie in panel p, and returns the first of them;
 * `columns` is 0 if there are none. `from` and `to` are multiples of the vector length, but for the last `to`. */
int fm_int8_conv_part(const fm_int8_conv *conv, int p, int from, int to, fm_int8_conv_args *args);

/* Where the packed weights from a channel on start, a multiple of the unit in which threads share out channels. */
const char *fm_int8_depthwise_at(const fm_int8_depthwise *depthwise, int channel);
int fm_int8_depthwise_unit(const fm_int8_depthwise *depthwise);

void *fm_int8_take(fm_int8_store *store, size_t bytes);

#endif
