/* The packed layouts of weights. Only this code and the kernels depend on them. */
#ifndef FM_INT8_PACK_H
#define FM_INT8_PACK_H

#include "fastmnv2.h"
#include "int8/kernels.h"
#include "net/layers.h"

/* Memory for packed weights. Packing runs twice: while `block` is NULL it only measures, then it fills the block. */
typedef struct fm_int8_store {
    char *block;
    size_t used;
} fm_int8_store;

/* A panel of a convolution: `vecs` vectors of output channels from channel `start` on. */
typedef struct fm_int8_panel {
    int start, vecs, doubles, singles, steps;
    const int32_t *offsets; /* [2 * doubles + singles + steps]: offsets of a pixel's quads */
    const char *weights;    /* quads of bytes, [2 * doubles + singles][vecs * lanes]; [steps][parts][vecs * lanes] */
} fm_int8_panel;

typedef struct fm_int8_conv {
    const fm_int8_kernels *kernels;
    const fm_int8_panel *panels;
    int count, columns;          /* columns: the layer's, rounded up to a multiple of 8 */
    const int32_t *bias;         /* [columns], includes the input's zero point; padded with zeros to whole vectors */
    const float *scale, *offset; /* likewise; see fm_int8_output */
    fm_int8_output output;
} fm_int8_conv;

/* `repeat` pixels of a row are merged, so that the kernel sees one pixel of `channels` channels (see repeat_of). */
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

/* `row_bytes` is the distance between image rows, which the first convolution needs. */
fm_int8_conv fm_int8_pack_conv(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                               const fm_int8_layer *weights, int row_bytes);
fm_int8_depthwise fm_int8_pack_depthwise(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                                         const fm_int8_layer *weights);
fm_int8_add fm_int8_pack_add(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_int8_sum *weights);

/* Sets args to the weights of those columns [from, to) that lie in panel p, and returns the first of them.
 * args->columns is 0 if there are none. `from` and `to` are multiples of the vector length, except `to` at the end of
 * the layer. */
int fm_int8_conv_part(const fm_int8_conv *conv, int p, int from, int to, fm_int8_conv_args *args);

/* The packed weights from a channel on. The channel is a multiple of the unit in which threads split channels. */
const char *fm_int8_depthwise_at(const fm_int8_depthwise *depthwise, int channel);
int fm_int8_depthwise_unit(const fm_int8_depthwise *depthwise);

void *fm_int8_take(fm_int8_store *store, size_t bytes);

#endif
