/* The vector vocabulary with one lane. Its fmaf calls define the bits every other file must equal. */
#include <math.h>
#include <stdint.h>

#include "tpl/unroll.h"

#define LANES 1
typedef float vec;

FM_INLINE vec vec_load(const float *p) { return *p; }
FM_INLINE void vec_store(float *p, vec a) { *p = a; }
FM_INLINE vec vec_set1(float a) { return a; }
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return fmaf(a, b, c); }
FM_INLINE vec vec_add(vec a, vec b) { return a + b; }
FM_INLINE vec vec_mul(vec a, vec b) { return a * b; }
FM_INLINE vec vec_div(vec a, vec b) { return a / b; }
FM_INLINE void vec_prefetch(const char *p) { (void)p; }
FM_INLINE vec vec_load_u8(const uint8_t *p) { return (float)*p; }

FM_INLINE vec vec_max_abs(vec a, vec b) { return fabsf(a) > b ? fabsf(a) : b; }

/* Written as the x86 min/max instructions behave: NaN stays NaN, -0 stays -0. */
FM_INLINE vec vec_relu6(vec a) {
    vec low = 0.0f > a ? 0.0f : a;
    return 6.0f < low ? 6.0f : low;
}

FM_INLINE vec vec_keep(vec a) { return a; }
