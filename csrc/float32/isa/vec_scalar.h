/* The vector vocabulary with one lane. Its multiply-add defines the bits that every other file must produce. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#define LANES 1
typedef float vec;

FM_INLINE vec vec_load(const float *p) { return *p; }
FM_INLINE void vec_store(float *p, vec a) { *p = a; }
FM_INLINE vec vec_set1(float a) { return a; }

#ifdef FP_FAST_FMAF
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return fmaf(a, b, c); }
#else
/* a * b + c, rounded once. fmaf is not used: mingw-w64's rounds twice, and glibc's changes the rounding mode and is
 * slow. The product of two floats is exact in double. The sum is rounded to odd: if it is inexact (Knuth's TwoSum
 * reports) and its last bit is 0, it moves by one bit towards the exact sum. Rounding the result to float then gives
 * the same as rounding the exact sum (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008). */
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

/* Like the x86 min and max instructions: NaN stays NaN, and -0 stays -0. */
FM_INLINE vec vec_relu6(vec a) {
    vec low = 0.0f > a ? 0.0f : a;
    return 6.0f < low ? 6.0f : low;
}

FM_INLINE vec vec_keep(vec a) { return a; }
