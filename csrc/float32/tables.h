/* Which kernel tables an instruction set has in this tier. */
#ifndef FM_FLOAT32_TABLES_H
#define FM_FLOAT32_TABLES_H

#include "fastmnv2.h"
#include "float32/kernels.h"

/* The index-th table of an instruction set, preferred first; NULL behind the last. */
const fm_kernels *fm_float32_table(const fm_isa *isa, int index);

/* The first of them whose vectors divide `channels`; the last one's divide every channel count. */
const fm_kernels *fm_float32_choose(const fm_isa *isa, int channels);

#endif
