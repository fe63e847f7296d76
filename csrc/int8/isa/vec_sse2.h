/* The 8-bit vocabulary on SSE2, which every x86-64 processor has: pairs of 16 bits as with AVX2. */
#include <emmintrin.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"
#include "int8/kernels.h"

#define LANES    4
#define PARTS    2
#define X_OFFSET 0
#define MAGIC    0
typedef __m128i sums, weights, quads, part_of_quad, bytes;

FM_INLINE sums sums_load(const int32_t *p) { return _mm_loadu_si128((const __m128i *)p); }
FM_INLINE void sums_store(int32_t *p, sums a) { _mm_storeu_si128((__m128i *)p, a); }
FM_INLINE sums sums_set1(int32_t a) { return _mm_set1_epi32(a); }
FM_INLINE sums sums_add(sums a, sums b) { return _mm_add_epi32(a, b); }
FM_INLINE sums sums_left(sums a, const int count) { return _mm_sll_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_right(sums a, int count) { return _mm_sra_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_keep(sums a) {
#if defined(__GNUC__)
    __asm__("" : "+x"(a)); /* see vec_zmm.h */
#endif
    return a;
}
FM_INLINE part_of_quad part_keep(part_of_quad p) { return sums_keep(p); }
FM_INLINE weights weights_load(const char *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
FM_INLINE weights weights_keep(weights w) { return w; }

/* Bytes 0 and 2, or 1 and 3, as 16 bits. */
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    return part ? _mm_srli_epi16(q, 8) : _mm_and_si128(q, _mm_set1_epi16(255));
}
FM_INLINE part_of_quad broadcast_part(const uint8_t *p, const int part) {
    int32_t quad;
    memcpy(&quad, p, sizeof quad);
    return quads_part(_mm_set1_epi32(quad), part);
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) { return sums_keep(_mm_add_epi32(acc, _mm_madd_epi16(x, w))); }

#define SPLITS_ROWS
/* A quad for each lane, cut into its two parts. */
FM_INLINE void quads_split(const uint8_t *p, uint32_t *part0, uint32_t *part1) {
    const quads q = _mm_loadu_si128((const __m128i *)p);
    _mm_storeu_si128((__m128i *)part0, quads_part(q, 0));
    _mm_storeu_si128((__m128i *)part1, quads_part(q, 1));
}
FM_INLINE part_of_quad part_broadcast(const uint32_t *p) { return _mm_set1_epi32((int32_t)*p); }

FM_INLINE sums sums_scaled(sums a, const float *scale, const float *offset, const int plain) {
    (void)offset;
    __m128 y = _mm_mul_ps(_mm_cvtepi32_ps(a), _mm_loadu_ps(scale));
    if (!plain) y = _mm_min_ps(y, _mm_set1_ps(65536.0f));
    return _mm_cvtps_epi32(y);
}
FM_INLINE bytes bytes_pack(sums a, sums b, sums c, sums d, const fm_int8_output *output, const int plain) {
    __m128i low = _mm_packs_epi32(a, b), high = _mm_packs_epi32(c, d);
    if (plain) return _mm_packus_epi16(low, high);
    const __m128i zero = _mm_set1_epi16((short)output->zero);
    low = _mm_adds_epi16(low, zero);
    high = _mm_adds_epi16(high, zero);
    const bytes clamped = _mm_max_epu8(_mm_packus_epi16(low, high), _mm_set1_epi8((char)output->low));
    return _mm_min_epu8(clamped, _mm_set1_epi8((char)output->high));
}
/* `count` is a multiple of 4. */
FM_INLINE void bytes_store(uint8_t *p, bytes a, int count) {
    if (count == 16) {
        _mm_storeu_si128((__m128i *)p, a);
        return;
    }
    if (count & 8) {
        _mm_storel_epi64((__m128i *)p, a);
        a = _mm_srli_si128(a, 8);
        p += 8;
    }
    const int32_t last = _mm_cvtsi128_si32(a);
    if (count & 4) memcpy(p, &last, sizeof last);
}
FM_INLINE void bytes_store_vecs(uint8_t *p, bytes a, const int vecs, int count) {
    (void)vecs;
    bytes_store(p, a, count);
}
FM_INLINE void quads_load(quads q[4], const uint8_t *const rows[4], size_t at) {
    const __m128i a = _mm_loadu_si128((const __m128i *)(rows[0] + at));
    const __m128i b = _mm_loadu_si128((const __m128i *)(rows[1] + at));
    const __m128i c = _mm_loadu_si128((const __m128i *)(rows[2] + at));
    const __m128i d = _mm_loadu_si128((const __m128i *)(rows[3] + at));
    const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
    const __m128i ef = _mm_unpackhi_epi8(a, b), gh = _mm_unpackhi_epi8(c, d);
    q[0] = _mm_unpacklo_epi16(ab, cd);
    q[1] = _mm_unpackhi_epi16(ab, cd);
    q[2] = _mm_unpacklo_epi16(ef, gh);
    q[3] = _mm_unpackhi_epi16(ef, gh);
}
