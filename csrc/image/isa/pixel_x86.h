/* A pixel: three floats in a register of four, on any x86-64 processor. */
#include <immintrin.h>
#include <string.h>

#include "unroll.h"

typedef __m128 pixel;

FM_INLINE pixel pixel_load3(const float *p) {
    float four[4] = {0.0f};
    memcpy(four, p, 3 * sizeof *p);
    return _mm_loadu_ps(four);
}
FM_INLINE void pixel_store3(float *p, pixel a) {
    float four[4];
    _mm_storeu_ps(four, a);
    memcpy(p, four, 3 * sizeof *p);
}
/* sum + weight * p; the float after p[2] is read and ignored. */
FM_INLINE pixel pixel_add(pixel sum, float weight, const float *p) {
    return _mm_add_ps(sum, _mm_mul_ps(_mm_set1_ps(weight), _mm_loadu_ps(p)));
}
