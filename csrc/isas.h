/* Instruction sets, whatever the tier: what isas.def names, once each. Internal to csrc/. */
#ifndef FM_ISAS_H
#define FM_ISAS_H

#include "fastmnv2.h"

struct fm_isa {
    const char *tier, *name;
    int (*supported)(void);
    int images; /* see isas.def */
};

#endif
