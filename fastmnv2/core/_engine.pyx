"""A thin wrapper of the C core: takes buffers, releases the GIL, and turns status codes into exceptions.

Callers (model.py) check shapes and dtypes. This module repeats only the checks that memory safety needs.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastmnv2.core._csrc cimport *


cdef extern from *:
    """
    #ifndef FM_BUILD_FLAGS
    #define FM_BUILD_FLAGS ""
    #endif
    """
    const char *FM_BUILD_FLAGS


build_flags = FM_BUILD_FLAGS.decode()
openmp = bool(fm_openmp())
fm_watch_forks()


cdef class Network:
    """A member of the family, as the core describes it. Immutable. Raises ValueError if there is no such member."""

    cdef fm_network network

    def __cinit__(self, double multiplier, height, width):
        # Clamped, because a C int can't hold every size; the limits are not valid sizes.
        cdef int rows = min(max(height, 0), 1 << 20), columns = min(max(width, 0), 1 << 20)
        if fm_network_make(multiplier, rows, columns, &self.network) != FM_OK:
            raise ValueError(
                "expected a multiplier from 0.25 to 2, and a height and width from 32 to 512 pixels; "
                f"got {multiplier:g} and {height} x {width}"
            )

    @property
    def features(self):
        """Length of a feature vector."""
        return self.network.features

    @property
    def classes(self):
        """The number of logits."""
        return self.network.classes

    @property
    def channels(self):
        """Channel counts that identify the multiplier: of the first convolution, each block and the last convolution."""
        return (self.network.blocks[0].expand, *[self.network.blocks[b].out for b in range(FM_BLOCKS)],
                self.network.features)

    def layers(self):
        """Rows of ``fastmnv2.core.network.Layer``, in order."""
        kinds = ("conv", "depthwise", "pointwise")
        rows = []
        for i in range(FM_LAYERS):
            row = fm_layer_info(&self.network, i)
            rows.append((row.scope.decode(), kinds[row.kind], row.kernel, row.stride, row.in_height, row.in_width,
                         row.out_height, row.out_width, row.pad_top, row.pad_left, row.in_channels, row.out_channels,
                         bool(row.relu6), bool(row.residual)))
        return tuple(rows)

    def endpoints(self):
        """Rows of ``fastmnv2.core.network.Endpoint``, in order, and the same for the blocks' projections."""
        rows = []
        for i in range(FM_ENDPOINTS + FM_BLOCKS):
            row = fm_endpoint_info(&self.network, i)
            rows.append((row.name.decode(), row.height, row.width, row.channels))
        return tuple(rows[:FM_ENDPOINTS]), tuple(rows[FM_ENDPOINTS:])


_isas = ()


def isas():
    """(name, whether this machine can run it) of every instruction set compiled in, slowest first."""
    global _isas
    if not _isas:  # cached, because virtual machines take a tenth of a millisecond for each CPUID
        _isas = tuple((fm_isa_name(fm_isa_at(i)).decode(), bool(fm_isa_supported(fm_isa_at(i))))
                      for i in range(fm_isa_count()))
    return _isas


def isa_for(str precision, str isa):
    """Name of the instruction set that models of a precision use if ``isa`` is requested."""
    return fm_isa_name(fm_isa_for(precision.encode(), find_isa(isa))).decode()


def images_in_a_moment(str isa):
    """The number of images that take one thread about ten milliseconds on an instruction set."""
    return fm_isa_images(find_isa(isa))


def max_threads():
    """OpenMP's current limit for the calling thread; 1 without OpenMP, and after a fork that lost OpenMP's workers."""
    return fm_max_threads()


def late_teams():
    """The number of calls in this process that went on with one thread because another thread was late."""
    return fm_late_teams()


def affinity_cpus():
    """The number of processors that the calling thread may run on; 0 if unknown."""
    return fm_affinity_cpus()


def crc32c(data, value=0):
    """CRC-32C of a bytes-like object, continuing from ``value``."""
    cdef Py_buffer view
    cdef uint32_t crc = value
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        crc = fm_crc32c(crc, view.buf, view.len)
    PyBuffer_Release(&view)
    return crc


cdef const fm_isa *find_isa(str name) except NULL:
    for i, (own, supported) in enumerate(isas()):
        if own == name and supported:
            return fm_isa_at(i)
    raise ValueError(f"instruction set {name!r} can't be run here")


def peak_macs(str isa, double macs, str precision="float32"):
    """Do at least ``macs`` multiply-adds at full rate on this thread, for measurements, and return how many were done."""
    cdef const fm_isa *chosen = find_isa(isa)
    cdef bint bytes_ = precision == "int8"
    cdef double done
    with nogil:
        done = fm_int8_peak_macs(chosen, macs) if bytes_ else fm_peak_macs(chosen, macs)
    return done


def ticks():
    """The clock that ``Engine.forward`` uses for the layers' times; callers must measure its rate."""
    return fm_ticks()


def ping_ticks():
    """Latency of a cache line between two processors, in the units of ``ticks``; 0 if there is only one processor."""
    cdef double taken
    with nogil:
        taken = fm_ping_ticks()
    return taken


cdef int check_length(Py_ssize_t got, size_t items, size_t item_bytes) except -1:
    if <size_t>got != items * item_bytes:
        raise ValueError(f"expected a buffer of {items * item_bytes} bytes, got {got}")
    return 0


cdef class Views:
    """Buffers that are held until a call ends."""

    cdef Py_buffer *views
    cdef int count

    def __cinit__(self, int most):
        self.count = 0
        self.views = <Py_buffer *>PyMem_Malloc(most * sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError()

    def __dealloc__(self):
        while self.count > 0:
            self.count -= 1
            PyBuffer_Release(&self.views[self.count])
        PyMem_Free(self.views)

    cdef void *get(self, array, size_t items, size_t item_bytes, bint writable) except NULL:
        cdef Py_buffer *view = &self.views[self.count]
        PyObject_GetBuffer(array, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.count += 1
        check_length(view.len, items, item_bytes)
        return view.buf

    cdef const float *floats(self, array, size_t items) except NULL:
        return <const float *>self.get(array, items, sizeof(float), False)

    cdef float *writable(self, array, size_t items) except NULL:
        return <float *>self.get(array, items, sizeof(float), True)

    cdef const uint8_t *bytes_of(self, array, size_t items) except NULL:
        return <const uint8_t *>self.get(array, items, 1, False)


cdef class Blob:
    """A block of zeroed memory."""

    cdef void *at

    def __cinit__(self, size_t size):
        self.at = PyMem_Calloc(1, size)
        if self.at == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.at)


cdef class Pointers:
    """One pointer for each layer or endpoint, initially NULL."""

    cdef void **at

    def __cinit__(self, int count):
        self.at = <void **>PyMem_Calloc(count, sizeof(void *))
        if self.at == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.at)


cdef int check_made(fm_status status) except -1:
    if status == FM_NO_MEMORY:
        raise MemoryError("not enough memory for the packed weights")
    return 0


cdef class Engine:
    """A model of the core, of any precision. Immutable: any thread may call it at any time."""

    cdef fm_model *model
    cdef readonly Network network
    cdef size_t item  # bytes of a number in an endpoint

    def __dealloc__(self):
        fm_model_free(self.model)

    @property
    def nbytes(self):
        """Size of the packed weights."""
        return fm_model_bytes(self.model)

    def forward(self, images, bint uint8, Py_ssize_t n, features, int threads, dict records=None, ticks=None):
        """Write the features of n images into ``features``; return whether float pixels were far outside [0,1].

        All arrays are C-contiguous and do not overlap:

        - images: float32 or uint8 [n,height,width,3];
        - features: float32 [n,features];
        - records: {endpoint index: [n,height,width,channels]}, float32, or uint8 for int8 weights. For int8 weights,
          the number of endpoints plus a block's number is the index of the block's projection.
        - ticks: uint64 [layers], to which the time of each layer is added; on one thread only.

        Raises MemoryError.
        """
        cdef const fm_network *network = &self.network.network
        cdef fm_request request
        cdef fm_endpoint shape
        cdef Views views = Views(3 + (len(records) if records else 0))
        cdef Pointers endpoints
        cdef fm_status status
        cdef int out_of_range = 0
        cdef size_t pixels = <size_t>network.height * network.width * network.colours
        memset(&request, 0, sizeof(request))
        request.dtype = FM_UINT8 if uint8 else FM_FLOAT32
        request.threads = threads
        request.n = n
        request.images = views.get(images, n * pixels, 1 if uint8 else sizeof(float), False)
        request.features = views.writable(features, n * network.features)
        if ticks is not None:
            request.ticks = <uint64_t *>views.get(ticks, FM_LAYERS, sizeof(uint64_t), True)
        if records:
            endpoints = Pointers(FM_ENDPOINTS + FM_BLOCKS)
            request.endpoints = endpoints.at
            for i, array in records.items():
                shape = fm_endpoint_info(network, i)
                endpoints.at[<int>i] = views.get(
                    array, n * shape.height * shape.width * shape.channels, self.item, True)
        with nogil:
            status = fm_forward(self.model, &request, &out_of_range)
        if status != FM_OK:
            raise MemoryError("not enough memory for the working buffers")
        return bool(out_of_range)

    def logits(self, features, Py_ssize_t n, logits):
        """features [n,features] -> logits [n,classes], both C-contiguous float32. Raises MemoryError, ValueError."""
        cdef const fm_network *network = &self.network.network
        cdef Views views = Views(2)
        cdef const float *source = views.floats(features, n * network.features)
        cdef float *target = views.writable(logits, n * network.classes)
        cdef fm_status status
        with nogil:
            status = fm_logits(self.model, source, n, target)
        if status == FM_NO_LOGITS:
            raise ValueError("the weights have no logits layer")
        if status != FM_OK:
            raise MemoryError("not enough memory for the working buffers")


cdef class Float32Engine(Engine):
    """Packed float32 weights for one instruction set."""

    def __cinit__(self, str isa, Network network not None, list kernels, list biases, float black=-1, float white=1):
        """``kernels`` and ``biases``: a float32 array for each layer, in TF-Slim's layouts; None for missing logits.

        ``black`` and ``white``: the values that an image's 0 and 1 become before the first convolution.
        """
        cdef const fm_isa *chosen = find_isa(isa)
        cdef const fm_network *shape = &network.network
        cdef Views views = Views(2 * FM_LAYERS)
        cdef Pointers kernel = Pointers(FM_LAYERS), bias = Pointers(FM_LAYERS)
        cdef fm_weights weights
        cdef fm_layer layer
        cdef fm_status status
        cdef size_t items
        for i in range(FM_LAYERS):
            if kernels[i] is None or biases[i] is None:
                if i < FM_LAYERS - 1:
                    raise ValueError(f"layer {i} is missing")
                continue
            layer = fm_layer_info(shape, i)
            items = layer.kernel * layer.kernel * layer.out_channels
            if layer.kind != 1:  # not depthwise
                items *= layer.in_channels
            kernel.at[i] = views.get(kernels[i], items, sizeof(float), False)
            bias.at[i] = views.get(biases[i], layer.out_channels, sizeof(float), False)
        weights.kernels = <const float **>kernel.at
        weights.biases = <const float **>bias.at
        weights.black, weights.white = black, white
        self.item, self.network = sizeof(float), network
        with nogil:
            status = fm_model_new(chosen, shape, &weights, &self.model)
        check_made(status)


cdef class Int8Engine(Engine):
    """Packed 8-bit weights for one instruction set; endpoints are uint8."""

    def __cinit__(self, str isa, Network network not None, list layers, list sums, pool, feature, logit):
        """Pack 8-bit weights. All arguments are as in ``fm_int8_weights`` (fastmnv2.h).

        - layers: for each layer, kernel uint8, bias int32, multipliers float32, and the tuple (zero points of kernel,
          input and output, low, high). The logits may be missing.
        - sums: for each block (ma, mb, shift, zero points of a, b and output, low, high), or None.
        - pool: uint8, the average for each possible sum.
        - feature, logit: float32 [256], the number that each byte stands for; logit is None without logits.
        """
        cdef const fm_isa *chosen = find_isa(isa)
        cdef const fm_network *shape = &network.network
        cdef Views views = Views(3 * FM_LAYERS + 3)
        cdef Blob layer_blob = Blob(FM_LAYERS * sizeof(fm_int8_layer)), sum_blob = Blob(FM_BLOCKS * sizeof(fm_int8_sum))
        cdef fm_int8_layer *own = <fm_int8_layer *>layer_blob.at
        cdef fm_int8_sum *added = <fm_int8_sum *>sum_blob.at
        cdef fm_int8_weights weights
        cdef fm_layer layer, head = fm_layer_info(shape, FM_LAYERS - 2)
        cdef fm_status status
        cdef size_t items
        if not FM_LAYERS - 1 <= len(layers) <= FM_LAYERS or len(sums) != FM_BLOCKS:
            raise ValueError("layers or sums are missing")
        for i, (kernel, bias, scale, numbers) in enumerate(layers):
            layer = fm_layer_info(shape, i)
            items = layer.kernel * layer.kernel * layer.out_channels
            if layer.kind != 1:  # not depthwise
                items *= layer.in_channels
            own[<int>i].kernel = views.bytes_of(kernel, items)
            own[<int>i].bias = <const int32_t *>views.get(bias, layer.out_channels, sizeof(int32_t), False)
            own[<int>i].scale = views.floats(scale, layer.out_channels)
            (own[<int>i].kernel_zero, own[<int>i].in_zero, own[<int>i].out_zero, own[<int>i].low,
             own[<int>i].high) = numbers
        for i, numbers in enumerate(sums):
            if numbers is not None:
                (added[<int>i].ma, added[<int>i].mb, added[<int>i].shift, added[<int>i].a_zero, added[<int>i].b_zero,
                 added[<int>i].out_zero, added[<int>i].low, added[<int>i].high) = numbers
        weights.layers = own
        weights.sums = added
        weights.pool = views.bytes_of(pool, head.out_height * head.out_width * 255 + 1)
        weights.feature = views.floats(feature, 256)
        weights.logit = views.floats(logit, 256) if logit is not None else NULL
        self.item, self.network = 1, network
        with nogil:
            status = fm_int8_model_new(chosen, shape, &weights, &self.model)
        check_made(status)


cdef class Dense:
    """A fully connected layer for one instruction set. Immutable: any thread may call it at any time."""

    cdef fm_dense *dense
    cdef readonly int inputs, outputs

    def __cinit__(self, str isa, kernel, bias):
        """``kernel`` [inputs,outputs] and ``bias`` [outputs]: C-contiguous float32 arrays."""
        cdef const fm_isa *chosen = find_isa(isa)
        cdef Views views = Views(2)
        cdef const float *weights
        cdef const float *biases
        cdef fm_status status
        self.inputs, self.outputs = kernel.shape
        weights = views.floats(kernel, <size_t>self.inputs * self.outputs)
        biases = views.floats(bias, self.outputs)
        with nogil:
            status = fm_dense_new(chosen, self.inputs, self.outputs, weights, biases, &self.dense)
        check_made(status)

    def __dealloc__(self):
        fm_dense_free(self.dense)

    def run(self, x, Py_ssize_t n, y):
        """x [n,inputs] -> y [n,outputs], both C-contiguous float32."""
        cdef Views views = Views(2)
        cdef const float *source = views.floats(x, n * self.inputs)
        cdef float *target = views.writable(y, n * self.outputs)
        with nogil:
            fm_dense_run(self.dense, source, n, target)
