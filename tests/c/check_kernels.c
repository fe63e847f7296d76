/* Every kernel of every instruction set against the scalar one: the same bits, nothing read or written
 * outside the arrays, nothing written to the inputs, no register or mode changed that is the caller's.
 * Every array ends at an unreadable page, and in a second round begins after one.
 *
 *   check_kernels          the instruction sets that this machine can run
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

enum { IMAGE_ROW = 96 * 3, FEATURES = 1280 };

/* Some ordinary numbers, and all that are not. */
static float odd_value(void) {
    static const float odd[] = {0.0f, -0.0f, 6.0f, 5.9999995f, 6.0000005f, -1e-45f, 1e-45f, 1e-39f, 3e38f, -3e38f};
    const int pick = rand() % 64;
    if (pick < 10) return odd[pick];
    return (float)rand() / (float)RAND_MAX * 4.0f - 2.0f;
}

static float *fill(size_t floats) {
    float *array = fenced(floats * sizeof(float));
    for (size_t i = 0; i < floats; i++) array[i] = odd_value();
    return array;
}

static void poison(float *array, size_t floats) {
    for (size_t i = 0; i < floats; i += 97) array[i] = i % 2 ? NAN : (i % 3 ? INFINITY : -INFINITY);
}

/* Weights and bias that hand one input of each sum on as it is, so that outputs meet the odd values exactly. */
static void pick_one(float *kernel, const fm_layer *layer, float *bias) {
    const int columns = layer->out_channels, taps = layer->kernel * layer->kernel;
    const int depth = layer->kind == FM_DEPTHWISE ? taps : taps * layer->in_channels;
    for (int i = 0; i < depth * columns; i++) kernel[i] = i / columns == depth / 2 ? 1.0f : 0.0f;
    for (int i = 0; i < columns; i++) bias[i] = i % 2 ? -0.0f : 0.0f;
}

/* Equal bit for bit; any NaN equals any other. */
static void expect_same(const char *what, const fm_kernels *kernels, const float *want, const float *got, size_t n) {
    checks++;
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&want[i], &got[i], sizeof(float)) == 0 || (isnan(want[i]) && isnan(got[i]))) continue;
        printf("FAIL %s %s: item %zu is %a, expected %a\n", kernels->name, what, i, (double)got[i], (double)want[i]);
        failures++;
        return;
    }
}

static float *packed_for(const fm_layer *layer, const fm_kernels *kernels, const float *kernel, const float *bias) {
    float *packed = fenced(fm_packed_floats(layer) * sizeof(float));
    fm_pack(layer, kernels, kernel, bias, packed);
    return packed;
}

/* A kernel's call, and a look at what it left behind. */
static long call(const fm_kernels *kernels, any_function kernel, const void *a, const void *b, const void *c,
                 const void *d) {
    const char *wrong = NULL;
    const long result = checked_call(kernel, a, b, c, d, &wrong);
    if (wrong) {
        printf("FAIL %s: %s changed\n", kernels->name, wrong);
        failures++;
    }
    return result;
}

static void call_pointwise(const fm_kernels *kernels, const fm_pointwise_args *args) {
    call(kernels, (any_function)kernels->pointwise, args, NULL, NULL, NULL);
}

/* Every panel of a layer, each table's own panels, into one map. */
static void run_pointwise(const fm_kernels *kernels, fm_pointwise_args args, const float *packed, int n,
                          void (*run)(const fm_kernels *, const fm_pointwise_args *)) {
    float *c = args.c;
    const float *residual = args.residual;
    const int panels = fm_panel_count(n, kernels->lanes, kernels->panel);
    for (int p = 0; p < panels; p++) {
        const int start = fm_panel_start(n, kernels->lanes, panels, p);
        args.ldb = fm_panel_start(n, kernels->lanes, panels, p + 1) - start;
        args.ahead_bytes = p % 2 ? args.k * args.ldb * 4 : 0;
        /* Whole, or in two parts. */
        const int vecs = args.ldb / kernels->lanes, cut = rand() % vecs;
        for (int part = 0; part < 2; part++) {
            const int first = part ? cut : 0, column = start + first * kernels->lanes;
            args.vecs = part ? vecs - cut : cut;
            if (args.vecs == 0) continue;
            args.panel = packed + (size_t)start * (size_t)(args.k + 1) + first * kernels->lanes;
            args.ahead = args.panel;
            args.c = c + column;
            args.residual = residual + column;
            run(kernels, &args);
        }
    }
}

/* What the numbers are: ordinary ones and odd ones, NaN and infinities too, or odd ones handed on by pick_one. */
typedef enum numbers { ORDINARY, POISONED, HANDED_ON, NUMBERS } numbers;

static void check_pointwise(const fm_kernels *kernels, const fm_layer *layer, int rows, fm_epilogue epilogue,
                            numbers which) {
    const int n = fm_padded_columns(layer), k = layer->in_channels;
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    float *a = fill((size_t)(rows * k)), *residual = fill((size_t)(rows * n)), *results[2];
    float *kernel = fill((size_t)k * (size_t)layer->out_channels), *bias = fill((size_t)layer->out_channels);
    if (which == POISONED) poison(a, (size_t)(rows * k));
    if (which == HANDED_ON) pick_one(kernel, layer, bias);
    const float *packed[2] = {packed_for(layer, tables[0], kernel, bias), packed_for(layer, tables[1], kernel, bias)};
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)(rows * n));
        const fm_pointwise_args args = {.a = a, .residual = residual, .c = results[t], .rows = rows, .k = k, .ldc = n,
                                        .epilogue = epilogue};
        run_pointwise(tables[t], args, packed[t], n, call_pointwise);
    }
    expect_same(layer->scope, kernels, results[0], results[1], (size_t)(rows * n));
    release();
}

/* The first rows of a map, the middle or the last ones: `border` is -1, 0 or 1. */
static void check_depthwise(const fm_kernels *kernels, const fm_layer *layer, int border, numbers which) {
    enum { MOST = 4 };
    const int channels = layer->in_channels, width = layer->in_size, out = width / layer->stride;
    const int out_rows = 1 + rand() % MOST, in_rows = (out_rows - 1) * layer->stride + 3;
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    float *kernel = fill((size_t)(9 * channels)), *bias = fill((size_t)channels);
    const float *rows[2 * MOST + 1], *cut_rows[2 * MOST + 1];
    float *results[2];
    const int cut = rand() % (channels / kernels->lanes + 1) * kernels->lanes;
    if (which == HANDED_ON) pick_one(kernel, layer, bias);
    for (int i = 0; i < in_rows; i++) {
        float *row = fill((size_t)(width * channels));
        if (which == POISONED) poison(row, (size_t)(width * channels));
        const int outside = (border < 0 && i == 0) || (border > 0 && i == in_rows - 1);
        rows[i] = outside ? NULL : row;
        cut_rows[i] = outside ? NULL : row + cut;
    }
    const float *packed[2] = {packed_for(layer, tables[0], kernel, bias), packed_for(layer, tables[1], kernel, bias)};
    seal();
    for (int t = 0; t < 2; t++) {
        const any_function depthwise = (any_function)tables[t]->depthwise;
        results[t] = fill((size_t)(out_rows * out * channels));
        fm_depthwise_args args = {rows, packed[t], results[t], cut, width, channels, out_rows, channels, layer->stride};
        call(tables[t], depthwise, &args, NULL, NULL, NULL);
        args.rows = cut_rows;
        args.packed += cut * 10;
        args.out += cut;
        args.channels = channels - cut;
        call(tables[t], depthwise, &args, NULL, NULL, NULL);
    }
    expect_same(layer->scope, kernels, results[0], results[1], (size_t)(out_rows * out * channels));
    release();
}

static void check_stem(const fm_kernels *kernels, int bottom, numbers which) {
    const fm_layer layer = fm_layer_info(0);
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    const size_t row_floats = IMAGE_ROW, out_floats = IMAGE_ROW / 6 * 24;
    float *kernel = fill(27 * 24), *bias = fill(24), *rows[3], *results[2];
    for (int i = 0; i < 3; i++) {
        rows[i] = fill(row_floats);
        if (which == POISONED) poison(rows[i], row_floats);
    }
    if (which == HANDED_ON) pick_one(kernel, &layer, bias);
    const float *packed[2] = {packed_for(&layer, tables[0], kernel, bias), packed_for(&layer, tables[1], kernel, bias)};
    seal();
    for (int t = 0; t < 2; t++) {
        const float *const inside[3] = {rows[0], rows[1], bottom ? NULL : rows[2]};
        results[t] = fill(out_floats);
        call(tables[t], (any_function)tables[t]->stem, inside, packed[t], results[t], rows[0]);
    }
    expect_same("stem", kernels, results[0], results[1], out_floats);
    release();
}

static void check_scale(const fm_kernels *kernels, numbers which) {
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    const size_t floats = IMAGE_ROW;
    float *row = fill(floats), *scaled[2], *scaled_u8[2];
    uint8_t *bytes = fenced(floats);
    int outside[2];
    for (size_t i = 0; i < floats; i++) bytes[i] = (uint8_t)i;
    if (which == POISONED) poison(row, floats);
    seal();
    for (int t = 0; t < 2; t++) {
        scaled[t] = fill(floats);
        scaled_u8[t] = fill(floats);
        outside[t] = (int)call(tables[t], (any_function)tables[t]->scale_f32, row, scaled[t], NULL, NULL);
        call(tables[t], (any_function)tables[t]->scale_u8, bytes, scaled_u8[t], NULL, NULL);
    }
    if (outside[0] != outside[1]) {
        printf("FAIL %s: scale_f32 disagrees on the range\n", kernels->name);
        failures++;
    }
    expect_same("scale_f32", kernels, scaled[0], scaled[1], floats);
    expect_same("scale_u8", kernels, scaled_u8[0], scaled_u8[1], floats);
    release();
}

static void check_pool(const fm_kernels *kernels, int n, numbers which) {
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    float *map = fill(9 * (size_t)n), *results[2];
    if (which == POISONED) poison(map, 9 * (size_t)n);
    seal();
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)n);
        call(tables[t], (any_function)tables[t]->pool, map, (const void *)(intptr_t)n, results[t], NULL);
    }
    expect_same("pool", kernels, results[0], results[1], (size_t)n);
    release();
}

/* Every kernel that a table lists, so that none is added without being checked here. */
struct checked {
    const char *name;
    int lanes, panel, rows;
    void (*pointwise)(void), (*depthwise)(void), (*stem)(void), (*scale_f32)(void), (*scale_u8)(void), (*pool)(void);
    void (*peak)(void); /* computes nothing that anyone uses */
};
_Static_assert(sizeof(struct checked) == sizeof(fm_kernels), "a kernel was added: check it below");

/* The network's own shapes. */
static void check_network(const fm_kernels *kernels, numbers which) {
    static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 18, 24, 27, 36, 48};
    for (int i = 0; i < FM_LAYERS; i++) {
        const fm_layer layer = fm_layer_info(i);
        const int columns = fm_padded_columns(&layer);
        if (columns % kernels->lanes != 0) continue;
        for (size_t r = 0; layer.kind == FM_POINTWISE && r < sizeof row_counts / sizeof row_counts[0]; r++) {
            /* A few heights are enough for the many layers of the same shape. */
            if (r > 2 && (int)r % 5 != i % 5) continue;
            check_pointwise(kernels, &layer, row_counts[r], (fm_epilogue)((int)r % 3), which);
        }
        for (int border = -1; layer.kind == FM_DEPTHWISE && border <= 1; border++) {
            if (border < 0 && layer.stride == 2) continue; /* stride 2 has no padding above */
            check_depthwise(kernels, &layer, border, which);
        }
    }
    if (kernels->stem) {
        check_stem(kernels, 0, which);
        check_stem(kernels, 1, which);
        check_scale(kernels, which);
    }
    check_pool(kernels, FEATURES, which);
}

/* Shapes that no layer has: all that the contract in kernels.h allows. */
static void check_awkward(const fm_kernels *kernels, numbers which) {
    static const int depths[] = {1, 2, 3, 4, 5, 7, 9, 13, 31}, vectors[] = {1, 2, 3, 4, 5, 7, 11};
    enum { DEPTHS = sizeof depths / sizeof depths[0], VECTORS = sizeof vectors / sizeof vectors[0] };
    for (int i = 0; i < DEPTHS * VECTORS; i++) {
        const fm_layer layer = {.scope = "an awkward pointwise", .kind = FM_POINTWISE, .kernel = 1, .stride = 1,
                                .in_channels = depths[i / VECTORS],
                                .out_channels = vectors[i % VECTORS] * kernels->lanes};
        for (int epilogue = FM_LINEAR; epilogue <= FM_RESIDUAL; epilogue++) {
            check_pointwise(kernels, &layer, 1 + rand() % 29, (fm_epilogue)epilogue, which);
        }
    }
    for (int width = 2; width <= 17; width++) {
        for (int stride = 1; stride <= 2; stride++) {
            const int channels = vectors[width % VECTORS] * kernels->lanes;
            const fm_layer layer = {.scope = "an awkward depthwise", .kind = FM_DEPTHWISE, .kernel = 3,
                                    .stride = stride, .in_size = width, .in_channels = channels,
                                    .out_channels = channels};
            if (width % stride) continue;
            for (int border = stride - 2; border <= 1; border++) check_depthwise(kernels, &layer, border, which);
        }
    }
    for (int i = 0; i < VECTORS; i++) check_pool(kernels, vectors[i] * kernels->lanes, which);
}

/* Sums a hair from the middle between two floats: right only where a multiply-add rounds once, which on random
 * numbers shows once in 2^29. With c in [1, 2), a b is (1 - hair^2) / 2 of its last bit. */
static void check_middles(const fm_kernels *kernels) {
    const fm_kernels *tables[2] = {&fm_float32_scalar, kernels};
    const int n = 8 * kernels->lanes * kernels->panel, rows = 9; /* whole eights: others are padded */
    const fm_layer layer = {.scope = "sums near the middle", .kind = FM_POINTWISE, .kernel = 1, .stride = 1,
                            .in_channels = 2, .out_channels = n};
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
            results[t] = fill((size_t)(rows * n));
            const fm_pointwise_args args = {.a = a, .c = results[t], .rows = rows, .k = 2, .ldc = n};
            run_pointwise(tables[t], args, packed_for(&layer, tables[t], kernel, bias), n, call_pointwise);
        }
        expect_same(layer.scope, kernels, results[0], results[1], (size_t)(rows * n));
        release();
    }
}

static void check_table(const fm_kernels *kernels) {
    check_middles(kernels);
    for (fence_front = 0; fence_front < 2; fence_front++) {
        for (int which = ORDINARY; which < NUMBERS; which++) {
            if (which != HANDED_ON) check_network(kernels, (numbers)which);
            check_awkward(kernels, (numbers)which);
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
        if (i % 3 == 2) { /* c in [1, 2), and a b = (1 - hair^2) / 2 of its last bit */
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

/* ---- mutants: what these checks are there to catch ---- */

static void overrunning_pool(const float *map, int n, float *out) {
    fm_float32_scalar.pool(map, n, out);
    out[n] = 0.0f;
}

static void scribbling_pool(const float *map, int n, float *out) {
    fm_float32_scalar.pool(map, n, out);
    ((float *)(uintptr_t)map)[0] = 0.0f;
}

static void flushing_pool(const float *map, int n, float *out) {
    fm_float32_scalar.pool(map, n, out);
#ifdef FM_X86
    _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(FM_ARM64)
    __asm__ volatile("msr fpcr, %0" : : "r"(1ul << 24));
#endif
}

/* As handwritten assembly may by mistake: take a register of the caller's, leave the upper halves in use. */
void keeping_pool(const float *map, int n, float *out);
void untidy_pool(const float *map, int n, float *out);
#ifdef FM_X86
__asm__(".text\n.globl keeping_pool\nkeeping_pool: inc %r13\nret\n");
__asm__(".text\n.globl untidy_pool\nuntidy_pool: vmovups (%rdi), %ymm3\nret\n");
#else
__asm__(".text\n.globl keeping_pool\nkeeping_pool: fmov d9, xzr\nret\n");
__asm__(".text\n.globl untidy_pool\nuntidy_pool: ret\n");
#endif

/* The end of the array, where a guard page is, and the front, where a canary is; the others at either. */
static const struct mutant {
    const char *name;
    void (*pool)(const float *map, int n, float *out);
    int front;
} mutants[] = {
    {"end", overrunning_pool, 0},  {"front", overrunning_pool, 1}, {"input", scribbling_pool, 0},
    {"control", flushing_pool, 0}, {"register", keeping_pool, 0},  {"upper", untidy_pool, 0},
};

static void check_mutant(const char *name) {
    for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
        if (strcmp(mutants[i].name, name) != 0) continue;
        if (mutants[i].pool == untidy_pool && !upper_halves_told()) {
            printf("upper halves: not told here\n");
            continue;
        }
        fm_kernels mutant = fm_float32_scalar;
        mutant.pool = mutants[i].pool;
        fence_front = mutants[i].front;
        check_pool(&mutant, FEATURES, ORDINARY);
    }
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--mutant") == 0) {
        check_mutant(argv[2]);
        return failures != 0;
    }
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0, bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    check_multiply_add();
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (!all && !fm_isa_supported(isa)) {
            printf("skip %s: not on this machine\n", fm_isa_name(isa));
            continue;
        }
        const fm_kernels *kernels = NULL;
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
