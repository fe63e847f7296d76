/* The kernel tables for resizing. */
#ifndef FM_IMAGE_TABLES_H
#define FM_IMAGE_TABLES_H

#include "fastmnv2.h"
#include "image/kernels.h"

/* The table of an instruction set. If it has none, the table of the next slower set that this machine can run. */
const fm_image_kernels *fm_image_table(const fm_isa *isa);

#endif
