#include "int8/tables.h"

#include <string.h>

static const struct {
    const char *isa;
    const fm_int8_kernels *kernels;
} tables[] = {
#define ROW_int8(table, isa)                        {#isa, &fm_int8_##table},
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"
};

const fm_int8_kernels *fm_int8_table(const fm_isa *isa) {
    const char *name = fm_isa_name(fm_isa_for("int8", isa));
    int index = 0;
    while (strcmp(tables[index].isa, name) != 0) index++;
    return tables[index].kernels;
}

double fm_int8_peak_macs(const fm_isa *isa, double macs) {
    const fm_int8_kernels *kernels = fm_int8_table(isa);
    const double each = 4.0 * FM_INT8_PEAK_CHAINS * kernels->lanes;
    const long rounds = (long)(macs / each) + 1;
    volatile int32_t result =
        kernels->peak(&(fm_int8_peak_args){rounds, 3, 5}); /* volatile, so that the work is not removed */
    (void)result;
    return (double)rounds * each;
}
