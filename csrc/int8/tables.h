/* Which kernel table an instruction set has in this tier. */
#ifndef FM_INT8_TABLES_H
#define FM_INT8_TABLES_H

#include "fastmnv2.h"
#include "int8/kernels.h"

/* The table of an instruction set; of the nearest slower one that this machine can run, if it has none. */
const fm_int8_kernels *fm_int8_table(const fm_isa *isa);

#endif
