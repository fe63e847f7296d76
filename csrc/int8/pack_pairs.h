/* Which quads of a panel's weights sums of 16 bits can take, for tables with a pair_most. Internal to pack. */
#ifndef FM_INT8_PACK_PAIRS_H
#define FM_INT8_PACK_PAIRS_H

#include "int8/kernels.h"

/* How a layer's columns, `vecs` vectors of them, are split into panels: evenly. */
static inline int fm_int8_panels(const fm_int8_kernels *kernels, int vecs) {
    return (vecs + kernels->vecs - 1) / kernels->vecs;
}
static inline int fm_int8_panel_start(const fm_int8_kernels *kernels, int vecs, int panel) {
    return vecs * panel / fm_int8_panels(kernels, vecs) * kernels->lanes;
}

enum { FM_INT8_PAIRS_COLUMNS = 24 }; /* the widest panel of such a table */

/* What the weights of a quad add up to in each column: those that meet bytes 0 and 1, then 2 and 3; of both the
 * positive ones, then the negative ones' sizes. From 255 on it is 255. `most` is the largest, sums[largest]. */
typedef struct fm_int8_load {
    uint8_t most, largest, sums[4 * FM_INT8_PAIRS_COLUMNS];
} fm_int8_load;

/* The order in which a panel takes its quads: `doubles` times two, `singles`, and then those that must be wide. */
typedef struct fm_int8_order {
    int doubles, singles;
    int16_t quads[FM_INT8_MOST_STEPS];
} fm_int8_order;

/* Of a quad whose bytes meet `rows`, some of which may be missing (NULL), less the weights' zero point. */
void fm_int8_load_of(const uint8_t *const rows[4], int columns, int zero, fm_int8_load *load);

/* `loads` are those of the panel's `count` quads. */
fm_int8_order fm_int8_order_quads(const fm_int8_load *loads, int count, int pair_most);

/* Two rows of weights that meet the bytes of a pair: in how many columns they don't fit. Where 16
 * does not divide these, some count twice. */
int fm_int8_pair_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_most);

/* Sets `bit` in marks[c] for each such column c. */
void fm_int8_mark_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_most, uint8_t bit,
                          uint8_t *marks);

#endif
