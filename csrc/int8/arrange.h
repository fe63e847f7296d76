/* The order in which a block's expanded channels are computed, for tables with a pair_most. Nobody outside sees it: the
 * depthwise convolution keeps it, projections add up over it, and endpoints are put back into the file's order. */
#ifndef FM_INT8_ARRANGE_H
#define FM_INT8_ARRANGE_H

#include "fastmnv2.h"
#include "int8/kernels.h"
#include "net/layers.h"

/* Two channels side by side; first, one. `wide`: the quads of the expansion, bit by bit (from 64 on again from bit 0),
 * that don't fit sums of 16 bits. They are sorted by `key`. */
typedef struct fm_int8_couple {
    uint64_t wide;
    int key;
    int16_t channels[2];
} fm_int8_couple;

/* order[i]: which of the file's channels comes in place i. `couples` is room for two a channel. */
void fm_int8_arrange(const fm_int8_kernels *kernels, const fm_layer *expand, const fm_int8_layer *expand_weights,
                     const fm_layer *project, const fm_int8_layer *project_weights, fm_int8_couple *couples,
                     int16_t *order);

/* The same weights with columns, or rows, in another order, in `room`: rows * columns bytes, and 8 for each column. */
fm_int8_layer fm_int8_arranged_columns(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                       char *room);
fm_int8_layer fm_int8_arranged_rows(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                    char *room);

/* Puts `pixels` pixels that were computed in that order into the file's. */
void fm_int8_restore(uint8_t *map, size_t pixels, int channels, const int16_t *order);

#endif
