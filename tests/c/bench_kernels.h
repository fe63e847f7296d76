/* check_kernels --bench: every kernel on every layer of the network, against the multiply-add peak measured in the
 * same run. Included by check_kernels.c. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include <time.h>

/* One call of a kernel as the network makes it, and its number of multiply-adds (or floats). */
typedef struct timed {
    const fm_float32_kernels *kernels;
    const char *name;
    void (*run)(const struct timed *t);
    double work;
    const float *packed;
#define KERNEL(kernel, arguments, result) arguments kernel;
    FM_FLOAT32_KERNELS(KERNEL)
#undef KERNEL
} timed;

/* Every panel of the layer. */
static void time_pointwise(const timed *t) {
    const fm_float32_kernels *kernels = t->kernels;
    const int n = t->pointwise.ldc, panels = fm_float32_panel_count(n, kernels->lanes, kernels->panel);
    for (int p = 0; p < panels; p++) {
        const int start = fm_float32_panel_start(n, kernels->lanes, panels, p);
        fm_float32_pointwise_args args = t->pointwise;
        args.columns = args.ldb = fm_float32_panel_start(n, kernels->lanes, panels, p + 1) - start;
        args.panel = t->packed + (size_t)start * (size_t)(args.k + 1);
        args.c += start;
        args.residual += start;
        kernels->pointwise(&args);
    }
}
static void time_depthwise(const timed *t) { t->kernels->depthwise(&t->depthwise); }
static void time_stem(const timed *t) { t->kernels->stem(&t->stem); }
static void time_scale_f32(const timed *t) { t->kernels->scale_f32(&t->scale_f32); }
static void time_scale_u8(const timed *t) { t->kernels->scale_u8(&t->scale_u8); }
static void time_pool(const timed *t) { t->kernels->pool(&t->pool); }
static void time_peak(const timed *t) { t->kernels->peak(&t->peak); }

/* Ordinary numbers, because denormals, which odd_value may give, are slower. */
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

/* Work per nanosecond in one burst of about 50 us. */
static double burst(const timed *t, int calls) {
    const double start = now();
    for (int i = 0; i < calls; i++) t->run(t);
    return t->work * calls / (now() - start) * 1e-9;
}

static int calls_for(const timed *t) {
    t->run(t);
    return (int)(50e-6 * 1e9 * burst(t, 1) / t->work) + 1;
}

static timed timed_peak(const fm_float32_kernels *kernels) {
    return (timed){.kernels = kernels,
                   .run = time_peak,
                   .work = 2000.0 * FM_FLOAT32_PEAK_CHAINS * kernels->lanes,
                   .peak = {2000, 0.5f, 0.25f}};
}

/* The best of many bursts, each followed by a burst of the peak measurement. */
static void report(const timed *t, int is_macs) {
    enum { BURSTS = 300 };
    const timed peak = timed_peak(t->kernels);
    const int calls = calls_for(t), peak_calls = calls_for(&peak);
    double best = 0.0, best_peak = 0.0;
    for (int i = 0; i < BURSTS; i++) {
        const double speed = burst(t, calls), most = burst(&peak, peak_calls);
        if (speed > best) best = speed;
        if (most > best_peak) best_peak = most;
    }
    printf("%-8s %-38s %7.2f G%s/s", t->kernels->name, t->name, best, is_macs ? "MAC" : "float");
    if (is_macs) printf(" %4.0f%%", 100.0 * best / best_peak);
    printf("\n");
    release();
}

static float *ordinary_weights(const fm_layer *layer, const fm_float32_kernels *kernels) {
    const size_t taps = (size_t)(layer->kernel * layer->kernel), out = (size_t)layer->out_channels;
    const size_t depth = layer->kind == FM_DEPTHWISE ? taps : taps * (size_t)layer->in_channels;
    float *kernel = ordinary(depth * out), *bias = ordinary(out);
    float *packed = fenced(fm_float32_packed_floats(layer) * sizeof(float));
    fm_float32_pack(layer, kernels, kernel, bias, packed);
    return packed;
}

/* At most as many pixels as the network computes in one call. */
static void bench_pointwise_layer(const fm_float32_kernels *kernels, const fm_layer *layer) {
    const int pixels = layer->in_height * layer->in_width, rows = pixels < 144 ? pixels : 144, k = layer->in_channels;
    const int n = fm_float32_padded_columns(layer);
    if (n % kernels->unit != 0) return;
    timed t = {.kernels = kernels, .name = layer->scope, .run = time_pointwise, .work = (double)rows * k * n};
    t.packed = ordinary_weights(layer, kernels);
    t.pointwise = (fm_float32_pointwise_args){.a = ordinary((size_t)(rows * k)),
                                              .residual = ordinary((size_t)(rows * n)),
                                              .c = ordinary((size_t)(rows * n)),
                                              .rows = rows,
                                              .k = k,
                                              .ldc = n};
    t.pointwise.epilogue = layer->residual ? FM_RESIDUAL : layer->relu6 ? FM_RELU6 : FM_LINEAR;
    report(&t, 1);
}

/* A slice of the channels; all rows of a small map, or some rows of a large one. */
static void bench_depthwise_layer(const fm_float32_kernels *kernels, const fm_layer *layer) {
    enum { MOST_ROWS = 8 };
    const int channels = layer->in_channels, width = layer->in_width, out = width / layer->stride;
    const int slice = channels < 48 ? channels : 48, out_rows = out < MOST_ROWS ? out : MOST_ROWS;
    if (slice % kernels->unit != 0) return;
    const float *rows[2 * MOST_ROWS + 1], *map = ordinary((size_t)((2 * MOST_ROWS + 1) * width * slice));
    const int in_rows = (out_rows - 1) * layer->stride + 3;
    for (int i = 0; i < in_rows; i++) rows[i] = map + i * width * slice;
    if (out_rows == out) rows[in_rows - 1] = NULL;
    if (out_rows == out && layer->stride == 1) rows[0] = NULL;
    timed t = {.kernels = kernels, .name = layer->scope, .run = time_depthwise};
    t.work = 9.0 * out_rows * out * slice;
    float *to = ordinary((size_t)(out_rows * out * channels));
    t.depthwise = (fm_float32_depthwise_args){
        rows, ordinary_weights(layer, kernels), to, slice, width, slice, out_rows, channels, layer->stride};
    report(&t, 1);
}

static void bench_layers(const fm_float32_kernels *kernels, fm_kind kind,
                         void (*bench)(const fm_float32_kernels *kernels, const fm_layer *layer)) {
    const fm_network network = some_network();
    for (int i = 0; i < FM_LAYERS; i++) {
        const fm_layer layer = fm_layer_info(&network, i);
        if (layer.kind == kind) bench(kernels, &layer);
    }
}

static void bench_stem_layer(const fm_float32_kernels *kernels, const fm_layer *layer) {
    const int width = layer->in_width, outputs = layer->out_channels;
    if (outputs % kernels->unit != 0) return;
    const float *image = ordinary((size_t)(9 * width)), *const rows[] = {image, image + 3 * width, image + 6 * width};
    timed t = {.kernels = kernels, .name = layer->scope, .run = time_stem, .work = 27.0 * width / 2 * outputs};
    float *to = ordinary((size_t)(width / 2 * outputs));
    t.stem = (fm_float32_stem_args){rows, ordinary_weights(layer, kernels), to, width, outputs, image, 24 * width};
    report(&t, 1);
}

static void bench_pointwise(const fm_float32_kernels *kernels) {
    bench_layers(kernels, FM_POINTWISE, bench_pointwise_layer);
}
static void bench_depthwise(const fm_float32_kernels *kernels) {
    bench_layers(kernels, FM_DEPTHWISE, bench_depthwise_layer);
}
static void bench_stem(const fm_float32_kernels *kernels) { bench_layers(kernels, FM_CONV, bench_stem_layer); }

static void bench_scale(const fm_float32_kernels *kernels, const char *name, void (*run)(const timed *t)) {
    const int count = 3 * some_network().width;
    timed t = {.kernels = kernels, .name = name, .run = run, .work = count};
    t.scale_f32 = (fm_float32_scale_args){ordinary((size_t)count), ordinary((size_t)count), count, 2.0f, -1.0f, 1.5f};
    t.scale_u8 = t.scale_f32;
    report(&t, 0);
}
static void bench_scale_f32(const fm_float32_kernels *kernels) { bench_scale(kernels, "scale_f32", time_scale_f32); }
static void bench_scale_u8(const fm_float32_kernels *kernels) { bench_scale(kernels, "scale_u8", time_scale_u8); }

static void bench_pool(const fm_float32_kernels *kernels) {
    enum { PIXELS = 9 };
    const int features = some_network().features, count = PIXELS * features;
    timed t = {.kernels = kernels, .name = "pool", .run = time_pool, .work = count};
    t.pool = (fm_float32_pool_args){ordinary((size_t)count), ordinary((size_t)features), PIXELS, features};
    report(&t, 0);
}

static void bench_peak(const fm_float32_kernels *kernels) {
    timed t = timed_peak(kernels);
    t.name = "peak";
    report(&t, 1);
}

static void bench_table(const fm_float32_kernels *kernels) {
#define KERNEL(name, arguments, result) bench_##name(kernels);
    FM_FLOAT32_KERNELS(KERNEL)
#undef KERNEL
}

#endif
