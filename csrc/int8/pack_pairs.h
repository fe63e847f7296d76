/* Which quads of a panel can be summed in 16 bits, for tables with a pair_max. Internal to pack.c and arrange.c. */
#ifndef FM_INT8_PACK_PAIRS_H
#define FM_INT8_PACK_PAIRS_H

#include "int8/kernels.h"

/* A layer of `vecs` vectors of columns is split evenly into panels. */
static inline int fm_int8_panels(const fm_int8_kernels *kernels, int vecs) {
    return (vecs + kernels->vecs - 1) / kernels->vecs;
}
static inline int fm_int8_panel_start(const fm_int8_kernels *kernels, int vecs, int panel) {
    return vecs * panel / fm_int8_panels(kernels, vecs) * kernels->lanes;
}

enum { FM_INT8_PAIRS_COLUMNS = 24 }; /* the widest panel of a table with a pair_max */

/* The sums of a quad's weights in each column, first for bytes 0 and 1, then for bytes 2 and 3: the sums of
 * positive weights, then the magnitudes of the sums of negative weights, saturated at 255. `most` is the largest of
 * all, sums[largest]. */
typedef struct fm_int8_load {
    uint8_t most, largest, sums[4 * FM_INT8_PAIRS_COLUMNS];
} fm_int8_load;

/* The order of a panel's quads: `doubles` times two, then `singles`, then the wide ones. */
typedef struct fm_int8_order {
    int doubles, singles;
    int16_t quads[FM_INT8_MAX_STEPS];
} fm_int8_order;

/* The load of a quad. `rows` are the weights of its four bytes; NULL for a byte without weights. `zero` is the weights'
 * zero point. */
void fm_int8_load_of(const uint8_t *const rows[4], int columns, int zero, fm_int8_load *load);

/* Orders a panel's `count` quads by their `loads`. */
fm_int8_order fm_int8_order_quads(const fm_int8_load *loads, int count, int pair_max);

/* The number of columns in which two rows of weights, for a pair of bytes, exceed pair_max. If 16 does not divide
 * `columns`, some columns may count twice. */
int fm_int8_pair_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_max);

/* Sets `bit` in marks[c] for each column c in which two rows of weights exceed pair_max. */
void fm_int8_mark_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_max, uint8_t bit,
                          uint8_t *marks);

#endif
