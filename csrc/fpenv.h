/* The floating-point mode of a worker while it computes: round to nearest, keep denormals, whatever the calling
 * program has set. A flush-to-zero flag would change the bits of the results. */
#ifndef FM_FPENV_H
#define FM_FPENV_H

#include "cpu.h"

#ifdef FM_X86
#include <xmmintrin.h>
typedef unsigned fm_fpenv;
static inline fm_fpenv fm_fpenv_enter(void) {
    const fm_fpenv saved = _mm_getcsr();
    if (saved != 0x1f80u) _mm_setcsr(0x1f80u);
    return saved;
}
static inline void fm_fpenv_leave(fm_fpenv saved) { _mm_setcsr(saved); }
#elif defined(FM_ARM64) && defined(__GNUC__)
#include <stdint.h>
typedef uint64_t fm_fpenv;
static inline fm_fpenv fm_fpenv_enter(void) {
    fm_fpenv saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    if (saved != 0) __asm__ volatile("msr fpcr, %0" : : "r"((fm_fpenv)0));
    return saved;
}
static inline void fm_fpenv_leave(fm_fpenv saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
typedef int fm_fpenv;
static inline fm_fpenv fm_fpenv_enter(void) { return 0; }
static inline void fm_fpenv_leave(fm_fpenv saved) { (void)saved; }
#endif

#endif
