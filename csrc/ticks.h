/* A clock that is cheap to read, for the layer profile. Its rate is not known here; the caller measures it. */
#ifndef FM_TICKS_H
#define FM_TICKS_H

#include <stdint.h>

#include "cpu.h"

#if defined(FM_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <x86intrin.h>
#endif
static inline uint64_t fm_read_ticks(void) { return __rdtsc(); }
#elif defined(FM_ARM64) && defined(__GNUC__)
static inline uint64_t fm_read_ticks(void) {
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
}
#else
#include <time.h>
static inline uint64_t fm_read_ticks(void) { return (uint64_t)clock(); }
#endif

#endif
