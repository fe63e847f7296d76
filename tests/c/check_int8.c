/* Every 8-bit kernel of every instruction set against the scalar one, and the scalar convolution against plain loops:
 * the same bytes, nothing written outside the outputs, nothing read beyond an input's slack, and the caller's registers
 * and modes unchanged. Shapes are the network's, and random ones that the contract in int8/kernels.h allows, with a
 * fixed seed.
 *
 *   check_int8                 the instruction sets that this machine can run
 *   check_int8 NAME            only this one (under emulators, where all of them take minutes)
 *   check_int8 --bench         also prints the min time of each kernel on the network's shapes
 *   check_int8 --mutant NAME   a convolution that rounds half up, rounds twice, or saturates at 16 bits, or weights
 *                              one above the limit for sums of 16 bits ("lax"), which must be caught
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <time.h>

#include "checked_call.h"
#include "fence.h"
#include "int8/pack.h"
#include "int8/tables.h"
#include "some_network.h"

static int benching;

static int between(int least, int most) { return least + rand() % (most - least + 1); }

/* An input may be read FM_INT8_SLACK bytes past its end. */
static uint8_t *fill(size_t bytes) {
    uint8_t *array = fenced(bytes + FM_INT8_SLACK);
    const int full = between(0, 2); /* how many of three bytes have the max value */
    for (size_t i = 0; i < bytes + FM_INT8_SLACK; i++) array[i] = rand() % 3 < full ? 255 : (uint8_t)(rand() >> 8);
    return array;
}

static void *exactly(size_t bytes) { return fenced(bytes); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Calls a kernel, then checks guards, registers and modes. With --bench, measures its min time. Returns what the kernel
 * returned. */
static long call(const fm_int8_kernels *kernels, const char *what, any_function kernel, const void *args) {
    const char *wrong = NULL;
    const long result = checked_call(kernel, args, NULL, NULL, NULL, &wrong);
    if (wrong) {
        printf("FAIL %s %s: %s changed\n", kernels->name, what, wrong);
        failures++;
    }
    double best = 1.0;
    for (int i = 0; benching && i < 50; i++) {
        const double start = now();
        checked_call(kernel, args, NULL, NULL, NULL, &wrong);
        best = fmin(best, now() - start);
    }
    if (benching) printf("%-10s %-10s %9.2f us\n", kernels->name, what, best * 1e6);
    return result;
}

static void expect_same(const fm_int8_kernels *kernels, const char *what, const uint8_t *want, const uint8_t *got,
                        size_t n) {
    checks++;
    for (size_t i = 0; i < n; i++) {
        if (want[i] == got[i]) continue;
        printf("FAIL %s %s: byte %zu of %zu is %d, expected %d\n", kernels->name, what, i, n, got[i], want[i]);
        failures++;
        return;
    }
}

/* ---- weights ---------------------------------------------------------------------------------------- */

/* The range of the weights and the clamping of outputs. */
typedef enum numbers {
    PLAIN,   /* weights in int8, outputs that saturation clamps */
    SHIFTED, /* the same with zero points and clamps inside the range */
    WIDE,    /* weights of nine bits, products beyond int32 */
    EDGE,    /* pairs of weights at the limit for sums of 16 bits, and some that exceed it by 1 */
    NUMBERS
} numbers;

/* The weights of two bytes of a quad in one column. Both have the same sign and add up to `total`, or as near to it as
 * the zero point `zero` allows. */
static void draw_pair(uint8_t *first, uint8_t *second, int zero, int total) {
    const int sign = rand() % 2 ? 1 : -1, most = sign > 0 ? 255 - zero : zero;
    const int alone = rand() % 3 == 0, a = alone ? fm_min(total, most) : between(0, fm_min(total, most));
    *first = (uint8_t)(zero + sign * a);
    if (second) *second = (uint8_t)(zero + sign * fm_min(total - a, most));
}

/* Fills rows of weights quad by quad; `first` means the first convolution. Half of the quads fit in 16 bits together
 * with another one, most others fit alone, and some don't fit because of one column. */
static void draw_edge(uint8_t *kernel, int depth, int columns, int zero, int first) {
    const int limit = FM_INT8_PAIR_MAX;
    for (int k = 0, rows; k < depth; k += rows) {
        rows = first && k % 9 == 8 ? 1 : fm_min(4, depth - k);
        const int total = rand() % 2 ? limit / 2 : limit, over = rand() % 3 == 0 ? rand() % columns : -1;
        for (int c = 0; c < columns; c++) {
            for (int t = 0; t < rows; t += 2) {
                uint8_t *row = kernel + (k + t) * columns + c;
                draw_pair(row, t + 1 < rows ? row + columns : NULL, zero, total + (c == over));
            }
        }
    }
}

static fm_int8_layer make_layer(const fm_layer *shape, numbers which) {
    const int columns = shape->out_channels, taps = shape->kernel * shape->kernel;
    const int depth = shape->kind == FM_DEPTHWISE ? taps : taps * shape->in_channels;
    uint8_t *kernel = exactly((size_t)depth * (size_t)columns);
    int32_t *bias = exactly(sizeof *bias * (size_t)columns);
    float *scale = exactly(sizeof *scale * (size_t)columns);
    const int zero = which == WIDE ? between(0, 1) * 255 : which == EDGE ? between(127, 128) : 128;
    for (int i = 0; i < depth * columns; i++) kernel[i] = (uint8_t)(rand() >> 8);
    if (which == EDGE) draw_edge(kernel, depth, columns, zero, shape->kind == FM_CONV);
    for (int i = 0; i < columns; i++) {
        bias[i] = between(-20000, 20000);
        scale[i] = (float)between(1, 1000) * 3e-6f;
        /* Half a step from a whole number, which reveals how sums are rounded. */
        if (i % 3 == 0) scale[i] = 1.0f / (float)(1 << between(1, 9));
        if (which == WIDE && i % 5 == 0) scale[i] = 255.0f;
    }
    fm_int8_layer layer = {kernel, bias, scale, zero, between(0, 255), 0, 0, 255};
    if (which == SHIFTED || which == WIDE) {
        layer.out_zero = between(0, 255);
        layer.low = between(0, 100);
        layer.high = between(100, 255);
    }
    return layer;
}

/* Packs for a table: measures first, then fills. */
#define PACK(RESULT, CALL)                                      \
    do {                                                        \
        fm_int8_store store = {NULL, 0};                        \
        (void)CALL;                                             \
        store.block = exactly(store.used + 64);                 \
        store.block += (64 - (uintptr_t)store.block % 64) % 64; \
        store.used = 0;                                         \
        RESULT = CALL;                                          \
    } while (0)

/* ---- convolutions ----------------------------------------------------------------------------------- */

static enum { RIGHT, HALF_UP, TWICE, SATURATING, LAX } mutant;

static int32_t rounded(int32_t sum, float scale) {
    const float product = (float)sum * scale;
    if (mutant == HALF_UP) return (int32_t)floorf(fminf(fmaxf(product, -65536.0f), 65536.0f) + 0.5f);
    if (mutant == TWICE) { /* like gemmlowp: first after a 31-bit multiplication, then after a shift */
        int exponent;
        const int64_t multiplier = llround(frexp((double)scale, &exponent) * 2147483648.0);
        const int64_t high = (sum * multiplier + (1 << 30)) >> 31;
        const int shift = -exponent;
        return (int32_t)(shift > 0 ? (high + ((int64_t)1 << (shift - 1))) >> shift : high << -shift);
    }
    return (int32_t)nearbyintf(fminf(fmaxf(product, -65536.0f), 65536.0f));
}

/* Plain loops over weights packed for the scalar table: [step][4][columns] 16-bit weights. */
static void naive_conv(const fm_int8_conv_args *args) {
    const int magic = args->output.plain && fm_int8_scalar.magic ? FM_INT8_MAGIC : 0;
    for (int i = 0; i < args->pixels; i++) {
        const uint8_t *a = args->a + (size_t)i * args->lda;
        uint8_t *c = args->c + (size_t)i * args->ldc + (size_t)(i / args->width) * args->gap;
        for (int j = 0; j < args->columns; j++) {
            int64_t sum = args->bias[j] - magic;
            for (int step = 0; step < args->steps; step++) {
                int pair = 0;
                for (int t = 0; t < 4; t++) {
                    const char *at = args->weights + (size_t)step * args->ldw + (size_t)t * args->part;
                    int16_t weight;
                    memcpy(&weight, at + (size_t)j * sizeof weight, sizeof weight);
                    pair += a[args->offsets[step] + t] * weight;
                    if (t % 2 == 0) continue;
                    if (mutant == SATURATING) pair = pair > 32767 ? 32767 : pair < -32768 ? -32768 : pair;
                    sum += pair;
                    pair = 0;
                }
            }
            const int32_t byte = rounded((int32_t)sum, args->scale[j]) + args->output.zero;
            c[j] = (uint8_t)fm_min(fm_max(byte, args->output.low), args->output.high);
        }
    }
}

static int saturated(int32_t sum) { return sum > INT16_MAX ? INT16_MAX : sum < INT16_MIN ? INT16_MIN : sum; }

/* The total of the 16-bit sums that vpmaddubsw and vpaddw compute from a pixel's next `together` quads. */
static int32_t narrow_sum(const fm_int8_conv_args *args, const uint8_t *a, int first, int together, int column) {
    int32_t sum = 0;
    for (int half = 0; half < 4; half += 2) {
        int16_t narrow = 0;
        for (int k = first; k < first + together; k++) {
            const uint8_t *x = a + args->offsets[k] + half;
            const int8_t *w = (const int8_t *)args->weights + (size_t)k * args->part + 4 * column + half;
            narrow = (int16_t)(uint16_t)(narrow + saturated(x[0] * w[0] + x[1] * w[1]));
        }
        sum += narrow;
    }
    return sum;
}

/* Plain loops over weights packed for a table with a pair_max and two parts. */
static void pairs_conv(const fm_int8_conv_args *args) {
    const int doubles = 2 * args->doubles, bytes = doubles + args->singles;
    for (int i = 0; i < args->pixels; i++) {
        const uint8_t *a = args->a + (size_t)i * args->lda;
        uint8_t *c = args->c + (size_t)i * args->ldc + (size_t)(i / args->width) * args->gap;
        for (int j = 0; j < args->columns; j++) {
            int32_t sum = args->bias[j];
            for (int k = 0; k < doubles; k += 2) sum += narrow_sum(args, a, k, 2, j);
            for (int k = doubles; k < bytes; k++) sum += narrow_sum(args, a, k, 1, j);
            for (int k = 0; k < 4 * args->steps; k++) {
                const char *step = args->weights + (size_t)bytes * args->part + (size_t)(k / 4) * args->ldw;
                int16_t w[2];
                memcpy(w, step + (size_t)(k % 2) * args->part + (size_t)j * sizeof w, sizeof w);
                sum = (int32_t)((uint32_t)sum + (uint32_t)(a[args->offsets[bytes + k / 4] + k % 4] * w[k % 4 / 2]));
            }
            const int32_t byte = rounded(sum, args->scale[j]) + args->output.zero;
            c[j] = (uint8_t)fm_min(fm_max(byte, args->output.low), args->output.high);
        }
    }
}

/* A table like AVX2's that runs on any machine. The mutant raises the limit for pairs of weights by one. */
static fm_int8_kernels pairs_table(void) {
    fm_int8_kernels table = fm_int8_scalar;
    table.name = "pairs";
    table.lanes = 8;
    table.vecs = 3;
    table.parts = table.bytes = 2;
    table.pair_max = FM_INT8_PAIR_MAX + (mutant == LAX);
    table.conv = pairs_conv;
    return table;
}

static void run_conv(const fm_int8_kernels *kernels, const fm_int8_conv *conv, fm_int8_conv_args args, int cut) {
    const int ends[] = {0, cut, conv->columns};
    uint8_t *c = args.c;
    for (int part = 0; part < 2; part++) {
        for (int p = 0; p < conv->count; p++) {
            args.c = c + fm_int8_conv_part(conv, p, ends[part], ends[part + 1], &args);
            if (args.columns > 0) call(kernels, "conv", (any_function)kernels->conv, &args);
        }
    }
}

/* `rows` rows of `width` pixels, with a gap between rows of outputs. */
static void check_conv_shape(const fm_int8_kernels *kernels, const fm_layer *shape, int rows, int width,
                             numbers which) {
    fm_int8_kernels naive = fm_int8_scalar;
    naive.conv = naive_conv;
    const fm_int8_kernels *tables[2] = {&naive, kernels};
    const int first = shape->kind == FM_CONV, row_bytes = 6 * width + 6, columns = (shape->out_channels + 7) / 8 * 8;
    const int lda = first ? 6 : shape->in_channels, pixels = rows * width;
    const int gap = shape->out_channels == columns ? 8 * between(0, 3) : 0;
    const size_t ldc = (size_t)(columns + 8 * between(0, 2)), bytes = (size_t)pixels * ldc + (size_t)(rows * gap);
    const fm_int8_layer layer = make_layer(shape, which);
    const uint8_t *a = fill(first ? 3 * (size_t)row_bytes : (size_t)(pixels * lda));
    const int lanes = kernels->lanes, cut = between(0, shape->out_channels / lanes) * lanes;
    uint8_t *results[2];
    fm_int8_conv packed[2];
    for (int t = 0; t < 2; t++) {
        PACK(packed[t], fm_int8_pack_conv(&store, tables[t], shape, &layer, row_bytes));
    }
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = exactly(bytes);
        memset(results[t], 7, bytes);
        const fm_int8_conv_args args = {.a = a,
                                        .lda = (size_t)lda,
                                        .pixels = pixels,
                                        .c = results[t],
                                        .ldc = ldc,
                                        .gap = (size_t)gap,
                                        .width = width};
        run_conv(tables[t], &packed[t], args, cut);
    }
    /* Columns after the last output may have any value. */
    for (size_t i = 0; shape->out_channels != columns && i < bytes; i++) {
        if (i % ldc >= (size_t)shape->out_channels) results[0][i] = results[1][i] = 0;
    }
    expect_same(kernels, "conv", results[0], results[1], bytes);
    release();
}

static void check_conv(const fm_int8_kernels *kernels, numbers which) {
    for (int i = 0; i < 60; i++) {
        const fm_layer shape = {.kind = FM_POINTWISE,
                                .kernel = 1,
                                .stride = 1,
                                .in_channels = 8 * between(1, 20),
                                .out_channels = 8 * between(1, 16)};
        check_conv_shape(kernels, &shape, between(1, 4), between(1, 15), which);
    }
    const fm_network network = some_network();
    for (int i = 0; i < FM_LAYERS; i++) {
        fm_layer shape = fm_layer_info(&network, i);
        if (shape.kind == FM_DEPTHWISE) continue;
        if (shape.kind == FM_CONV) check_conv_shape(kernels, &shape, 1, between(1, 112), which);
        else check_conv_shape(kernels, &shape, between(1, 2), fm_min(shape.out_width, 12), which);
    }
}

/* ---- depthwise -------------------------------------------------------------------------------------- */

static void check_depthwise_shape(const fm_int8_kernels *kernels, const fm_layer *shape, numbers which) {
    const fm_int8_kernels *tables[2] = {&fm_int8_scalar, kernels};
    const int channels = shape->in_channels, width = shape->in_width, out = (width + shape->stride - 1) / shape->stride;
    const int two = shape->stride == 1 && rand() % 2, gap = 8 * between(0, 2);
    const size_t out_pixel = (size_t)(channels + gap), row = (size_t)(out * (int)out_pixel);
    const fm_int8_layer layer = make_layer(shape, which);
    const uint8_t *rows[4];
    for (int i = 0; i < 4; i++) rows[i] = i < 3 + two ? fill((size_t)((width + 2) * channels)) : rows[0];
    fm_int8_depthwise packed[2];
    for (int t = 0; t < 2; t++) {
        PACK(packed[t], fm_int8_pack_depthwise(&store, tables[t], shape, &layer));
    }
    uint8_t *results[2];
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = exactly(row * (size_t)(1 + two));
        memset(results[t], 7, row * (size_t)(1 + two));
        /* Outputs with gaps between pixels can't be merged. */
        const int repeat = gap ? 1 : packed[t].repeat;
        fm_int8_depthwise_args args = {.rows = {rows[0], rows[1], rows[2], rows[3]},
                                       .packed = packed[t].packed,
                                       .channels = channels * repeat,
                                       .pixels = out / repeat,
                                       .two = two,
                                       .sets = packed[t].sets,
                                       .tap = (size_t)channels,
                                       .step = (size_t)(channels * shape->stride * repeat),
                                       .output = packed[t].output,
                                       .out = results[t],
                                       .out_step = out_pixel * (size_t)repeat,
                                       .out_row = row};
        call(tables[t], "depthwise", (any_function)tables[t]->depthwise, &args);
    }
    expect_same(kernels, "depthwise", results[0], results[1], row * (size_t)(1 + two));
    release();
}

static void check_depthwise(const fm_int8_kernels *kernels, numbers which) {
    for (int i = 0; i < 80; i++) {
        const int stride = between(1, 2), channels = 8 * between(1, 30);
        const fm_layer shape = {.kind = FM_DEPTHWISE,
                                .kernel = 3,
                                .stride = stride,
                                .in_width = between(1, i % 4 ? 56 : 5),
                                .in_channels = channels,
                                .out_channels = channels};
        check_depthwise_shape(kernels, &shape, which);
    }
    const fm_network network = some_network();
    for (int b = 0; b < FM_BLOCKS; b++) {
        const fm_layer shape = fm_layer_info(&network, fm_depthwise_layer(b));
        check_depthwise_shape(kernels, &shape, which);
    }
}

/* ---- addition and image ----------------------------------------------------------------------------- */

static void check_add(const fm_int8_kernels *kernels, numbers which) {
    for (int i = 0; i < 60; i++) {
        const fm_int8_kernels *tables[2] = {&fm_int8_scalar, kernels};
        const int n = 8 * between(1, 60);
        fm_int8_sum sum = {between(1, 1 << 21),
                           between(1 << 20, 1 << 21),
                           between(13, 30),
                           between(0, 255),
                           between(0, 255),
                           between(0, 255),
                           0,
                           255};
        if (which == SHIFTED) {
            sum.low = between(0, 100);
            sum.high = between(100, 255);
        }
        if (which == WIDE) sum.ma = 1 << 21;
        uint8_t *a = exactly((size_t)n), *b = exactly((size_t)n), *results[2];
        for (int k = 0; k < n; k++) {
            a[k] = (uint8_t)(rand() >> 8);
            b[k] = (uint8_t)(rand() >> 8);
        }
        fm_int8_add packed[2];
        for (int t = 0; t < 2; t++) PACK(packed[t], fm_int8_pack_add(&store, tables[t], &sum));
        uint8_t *want = exactly((size_t)n);
        for (int k = 0; k < n; k++) {
            const int64_t total = (int64_t)sum.ma * (a[k] - sum.a_zero) + (int64_t)sum.mb * (b[k] - sum.b_zero) +
                                  ((int64_t)1 << (sum.shift - 1));
            const int64_t byte = (total >> sum.shift) + sum.out_zero;
            want[k] = (uint8_t)(byte < sum.low ? sum.low : byte > sum.high ? sum.high : byte);
        }
        seal();
        for (int t = 0; t < 2; t++) {
            results[t] = exactly((size_t)n);
            memcpy(results[t], a, (size_t)n);
            const fm_int8_add_args args = {
                t ? a : results[t], b, results[t], (size_t)n, packed[t].packed, packed[t].bias, packed[t].shift,
                packed[t].output};
            call(tables[t], "add", (any_function)tables[t]->add, &args);
            expect_same(kernels, "add", want, results[t], (size_t)n);
        }
        release();
    }
}

static void check_image(const fm_int8_kernels *kernels, numbers which) {
    const size_t n = (size_t)between(1, 700);
    float *pixels = exactly(n * sizeof *pixels);
    uint8_t *want = exactly(n), *got = exactly(n);
    int outside = 0, nan = 0;
    for (size_t i = 0; i < n; i++) {
        pixels[i] = (float)(rand() % 511) / 510.0f; /* whole bytes, and halves between them */
        if (which == SHIFTED) pixels[i] = pixels[i] * 4.0f - 2.0f;
        if (which == WIDE && i % 50 == 3) pixels[i] = i % 100 == 3 ? NAN : -INFINITY;
        outside |= pixels[i] < -0.25f || pixels[i] > 1.25f;
        nan |= isnan(pixels[i]) != 0;
        const float product = pixels[i] * 255.0f;
        want[i] = isnan(product) ? 0 : (uint8_t)nearbyintf(fminf(fmaxf(product, 0.0f), 255.0f));
    }
    memset(got, 7, n);
    const fm_int8_image_args args = {.pixels = pixels, .out = got, .n = n};
    const int flags = (int)call(kernels, "image", (any_function)kernels->image, &args);
    expect_same(kernels, "image", want, got, n);
    if (flags != ((outside ? FM_INT8_OUT_OF_RANGE : 0) | (nan ? FM_INT8_NAN : 0))) {
        printf("FAIL %s image: flags of pixels out of range or NaN\n", kernels->name);
        failures++;
    }
    release();
}

/* The result is not used: this checks only the caller's registers and modes. */
static void check_peak(const fm_int8_kernels *kernels, numbers which) {
    (void)which;
    call(kernels, "peak", (any_function)kernels->peak, &(fm_int8_peak_args){.rounds = 3, .x = 3, .w = 5});
}

/* Every kernel of the contract; a kernel without a check above does not compile. */
static void check_table(const fm_int8_kernels *kernels) {
    for (fence_front = 0; fence_front < (benching ? 1 : 2); fence_front++) {
        for (int which = PLAIN; which < (benching ? 1 : NUMBERS); which++) {
#define KERNEL(name, arguments, result) check_##name(kernels, (numbers)which);
            FM_INT8_KERNELS(KERNEL)
#undef KERNEL
        }
    }
}

int main(int argc, char **argv) {
    static const char *const mutants[] = {"none", "half-up", "twice", "saturating", "lax"};
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0;
    benching = argc > 1 && strcmp(argv[1], "--bench") == 0;
    const char *only = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
    if (argc > 2 && strcmp(argv[1], "--mutant") == 0) {
        while (strcmp(mutants[mutant], argv[2]) != 0) mutant++;
        const fm_int8_kernels pairs = pairs_table();
        if (mutant == LAX) check_conv(&pairs, EDGE);
        else check_conv(&fm_int8_scalar, PLAIN);
        printf("%d checks, %d failures\n", checks, failures);
        return failures != 0;
    }
    const fm_int8_kernels pairs = pairs_table();
    for (int which = PLAIN; !benching && !only && which < NUMBERS; which++) check_conv(&pairs, (numbers)which);
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        const int before = failures;
        if (fm_isa_for("int8", isa) != isa || (only && strcmp(only, fm_isa_name(isa)) != 0)) continue;
        if (!all && !fm_isa_supported(isa)) {
            printf("skip %s: not on this machine\n", fm_isa_name(isa));
            continue;
        }
        check_table(fm_int8_table(isa));
        printf("%s %s\n", failures == before ? "ok  " : "FAIL", fm_isa_name(isa));
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
