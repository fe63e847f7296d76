/* Plain C for any processor: the reference, whose bits the other tables must equal. */
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#define LANES 1
typedef float vec;
typedef struct pixel {
    float c[3];
} pixel;

FM_INLINE vec vec_load(const float *p) { return *p; }
FM_INLINE vec vec_load_u8(const uint8_t *p) { return (float)*p; }
FM_INLINE void vec_store(float *p, vec a) { *p = a; }
FM_INLINE vec vec_set1(float a) { return a; }
FM_INLINE vec vec_add(vec a, vec b) { return a + b; }
FM_INLINE vec vec_sub(vec a, vec b) { return a - b; }
FM_INLINE vec vec_mul(vec a, vec b) { return a * b; }

FM_INLINE pixel pixel_load3(const float *p) { return (pixel){{p[0], p[1], p[2]}}; }
FM_INLINE void pixel_store3(float *p, pixel a) { memcpy(p, a.c, sizeof a.c); }
FM_INLINE pixel pixel_add(pixel sum, float weight, const float *p) {
    for (int c = 0; c < 3; c++) sum.c[c] += weight * p[c];
    return sum;
}

#define VOCABULARY "scalar"
#define TABLE      fm_image_scalar
#include "image/tpl/table.inc"
