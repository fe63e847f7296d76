/* The instruction sets that are compiled in, and which of them this machine can run. */
#include <string.h>

#include "cpu.h"
#include "isas.h"

/* One entry per table, so an instruction set appears once for each of its tables. */
static const fm_isa rows[] = {
#define ROW(tier, table, isa, check, images, flags) {#tier, #isa, check, images},
#include "isas.def"
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static int seen_before(int row) {
    for (int i = 0; i < row; i++) {
        if (strcmp(rows[i].name, rows[row].name) == 0) return 1;
    }
    return 0;
}

int fm_isa_count(void) {
    int count = 0;
    for (int i = 0; i < ROWS; i++) count += !seen_before(i);
    return count;
}

const fm_isa *fm_isa_at(int index) {
    int row = 0;
    for (int left = index;; row++) {
        if (!seen_before(row) && left-- == 0) return &rows[row];
    }
}

static int in_tier(const char *tier, const fm_isa *isa) {
    for (int i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].tier, tier) == 0 && strcmp(rows[i].name, isa->name) == 0) return 1;
    }
    return 0;
}

const fm_isa *fm_isa_for(const char *tier, const fm_isa *isa) {
    int index = fm_isa_count() - 1;
    while (fm_isa_at(index) != isa) index--;
    if (in_tier(tier, isa)) return isa;
    while (index > 0 && !(in_tier(tier, fm_isa_at(index)) && fm_isa_supported(fm_isa_at(index)))) index--;
    return fm_isa_at(index);
}

const char *fm_isa_name(const fm_isa *isa) { return isa->name; }
int fm_isa_supported(const fm_isa *isa) { return isa->supported(); }
int fm_isa_images(const fm_isa *isa) { return isa->images; }
