#define _GNU_SOURCE /* sched_getaffinity, sched_getcpu */
#include "cpu.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif
#if defined(FM_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(FM_ARM64) && defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

#ifdef FM_X86
#include <stdint.h>
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

typedef struct cpuid_regs {
    uint32_t a, b, c, d;
} cpuid_regs;

static cpuid_regs cpuid(uint32_t leaf, uint32_t sub) {
    cpuid_regs r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int out[4];
    __cpuid(out, 0);
    if ((uint32_t)out[0] < leaf) return r;
    __cpuidex(out, (int)leaf, (int)sub);
    r = (cpuid_regs){(uint32_t)out[0], (uint32_t)out[1], (uint32_t)out[2], (uint32_t)out[3]};
#else
    __get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d); /* zeros if the leaf does not exist */
#endif
    return r;
}

/* Which registers the system saves: CPUID reports wide ones even if the system or a hypervisor does not save them. */
static uint64_t saved_state(void) {
    if (!(cpuid(1, 0).c & (1u << 27))) return 0; /* OSXSAVE */
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

int fm_cpu_has_avx2(void) {
    const uint64_t ymm = 0x6;
    const uint32_t fma = 1u << 12, avx = 1u << 28, avx2 = 1u << 5;
    const cpuid_regs one = cpuid(1, 0);
    return (saved_state() & ymm) == ymm && (one.c & fma) && (one.c & avx) && (cpuid(7, 0).b & avx2);
}

int fm_cpu_has_avx512(void) {
    const uint64_t zmm = 0xe6;
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    const uint32_t all = f | dq | bw | vl;
    return fm_cpu_has_avx2() && (saved_state() & zmm) == zmm && (cpuid(7, 0).b & all) == all;
}

int fm_cpu_has_avxvnni(void) {
    const uint32_t avxvnni = 1u << 4;
    return fm_cpu_has_avx2() && cpuid(7, 0).a >= 1 && (cpuid(7, 1).a & avxvnni);
}

int fm_cpu_has_avx512vnni(void) {
    const uint32_t vnni = 1u << 11;
    return fm_cpu_has_avx512() && (cpuid(7, 0).c & vnni);
}

int fm_cpu_half_width(void) {
    const uint32_t amd = 0x68747541, zen4 = 0x19; /* "Auth"enticAMD; of this family only Zen 4 has AVX-512 */
    const uint32_t signature = cpuid(1, 0).a, base = signature >> 8 & 15;
    return cpuid(0, 0).b == amd && base + (signature >> 20 & 255) == zen4;
}

#else
int fm_cpu_half_width(void) { return 0; }
int fm_cpu_has_avx2(void) { return 0; }
int fm_cpu_has_avx512(void) { return 0; }
int fm_cpu_has_avxvnni(void) { return 0; }
int fm_cpu_has_avx512vnni(void) { return 0; }
#endif

int fm_cpu_has_dotprod(void) {
#if defined(FM_ARM64) && defined(__APPLE__)
    return 1; /* every 64-bit Mac */
#elif defined(FM_ARM64) && defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#elif defined(FM_ARM64) && defined(_WIN32)
    return IsProcessorFeaturePresent(43) != 0; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#else
    return 0;
#endif
}

int fm_cpu_any(void) { return 1; }

int fm_current_cpu(void) {
#if defined(__linux__)
    return sched_getcpu();
#elif defined(_WIN32)
    return (int)GetCurrentProcessorNumber();
#else
    return -1;
#endif
}

void fm_leave_cpus(const int *cpus, int count) {
#if defined(__linux__)
    /* Linux moves a thread away at once when its affinity forbids the processor, but does not move it back when the
     * affinity allows that processor again. So forbidding it for a moment is enough. */
    cpu_set_t usual, others;
    if (sched_getaffinity(0, sizeof usual, &usual)) return;
    others = usual;
    for (int i = 0; i < count; i++) {
        if (cpus[i] >= 0 && cpus[i] < CPU_SETSIZE) CPU_CLR(cpus[i], &others);
    }
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) {
        sched_setaffinity(0, sizeof usual, &usual);
    }
#else
    (void)cpus;
    (void)count;
#endif
}

int fm_affinity_cpus(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return 0;
}
