/* Resizing RGB pictures of 8 bits per channel into float32, in the layout of the network's batches.
 *
 * The caller computes where to sample (fastmnv2/image/resizing.py has TensorFlow's formulas). The arithmetic here is in
 * TensorFlow's order, so it gives TensorFlow's bits. Nothing is allocated. */
#ifndef FM_RESIZE_H
#define FM_RESIZE_H

#include "image/tables.h"

/* A picture in memory: pixel (y, x) is the three bytes at first + y * row_stride + x * pixel_stride. Strides may be
 * negative, and row_stride may be the smaller one: this flips or turns a picture without copying it. */
typedef struct fm_picture {
    const uint8_t *first;
    ptrdiff_t row_stride, pixel_stride;
    int height, width;
} fm_picture;

/* Along one axis, the two input neighbours of each output and its position between them:
 * first + (second - first) * place. */
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
