/* The vector vocabulary on 256-bit registers: AVX2+FMA, and AVX-512VL, which has twice as many. */
#include <immintrin.h>
#include <stdint.h>

#include "unroll.h"

#define LANES 8
typedef __m256 vec;

FM_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
FM_INLINE void vec_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
FM_INLINE vec vec_set1(float a) { return _mm256_set1_ps(a); }
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
FM_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
FM_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
FM_INLINE void vec_prefetch(const char *p) { _mm_prefetch(p, _MM_HINT_T0); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* max(|a|, b); b if a is NaN. */
FM_INLINE vec vec_max_abs(vec a, vec b) { return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a), b); }

/* Both instructions return their second operand when either is NaN or both are zero. */
FM_INLINE vec vec_relu6(vec a) { return _mm256_min_ps(_mm256_set1_ps(6.0f), _mm256_max_ps(_mm256_setzero_ps(), a)); }

/* Does nothing, because two loads per cycle are enough for two multiply-adds (see vec_zmm.h). */
FM_INLINE vec vec_keep(vec a) { return a; }
