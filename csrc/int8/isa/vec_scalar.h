/* The 8-bit vocabulary with one lane. It defines the bytes that every other vocabulary must produce. Partial sums may
 * wrap around, as in vectors. The final sum fits, which is checked when weights are read. */
#include <stdint.h>
#include <string.h>

#include "unroll.h"
#include "int8/kernels.h"

#define LANES    1
#define PARTS    4
#define X_OFFSET 0
#define MAGIC    0
typedef int32_t sums, part_of_quad;
typedef int16_t weights;
typedef uint32_t quads;
typedef struct bytes {
    uint8_t at[4];
} bytes;

FM_INLINE sums sums_load(const int32_t *p) { return *p; }
FM_INLINE void sums_store(int32_t *p, sums a) { *p = a; }
FM_INLINE sums sums_set1(int32_t a) { return a; }
FM_INLINE sums sums_add(sums a, sums b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
FM_INLINE sums sums_left(sums a, const int count) { return (int32_t)((uint32_t)a << count); }
FM_INLINE sums sums_right(sums a, int count) { return a < 0 ? ~(~a >> count) : a >> count; }
FM_INLINE sums sums_keep(sums a) {
#if defined(__GNUC__)
    __asm__("" : "+r"(a)); /* see vec_zmm.h */
#endif
    return a;
}
FM_INLINE part_of_quad part_keep(part_of_quad p) { return sums_keep(p); }
FM_INLINE weights weights_load(const char *p) {
    weights w;
    memcpy(&w, p, sizeof w);
    return w;
}
FM_INLINE weights weights_keep(weights w) { return w; }
FM_INLINE part_of_quad broadcast_part(const uint8_t *p, const int part) { return p[part]; }
FM_INLINE part_of_quad quads_part(quads q, const int part) { return (int32_t)(q >> 8 * part & 255); }
FM_INLINE sums dot(sums acc, part_of_quad x, weights w) { return sums_add(acc, x * w); }

/* Within +-65536 adding 1.5 * 2^23 rounds half to even. */
FM_INLINE sums sums_scaled(sums a, const float *scale, const float *offset, const int plain) {
    (void)offset;
    const float magic = 12582912.0f;
    float y = (float)a * *scale;
    (void)plain;
    y = y < 65536.0f ? y : 65536.0f;
    y = y > -65536.0f ? y : -65536.0f;
    return (int32_t)((y + magic) - magic);
}
FM_INLINE uint8_t clamped(sums a, const fm_int8_output *output) {
    const int32_t y = a + output->zero;
    return (uint8_t)(y < output->low ? output->low : y > output->high ? output->high : y);
}
FM_INLINE bytes bytes_pack(sums a, sums b, sums c, sums d, const fm_int8_output *output, const int plain) {
    (void)plain;
    return (bytes){{clamped(a, output), clamped(b, output), clamped(c, output), clamped(d, output)}};
}
FM_INLINE void bytes_store(uint8_t *p, bytes a, int count) {
    for (int i = 0; i < count; i++) p[i] = a.at[i];
}
FM_INLINE void bytes_store_vecs(uint8_t *p, bytes a, const int vecs, int count) {
    (void)vecs;
    bytes_store(p, a, count);
}
FM_INLINE void quads_load(quads q[4], const uint8_t *const rows[4], size_t at) {
    FM_UNROLL for (int j = 0; j < 4; j++) {
        q[j] = 0;
        FM_UNROLL for (int r = 0; r < 4; r++) q[j] |= (uint32_t)rows[r][at + (size_t)j] << 8 * r;
    }
}
