/* AVX2: 8 lanes. */
#include <stdint.h>

#include "image/isa/pixel_x86.h"

#define LANES 8
typedef __m256 vec;

FM_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
FM_INLINE void vec_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
FM_INLINE vec vec_set1(float a) { return _mm256_set1_ps(a); }
FM_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
FM_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }

#define VOCABULARY "avx2"
#define TABLE      fm_image_avx2
#include "image/tpl/table.inc"
