/* Resizing RGB pictures of 8 bits a channel straight into rows of float32, as the network's batches have them.
 *
 * Where to sample is the caller's to say (fastmnv2/image/resize.py has TensorFlow's formulas); what is done with the
 * samples is done here, in TensorFlow's order, hence with its bits. Nothing is allocated. */
#ifndef FM_RESIZE_H
#define FM_RESIZE_H

#include "image/tables.h"

/* A picture in memory: pixel (y, x) is the three bytes at first + y * row_stride + x * pixel_stride. Strides may be
 * negative, or smaller along y than along x: so a picture is flipped or turned without a copy. */
typedef struct fm_picture {
    const uint8_t *first;
    ptrdiff_t row_stride, pixel_stride;
    int height, width;
} fm_picture;

/* Along one axis, each output's two neighbours and its place between them: first + (second - first) * place. */
typedef struct fm_places {
    const int32_t *first, *second;
    const float *place;
    int outputs;
} fm_places;

/* Bilinear without antialiasing: out [rows->outputs][columns->outputs][3]. Only the neighbours are read. */
void fm_resize_bilinear(const fm_image_kernels *kernels, const fm_picture *picture, const fm_places *rows,
                        const fm_places *columns, float unit, float *out);

/* Weighted sums over spans, down and then across: out [rows->outputs][columns->outputs][3]. */
void fm_resize_area(const fm_image_kernels *kernels, const fm_picture *picture, const fm_spans *rows,
                    const fm_spans *columns, float unit, float *out);

#endif
