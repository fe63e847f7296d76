#include "image/tables.h"

#include <string.h>

static const struct {
    const char *isa;
    const fm_image_kernels *kernels;
} tables[] = {
#define ROW_image(table, isa)                       {#isa, &fm_image_##table},
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"
};

enum { TABLES = sizeof tables / sizeof tables[0] };

const fm_image_kernels *fm_image_table(const fm_isa *isa) {
    const fm_image_kernels *found = tables[0].kernels;
    for (int i = 0; i < fm_isa_count(); i++) {
        const char *name = fm_isa_name(fm_isa_at(i));
        for (int t = 0; t < TABLES; t++) {
            if (strcmp(tables[t].isa, name) == 0) found = tables[t].kernels;
        }
        if (strcmp(name, fm_isa_name(isa)) == 0) break;
    }
    return found;
}
