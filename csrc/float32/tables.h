/* The kernel tables of the float32 tier. */
#ifndef FM_FLOAT32_TABLES_H
#define FM_FLOAT32_TABLES_H

#include "fastmnv2.h"
#include "float32/kernels.h"

/* The tables of an instruction set in order of preference; NULL after the last. */
const fm_float32_kernels *fm_float32_table(const fm_isa *isa, int index);

/* The first of these tables that fits a layer of `channels` channels; the last one fits any. */
const fm_float32_kernels *fm_float32_choose(const fm_isa *isa, int channels);

#endif
