/* The floating-point mode of a worker while it computes: round to nearest, denormals kept, whatever the
 * calling program has set. The same-bits promise would not survive a flush-to-zero flag. */
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
#else
typedef int fm_fpenv;
static inline fm_fpenv fm_fpenv_enter(void) { return 0; }
static inline void fm_fpenv_leave(fm_fpenv saved) { (void)saved; }
#endif

#endif
