"""The C core's declarations that Python uses; the headers in csrc/ document them."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "crc32c.h" nogil:
    uint32_t fm_crc32c(uint32_t crc, const void *data, size_t size)


cdef extern from "cpu.h" nogil:
    int fm_affinity_cpus()


cdef extern from "fastmnv2.h" nogil:
    ctypedef enum fm_status:
        FM_OK, FM_NO_MEMORY, FM_NO_LOGITS, FM_NO_NETWORK

    ctypedef enum fm_dtype:
        FM_FLOAT32, FM_UINT8

    enum:
        FM_BLOCKS, FM_LAYERS, FM_ENDPOINTS

    ctypedef struct fm_block:
        int expand, out

    ctypedef struct fm_network:
        double multiplier
        int height, width, colours, features, classes
        fm_block blocks[FM_BLOCKS]

    ctypedef struct fm_layer:
        char scope[48]
        int kind, kernel, stride, in_height, in_width, out_height, out_width, pad_top, pad_left
        int in_channels, out_channels, relu6, residual

    ctypedef struct fm_endpoint:
        char name[48]
        int height, width, channels

    ctypedef struct fm_isa:
        pass

    ctypedef struct fm_model:
        pass

    ctypedef struct fm_weights:
        const float **kernels
        const float **biases
        float black, white

    ctypedef struct fm_int8_layer:
        const uint8_t *kernel
        const int32_t *bias
        const float *scale
        int kernel_zero, in_zero, out_zero, low, high

    ctypedef struct fm_int8_sum:
        int32_t ma, mb
        int shift, a_zero, b_zero, out_zero, low, high

    ctypedef struct fm_int8_weights:
        const fm_int8_layer *layers
        const fm_int8_sum *sums
        const uint8_t *pool
        const float *feature
        const float *logit

    ctypedef struct fm_request:
        const void *images
        fm_dtype dtype
        size_t n
        float *features
        void **endpoints
        int threads
        uint64_t *ticks

    fm_status fm_network_make(double multiplier, int height, int width, fm_network *network)
    fm_layer fm_layer_info(const fm_network *network, int index)
    fm_endpoint fm_endpoint_info(const fm_network *network, int index)
    int fm_isa_count()
    const fm_isa *fm_isa_at(int index)
    const char *fm_isa_name(const fm_isa *isa)
    int fm_isa_supported(const fm_isa *isa)
    int fm_isa_images(const fm_isa *isa)
    const fm_isa *fm_isa_for(const char *tier, const fm_isa *isa)
    double fm_int8_peak_macs(const fm_isa *isa, double macs)
    fm_status fm_int8_model_new(const fm_isa *isa, const fm_network *network, const fm_int8_weights *weights,
                                fm_model **model)
    double fm_peak_macs(const fm_isa *isa, double macs)
    uint64_t fm_ticks()
    double fm_ping_ticks()
    fm_status fm_model_new(const fm_isa *isa, const fm_network *network, const fm_weights *weights, fm_model **model)
    void fm_model_free(fm_model *model)
    size_t fm_model_bytes(const fm_model *model)
    fm_status fm_forward(const fm_model *model, const fm_request *request, int *out_of_range)
    fm_status fm_logits(const fm_model *model, const float *features, size_t n, float *logits)
    ctypedef struct fm_dense:
        pass
    fm_status fm_dense_new(const fm_isa *isa, int inputs, int outputs, const float *kernel, const float *bias,
                           fm_dense **dense)
    void fm_dense_free(fm_dense *dense)
    void fm_dense_run(const fm_dense *dense, const float *x, size_t n, float *y)
    int fm_openmp()
    int fm_max_threads()
    unsigned long fm_late_teams()
    void fm_watch_forks()
