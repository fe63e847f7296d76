"""A thin wrapper of resizing in C: takes buffers and releases the GIL.

The caller (image/resizing.py) computes where to sample. This module repeats only the checks that memory safety needs.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef extern from "fastmnv2.h" nogil:
    ctypedef struct fm_isa:
        pass

    int fm_isa_count()
    const fm_isa *fm_isa_at(int index)
    const char *fm_isa_name(const fm_isa *isa)
    int fm_isa_supported(const fm_isa *isa)


cdef extern from "image/resize.h" nogil:
    ctypedef struct fm_image_kernels:
        pass

    ctypedef struct fm_picture:
        const uint8_t *first
        ptrdiff_t row_stride, pixel_stride
        int height, width

    ctypedef struct fm_places:
        const int32_t *first
        const int32_t *second
        const float *place
        int outputs

    ctypedef struct fm_spans:
        const int32_t *starts
        const int32_t *counts
        const float *weights
        int outputs, most

    const fm_image_kernels *fm_image_table(const fm_isa *isa)
    void fm_resize_bilinear(const fm_image_kernels *kernels, const fm_picture *picture, const fm_places *rows,
                            const fm_places *columns, float unit, float *out)
    void fm_resize_area(const fm_image_kernels *kernels, const fm_picture *picture, const fm_spans *rows,
                        const fm_spans *columns, float unit, float *out)


cdef void *copied(array, size_t size) except NULL:
    """A copy of an array's bytes. ValueError unless there are exactly ``size``."""
    cdef Py_buffer view
    cdef void *copy
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    try:
        if size == 0 or <size_t>view.len != size:
            raise ValueError(f"expected a buffer of {size} bytes, got {view.len}")
        copy = malloc(size)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, view.buf, size)
    finally:
        PyBuffer_Release(&view)
    return copy


cdef class Places:
    """For each output along an axis: its two neighbours (int32 [n] each) and its position between them (float32 [n])."""

    cdef fm_places places
    cdef int32_t *first
    cdef int32_t *second
    cdef float *place
    cdef readonly int inputs

    def __cinit__(self, int inputs, first, second, place):
        cdef int n = len(first)
        self.first = <int32_t *>copied(first, n * sizeof(int32_t))
        self.second = <int32_t *>copied(second, n * sizeof(int32_t))
        self.place = <float *>copied(place, n * sizeof(float))
        for i in range(n):
            if not (0 <= self.first[i] < inputs and 0 <= self.second[i] < inputs):
                raise ValueError(f"output {i} is between inputs {self.first[i]} and {self.second[i]} of {inputs}")
        self.inputs = inputs
        self.places = fm_places(self.first, self.second, self.place, n)

    def __dealloc__(self):
        free(self.first)
        free(self.second)
        free(self.place)


cdef class Spans:
    """For each output along an axis: first input and number of inputs (int32 [n]), and weights (float32 [n,most])."""

    cdef fm_spans spans
    cdef int32_t *starts
    cdef int32_t *counts
    cdef float *weights
    cdef readonly int inputs

    def __cinit__(self, int inputs, starts, counts, weights):
        cdef int n = len(starts), most = weights.shape[1], i
        cdef int32_t start = 0, end = 0
        self.starts = <int32_t *>copied(starts, n * sizeof(int32_t))
        self.counts = <int32_t *>copied(counts, n * sizeof(int32_t))
        self.weights = <float *>copied(weights, <size_t>n * most * sizeof(float))
        for i in range(n):
            if not (start <= self.starts[i] < inputs and 0 < self.counts[i] <= most
                    and end <= self.starts[i] + self.counts[i] <= inputs):
                raise ValueError(f"output {i} takes {self.counts[i]} of {inputs} inputs, from {self.starts[i]} on")
            start, end = self.starts[i], self.starts[i] + self.counts[i]
        self.inputs = inputs
        self.spans = fm_spans(self.starts, self.counts, self.weights, n, most)

    def __dealloc__(self):
        free(self.starts)
        free(self.counts)
        free(self.weights)


def isas():
    """Names of the instruction sets that this machine can run, slowest first."""
    return [fm_isa_name(fm_isa_at(i)).decode() for i in range(fm_isa_count()) if fm_isa_supported(fm_isa_at(i))]


cdef const fm_image_kernels *find(str name) except NULL:
    for i in range(fm_isa_count()):
        if fm_isa_name(fm_isa_at(i)).decode() == name:
            return fm_image_table(fm_isa_at(i))
    raise ValueError(f"there is no instruction set {name!r}")


def resize(str isa, image, rows, columns, float unit, out):
    """Resize uint8 [H,W,3] with any strides to C-contiguous float32 [h,w,3], and multiply by ``unit``.

    ``rows`` and ``columns`` are both Places (bilinear) or both Spans (area), of H and W inputs.
    """
    cdef const fm_image_kernels *kernels = find(isa)
    cdef Py_buffer source, target
    cdef fm_picture picture
    cdef Places down, across
    cdef Spans down_spans, across_spans
    cdef Py_ssize_t pixels
    cdef bint area = type(rows) is Spans
    if area:
        down_spans, across_spans = rows, columns
        pixels = <Py_ssize_t>down_spans.spans.outputs * across_spans.spans.outputs
    else:
        down, across = rows, columns
        pixels = <Py_ssize_t>down.places.outputs * across.places.outputs
    PyObject_GetBuffer(image, &source, PyBUF_STRIDES)
    try:
        if source.ndim != 3 or source.itemsize != 1 or source.shape[2] != 3 or source.strides[2] != 1:
            raise ValueError("expected bytes [H, W, 3], the last axis contiguous")
        if source.shape[0] != rows.inputs or source.shape[1] != columns.inputs:
            raise ValueError(f"expected {rows.inputs} x {columns.inputs}, got {source.shape[0]} x {source.shape[1]}")
        picture = fm_picture(<const uint8_t *>source.buf, source.strides[0], source.strides[1],
                             <int>source.shape[0], <int>source.shape[1])
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE)
        try:
            if target.len != pixels * 3 * <Py_ssize_t>sizeof(float):
                raise ValueError(f"expected a buffer of {pixels * 3 * sizeof(float)} bytes, got {target.len}")
            with nogil:
                if area:
                    fm_resize_area(kernels, &picture, &down_spans.spans, &across_spans.spans, unit,
                                   <float *>target.buf)
                else:
                    fm_resize_bilinear(kernels, &picture, &down.places, &across.places, unit, <float *>target.buf)
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
