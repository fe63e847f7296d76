/* The vector vocabulary on SSE2, on every x86-64 processor. It has no fused multiply-add: each one is a sum in double
 * precision or, where that could round twice, the emulation of vec_scalar.h, two lanes at a time. */
#include <emmintrin.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#define LANES 4
typedef __m128 vec;

FM_INLINE vec vec_load(const float *p) { return _mm_loadu_ps(p); }
FM_INLINE void vec_store(float *p, vec a) { _mm_storeu_ps(p, a); }
FM_INLINE vec vec_set1(float a) { return _mm_set1_ps(a); }

/* product + addend, rounded to odd: if the sum is inexact and its last bit is 0, it moves towards the exact sum. */
FM_INLINE __m128d add_to_odd(__m128d product, __m128d addend) {
    const __m128d zero = _mm_setzero_pd(), sum = _mm_add_pd(product, addend), part = _mm_sub_pd(sum, product);
    const __m128d lost = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, part)), _mm_sub_pd(addend, part));
    const __m128i bits = _mm_castpd_si128(sum), one = _mm_set_epi32(0, 1, 0, 1);
    const __m128i even = _mm_sub_epi64(_mm_and_si128(bits, one), one); /* all ones or zero */
    const __m128d inexact = _mm_or_pd(_mm_cmplt_pd(lost, zero), _mm_cmpgt_pd(lost, zero));
    /* + 1, away from zero, if sum and loss have the same sign; else - 1. */
    const __m128i signs = _mm_srai_epi32(_mm_castpd_si128(_mm_xor_pd(sum, lost)), 31);
    const __m128i step = _mm_or_si128(_mm_shuffle_epi32(signs, _MM_SHUFFLE(3, 3, 1, 1)), one);
    const __m128i moved = _mm_and_si128(_mm_and_si128(even, _mm_castpd_si128(inexact)), step);
    return _mm_castsi128_pd(_mm_add_epi64(bits, moved));
}
FM_INLINE vec to_floats(__m128d low, __m128d high) { return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high)); }

/* Whether rounding to double and then to float may be wrong: the first rounding must have hit the middle between two
 * floats (a mantissa that ends in 1 and 28 zeros), or the float is denormal. That is rare enough for a branch. */
FM_INLINE int rounds_twice(__m128d low, __m128d high) {
    const __m128 l = _mm_castpd_ps(low), h = _mm_castpd_ps(high);
    const __m128i ends = _mm_castps_si128(_mm_shuffle_ps(l, h, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i tops = _mm_castps_si128(_mm_shuffle_ps(l, h, _MM_SHUFFLE(3, 1, 3, 1)));
    const __m128i middle = _mm_cmpeq_epi32(_mm_slli_epi32(ends, 3), _mm_set1_epi32((int)0x80000000));
    /* 0 < |sum| < 2^-126, as one signed comparison: the bits minus 1, shifted by half the range. */
    const __m128i size = _mm_add_epi32(_mm_slli_epi32(tops, 1), _mm_set1_epi32(0x7fffffff));
    const __m128i denormal = _mm_cmplt_epi32(size, _mm_set1_epi32((int)(0x70200000u + 0x7fffffffu)));
    return _mm_movemask_ps(_mm_castsi128_ps(_mm_or_si128(middle, denormal)));
}

FM_INLINE vec vec_fma(vec a, vec b, vec c) {
    const vec a2 = _mm_movehl_ps(a, a), b2 = _mm_movehl_ps(b, b), c2 = _mm_movehl_ps(c, c);
    const __m128d low = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), low_addend = _mm_cvtps_pd(c);
    const __m128d high = _mm_mul_pd(_mm_cvtps_pd(a2), _mm_cvtps_pd(b2)), high_addend = _mm_cvtps_pd(c2);
    const __m128d low_sum = _mm_add_pd(low, low_addend), high_sum = _mm_add_pd(high, high_addend);
    if (rounds_twice(low_sum, high_sum)) return to_floats(add_to_odd(low, low_addend), add_to_odd(high, high_addend));
    return to_floats(low_sum, high_sum);
}

FM_INLINE vec vec_add(vec a, vec b) { return _mm_add_ps(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return _mm_mul_ps(a, b); }
FM_INLINE vec vec_div(vec a, vec b) { return _mm_div_ps(a, b); }
FM_INLINE void vec_prefetch(const char *p) { _mm_prefetch(p, _MM_HINT_T0); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    int four;
    memcpy(&four, p, sizeof four);
    const __m128i zero = _mm_setzero_si128(), bytes = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(bytes, zero));
}

/* max(|a|, b); b if a is NaN. */
FM_INLINE vec vec_max_abs(vec a, vec b) { return _mm_max_ps(_mm_andnot_ps(_mm_set1_ps(-0.0f), a), b); }

/* Both instructions return their second operand when either is NaN or both are zero. */
FM_INLINE vec vec_relu6(vec a) { return _mm_min_ps(_mm_set1_ps(6.0f), _mm_max_ps(_mm_setzero_ps(), a)); }

FM_INLINE vec vec_keep(vec a) { return a; }
