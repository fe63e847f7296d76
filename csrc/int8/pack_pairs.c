/* The rule that keeps sums of 16 bits exact.
 *
 * AVX2's vpmaddubsw computes x0 * w0 + x1 * w1 from unsigned bytes x and signed bytes w, and saturates it to 16 bits.
 * Let P be the sum of the positive weights among w0 and w1, and N the sum of the negative ones. Because x is 0 to 255,
 * the result is between 255 * N and 255 * P. If P <= 128 and N >= -128, it is within +-32640 and never saturates; 129
 * would allow 32895. The same holds for four products, two from each of two quads, whose sums vpaddw adds: it never
 * overflows if the rule holds for all four weights together. Weights must also fit in signed bytes: -128 does, 128
 * does not. */
#include "int8/pack_pairs.h"

#include <string.h>

enum { COLUMNS = FM_INT8_PAIRS_COLUMNS, BLOCK = 16, TOO_MUCH = 255 };

/* A quad's partner is searched among the next SEARCH quads. Twice as many would find few more partners in
 * twice the time. After FRUITLESS quads in a row without a partner, as in most panels of per-channel files, the search
 * ends. */
enum { SEARCH = 16, FRUITLESS = 6 };

/* All loops here have a fixed length and compute in bytes, so that compilers vectorise them: loading runs them for
 * every panel. */
static uint8_t saturating_sum(uint8_t a, uint8_t b) {
    const uint8_t room = (uint8_t)(255 - b);
    return (uint8_t)(b + (a < room ? a : room));
}

static uint8_t positive_part(uint8_t weight, uint8_t zero) {
    const uint8_t above = (uint8_t)((weight > zero ? weight : zero) - zero);
    return above > INT8_MAX ? TOO_MUCH : above;
}

static uint8_t negative_part(uint8_t weight, uint8_t zero) { return (uint8_t)(zero - (weight < zero ? weight : zero)); }

void fm_int8_load_of(const uint8_t *const rows[4], int columns, int zero, fm_int8_load *load) {
    const uint8_t z = (uint8_t)zero;
    uint8_t padded[4][COLUMNS], most[BLOCK] = {0};
    for (int half = 0; half < 2; half++) {
        uint8_t *positive = load->sums + half * 2 * COLUMNS, *negative = positive + COLUMNS;
        const uint8_t *pair[2];
        for (int t = 0; t < 2; t++) {
            uint8_t *own = padded[2 * half + t];
            pair[t] = rows[2 * half + t];
            if (pair[t] && columns == COLUMNS) continue;
            memset(own, zero, COLUMNS);
            pair[t] = pair[t] ? memcpy(own, pair[t], (size_t)columns) : own;
        }
        /* Two whole vectors; the second overlaps the first. */
        for (int first = 0; first <= COLUMNS - BLOCK; first += COLUMNS - BLOCK) {
            for (int i = 0; i < BLOCK; i++) {
                const uint8_t a = pair[0][first + i], b = pair[1][first + i];
                const uint8_t above = saturating_sum(positive_part(a, z), positive_part(b, z));
                const uint8_t below = saturating_sum(negative_part(a, z), negative_part(b, z));
                const uint8_t larger = above > below ? above : below;
                positive[first + i] = above;
                negative[first + i] = below;
                most[i] = larger > most[i] ? larger : most[i];
            }
        }
    }
    load->most = 0;
    for (int i = 0; i < BLOCK; i++) load->most = most[i] > load->most ? most[i] : load->most;
    const uint8_t *largest = memchr(load->sums, load->most, sizeof load->sums);
    load->largest = (uint8_t)(largest - load->sums);
}

/* Whether two quads that fit alone fit together. The columns with the largest sums are checked first, because they
 * usually decide. */
static int fit_together(const fm_int8_load *a, const fm_int8_load *b, int pair_max) {
    uint8_t too_much = 0;
    if (b->sums[a->largest] > pair_max - a->most || a->sums[b->largest] > pair_max - b->most) return 0;
    for (int i = 0; i < 4 * COLUMNS; i++) too_much |= b->sums[i] > (uint8_t)(pair_max - a->sums[i]);
    return !too_much;
}

fm_int8_order fm_int8_order_quads(const fm_int8_load *loads, int count, int pair_max) {
    enum { OPEN, TAKEN, WIDE };
    fm_int8_order order = {.doubles = 0};
    char state[FM_INT8_MAX_STEPS];
    int at = 0, fruitless = 0;
    for (int i = 0; i < count; i++) state[i] = loads[i].most > pair_max ? WIDE : OPEN;
    for (int i = 0; i < count && fruitless < FRUITLESS; i++) {
        if (state[i] != OPEN) continue;
        fruitless++;
        for (int k = i + 1; state[i] == OPEN && k < count && k <= i + SEARCH; k++) {
            if (state[k] != OPEN || !fit_together(&loads[i], &loads[k], pair_max)) continue;
            state[i] = state[k] = TAKEN;
            order.quads[at++] = (int16_t)i;
            order.quads[at++] = (int16_t)k;
            fruitless = 0;
        }
    }
    order.doubles = at / 2;
    for (int which = OPEN; which <= WIDE; which += WIDE - OPEN) {
        for (int i = 0; i < count; i++) {
            if (state[i] == which) order.quads[at++] = (int16_t)i;
        }
        if (which == OPEN) order.singles = at - 2 * order.doubles;
    }
    return order;
}

/* 255 if the two weights exceed pair_max, otherwise 0. */
static uint8_t misfit(uint8_t a, uint8_t b, uint8_t zero, uint8_t pair_max) {
    const uint8_t above = saturating_sum(positive_part(a, zero), positive_part(b, zero));
    const uint8_t below = saturating_sum(negative_part(a, zero), negative_part(b, zero));
    return (above > below ? above : below) > pair_max ? 255 : 0;
}

int fm_int8_pair_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_max) {
    uint8_t some[BLOCK] = {0};
    int misfits = 0;
    for (int c = 0; columns < BLOCK && c < columns; c++) misfits += misfit(a[c], b[c], zero, (uint8_t)pair_max) & 1;
    for (int from = 0; columns >= BLOCK && from < columns; from += BLOCK) {
        /* The last block overlaps the previous one. */
        const int first = from < columns - BLOCK ? from : columns - BLOCK;
        for (int i = 0; i < BLOCK; i++) {
            some[i] = (uint8_t)(some[i] - misfit(a[first + i], b[first + i], zero, (uint8_t)pair_max));
        }
    }
    for (int i = 0; i < BLOCK; i++) misfits += some[i];
    return misfits;
}

void fm_int8_mark_misfits(const uint8_t *a, const uint8_t *b, int columns, uint8_t zero, int pair_max, uint8_t bit,
                          uint8_t *restrict marks) {
    for (int c = 0; c < columns; c++) marks[c] |= misfit(a[c], b[c], zero, (uint8_t)pair_max) & bit;
}
