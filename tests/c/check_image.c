/* Checks the resize kernels of every instruction set against the scalar ones, and whole resizes against plain loops:
 * the bits are the same, nothing is read or written outside the arrays, the inputs are not written to, and the caller's
 * registers and modes are preserved. Every array ends at an unreadable page, and in a second round starts after one.
 *
 *   check_image          the instruction sets that this machine can run
 *   check_image --all    all that are compiled in (for builds whose vectors are emulated)
 *   check_image --bench  milliseconds for pictures of two sizes
 *   check_image --mutant NAME    a wrong kernel, which must be caught */
#define _GNU_SOURCE
#include <math.h>
#include <time.h>

#include "checked_call.h"
#include "fence.h"
#include "image/resize.h"

static const float UNIT = 1.0f / 255.0f;

static int least(int a, int b) { return a < b ? a : b; }

static void check_that(int holds, const char *table, const char *what) {
    checks++;
    if (holds) return;
    printf("FAIL %s: %s\n", table, what);
    failures++;
}

static int same(const float *want, const float *got, int n) { return memcmp(want, got, (size_t)n * sizeof *want) == 0; }

static uint8_t *bytes(size_t n) {
    uint8_t *array = fenced(n);
    for (size_t i = 0; i < n; i++) array[i] = (uint8_t)(rand() >> 7);
    return array;
}

/* In [-1, 1), including halves and values next to them. */
static float *floats(size_t n) {
    float *array = fenced(n * sizeof(float));
    for (size_t i = 0; i < n; i++) array[i] = (float)(rand() % 4096 - 2048) / (rand() % 3 ? 2048.0f : 1999.0f);
    return array;
}

/* Calls a kernel, then checks guards, registers and modes. */
#define CALL(kernels, kernel, args)                                                    \
    do {                                                                               \
        const char *wrong = NULL;                                                      \
        checked_call((any_function)(kernels)->kernel, args, NULL, NULL, NULL, &wrong); \
        check_that(wrong == NULL, (kernels)->name, wrong ? wrong : #kernel);           \
    } while (0)

/* ---- one kernel each, named as in FM_IMAGE_KERNELS ---- */

static void check_blend_columns(const fm_image_kernels *kernels, int n) {
    fm_image_blend_columns_args args = {.unit = n % 2 ? 1.0f : UNIT, .n = n};
    args.left = bytes((size_t)n);
    args.right = bytes((size_t)n);
    args.weights = floats((size_t)n);
    seal();
    float *want = args.out = floats((size_t)n);
    fm_image_scalar.blend_columns(&args);
    args.out = floats((size_t)n);
    CALL(kernels, blend_columns, &args);
    check_that(same(want, args.out, n), kernels->name, "blend_columns");
    release();
}

static void check_blend_rows(const fm_image_kernels *kernels, int n) {
    fm_image_blend_rows_args args = {.weight = (float)(rand() % 1000) / 999.0f, .n = n};
    args.upper = floats((size_t)n);
    args.lower = floats((size_t)n);
    seal();
    float *want = args.out = floats((size_t)n);
    fm_image_scalar.blend_rows(&args);
    args.out = floats((size_t)n);
    CALL(kernels, blend_rows, &args);
    check_that(same(want, args.out, n), kernels->name, "blend_rows");
    release();
}

static void check_add_rows(const fm_image_kernels *kernels, int n) {
    fm_image_add_rows_args args = {.rows = n % 5 ? 8 : 1 + rand() % 8, .unit = n % 2 ? 1.0f : UNIT, .n = n};
    args.stride = n + rand() % 5;
    const size_t size = (size_t)(args.stride * (args.rows - 1) + n);
    args.samples = bytes(size);
    if (n % 3 == 0) { /* from the last row up */
        args.samples += args.stride * (args.rows - 1);
        args.stride = -args.stride;
    }
    args.weights = (const float (*)[2])floats((size_t)args.rows * 2);
    seal();
    float *results[2][2];
    for (int s = 0; s < 2; s++) {
        results[0][s] = floats((size_t)n);
        results[1][s] = floats((size_t)n);
        memcpy(results[1][s], results[0][s], (size_t)n * sizeof(float));
    }
    memcpy(args.sums, results[0], sizeof args.sums);
    fm_image_scalar.add_rows(&args);
    memcpy(args.sums, results[1], sizeof args.sums);
    CALL(kernels, add_rows, &args);
    for (int s = 0; s < 2; s++) check_that(same(results[0][s], results[1][s], n), kernels->name, "add_rows");
    release();
}

/* Spans over n inputs, as for a picture that is reduced or enlarged. */
static fm_spans spans_of(int inputs, int outputs) {
    fm_spans spans = {.outputs = outputs, .most = least(inputs, 2 * (inputs / outputs + 1) + 1)};
    int32_t *starts = fenced((size_t)outputs * sizeof *starts), *counts = fenced((size_t)outputs * sizeof *counts);
    for (int o = 0; o < outputs; o++) {
        starts[o] = (int32_t)((long long)o * inputs / outputs);
        counts[o] = least(inputs - starts[o], spans.most - (o % 2 && spans.most > 1));
        if (o > 0 && starts[o] + counts[o] < starts[o - 1] + counts[o - 1]) counts[o]++;
    }
    spans.starts = starts;
    spans.counts = counts;
    spans.weights = floats((size_t)outputs * (size_t)spans.most);
    return spans;
}

static void check_add_columns(const fm_image_kernels *kernels, int n) {
    const int outputs = 1 + rand() % 20, first = rand() % n, stop = first + 1 + rand() % (n - first);
    const fm_spans spans = spans_of(n, outputs);
    fm_image_add_columns_args args = {.first = first, .stop = stop, .spans = &spans};
    args.row = floats((size_t)(stop - first) * 3 + 1);
    seal();
    float *want = floats((size_t)outputs * 3), *got = floats((size_t)outputs * 3);
    memcpy(got, want, (size_t)outputs * 3 * sizeof *want);
    args.out = want;
    fm_image_scalar.add_columns(&args);
    args.out = got;
    CALL(kernels, add_columns, &args);
    check_that(same(want, got, outputs * 3), kernels->name, "add_columns");
    release();
}

/* ---- whole pictures, against plain loops ---- */

typedef enum layout { UPRIGHT, PADDED, UPSIDE_DOWN, MIRRORED, TURNED, LAYOUTS } layout;

static fm_picture picture_of(int height, int width, layout how) {
    fm_picture picture = {.row_stride = width * 3, .pixel_stride = 3, .height = height, .width = width};
    if (how == PADDED) picture.row_stride += 5;
    if (how == TURNED) picture.row_stride = 3, picture.pixel_stride = height * 3;
    const ptrdiff_t rows = picture.row_stride * (height - 1), columns = picture.pixel_stride * (width - 1);
    picture.first = bytes((size_t)(rows + columns + 3));
    if (how == UPSIDE_DOWN) picture.first += rows, picture.row_stride = -picture.row_stride;
    if (how == MIRRORED) picture.first += columns, picture.pixel_stride = -picture.pixel_stride;
    return picture;
}

static float sample(const fm_picture *p, int y, int x, int c, float unit) {
    return (float)p->first[y * p->row_stride + x * p->pixel_stride + c] * unit;
}

static fm_places places_of(int inputs, int outputs) {
    fm_places places = {.outputs = outputs, .place = floats((size_t)outputs)};
    int32_t *first = fenced((size_t)outputs * sizeof *first), *second = fenced((size_t)outputs * sizeof *second);
    for (int o = 0; o < outputs; o++) {
        first[o] = (int32_t)((long long)o * inputs / outputs);
        second[o] = least(first[o] + 1, inputs - 1);
    }
    places.first = first;
    places.second = second;
    return places;
}

static void check_bilinear(const fm_image_kernels *kernels, int height, int width, int out, layout how) {
    const fm_picture p = picture_of(height, width, how);
    const fm_places rows = places_of(height, out), columns = places_of(width, out + 40);
    const float unit = how % 2 ? 1.0f : UNIT;
    seal();
    const int n = rows.outputs * columns.outputs * 3;
    float *got = floats((size_t)n), *want = malloc((size_t)n * sizeof *want), *to = want;
    if (!want) abort();
    for (int y = 0; y < rows.outputs; y++) {
        for (int x = 0; x < columns.outputs; x++) {
            for (int c = 0; c < 3; c++) {
                float ends[2];
                for (int i = 0; i < 2; i++) {
                    const int row = i ? rows.second[y] : rows.first[y];
                    const float l = sample(&p, row, columns.first[x], c, unit);
                    ends[i] = l + (sample(&p, row, columns.second[x], c, unit) - l) * columns.place[x];
                }
                *to++ = ends[0] + (ends[1] - ends[0]) * rows.place[y];
            }
        }
    }
    fm_resize_bilinear(kernels, &p, &rows, &columns, unit, got);
    check_that(same(want, got, n), kernels->name, "fm_resize_bilinear");
    free(want);
    release();
}

static void check_area(const fm_image_kernels *kernels, int height, int width, int out, layout how) {
    const fm_picture p = picture_of(height, width, how);
    const fm_spans rows = spans_of(height, out), columns = spans_of(width, out + 3);
    const float unit = how % 2 ? 1.0f : UNIT;
    seal();
    const int n = rows.outputs * columns.outputs * 3;
    float *got = floats((size_t)n), *want = calloc((size_t)n, sizeof *want);
    if (!want) abort();
    for (int i = 0; i < n; i++) {
        const int c = i % 3, x = i / 3 % columns.outputs, y = i / 3 / columns.outputs;
        for (int k = 0; k < columns.counts[x]; k++) {
            float sum = 0.0f;
            for (int j = 0; j < rows.counts[y]; j++) {
                sum += rows.weights[y * rows.most + j] * sample(&p, rows.starts[y] + j, columns.starts[x] + k, c, unit);
            }
            want[i] += columns.weights[x * columns.most + k] * sum;
        }
    }
    fm_resize_area(kernels, &p, &rows, &columns, unit, got);
    check_that(same(want, got, n), kernels->name, "fm_resize_area");
    free(want);
    release();
}

static void check_table(const fm_image_kernels *kernels) {
    for (fence_front = 0; fence_front < 2; fence_front++) {
        for (int n = 1; n < 150; n++) {
#define KERNEL(name, arguments, result) check_##name(kernels, n);
            FM_IMAGE_KERNELS(KERNEL)
#undef KERNEL
        }
        for (int how = 0; how < LAYOUTS; how++) {
            for (int round = 0; round < 6; round++) {
                const int height = 1 + rand() % 60, width = 1 + rand() % 60, out = 1 + rand() % 110;
                check_bilinear(kernels, height, width, out, (layout)how);
                check_area(kernels, height, width, 1 + out / 5, (layout)how);
            }
            check_area(kernels, 11, 2100, 3, (layout)how); /* more than one block */
        }
    }
    fence_front = 0;
}

/* ---- times ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

static void bench_table(const fm_image_kernels *kernels) {
    static const int sizes[][2] = {{480, 640}, {3000, 4000}};
    for (int i = 0; i < 2; i++) {
        for (int turned = 0; turned < 2; turned++) {
            const fm_picture p = picture_of(sizes[i][0], sizes[i][1], turned ? TURNED : UPRIGHT);
            const fm_spans rows = spans_of(p.height, 96), columns = spans_of(p.width, 96);
            const fm_places down = places_of(p.height, 96), across = places_of(p.width, 96);
            float *out = floats(96 * 96 * 3);
            double best[2] = {1e9, 1e9};
            for (int round = 0; round < 12; round++) {
                const double start = now();
                fm_resize_bilinear(kernels, &p, &down, &across, UNIT, out);
                const double middle = now();
                fm_resize_area(kernels, &p, &rows, &columns, UNIT, out);
                const double end = now();
                if (middle - start < best[0]) best[0] = middle - start;
                if (end - middle < best[1]) best[1] = end - middle;
            }
            printf("%-7s %4dx%-4d %-7s bilinear %7.3f ms  area %7.3f ms\n", kernels->name, p.width, p.height,
                   turned ? "turned" : "upright", best[0], best[1]);
            release();
        }
    }
}

/* ---- mutants: errors that these checks must catch ---- */

static void one_too_many(const fm_image_blend_rows_args *args) {
    fm_image_scalar.blend_rows(args);
    args->out[args->n] = 0.0f;
}

static void scribbling(const fm_image_blend_rows_args *args) {
    fm_image_scalar.blend_rows(args);
    ((float *)(uintptr_t)args->upper)[0] = 0.0f;
}

static void fused(const fm_image_blend_rows_args *args) {
    for (int i = 0; i < args->n; i++) {
        args->out[i] = fmaf(args->lower[i] - args->upper[i], args->weight, args->upper[i]);
    }
}

static void check_mutant(const char *name) {
    static const struct {
        const char *name;
        void (*kernel)(const fm_image_blend_rows_args *args);
    } mutants[] = {{"end", one_too_many}, {"input", scribbling}, {"fused", fused}};
    for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
        if (strcmp(mutants[i].name, name) != 0) continue;
        fm_image_kernels mutant = fm_image_scalar;
        mutant.blend_rows = mutants[i].kernel;
        check_blend_rows(&mutant, 100);
    }
}

/* An instruction set without a table of its own must fall back to one that this machine can run. */
static void check_fallback(const fm_isa *isa) {
    const char *table = fm_image_table(isa)->name;
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *owner = fm_isa_at(i);
        if (owner == isa || strcmp(fm_isa_name(owner), table) != 0) continue;
        check_that(fm_isa_supported(owner), fm_isa_name(isa), "its table is not supported on this machine");
    }
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--mutant") == 0) {
        check_mutant(argv[2]);
        return failures != 0;
    }
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0, bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    if (!upper_halves_reported()) printf("upper halves: not reported here\n");
    const fm_image_kernels *last = NULL;
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        check_fallback(isa);
        if (!all && !fm_isa_supported(isa)) {
            printf("skip %s: not on this machine\n", fm_isa_name(isa));
            continue;
        }
        const fm_image_kernels *kernels = fm_image_table(isa);
        if (kernels == last) continue;
        last = kernels;
        const int before = failures;
        if (!bench) check_table(kernels);
        printf("%s %s\n", failures == before ? "ok  " : "FAIL", kernels->name);
        if (bench) bench_table(kernels);
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
