/* The vector vocabulary on 512-bit registers: AVX-512F. */
#include <immintrin.h>
#include <stdint.h>

#include "unroll.h"

#define LANES 16
typedef __m512 vec;

FM_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
FM_INLINE void vec_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
FM_INLINE vec vec_set1(float a) { return _mm512_set1_ps(a); }
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
FM_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
FM_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
FM_INLINE void vec_prefetch(const char *p) { _mm_prefetch(p, _MM_HINT_T0); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* max(|a|, b); b if a is NaN. */
FM_INLINE vec vec_max_abs(vec a, vec b) { return _mm512_max_ps(_mm512_abs_ps(a), b); }

/* Both instructions return their second operand when either is NaN or both are zero. */
FM_INLINE vec vec_relu6(vec a) { return _mm512_min_ps(_mm512_set1_ps(6.0f), _mm512_max_ps(_mm512_setzero_ps(), a)); }

/* Keeps a value in its register. The compiler would load it again for each use, but there is only one load per
 * cycle. */
FM_INLINE vec vec_keep(vec a) {
#if defined(__GNUC__) && defined(__AVX512F__) /* not when emulated */
    __asm__("" : "+v"(a));
#endif
    return a;
}

/* ---- two rows in one register, for columns that 16 does not divide: see tpl/pairs.inc ---- */

#define HALF 8 /* channels of each row in a vector of two rows */

/* 8 floats; the upper half is undefined. */
FM_INLINE vec vec_load_half(const float *p) { return _mm512_castps256_ps512(_mm256_loadu_ps(p)); }

/* The first `count` floats, 1 to 16, then zeros. */
FM_INLINE vec vec_load_first(const float *p, int count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}

/* Rows a and b interleaved, a0 b0 a1 b1 …: their first 8 lanes, and their last 8. */
FM_INLINE vec vec_turns_low(vec a, vec b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
FM_INLINE vec vec_turns_high(vec a, vec b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                                  b);
}

/* The first 8 floats of two rows that start 6 floats apart, interleaved. */
FM_INLINE vec vec_turns_6(const float *p) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12, 7, 13),
                                 vec_load_first(p, 14));
}

/* One float of each row, repeated. */
FM_INLINE vec vec_set2(const float *p) {
    return _mm512_castsi512_ps(_mm512_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)p)));
}

/* Each channel twice: the even channels of 16, the odd channels of 16, 8 channels. The first two cost only the load. */
FM_INLINE vec vec_twice_even(const float *p) { return _mm512_moveldup_ps(_mm512_loadu_ps(p)); }
FM_INLINE vec vec_twice_odd(const float *p) { return _mm512_movehdup_ps(_mm512_loadu_ps(p)); }
FM_INLINE vec vec_twice(const float *p) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

/* Back to rows: 16 channels of a; 16 of b; 8 channels of a, then 8 of b. */
FM_INLINE vec vec_row_a(vec even, vec odd) { return _mm512_mask_moveldup_ps(even, 0xaaaa, odd); }
FM_INLINE vec vec_row_b(vec even, vec odd) { return _mm512_mask_movehdup_ps(odd, 0x5555, even); }
FM_INLINE vec vec_halves(vec turns) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), turns);
}

FM_INLINE vec vec_load_halves(const float *low, const float *high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
}
FM_INLINE void vec_store_low(float *p, vec a) { _mm256_storeu_ps(p, _mm512_castps512_ps256(a)); }
FM_INLINE void vec_store_high(float *p, vec a) { _mm256_storeu_ps(p, _mm512_extractf32x8_ps(a, 1)); }
