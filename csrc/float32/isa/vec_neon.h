/* The vector vocabulary on Advanced SIMD, on every 64-bit ARM processor: 32 registers of 4 lanes. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#define LANES 4
typedef float32x4_t vec;

FM_INLINE vec vec_load(const float *p) { return vld1q_f32(p); }
FM_INLINE void vec_store(float *p, vec a) { vst1q_f32(p, a); }
FM_INLINE vec vec_set1(float a) { return vdupq_n_f32(a); }
FM_INLINE vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* a[lane] * b + c. Taking a lane is free; broadcasting a float from memory takes a vector operation in addition to the
 * load (LD1R in Arm's optimisation guides, from Cortex-A76 to Neoverse V2). */
#define VEC_FMA_LANE(a, lane, b, c) vfmaq_laneq_f32(c, b, a, lane)
FM_INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
FM_INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
FM_INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
FM_INLINE vec vec_keep(vec a) { return a; }
FM_INLINE void vec_prefetch(const char *p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}
FM_INLINE vec vec_load_u8(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}

/* max(|a|, b); b if a is NaN. */
FM_INLINE vec vec_max_abs(vec a, vec b) {
    const vec size = vabsq_f32(a);
    return vbslq_f32(vcgtq_f32(size, b), size, b);
}

/* Compares and selects, so that -0 and NaN stay as they are: the maximum instruction returns 0 for -0 and 0. */
FM_INLINE vec vec_relu6(vec a) {
    const vec zero = vdupq_n_f32(0.0f), six = vdupq_n_f32(6.0f);
    const vec low = vbslq_f32(vcgtq_f32(zero, a), zero, a);
    return vbslq_f32(vcgtq_f32(low, six), six, low);
}
