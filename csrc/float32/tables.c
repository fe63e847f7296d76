#include "float32/tables.h"

#include <string.h>

#include "cpu.h"

static const struct {
    const char *isa;
    const fm_float32_kernels *kernels;
} tables[] = {
#define ROW_float32(table, isa)                     {#isa, &fm_float32_##table},
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"
};

enum { TABLES = sizeof tables / sizeof tables[0] };

const fm_float32_kernels *fm_float32_table(const fm_isa *isa, int index) {
    isa = fm_isa_for("float32", isa);
    for (int i = 0; i < TABLES; i++) {
        if (strcmp(tables[i].isa, fm_isa_name(isa)) == 0 && index-- == 0) return tables[i].kernels;
    }
    return NULL;
}

const fm_float32_kernels *fm_float32_choose(const fm_isa *isa, int channels) {
    int index = 0;
    for (const fm_float32_kernels *kernels; (kernels = fm_float32_table(isa, index)) != NULL; index++) {
        if (channels % kernels->lanes == 0) break;
        /* Where a wide operation is executed in two halves, narrower vectors that fit are at least as fast as pairs
         * (see cpu.h). This is tested last because CPUID is slow in virtual machines. */
        if (channels % kernels->unit == 0 && !fm_cpu_half_width()) break;
    }
    return fm_float32_table(isa, index);
}

double fm_peak_macs(const fm_isa *isa, double macs) {
    const fm_float32_kernels *kernels = fm_float32_table(isa, 0);
    if (!kernels) return 0.0; /* can't happen: every instruction set has a table */
    const double each = (double)FM_FLOAT32_PEAK_CHAINS * kernels->lanes;
    const long rounds = (long)(macs / each) + 1;
    /* Volatile, so that the work is not removed. */
    volatile float result = kernels->peak(&(fm_float32_peak_args){rounds, 0.5f, 1.0f});
    (void)result;
    return (double)rounds * each;
}
