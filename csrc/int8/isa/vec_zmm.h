/* The 8-bit vocabulary on 512-bit registers: AVX-512 BW, VL and VNNI. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"
#include "int8/kernels.h"

#define LANES    16
#define PARTS    1
#define X_OFFSET 0
#define MAGIC    1
typedef __m512i sums, weights, quads, part_of_quad, bytes;

FM_INLINE sums sums_load(const int32_t *p) { return _mm512_loadu_si512(p); }
FM_INLINE void sums_store(int32_t *p, sums a) { _mm512_storeu_si512(p, a); }
FM_INLINE sums sums_set1(int32_t a) { return _mm512_set1_epi32(a); }
FM_INLINE sums sums_add(sums a, sums b) { return _mm512_add_epi32(a, b); }
FM_INLINE sums sums_left(sums a, const int count) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_right(sums a, int count) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_keep(sums a) {
#if defined(__GNUC__) && defined(__AVX512F__)
    __asm__("" : "+v"(a)); /* stops the compiler from removing the loop of peak.inc */
#endif
    return a;
}
FM_INLINE part_of_quad part_keep(part_of_quad p) { return sums_keep(p); }
FM_INLINE weights weights_load(const char *p) { return _mm512_loadu_si512(p); }
/* Keeps a value in its register. The compiler would load it again for each use. */
FM_INLINE weights weights_keep(weights w) { return sums_keep(w); }

FM_INLINE part_of_quad broadcast_part(const uint8_t *p, const int part) {
    int32_t quad;
    (void)part;
    memcpy(&quad, p, sizeof quad);
    return sums_keep(_mm512_set1_epi32(quad));
}
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    (void)part;
    return q;
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX512VNNI__)
    /* gcc 12 assumes that its own builtin has side effects, and stores the sums after each one. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "vm"(w));
    return acc;
#else
    return _mm512_dpbusd_epi32(acc, x, w);
#endif
}

FM_INLINE sums sums_scaled(sums a, const float *scale, const float *offset, const int plain) {
    if (plain) {
        const __m512 y = _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_loadu_ps(scale), _mm512_loadu_ps(offset));
        return _mm512_cvtps_epi32(y);
    }

    const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(a), _mm512_loadu_ps(scale));
    /* A value above int32 would wrap to the most negative one. */
    return _mm512_cvtps_epi32(_mm512_min_ps(y, _mm512_set1_ps(65536.0f)));
}
FM_INLINE bytes bytes_pack(sums a, sums b, sums c, sums d, const fm_int8_output *output, const int plain) {
    __m512i low = _mm512_packs_epi32(a, b), high = _mm512_packs_epi32(c, d);
    if (plain) return _mm512_packus_epi16(low, high);
    const __m512i zero = _mm512_set1_epi16((short)output->zero);
    low = _mm512_adds_epi16(low, zero);
    high = _mm512_adds_epi16(high, zero);
    const bytes clamped = _mm512_max_epu8(_mm512_packus_epi16(low, high), _mm512_set1_epi8((char)output->low));
    return _mm512_min_epu8(clamped, _mm512_set1_epi8((char)output->high));
}
FM_INLINE void bytes_store(uint8_t *p, bytes a, int count) {
    _mm512_mask_storeu_epi8(p, ~(uint64_t)0 >> (64 - count), a);
}
/* The result of bytes_pack, in the order of the vectors. */
FM_INLINE void bytes_store_vecs(uint8_t *p, bytes a, const int vecs, int count) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    (void)vecs;
    bytes_store(p, _mm512_permutexvar_epi32(order, a), count);
}
FM_INLINE void quads_load(quads q[4], const uint8_t *const rows[4], size_t at) {
    const __m512i a = _mm512_loadu_si512(rows[0] + at), b = _mm512_loadu_si512(rows[1] + at);
    const __m512i c = _mm512_loadu_si512(rows[2] + at), d = _mm512_loadu_si512(rows[3] + at);
    const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
    const __m512i ef = _mm512_unpackhi_epi8(a, b), gh = _mm512_unpackhi_epi8(c, d);
    q[0] = _mm512_unpacklo_epi16(ab, cd);
    q[1] = _mm512_unpackhi_epi16(ab, cd);
    q[2] = _mm512_unpacklo_epi16(ef, gh);
    q[3] = _mm512_unpackhi_epi16(ef, gh);
}
