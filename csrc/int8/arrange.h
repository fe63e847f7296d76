/* The order in which a block's expanded channels are computed, for tables with a pair_max. It is invisible outside:
 * the depthwise convolution keeps the order, projections sum over it, and endpoints get the file's order. */
#ifndef FM_INT8_ARRANGE_H
#define FM_INT8_ARRANGE_H

#include "fastmnv2.h"
#include "int8/kernels.h"
#include "net/layers.h"

/* Two adjacent channels, or a single one that has no partner yet. `wide` has a bit for each quad of the expansion whose
 * sums don't fit in 16 bits; quad 64 shares bit 0, and so on. `key` is the sort key. */
typedef struct fm_int8_couple {
    uint64_t wide;
    int key;
    int16_t channels[2];
} fm_int8_couple;

/* order[i] is the file's channel that is computed in place i. `couples` is a buffer of two couples per channel. */
void fm_int8_arrange(const fm_int8_kernels *kernels, const fm_layer *expand, const fm_int8_layer *expand_weights,
                     const fm_layer *project, const fm_int8_layer *project_weights, fm_int8_couple *couples,
                     int16_t *order);

/* The same weights with their columns, or rows, in `order`. They are stored in `buffer`, which has rows * columns bytes
 * plus 8 bytes per column. */
fm_int8_layer fm_int8_arranged_columns(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                       char *buffer);
fm_int8_layer fm_int8_arranged_rows(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                    char *buffer);

/* Restores `pixels` pixels that were computed in this order to the file's order. */
void fm_int8_restore(uint8_t *map, size_t pixels, int channels, const int16_t *order);

#endif
