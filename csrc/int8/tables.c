#include "int8/tables.h"

#include <string.h>

static const struct {
    const char *isa;
    const fm_int8_kernels *kernels;
} tables[] = {
#define ROW_float32(table, isa)
#define ROW_int8(table, isa) {#isa, &fm_int8_##table},
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"
};

enum { TABLES = sizeof tables / sizeof tables[0] };

static const fm_int8_kernels *own_table(const fm_isa *isa) {
    for (int i = 0; i < TABLES; i++) {
        if (strcmp(tables[i].isa, fm_isa_name(isa)) == 0) return tables[i].kernels;
    }
    return NULL;
}

const fm_isa *fm_int8_isa(const fm_isa *isa) {
    if (own_table(isa)) return isa;
    const fm_isa *found = fm_isa_at(0);
    for (int i = 0; i < fm_isa_count() && fm_isa_at(i) != isa; i++) {
        if (own_table(fm_isa_at(i)) && fm_isa_supported(fm_isa_at(i))) found = fm_isa_at(i);
    }
    return found;
}

const fm_int8_kernels *fm_int8_table(const fm_isa *isa) { return own_table(fm_int8_isa(isa)); }

double fm_int8_peak_macs(const fm_isa *isa, double macs) {
    const fm_int8_kernels *kernels = fm_int8_table(isa);
    const double each = 4.0 * FM_INT8_PEAK_CHAINS * kernels->lanes;
    const long rounds = (long)(macs / each) + 1;
    volatile int32_t result = kernels->peak(rounds, 3, 5); /* volatile: the work must be done */
    (void)result;
    return (double)rounds * each;
}
