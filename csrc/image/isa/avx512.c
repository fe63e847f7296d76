/* AVX-512F: 16 lanes. */
#include <stdint.h>

#include "image/isa/pixel_x86.h"

#define LANES 16
typedef __m512 vec;

FM_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
FM_INLINE void vec_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
FM_INLINE vec vec_set1(float a) { return _mm512_set1_ps(a); }
FM_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
FM_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }

#define VOCABULARY "avx512"
#define TABLE      fm_image_avx512
#include "image/tpl/table.inc"
