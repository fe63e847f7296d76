/* The 8-bit vocabulary on 256-bit registers: AVX-VNNI, which multiplies quads of bytes, or AVX2, which multiplies
 * pairs of 16 bits, or pairs of bytes if the weights allow it (pack_pairs.c). If vpmaddubsw multiplied all weights,
 * 0.22 % of outputs would be wrong in Google's file, and 2.8 % of the first convolution's. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"
#include "int8/kernels.h"

#define LANES    8
#define X_OFFSET 0
#define MAGIC    1
typedef __m256i sums, weights, quads, part_of_quad, bytes;

FM_INLINE sums sums_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
FM_INLINE void sums_store(int32_t *p, sums a) { _mm256_storeu_si256((__m256i *)p, a); }
FM_INLINE sums sums_set1(int32_t a) { return _mm256_set1_epi32(a); }
FM_INLINE sums sums_add(sums a, sums b) { return _mm256_add_epi32(a, b); }
FM_INLINE sums sums_left(sums a, const int count) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_right(sums a, int count) { return _mm256_sra_epi32(a, _mm_cvtsi32_si128(count)); }
FM_INLINE sums sums_keep(sums a) {
#if defined(__GNUC__)
    __asm__("" : "+x"(a)); /* see vec_zmm.h */
#endif
    return a;
}
FM_INLINE part_of_quad part_keep(part_of_quad p) { return sums_keep(p); }
FM_INLINE weights weights_load(const char *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
FM_INLINE weights weights_keep(weights w) { return w; }

#ifdef MULTIPLIES_QUADS
#define PARTS 1
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    (void)part;
    return q;
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "xm"(w)); /* see vec_zmm.h */
    return acc;
#else
    return _mm256_dpbusd_avx_epi32(acc, x, w);
#endif
}
#else
#define PARTS 2
/* Bytes 0 and 2, or 1 and 3, as 16 bits. Not with vpand, which delays multiplications on Zen 3 (1 to 3 %). */
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    const __m128i even = _mm_setr_epi8(0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10, -1, 12, -1, 14, -1);
    return part ? _mm256_srli_epi16(q, 8) : _mm256_shuffle_epi8(q, _mm256_broadcastsi128_si256(even));
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) {
    /* Stops gcc from adding products to each other first. */
    return sums_keep(_mm256_add_epi32(acc, _mm256_madd_epi16(x, w)));
}
#define ADDS_PAIRS
/* Multiplies the bytes of a quad and adds pairs of products in 16 bits: bytes 0 and 1, bytes 2 and 3. */
typedef __m256i pairs;
FM_INLINE quads quad_broadcast(const uint8_t *p) {
    int32_t quad;
    memcpy(&quad, p, sizeof quad);
    return _mm256_set1_epi32(quad);
}
FM_INLINE pairs pairs_dot(quads x, weights w) { return _mm256_maddubs_epi16(x, w); }
FM_INLINE pairs pairs_add(pairs a, pairs b) { return _mm256_add_epi16(a, b); }
FM_INLINE sums sums_add_pairs(sums acc, pairs p) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
#define DEPTHWISE_SLIDES
/* Four vectors of channels of two rows, as pairs of bytes. Vector v is stored at PAIRS_AT(v) and loaded as pairs of 16
 * bits. */
enum { PAIRS_BYTES = 64 };
#define PAIRS_AT(v) ((v) % 2 * 32 + (v) / 2 * 16)
FM_INLINE void pairs_store(uint8_t *to, const uint8_t *a, const uint8_t *b) {
    const __m256i first = _mm256_loadu_si256((const __m256i *)a), second = _mm256_loadu_si256((const __m256i *)b);
    _mm256_store_si256((__m256i *)to, _mm256_unpacklo_epi8(first, second));
    _mm256_store_si256((__m256i *)(to + 32), _mm256_unpackhi_epi8(first, second));
}
FM_INLINE part_of_quad pairs_load(const uint8_t *p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}
/* A vector of channels of one row, paired with zeros. */
FM_INLINE part_of_quad singles_load(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
/* Stores the bytes of four vectors, each to its own address. */
FM_INLINE void bytes_scatter(uint8_t *const places[4], __m256i a) {
    const __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    const __m128i first = _mm_unpacklo_epi32(low, high), second = _mm_unpackhi_epi32(low, high);
    _mm_storel_epi64((__m128i *)places[0], first);
    _mm_storeh_pd((double *)(void *)places[1], _mm_castsi128_pd(first));
    _mm_storel_epi64((__m128i *)places[2], second);
    _mm_storeh_pd((double *)(void *)places[3], _mm_castsi128_pd(second));
}
#endif
FM_INLINE part_of_quad broadcast_part(const uint8_t *p, const int part) {
    int32_t quad;
    memcpy(&quad, p, sizeof quad);
    return quads_part(_mm256_set1_epi32(quad), part);
}

FM_INLINE sums sums_scaled(sums a, const float *scale, const float *offset, const int plain) {
    if (plain) {
        const __m256 y = _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_loadu_ps(scale), _mm256_loadu_ps(offset));
        return _mm256_cvtps_epi32(y);
    }

    const __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(a), _mm256_loadu_ps(scale));
    /* A value above int32 would wrap to the most negative one. */
    return _mm256_cvtps_epi32(_mm256_min_ps(y, _mm256_set1_ps(65536.0f)));
}
FM_INLINE bytes bytes_pack(sums a, sums b, sums c, sums d, const fm_int8_output *output, const int plain) {
    __m256i low = _mm256_packs_epi32(a, b), high = _mm256_packs_epi32(c, d);
    if (plain) return _mm256_packus_epi16(low, high);
    const __m256i zero = _mm256_set1_epi16((short)output->zero);
    low = _mm256_adds_epi16(low, zero);
    high = _mm256_adds_epi16(high, zero);
    const bytes clamped = _mm256_max_epu8(_mm256_packus_epi16(low, high), _mm256_set1_epi8((char)output->low));
    return _mm256_min_epu8(clamped, _mm256_set1_epi8((char)output->high));
}
/* Stores the bytes of the first `vecs` vectors, 3 at most, of bytes_pack's result. Unpacking halves takes less time
 * than a permutation across them. */
FM_INLINE void bytes_store_vecs(uint8_t *p, bytes a, const int vecs, int count) {
    const __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    const __m128i two = _mm_unpacklo_epi32(low, high);
    (void)count; /* a vector has 8 bytes, and columns are a multiple of 8 */
    if (vecs == 1) _mm_storel_epi64((__m128i *)p, two);
    else _mm_storeu_si128((__m128i *)p, two);
    if (vecs == 3) _mm_storel_epi64((__m128i *)(p + 16), _mm_unpackhi_epi32(low, high));
}
/* `count` is a multiple of 8. */
FM_INLINE void bytes_store(uint8_t *p, bytes a, int count) {
    if (count == 32) {
        _mm256_storeu_si256((__m256i *)p, a);
        return;
    }
    __m128i half = _mm256_castsi256_si128(a);
    if (count >= 16) {
        _mm_storeu_si128((__m128i *)p, half);
        half = _mm256_extracti128_si256(a, 1);
        p += 16;
    }
    if (count & 8) _mm_storel_epi64((__m128i *)p, half);
}
FM_INLINE void quads_load(quads q[4], const uint8_t *const rows[4], size_t at) {
    const __m256i a = _mm256_loadu_si256((const __m256i *)(rows[0] + at));
    const __m256i b = _mm256_loadu_si256((const __m256i *)(rows[1] + at));
    const __m256i c = _mm256_loadu_si256((const __m256i *)(rows[2] + at));
    const __m256i d = _mm256_loadu_si256((const __m256i *)(rows[3] + at));
    const __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
    const __m256i ef = _mm256_unpackhi_epi8(a, b), gh = _mm256_unpackhi_epi8(c, d);
    q[0] = _mm256_unpacklo_epi16(ab, cd);
    q[1] = _mm256_unpackhi_epi16(ab, cd);
    q[2] = _mm256_unpacklo_epi16(ef, gh);
    q[3] = _mm256_unpackhi_epi16(ef, gh);
}
