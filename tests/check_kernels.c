/* Every kernel of every instruction set against the scalar one: the same bits, nothing read or written
 * outside the arrays. Every array ends at an unreadable page, and in a second round begins after one.
 *
 *   check_kernels          the instruction sets that this machine can run
 *   check_kernels --bench  every kernel of every layer: GMAC/s, and the share of the multiply-add peak
 *   check_kernels --all    all that are compiled in (for builds whose vectors are emulated)
 *   check_kernels --mutant [front]   a wrong kernel, which must be caught */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cpu.h"
#include "isa/vec_scalar.h"
#include "network.h"
#include "pack.h"

#ifdef FM_X86
#include <xmmintrin.h>
#endif

enum { FENCED = 16, CANARY = 0x5a };

static struct {
    char *base, *array;
    size_t body, bytes;
} fences[FENCED];
static int fence_count, fence_front, failures, checks;

/* `bytes` bytes that end right before an unreadable page, or begin right after one. */
static void *fenced(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    if (fence_count == FENCED) abort();
    char *base = mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + page, body, PROT_READ | PROT_WRITE)) abort();
    memset(base + page, CANARY, body); /* what lies around the array must still be this afterwards */
    char *array = base + page + (fence_front ? 0 : body - bytes);
    fences[fence_count].base = base;
    fences[fence_count].array = array;
    fences[fence_count].body = body;
    fences[fence_count++].bytes = bytes;
    return array;
}

/* Unmaps every array, after a look at the canaries on the side where there is no guard page. */
static void release(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    while (fence_count > 0) {
        fence_count--;
        char *body = fences[fence_count].base + page, *array = fences[fence_count].array;
        for (char *p = body; p < body + fences[fence_count].body; p++) {
            if ((p < array || p >= array + fences[fence_count].bytes) && *p != CANARY) {
                printf("FAIL a byte %td from an array of %zu was written\n", p - array, fences[fence_count].bytes);
                failures++;
                break;
            }
        }
        munmap(fences[fence_count].base, fences[fence_count].body + 2 * page);
    }
}

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

/* Rounding and flush-to-zero, which kernels leave alone. */
static unsigned fp_mode(void) {
#ifdef FM_X86
    return _mm_getcsr() & ~0x3fu; /* without the exception flags */
#elif defined __aarch64__
    unsigned long long fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (unsigned)fpcr;
#else
    return 0;
#endif
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

/* Every panel of a layer, each table's own panels, into one map. */
static void run_pointwise(const fm_kernels *kernels, fm_pointwise_args args, const float *packed, int n) {
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
            kernels->pointwise(&args);
        }
    }
}

static void check_pointwise(const fm_kernels *kernels, const fm_layer *layer, int rows, fm_epilogue epilogue, int odd) {
    const int n = layer->out_channels == FM_CLASSES ? FM_PADDED_CLASSES : layer->out_channels, k = layer->in_channels;
    const fm_kernels *tables[2] = {&fm_kernels_scalar, kernels};
    float *a = fill((size_t)(rows * k)), *residual = fill((size_t)(rows * n)), *results[2];
    const float *kernel = fill((size_t)k * (size_t)layer->out_channels), *bias = fill((size_t)layer->out_channels);
    if (odd) poison(a, (size_t)(rows * k));
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)(rows * n));
        const fm_pointwise_args args = {.a = a, .residual = residual, .c = results[t], .rows = rows, .k = k, .ldc = n,
                                        .epilogue = epilogue};
        run_pointwise(tables[t], args, packed_for(layer, tables[t], kernel, bias), n);
    }
    expect_same(layer->scope, kernels, results[0], results[1], (size_t)(rows * n));
    release();
}

/* The first rows of a map, the middle or the last ones: `border` is -1, 0 or 1. */
static void check_depthwise(const fm_kernels *kernels, const fm_layer *layer, int border, int odd) {
    enum { MOST = 4 };
    const int channels = layer->in_channels, width = layer->in_size, out = width / layer->stride;
    const int out_rows = 1 + rand() % MOST, in_rows = (out_rows - 1) * layer->stride + 3;
    const fm_kernels *tables[2] = {&fm_kernels_scalar, kernels};
    const float *kernel = fill((size_t)(9 * channels)), *bias = fill((size_t)channels);
    const float *rows[2 * MOST + 1], *cut_rows[2 * MOST + 1];
    float *results[2];
    const int cut = rand() % (channels / kernels->lanes + 1) * kernels->lanes;
    for (int i = 0; i < in_rows; i++) {
        float *row = fill((size_t)(width * channels));
        if (odd) poison(row, (size_t)(width * channels));
        const int outside = (border < 0 && i == 0) || (border > 0 && i == in_rows - 1);
        rows[i] = outside ? NULL : row;
        cut_rows[i] = outside ? NULL : row + cut;
    }
    for (int t = 0; t < 2; t++) {
        results[t] = fill((size_t)(out_rows * out * channels));
        fm_depthwise_args args = {rows, packed_for(layer, tables[t], kernel, bias), results[t], cut, width, channels,
                                  out_rows, channels, layer->stride};
        tables[t]->depthwise(&args);
        args.rows = cut_rows;
        args.packed += cut * 10;
        args.out += cut;
        args.channels = channels - cut;
        tables[t]->depthwise(&args);
    }
    expect_same(layer->scope, kernels, results[0], results[1], (size_t)(out_rows * out * channels));
    release();
}

static void check_stem(const fm_kernels *kernels, int bottom, int odd) {
    const fm_layer layer = fm_layer_info(0);
    const fm_kernels *tables[2] = {&fm_kernels_scalar, kernels};
    const size_t row_floats = FM_SIZE * 3, out_floats = FM_SIZE / 2 * 24;
    const float *kernel = fill(27 * 24), *bias = fill(24);
    float *rows[3], *results[2];
    for (int i = 0; i < 3; i++) {
        rows[i] = fill(row_floats);
        if (odd) poison(rows[i], row_floats);
    }
    for (int t = 0; t < 2; t++) {
        const float *const inside[3] = {rows[0], rows[1], bottom ? NULL : rows[2]};
        results[t] = fill(out_floats);
        tables[t]->stem(inside, packed_for(&layer, tables[t], kernel, bias), results[t], (const char *)rows[0]);
    }
    expect_same("stem", kernels, results[0], results[1], out_floats);
    release();
}

static void check_scale(const fm_kernels *kernels, int odd) {
    const size_t floats = FM_SIZE * 3;
    float *row = fill(floats), *want = fill(floats), *got = fill(floats);
    uint8_t *bytes = fenced(floats);
    for (size_t i = 0; i < floats; i++) bytes[i] = (uint8_t)i;
    if (odd) poison(row, floats);
    const int outside = fm_kernels_scalar.scale_f32(row, want);
    if (kernels->scale_f32(row, got) != outside) {
        printf("FAIL %s: scale_f32 disagrees on the range\n", kernels->name);
        failures++;
    }
    expect_same("scale_f32", kernels, want, got, floats);
    fm_kernels_scalar.scale_u8(bytes, want);
    kernels->scale_u8(bytes, got);
    expect_same("scale_u8", kernels, want, got, floats);
    release();
}

static void check_pool(const fm_kernels *kernels, int odd) {
    float *map = fill(9 * FM_FEATURES), *want = fill(FM_FEATURES), *got = fill(FM_FEATURES);
    if (odd) poison(map, 9 * FM_FEATURES);
    fm_kernels_scalar.pool(map, FM_FEATURES, want);
    kernels->pool(map, FM_FEATURES, got);
    expect_same("pool", kernels, want, got, FM_FEATURES);
    release();
}

/* Every kernel that a table lists, so that none is added without being checked here. */
struct checked {
    const char *name;
    int lanes, panel;
    void (*pointwise)(void), (*depthwise)(void), (*stem)(void), (*scale_f32)(void), (*scale_u8)(void), (*pool)(void);
    void (*peak)(void); /* computes nothing that anyone uses */
};
_Static_assert(sizeof(struct checked) == sizeof(fm_kernels), "a kernel was added: check it below");

static void check_table(const fm_kernels *kernels) {
    const unsigned mode = fp_mode();
    static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 18, 24, 27, 36, 48};
    for (int round = 0; round < 4; round++) {
        const int odd = round & 1;
        fence_front = round >> 1;
        for (int i = 0; i < FM_LAYERS; i++) {
            const fm_layer layer = fm_layer_info(i);
            const int columns = i == FM_LOGITS ? FM_PADDED_CLASSES : layer.out_channels;
            if (columns % kernels->lanes != 0) continue;
            for (size_t r = 0; layer.kind == FM_POINTWISE && r < sizeof row_counts / sizeof row_counts[0]; r++) {
                /* A few heights are enough for the many layers of the same shape. */
                if (r > 2 && (int)r % 5 != i % 5) continue;
                check_pointwise(kernels, &layer, row_counts[r], (fm_epilogue)((int)r % 3), odd);
            }
            for (int border = -1; layer.kind == FM_DEPTHWISE && border <= 1; border++) {
                if (border < 0 && layer.stride == 2) continue; /* stride 2 has no padding above */
                check_depthwise(kernels, &layer, border, odd);
            }
        }
        if (kernels->stem) {
            check_stem(kernels, 0, odd);
            check_stem(kernels, 1, odd);
            check_scale(kernels, odd);
        }
        check_pool(kernels, odd);
    }
    if (fp_mode() != mode) {
        printf("FAIL %s: the floating-point mode was %#x before and is %#x\n", kernels->name, mode, fp_mode());
        failures++;
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

/* ---- --bench ---- */

typedef struct timed {
    const fm_kernels *kernels;
    fm_layer layer;
    fm_pointwise_args pointwise;
    fm_depthwise_args depthwise;
    const float *packed, *stem_rows[3];
    int columns;
} timed;

/* One row of the layer's map. Returns its multiply-adds. */
static double run_once(const timed *t) {
    const int width = t->layer.in_size / t->layer.stride;
    if (t->layer.kind == FM_POINTWISE) {
        run_pointwise(t->kernels, t->pointwise, t->packed, t->columns);
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
        t.columns = i == FM_LOGITS ? FM_PADDED_CLASSES : out;
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

/* ---- */

/* Writes one float too many: what these checks are there to catch. */
static void overrunning_pool(const float *map, int n, float *out) {
    fm_kernels_scalar.pool(map, n, out);
    out[n] = 0.0f;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--mutant") == 0) {
        fm_kernels mutant = fm_kernels_scalar;
        mutant.pool = overrunning_pool;
        fence_front = argc > 2; /* at a guard page it must fault, at a canary be found */
        check_pool(&mutant, 0);
        return failures != 0;
    }
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0, bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    check_multiply_add();
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (!all && !fm_isa_supported(isa)) {
            printf("skip %s: not on this machine\n", isa->name);
            continue;
        }
        for (int t = 0; t < 2 && isa->tables[t]; t++) {
            const int before = failures;
            check_table(isa->tables[t]);
            printf("%s %s\n", failures == before ? "ok  " : "FAIL", isa->tables[t]->name);
            if (bench) bench_table(isa->tables[t]);
        }
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
