/* The only code that knows packed layouts, beside the kernels that read them. */
#ifndef FM_PACK_H
#define FM_PACK_H

#include "net/network.h"

/* Floats that a layer takes when packed: its kernel and bias, columns padded as need be. */
size_t fm_packed_floats(const fm_layer *layer);

/* TF-Slim layouts in, packed layout out:
 *   conv       [27][24] behind its bias [24]
 *   depthwise  per vector of channels: bias, then the nine taps
 *   pointwise  per panel: bias, then one row of the panel for each k */
void fm_pack(const fm_layer *layer, const fm_kernels *kernels, const float *kernel, const float *bias,
             float *packed);

#endif
