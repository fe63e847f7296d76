/* Which instruction sets are compiled in, and which of them this machine can run. */
#include <stddef.h>

#include "cpu.h"
#include "fastmnv2.h"
#include "kernels.h"

static int always(void) { return 1; }

static const struct fm_isa isas[] = {
    {"scalar", always, {&fm_kernels_scalar}},
#ifdef FM_X86
    {"sse2", always, {&fm_kernels_sse2}},
    {"avx2", fm_cpu_has_avx2, {&fm_kernels_avx2}},
    {"avx512", fm_cpu_has_avx512, {&fm_kernels_avx512, &fm_kernels_avx512vl}},
#endif
#ifdef FM_ARM64
    {"neon", always, {&fm_kernels_neon}},
#endif
};

int fm_isa_count(void) { return (int)(sizeof isas / sizeof isas[0]); }
const fm_isa *fm_isa_at(int index) { return &isas[index]; }
const char *fm_isa_name(const fm_isa *isa) { return isa->name; }
double fm_peak_macs(const fm_isa *isa, double macs) {
    const fm_kernels *kernels = isa->tables[0];
    const double each = (double)FM_PEAK_CHAINS * kernels->lanes;
    const long rounds = (long)(macs / each) + 1;
    volatile float result = kernels->peak(rounds, 0.5f, 1.0f); /* volatile: the work must be done */
    (void)result;
    return (double)rounds * each;
}
int fm_isa_supported(const fm_isa *isa) { return isa->supported(); }
