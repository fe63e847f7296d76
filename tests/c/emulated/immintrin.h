/* Stands in for the compiler's header when the AVX-512 files are checked on a machine without AVX-512:
 * the SIMDe library's functions, in plain C, under the intrinsics' names. */
#pragma GCC system_header
#include_next <immintrin.h>
#ifndef FM_EMULATED
#define FM_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/* Intrinsics that SIMDe (0.7) lacks. FM_LANES computes each lane i of a result. */
#define FM_LANES(body)                               \
    simde__m512_private to;                          \
    for (int i = 0; i < 16; i++) to.f32[i] = (body); \
    return simde__m512_from_private(to)
static inline simde__m512 fm_cvtepi32_ps(simde__m512i a) {
    const simde__m512i_private from = simde__m512i_to_private(a);
    FM_LANES((float)from.i32[i]);
}
static inline simde__m512 fm_maskz_loadu_ps(unsigned mask, const float *p) { FM_LANES(mask >> i & 1 ? p[i] : 0.0f); }
static inline simde__m512 fm_mask_move(simde__m512 src, unsigned mask, simde__m512 a, int odd) {
    const simde__m512_private from = simde__m512_to_private(a), old = simde__m512_to_private(src);
    FM_LANES(mask >> i & 1 ? from.f32[(i & ~1) + odd] : old.f32[i]);
}
static inline simde__m512i fm_cvtepu8_epi32(simde__m128i a) {
    const simde__m128i_private from = simde__m128i_to_private(a);
    simde__m512i_private to;
    for (int i = 0; i < 16; i++) to.i32[i] = from.u8[i];
    return simde__m512i_from_private(to);
}
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepu8_epi32
#undef _mm512_maskz_loadu_ps
#undef _mm512_moveldup_ps
#undef _mm512_movehdup_ps
#undef _mm512_mask_moveldup_ps
#undef _mm512_mask_movehdup_ps
#undef _mm512_extractf32x8_ps
#define _mm512_cvtepi32_ps                    fm_cvtepi32_ps
#define _mm512_cvtepu8_epi32                  fm_cvtepu8_epi32
#define _mm512_maskz_loadu_ps                 fm_maskz_loadu_ps
#define _mm512_moveldup_ps(a)                 fm_mask_move(a, 0xffff, a, 0)
#define _mm512_movehdup_ps(a)                 fm_mask_move(a, 0xffff, a, 1)
#define _mm512_mask_moveldup_ps(src, mask, a) fm_mask_move(src, mask, a, 0)
#define _mm512_mask_movehdup_ps(src, mask, a) fm_mask_move(src, mask, a, 1)
#define _mm512_extractf32x8_ps(a, half)       simde__m512_to_private(a).m256[half]
#endif
