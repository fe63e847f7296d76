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

const fm_image_kernels *fm_image_table(const fm_isa *isa) {
    const char *name = fm_isa_name(fm_isa_for("image", isa));
    int index = 0;
    while (strcmp(tables[index].isa, name) != 0) index++;
    return tables[index].kernels;
}
