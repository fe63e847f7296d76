/* check_kernels --bench: every kernel of every layer, against the multiply-add peak. Included by check_kernels.c. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include <time.h>

typedef struct timed {
    const fm_kernels *kernels;
    fm_layer layer;
    fm_pointwise_args pointwise;
    fm_depthwise_args depthwise;
    const float *packed, *stem_rows[3];
    int columns;
} timed;

static void plain_pointwise(const fm_kernels *kernels, const fm_pointwise_args *args) { kernels->pointwise(args); }

/* One row of the layer's map. Returns its multiply-adds. */
static double run_once(const timed *t) {
    const int width = t->layer.in_size / t->layer.stride;
    if (t->layer.kind == FM_POINTWISE) {
        run_pointwise(t->kernels, t->pointwise, t->packed, t->columns, plain_pointwise);
        return (double)t->pointwise.rows * t->layer.in_channels * t->columns;
    }
    if (t->layer.kind == FM_DEPTHWISE) {
        t->kernels->depthwise(&t->depthwise);
        return 9.0 * width * t->layer.in_channels;
    }
    t->kernels->stem(t->stem_rows, t->packed, t->depthwise.out, (const char *)t->stem_rows[0]);
    return 27.0 * width * t->layer.out_channels;
}

/* Numbers that take no longer than others: odd_value's denormals would. */
static float *ordinary(size_t floats) {
    float *array = fenced(floats * sizeof(float));
    for (size_t i = 0; i < floats; i++) array[i] = (float)rand() / (float)RAND_MAX * 0.25f - 0.125f;
    return array;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Multiply-adds a nanosecond: the best of some bursts of a millisecond. `t` or, without it, the peak. */
static double speed(const timed *t, const fm_kernels *kernels) {
    double best = 0.0;
    for (int burst = 0; burst < 20; burst++) {
        double macs = 0.0, start = now(), spent = 0.0;
        while ((spent = now() - start) < 1e-3) {
            if (t) for (int i = 0; i < 20; i++) macs += run_once(t);
            else if (kernels->peak(1000, 0.5f, 0.25f) < 1e9f) macs += 1000.0 * FM_PEAK_CHAINS * kernels->lanes;
        }
        if (macs / spent > best) best = macs / spent;
    }
    return best * 1e-9;
}

static void bench_table(const fm_kernels *kernels) {
    const double peak = kernels->peak ? speed(NULL, kernels) : 0.0;
    for (int i = 0; i < FM_LAYERS; i++) {
        timed t = {.kernels = kernels, .layer = fm_layer_info(i)};
        const int in = t.layer.in_channels, width = t.layer.in_size, out = t.layer.out_channels;
        t.columns = fm_padded_columns(&t.layer);
        if (t.columns % kernels->lanes != 0 || (i == 0 && !kernels->stem)) continue;
        const size_t taps = t.layer.kind == FM_POINTWISE ? 1 : 9, inputs = t.layer.kind == FM_DEPTHWISE ? 1 : (size_t)in;
        float *kernel = ordinary(taps * inputs * (size_t)out), *bias = ordinary((size_t)out);
        float *rows = ordinary((size_t)(3 * width * in)), *map = ordinary((size_t)(width * t.columns));
        float *residual = ordinary((size_t)(width * t.columns));
        const float *const three[3] = {rows, rows + width * in, rows + 2 * width * in};
        memcpy(t.stem_rows, three, sizeof three);
        t.packed = packed_for(&t.layer, kernels, kernel, bias);
        t.pointwise = (fm_pointwise_args){.a = rows, .residual = residual, .c = map, .rows = width, .k = in,
                                          .ldc = t.columns,
                                          .epilogue = t.layer.relu6 ? FM_RELU6 : FM_LINEAR};
        t.depthwise = (fm_depthwise_args){t.stem_rows, t.packed, map, in, width, in, 1, in, t.layer.stride};
        const double gmacs = speed(&t, kernels);
        printf("%-8s %-40s %7.2f GMAC/s", kernels->name, t.layer.scope, gmacs);
        if (peak > 0.0) printf("  %3.0f%%", 100.0 * gmacs / peak);
        printf("\n");
        release();
    }
}

#endif
