/* CRC-32C (Castagnoli), the checksum of TensorFlow's tensor bundles. */
#ifndef FM_CRC32C_H
#define FM_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of `size` bytes; `crc` is the checksum of the bytes before them, 0 at the start. */
uint32_t fm_crc32c(uint32_t crc, const void *data, size_t size);

#endif
