/* The vector vocabulary with one lane. Its multiply-add defines the bits every other file must equal. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "float32/tpl/unroll.h"

#define LANES 1
typedef float vec;

FM_INLINE vec vec_load(const float *p) { return *p; }
FM_INLINE void vec_store(float *p, vec a) { *p = a; }
FM_INLINE vec vec_set1(float a) { return a; }

#ifdef FP_FAST_FMAF
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return fmaf(a, b, c); }
#else
/* a * b + c rounded once. Not fmaf: mingw-w64's rounds twice, glibc's changes the rounding mode and is slow.
 * The product of two floats is exact as a double. The sum is rounded to odd: if it lost anything (Knuth's TwoSum)
 * and its last bit is even, it is moved towards what it lost. Rounding that to float is rounding the exact sum
 * (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008). */
FM_INLINE vec vec_fma(vec a, vec b, vec c) {
    const double product = (double)a * (double)b, addend = (double)c;
    double sum = product + addend;
    const double part = sum - product;
    const double lost = (product - (sum - part)) + (addend - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if ((lost > 0.0 || lost < 0.0) && !(bits & 1)) {
        bits += (lost > 0.0) == (sum > 0.0) ? 1u : (uint64_t)-1;
        memcpy(&sum, &bits, sizeof bits);
    }
    return (float)sum;
}
#endif

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
