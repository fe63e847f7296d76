/* The kernel tables of the 8-bit tier. */
#ifndef FM_INT8_TABLES_H
#define FM_INT8_TABLES_H

#include "fastmnv2.h"
#include "int8/kernels.h"

/* The table of an instruction set. If it has none, the table of the next slower set that this machine can run. */
const fm_int8_kernels *fm_int8_table(const fm_isa *isa);

#endif
