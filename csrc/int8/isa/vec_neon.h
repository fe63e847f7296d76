/* The 8-bit vocabulary on Advanced SIMD: with dot products (FEAT_DotProd, an option of ARMv8.2), which take signed
 * bytes, so inputs are shifted by 128; or without dot products, one 16-bit product at a time. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"
#include "int8/kernels.h"

#define LANES 4
#define MAGIC 0
typedef int32x4_t sums;
typedef uint8x16_t bytes;

FM_INLINE sums sums_load(const int32_t *p) { return vld1q_s32(p); }
FM_INLINE void sums_store(int32_t *p, sums a) { vst1q_s32(p, a); }
FM_INLINE sums sums_set1(int32_t a) { return vdupq_n_s32(a); }
FM_INLINE sums sums_add(sums a, sums b) { return vaddq_s32(a, b); }
FM_INLINE sums sums_left(sums a, const int count) { return vshlq_s32(a, vdupq_n_s32(count)); }
FM_INLINE sums sums_right(sums a, int count) { return vshlq_s32(a, vdupq_n_s32(-count)); }
FM_INLINE sums sums_keep(sums a) {
#if defined(__GNUC__)
    __asm__("" : "+w"(a)); /* see vec_zmm.h */
#endif
    return a;
}

FM_INLINE uint8x16_t quad_broadcast(const uint8_t *p) {
    uint32_t quad;
    memcpy(&quad, p, sizeof quad);
    return vreinterpretq_u8_u32(vdupq_n_u32(quad));
}
#ifdef MULTIPLIES_QUADS
#define PARTS    1
#define X_OFFSET 128
typedef int8x16_t weights, quads, part_of_quad;
FM_INLINE quads quads_of(uint8x16_t x) { return vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128))); }
FM_INLINE weights weights_load(const char *p) { return vld1q_s8((const int8_t *)p); }
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    (void)part;
    return q;
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) { return vdotq_s32(acc, x, w); }
#else
#define PARTS    4
#define X_OFFSET 0
typedef int16x4_t weights, part_of_quad;
typedef uint8x16_t quads;
FM_INLINE quads quads_of(uint8x16_t x) { return x; }
FM_INLINE weights weights_load(const char *p) { return vld1_s16((const int16_t *)(const void *)p); }
FM_INLINE part_of_quad quads_part(quads q, const int part) {
    const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(q), vdupq_n_s32(-8 * part));
    return vreinterpret_s16_u16(vmovn_u32(vandq_u32(moved, vdupq_n_u32(255))));
}
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) { return vmlal_s16(acc, x, w); }
#endif
FM_INLINE weights weights_keep(weights w) { return w; }
FM_INLINE part_of_quad part_keep(part_of_quad p) {
#if defined(__GNUC__)
    __asm__("" : "+w"(p));
#endif
    return p;
}
FM_INLINE part_of_quad broadcast_part(const uint8_t *p, const int part) {
#ifdef MULTIPLIES_QUADS
    return quads_part(quads_of(quad_broadcast(p)), part);
#else
    return vdup_n_s16(p[part]);
#endif
}

FM_INLINE sums sums_scaled(sums a, const float *scale, const float *offset, const int plain) {
    (void)offset;
    (void)plain; /* conversions saturate here */
    return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(a), vld1q_f32(scale)));
}
FM_INLINE bytes bytes_pack(sums a, sums b, sums c, sums d, const fm_int8_output *output, const int plain) {
    int16x8_t low = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)), high = vcombine_s16(vqmovn_s32(c), vqmovn_s32(d));
    if (plain) return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    const int16x8_t zero = vdupq_n_s16((int16_t)output->zero);
    low = vqaddq_s16(low, zero);
    high = vqaddq_s16(high, zero);
    const bytes all = vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    return vminq_u8(vmaxq_u8(all, vdupq_n_u8((uint8_t)output->low)), vdupq_n_u8((uint8_t)output->high));
}
/* `count` is a multiple of 4. */
FM_INLINE void bytes_store(uint8_t *p, bytes a, int count) {
    if (count == 16) {
        vst1q_u8(p, a);
        return;
    }
    if (count & 8) {
        vst1_u8(p, vget_low_u8(a));
        a = vextq_u8(a, a, 8);
        p += 8;
    }
    const uint32_t last = vgetq_lane_u32(vreinterpretq_u32_u8(a), 0);
    if (count & 4) memcpy(p, &last, sizeof last);
}
FM_INLINE void bytes_store_vecs(uint8_t *p, bytes a, const int vecs, int count) {
    (void)vecs;
    bytes_store(p, a, count);
}
FM_INLINE void quads_load(quads q[4], const uint8_t *const rows[4], size_t at) {
    const uint8x16_t a = vld1q_u8(rows[0] + at), b = vld1q_u8(rows[1] + at);
    const uint8x16_t c = vld1q_u8(rows[2] + at), d = vld1q_u8(rows[3] + at);
    const uint16x8_t ab = vreinterpretq_u16_u8(vzip1q_u8(a, b)), cd = vreinterpretq_u16_u8(vzip1q_u8(c, d));
    const uint16x8_t ef = vreinterpretq_u16_u8(vzip2q_u8(a, b)), gh = vreinterpretq_u16_u8(vzip2q_u8(c, d));
    q[0] = quads_of(vreinterpretq_u8_u16(vzip1q_u16(ab, cd)));
    q[1] = quads_of(vreinterpretq_u8_u16(vzip2q_u16(ab, cd)));
    q[2] = quads_of(vreinterpretq_u8_u16(vzip1q_u16(ef, gh)));
    q[3] = quads_of(vreinterpretq_u8_u16(vzip2q_u16(ef, gh)));
}
