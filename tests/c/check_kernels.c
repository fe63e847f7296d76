/* Checks every kernel of every instruction set against the scalar one: the bits are the same, nothing is read or
 * written outside the arrays, the inputs are not written to, and the caller's registers and modes are preserved. Every
 * array ends at an unreadable page, and in a second round starts after one. Shapes are random with a fixed seed.
 * They cover everything that the contract in kernels.h allows: the whole family of networks and more.
 *
 *   check_kernels          the instruction sets that this machine can run
 *   check_kernels NAME     only this one (under emulators, where all of them take minutes)
 *   check_kernels --bench  every kernel of every layer: GMAC/s, and the share of the multiply-add peak
 *   check_kernels --all    all that are compiled in (for builds whose vectors are emulated)
 *   check_kernels --mutant NAME      a wrong kernel, which must be caught */
#define _GNU_SOURCE
#include <math.h>

#include "checked_call.h"
#include "fence.h"
#include "float32/isa/vec_scalar.h"
#include "float32/pack.h"
#include "float32/tables.h"
#include "net/layers.h"
#include "some_network.h"

/* Usually an ordinary number, sometimes a special one. */
static float odd_value(void) {
    static const float odd[] = {0.0f, -0.0f, 6.0f, 5.9999995f, 6.0000005f, -1e-45f, 1e-45f, 1e-39f, 3e38f, -3e38f};
    const int pick = rand() % 64;
    if (pick < 10) return odd[pick];
    return (float)rand() / (float)RAND_MAX * 4.0f - 2.0f;
}

/* Inputs: ordinary and special numbers; also NaN and infinities; weights that select one input for each sum. */
typedef enum numbers { ORDINARY, POISONED, SELECTED, NUMBERS } numbers;

static float *fill(size_t floats) {
    float *array = fenced(floats * sizeof(float));
    for (size_t i = 0; i < floats; i++) array[i] = odd_value();
    return array;
}

static float *fill_input(size_t floats, numbers which) {
    float *array = fill(floats);
    for (size_t i = 0; which == POISONED && i < floats; i += 97) {
        array[i] = i % 2 ? NAN : (i % 3 ? INFINITY : -INFINITY);
    }
    return array;
}

/* A layer's weights, packed for the scalar table and for another. */
typedef struct weights {
    float *kernel, *bias;
    const float *packed[2];
} weights;

/* SELECTED: weights and bias that pass one input of each sum through unchanged, so outputs are exactly the special
 * values. */
static weights fill_weights(const fm_layer *layer, const fm_float32_kernels *const tables[2], numbers which) {
    const int columns = layer->out_channels, taps = layer->kernel * layer->kernel;
    const int depth = layer->kind == FM_DEPTHWISE ? taps : taps * layer->in_channels;
    weights w = {.kernel = fill((size_t)depth * (size_t)columns), .bias = fill((size_t)columns)};
    if (which == SELECTED) {
        for (int i = 0; i < depth * columns; i++) w.kernel[i] = i / columns == depth / 2 ? 1.0f : 0.0f;
        for (int i = 0; i < columns; i++) w.bias[i] = i % 2 ? -0.0f : 0.0f;
    }
    for (int t = 0; t < 2; t++) {
        float *packed = fenced(fm_float32_packed_floats(layer) * sizeof(float));
        fm_float32_pack(layer, tables[t], w.kernel, w.bias, packed);
        w.packed[t] = packed;
    }
    return w;
}

/* Bitwise equal, or both NaN. */
static void expect_same(const char *what, const fm_float32_kernels *kernels, float *const results[2], size_t n) {
    const float *want = results[0], *got = results[1];
    checks++;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&want[i], &got[i], sizeof(float)) == 0 || (isnan(want[i]) && isnan(got[i]))) continue;
        printf("FAIL %s %s: item %zu is %a, expected %a\n", kernels->name, what, i, (double)got[i], (double)want[i]);
        failures++;
        return;
    }
}

/* Calls a kernel, then checks guards, registers and modes. */
static long call(const fm_float32_kernels *kernels, any_function kernel, const void *args) {
    const char *wrong = NULL;
    const long result = checked_call(kernel, args, NULL, NULL, NULL, &wrong);
    if (wrong) {
        printf("FAIL %s: %s changed\n", kernels->name, wrong);
        failures++;
    }
    return result;
}

/* ---- shapes ---- */

static int between(int least, int most) { return least + rand() % (most - least + 1); }

/* Channels: a multiple of 8 up to 1792, the widest layer of the family; small ones more often than large. */
static int some_channels(void) { return 8 * between(1, between(1, between(1, 224))); }

/* ---- pointwise ---- */

/* Computes every panel of a layer into one map. Tables have different panels. */
static void call_pointwise(const fm_float32_kernels *kernels, fm_float32_pointwise_args args, const float *packed,
                           int n) {
    float *c = args.c;
    const float *residual = args.residual;
    const int panels = fm_float32_panel_count(n, kernels->lanes, kernels->panel);
    for (int p = 0; p < panels; p++) {
        const int start = fm_float32_panel_start(n, kernels->lanes, panels, p);
        args.ldb = fm_float32_panel_start(n, kernels->lanes, panels, p + 1) - start;
        args.ahead_bytes = p % 2 ? args.k * args.ldb * 4 : 0;
        /* A whole panel, or two parts of it. */
        const int cut = rand() % fm_vectors(args.ldb, kernels->lanes) * kernels->lanes;
        for (int part = 0; part < 2; part++) {
            const int first = part ? cut : 0;
            args.columns = part ? args.ldb - cut : cut;
            if (args.columns == 0) continue;
            args.panel = packed + (size_t)start * (size_t)(args.k + 1) + first;
            args.ahead = args.panel;
            args.c = c + start + first;
            args.residual = residual + start + first;
            call(kernels, (any_function)kernels->pointwise, &args);
        }
    }
}

static void check_pointwise_shape(const fm_float32_kernels *kernels, int rows, int k, int outputs,
                                  fm_float32_epilogue epilogue, numbers which) {
    const fm_layer layer = {.kind = FM_POINTWISE, .kernel = 1, .stride = 1, .in_channels = k, .out_channels = outputs};
    const int n = fm_float32_padded_columns(&layer);
    const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
    const float *a = fill_input((size_t)(rows * k), which), *residual = fill((size_t)(rows * n));
    const weights w = fill_weights(&layer, tables, which);
    float *results[2];
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)(rows * n));
        const fm_float32_pointwise_args args = {
            .a = a, .residual = residual, .c = results[t], .rows = rows, .k = k, .ldc = n, .epilogue = epilogue};
        call_pointwise(tables[t], args, w.packed[t], n);
    }
    expect_same("pointwise", kernels, results, (size_t)(rows * n));
    release();
}

static void check_pointwise(const fm_float32_kernels *kernels, numbers which) {
    enum { SHAPES = 48, MOST_ROWS = 29, MOST_MACS = 1 << 20 };
    for (int rows = 1; rows <= MOST_ROWS; rows++) {
        /* Every number of rows, with columns for one panel or more and few or some inputs. */
        const int n = between(1, (2 * kernels->panel + 1) * kernels->lanes / kernels->unit) * kernels->unit;
        check_pointwise_shape(kernels, rows, between(1, 40), n, (fm_float32_epilogue)(rows % 3), which);
    }
    for (int i = 0; i < SHAPES; i++) {
        const int k = some_channels(), n = some_channels() / kernels->unit * kernels->unit;
        const int most = MOST_MACS / (k * (n + 1)), rows = between(1, most < 1 ? 1 : most > 49 ? 49 : most);
        if (n > 0) check_pointwise_shape(kernels, rows, k, n, (fm_float32_epilogue)(i % 3), which);
    }
    check_pointwise_shape(kernels, 1, 56, some_network().classes, FM_LINEAR, which);
}

/* Sums very close to the middle between two floats: only a multiply-add that rounds once gets them right. Random
 * numbers would show a difference once in 2^29. With c in [1, 2), a b is (1 - hair^2) / 2 of c's last bit. */
static void check_middles(const fm_float32_kernels *kernels) {
    const int n = 8 * kernels->lanes * kernels->panel, rows = 9; /* a multiple of 8, because other numbers are padded */
    const fm_layer layer = {.kind = FM_POINTWISE, .kernel = 1, .stride = 1, .in_channels = 2, .out_channels = n};
    const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
    for (int i = 1; i < 64; i++) {
        const float hair = (float)i * 0x1p-23f;
        float *a = fill((size_t)(2 * rows)), *kernel = fill((size_t)(2 * n)), *bias = fill((size_t)n), *results[2];
        for (int row = 0; row < rows; row++) {
            a[2 * row] = 1.0f;
            a[2 * row + 1] = 1.0f + hair;
        }
        for (int j = 0; j < n; j++) {
            kernel[j] = 1.0f + (float)(rand() % (1 << 23)) * 0x1p-23f;
            kernel[n + j] = (1.0f - hair) * (rand() % 2 ? 0x1p-24f : -0x1p-24f);
            bias[j] = 0.0f;
        }
        for (int t = 0; t < 2; t++) {
            float *packed = fenced(fm_float32_packed_floats(&layer) * sizeof(float));
            fm_float32_pack(&layer, tables[t], kernel, bias, packed);
            results[t] = fill((size_t)(rows * n));
            const fm_float32_pointwise_args args = {.a = a, .c = results[t], .rows = rows, .k = 2, .ldc = n};
            call_pointwise(tables[t], args, packed, n);
        }
        expect_same("pointwise near the middle", kernels, results, (size_t)(rows * n));
        release();
    }
}

/* ---- depthwise ---- */

/* Some rows of a map, optionally including the padding above and below it. */
static void check_depthwise_shape(const fm_float32_kernels *kernels, int width, int channels, int stride, int above,
                                  int below, numbers which) {
    enum { MOST = 4 };
    const fm_layer layer = {.kind = FM_DEPTHWISE,
                            .kernel = 3,
                            .stride = stride,
                            .in_width = width,
                            .in_channels = channels,
                            .out_channels = channels};
    const int out_rows = between(1, MOST), in_rows = (out_rows - 1) * stride + 3;
    const size_t out_floats = (size_t)(out_rows * ((width + stride - 1) / stride) * channels);
    const float *rows[2 * MOST + 1], *cut_rows[2 * MOST + 1];
    const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
    float *results[2];
    const int vectors = between(0, channels / kernels->lanes), cut = vectors * kernels->lanes;
    const weights w = fill_weights(&layer, tables, which);
    for (int i = 0; i < in_rows; i++) {
        const float *row = fill_input((size_t)(width * channels), which);
        const int outside = (above && i == 0) || (below && i == in_rows - 1);
        rows[i] = outside ? NULL : row;
        cut_rows[i] = outside ? NULL : row + cut;
    }
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill(out_floats);
        fm_float32_depthwise_args args = {rows,     w.packed[t], results[t], cut,   width,
                                          channels, out_rows,    channels,   stride};
        call(tables[t], (any_function)tables[t]->depthwise, &args);
        args.rows = cut_rows;
        args.packed += cut * 10;
        args.out += cut;
        args.channels = channels - cut;
        call(tables[t], (any_function)tables[t]->depthwise, &args);
    }
    expect_same("depthwise", kernels, results, out_floats);
    release();
}

static void check_depthwise(const fm_float32_kernels *kernels, numbers which) {
    enum { SHAPES = 24, NARROW = 17, WIDEST = 112, MOST_FLOATS = 1 << 13 };
    for (int i = 1; i < NARROW + SHAPES; i++) {
        const int width = i <= NARROW ? i : between(1, WIDEST), most = MOST_FLOATS / width / kernels->unit;
        int channels = some_channels() / kernels->unit * kernels->unit;
        if (channels == 0 || channels > most * kernels->unit) channels = between(1, most) * kernels->unit;
        for (int at = 0; at < 8; at++)
            check_depthwise_shape(kernels, width, channels, 1 + at / 4, at % 2, at / 2 % 2, which);
    }
}

/* ---- stem, scale, pool ---- */

/* `outside`: which of the three rows lies outside the image, if any. */
static void check_stem_shape(const fm_float32_kernels *kernels, int width, int outputs, int outside, numbers which) {
    const fm_layer layer = {.kind = FM_CONV, .kernel = 3, .stride = 2, .in_channels = 3, .out_channels = outputs};
    const size_t row_floats = (size_t)width * 3, out_floats = (size_t)((width + 1) / 2 * outputs);
    const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
    float *results[2];
    const weights w = fill_weights(&layer, tables, which);
    const float *rows[3];
    for (int i = 0; i < 3; i++) rows[i] = i == outside ? NULL : fill_input(row_floats, which);
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill(out_floats);
        const fm_float32_stem_args args = {
            rows, w.packed[t], results[t], width, outputs, rows[1], outside == 2 ? 0 : 2 * width};
        call(tables[t], (any_function)tables[t]->stem, &args);
    }
    expect_same("stem", kernels, results, out_floats);
    release();
}

static void check_stem(const fm_float32_kernels *kernels, numbers which) {
    enum { SHAPES = 24, INSIDE = 3 };
    for (int i = 0; i < SHAPES; i++) {
        const int width = i % 2 ? between(4, 40) : between(32, 224);
        const int outputs = between(1, 8 * 8 / kernels->unit) * kernels->unit;
        check_stem_shape(kernels, width, outputs, i % 3 == 0 ? 0 : i % 3 == 1 ? 2 : INSIDE, which);
    }
}

/* Scales bytes (`bytes`) or floats, with the network's own multiplier, addend and limit and with others. */
static void check_scale(const fm_float32_kernels *kernels, numbers which, int bytes) {
    enum { COUNTS = 12 };
    for (int i = 0; i < COUNTS; i++) {
        const int count = i % 2 ? between(16, 100) : 3 * between(32, 224);
        const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
        float *results[2];
        long outside[2];
        uint8_t *from_bytes = fenced((size_t)count);
        for (int j = 0; j < count; j++) from_bytes[j] = (uint8_t)(j < 256 ? j : rand());
        float *from = fill_input((size_t)count, which);
        for (int j = 0; i >= COUNTS / 2 && j < count; j++) from[j] = 0.5f; /* at most one is out of range */
        if (i > COUNTS / 2) from[i == COUNTS - 1 ? count - 1 : rand() % count] = i % 3 ? -0.3f : 1.3f;
        seal();
        for (int t = 0; t < 2; t++) {
            results[t] = fill((size_t)count);
            fm_float32_scale_args args = {
                .from = from, .to = results[t], .count = count, .multiplier = 2.0f, .addend = -1.0f, .limit = 1.5f};
            if (bytes) args.from = from_bytes;
            if (i % 4 == 3) args.multiplier = 0.7f, args.addend = 0.1f, args.limit = 0.8f;
            const any_function f32 = (any_function)tables[t]->scale_f32, u8 = (any_function)tables[t]->scale_u8;
            outside[t] = call(tables[t], bytes ? u8 : f32, &args);
        }
        if (!bytes && (int)outside[0] != (int)outside[1]) {
            printf("FAIL %s: scale_f32 disagrees on the range\n", kernels->name);
            failures++;
        }
        expect_same(bytes ? "scale_u8" : "scale_f32", kernels, results, (size_t)count);
        release();
    }
}

static void check_scale_f32(const fm_float32_kernels *kernels, numbers which) { check_scale(kernels, which, 0); }
static void check_scale_u8(const fm_float32_kernels *kernels, numbers which) { check_scale(kernels, which, 1); }

static void check_pool_shape(const fm_float32_kernels *kernels, int pixels, int channels, numbers which) {
    const fm_float32_kernels *const tables[2] = {&fm_float32_scalar, kernels};
    float *results[2];
    const float *map = fill_input((size_t)(pixels * channels), which);
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)channels);
        const fm_float32_pool_args args = {map, results[t], pixels, channels};
        call(tables[t], (any_function)tables[t]->pool, &args);
    }
    expect_same("pool", kernels, results, (size_t)channels);
    release();
}

static void check_pool(const fm_float32_kernels *kernels, numbers which) {
    enum { SHAPES = 12 };
    for (int i = 0; i < SHAPES; i++) {
        const int height = between(1, 7), width = between(1, 7),
                  channels = some_channels() / kernels->unit * kernels->unit;
        check_pool_shape(kernels, height * width, channels > 0 ? channels : kernels->unit, which);
    }
}

/* The result is not used. The numbers are chosen so that no sum grows. */
static void check_peak(const fm_float32_kernels *kernels, numbers which) {
    const fm_float32_peak_args args = {100, 0.5f, 1.0f};
    (void)which;
    checks++;
    call(kernels, (any_function)kernels->peak, &args);
}

/* Every kernel of the contract; a kernel without a check above does not compile. */
static void check_table(const fm_float32_kernels *kernels) {
    check_middles(kernels);
    for (fence_front = 0; fence_front < 2; fence_front++) {
        for (int which = ORDINARY; which < NUMBERS; which++) {
#define KERNEL(name, arguments, result) check_##name(kernels, (numbers)which);
            FM_FLOAT32_KERNELS(KERNEL)
#undef KERNEL
        }
    }
}
static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The scalar multiply-add, which all others must equal, against this C library's, which is right (mingw-w64's is
 * not, see vec_scalar.h): any bits, sums that cancel, and sums a hair from the middle between two floats. */
static void check_multiply_add(void) {
    enum { TRIES = 3000000 };
    uint32_t state = 1, picks[3];
    checks++;
    for (int i = 0; i < TRIES; i++) {
        for (int k = 0; k < 3; k++) {
            state ^= state << 13; /* Marsaglia's xorshift32 */
            state ^= state >> 17;
            state ^= state << 5;
            picks[k] = state;
        }
        float a = from_bits(picks[0]), b = from_bits(picks[1]), c = from_bits(picks[2]);
        if (i % 3 == 1) c = -(a * b);
        if (i % 3 == 2) { /* c in [1, 2), and a b = (1 - hair^2) / 2 of c's last bit */
            const float hair = (float)(picks[0] % 64) * 0x1p-23f;
            a = 1.0f + hair;
            b = (1.0f - hair) * (picks[1] & 64 ? 0x1p-24f : -0x1p-24f);
            c = from_bits(0x3f800000u | picks[2] >> 9);
        }
        const float want = fmaf(a, b, c), got = vec_fma(a, b, c);
        if (memcmp(&want, &got, sizeof want) == 0 || (isnan(want) && isnan(got))) continue;
        printf("FAIL %a * %a + %a is %a, expected %a\n", (double)a, (double)b, (double)c, (double)got, (double)want);
        failures++;
        return;
    }
}

#include "bench_kernels.h"

/* ---- mutants: errors that these checks must catch ---- */

static void overrunning_pool(const fm_float32_pool_args *args) {
    fm_float32_scalar.pool(args);
    args->out[args->channels] = 0.0f;
}

static void scribbling_pool(const fm_float32_pool_args *args) {
    fm_float32_scalar.pool(args);
    ((float *)(uintptr_t)args->map)[0] = 0.0f;
}

static void flushing_pool(const fm_float32_pool_args *args) {
    fm_float32_scalar.pool(args);
#ifdef FM_X86
    _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(FM_ARM64)
    __asm__ volatile("msr fpcr, %0" : : "r"(1ul << 24));
#endif
}

/* Typical mistakes of handwritten assembly: changing a register of the caller, leaving upper halves in use. */
void keeping_pool(const fm_float32_pool_args *args);
void untidy_pool(const fm_float32_pool_args *args);
#ifdef FM_X86
__asm__(".text\n.globl keeping_pool\nkeeping_pool: inc %r13\nret\n");
__asm__(".text\n.globl untidy_pool\nuntidy_pool: vmovups (%rdi), %ymm3\nret\n");
#else
__asm__(".text\n.globl keeping_pool\nkeeping_pool: fmov d9, xzr\nret\n");
__asm__(".text\n.globl untidy_pool\nuntidy_pool: ret\n");
#endif

/* The array ends at a guard page or, with `front`, at a canary. Other mutants work at either. */
static const struct mutant {
    const char *name;
    void (*pool)(const fm_float32_pool_args *args);
    int front;
} mutants[] = {
    {"end", overrunning_pool, 0},  {"front", overrunning_pool, 1}, {"input", scribbling_pool, 0},
    {"control", flushing_pool, 0}, {"register", keeping_pool, 0},  {"upper", untidy_pool, 0},
};

static void check_mutant(const char *name) {
    for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
        if (strcmp(mutants[i].name, name) != 0) continue;
        if (mutants[i].pool == untidy_pool && !upper_halves_reported()) {
            printf("upper halves: not reported here\n");
            continue;
        }
        fm_float32_kernels mutant = fm_float32_scalar;
        mutant.pool = mutants[i].pool;
        fence_front = mutants[i].front;
        check_pool_shape(&mutant, 9, 1280, ORDINARY);
    }
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--mutant") == 0) {
        check_mutant(argv[2]);
        return failures != 0;
    }
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0, bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    const char *only = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
    check_multiply_add();
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (fm_isa_for("float32", isa) != isa || (only && strcmp(only, fm_isa_name(isa)) != 0)) continue;
        if (!all && !fm_isa_supported(isa)) {
            printf("skip %s: not on this machine\n", fm_isa_name(isa));
            continue;
        }
        const fm_float32_kernels *kernels = NULL;
        for (int t = 0; (kernels = fm_float32_table(isa, t)) != NULL; t++) {
            const int before = failures;
            check_table(kernels);
            printf("%s %s\n", failures == before ? "ok  " : "FAIL", kernels->name);
            if (bench) bench_table(kernels);
        }
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
