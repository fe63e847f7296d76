/* Advanced SIMD, on every 64-bit ARM processor: 4 lanes. Separate multiply and add, because compilers fuse vmla. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#define LANES 4
typedef float32x4_t vec;
typedef float32x4_t pixel;

FM_INLINE vec vec_load(const float *p) { return vld1q_f32(p); }
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}
FM_INLINE void vec_store(float *p, vec a) { vst1q_f32(p, a); }
FM_INLINE vec vec_set1(float a) { return vdupq_n_f32(a); }
FM_INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
FM_INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }

FM_INLINE pixel pixel_load3(const float *p) {
    float four[4] = {0.0f};
    memcpy(four, p, 3 * sizeof *p);
    return vld1q_f32(four);
}
FM_INLINE void pixel_store3(float *p, pixel a) {
    vst1_f32(p, vget_low_f32(a));
    p[2] = vgetq_lane_f32(a, 2);
}
FM_INLINE pixel pixel_add(pixel sum, float weight, const float *p) {
    return vaddq_f32(sum, vmulq_n_f32(vld1q_f32(p), weight));
}

#define VOCABULARY "neon"
#define TABLE      fm_image_neon
#include "image/tpl/table.inc"
