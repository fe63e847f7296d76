/* An instruction set, as a row of isas.def describes it for one tier. Internal to csrc/. */
#ifndef FM_ISAS_H
#define FM_ISAS_H

#include "fastmnv2.h"

struct fm_isa {
    const char *tier, *name;
    int (*supported)(void);
    int images; /* see isas.def */
};

#endif
