/* The tables that the instruction sets have for resizing. */
#ifndef FM_IMAGE_TABLES_H
#define FM_IMAGE_TABLES_H

#include "fastmnv2.h"
#include "image/kernels.h"

/* The instruction set's own table or, where it has none, that of the nearest slower one. */
const fm_image_kernels *fm_image_table(const fm_isa *isa);

#endif
