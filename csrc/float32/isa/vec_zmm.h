/* The vector vocabulary on 512-bit registers: AVX-512F. */
#include <immintrin.h>
#include <stdint.h>

#include "float32/tpl/unroll.h"

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

/* The larger of |a| and b; b where a is NaN. */
FM_INLINE vec vec_max_abs(vec a, vec b) { return _mm512_max_ps(_mm512_abs_ps(a), b); }

/* Both instructions return their second operand when either is NaN or both are zero. */
FM_INLINE vec vec_relu6(vec a) {
    return _mm512_min_ps(_mm512_set1_ps(6.0f), _mm512_max_ps(_mm512_setzero_ps(), a));
}

/* A value that stays in its register from here on: one load a cycle is all there is, and the compiler would
 * rather load again for each use. */
FM_INLINE vec vec_keep(vec a) {
#if defined(__GNUC__) && defined(__AVX512F__) /* and not when emulated */
    __asm__("" : "+v"(a));
#endif
    return a;
}
