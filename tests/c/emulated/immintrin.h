/* Stands in for the compiler's header when the AVX-512 files are checked on a machine without AVX-512:
 * the SIMDe library's functions, in plain C, under the intrinsics' names. */
#pragma GCC system_header
#include_next <immintrin.h>
#ifndef FM_EMULATED
#define FM_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#endif
