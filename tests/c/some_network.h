/* A member of the family, for the shapes of its layers. */
#ifndef SOME_NETWORK_H
#define SOME_NETWORK_H

#include <stdlib.h>

#include "fastmnv2.h"

static inline fm_network some_network(void) {
    fm_network network;
    if (fm_network_make(0.75, 96, 96, &network) != FM_OK) abort();
    return network;
}

#endif
