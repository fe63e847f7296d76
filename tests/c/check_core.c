/* The whole core without Python: bits, failing allocations, concurrency, endurance. Built with and without
 * sanitizers, under several compilers and optimisation levels (test_core.py), and for other processors.
 *
 *   check_core digest      on every instruction set of this machine: the features' digest must be DIGEST, and the
 *                          digest of an 8-bit network's features and endpoints INT8_DIGEST
 *   check_core threads     one model from many threads, and many threads in one call: the same bits
 *   check_core nested      calls from inside another parallel region: the same bits
 *   check_core rested      calls after a rest, with threads that slept: the same bits
 *   check_core memory      the n-th allocation fails, for every n; needs -Wl,--wrap=calloc,--wrap=posix_memalign
 *   check_core dense       fully connected layers: the same bits in any batch and on any instruction set
 *   check_core overrun     writes past an array, which must end the program in a build with sanitizers
 *   check_core soak N      N calls: resident memory in the first half and in the second */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu.h"
#include "fastmnv2.h"
#include "sample_models.h"

/* The digest of the features of IMAGES images, float32 and uint8. It changes only if the promised bits change. */
#define DIGEST 0x03c7ddafcda949b7u
/* The same for an 8-bit network, some of whose weights have nine bits, including all its endpoints. */
#define INT8_DIGEST 0x04bad4797cc8f569u

enum { MOST_FEATURES = 1280, MOST_CLASSES = 1001 };

/* ---- checks ---- */

static int failures;

static void expect(int good, const char *what) {
    if (good) return;
    printf("FAIL %s\n", what);
    failures++;
}

static void check_digest(const fm_weights *weights) {
    static float features[IMAGES * MOST_FEATURES], logits[MOST_CLASSES];
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (!fm_isa_supported(isa) || fm_isa_for("float32", isa) != isa) continue;
        fm_model *model = make_model(isa, weights);
        uint64_t hash = 0xcbf29ce484222325u;
        for (int dtype = FM_FLOAT32; dtype <= FM_UINT8; dtype++) {
            forward(model, (fm_dtype)dtype, 0, IMAGES, 1, features);
            hash = fnv1a(hash, features, sizeof features);
            if (fm_logits(model, features, 1, logits) != FM_OK) abort();
            hash = fnv1a(hash, logits, sizeof logits);
        }
        printf("%s 0x%016llx\n", fm_isa_name(isa), (unsigned long long)hash);
        expect(hash == DIGEST, fm_isa_name(isa));
        fm_model_free(model);
    }
}

static void check_int8_digest(void) {
    enum { ENDPOINTS = FM_ENDPOINTS + FM_BLOCKS, FEW = 2 };
    static float features[IMAGES * MOST_FEATURES], logits[MOST_CLASSES];
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (!fm_isa_supported(isa) || fm_isa_for("int8", isa) != isa) continue;
        fm_model *model = make_int8_model(isa);
        uint64_t hash = 0xcbf29ce484222325u;
        void *endpoints[ENDPOINTS];
        size_t bytes[ENDPOINTS];
        for (int e = 0; e < ENDPOINTS; e++) {
            const fm_endpoint shape = fm_endpoint_info(&network, e);
            bytes[e] = (size_t)(FEW * shape.height * shape.width * shape.channels);
            endpoints[e] = need(malloc(bytes[e]));
        }
        int outside = 0;
        const fm_request some = {.images = byte_images,
                                 .dtype = FM_UINT8,
                                 .n = FEW,
                                 .features = features,
                                 .endpoints = endpoints,
                                 .threads = 1};
        if (fm_forward(model, &some, &outside) != FM_OK) abort();
        for (int e = 0; e < ENDPOINTS; e++) {
            hash = fnv1a(hash, endpoints[e], bytes[e]);
            free(endpoints[e]);
        }
        forward(model, FM_FLOAT32, 0, IMAGES, 1, features);
        hash = fnv1a(hash, features, IMAGES * features_each * sizeof *features);
        if (fm_logits(model, features, 1, logits) != FM_OK) abort();
        hash = fnv1a(hash, logits, (size_t)network.classes * sizeof *logits);
        printf("%s int8 0x%016llx\n", fm_isa_name(isa), (unsigned long long)hash);
        expect(hash == INT8_DIGEST, fm_isa_name(isa));
        fm_model_free(model);
    }
}

/* Slow instruction sets run only on two threads, because sanitizers make them even slower. */
static void check_int8_threads(void) {
    static float want[IMAGES * MOST_FEATURES], got[IMAGES * MOST_FEATURES];
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        if (!fm_isa_supported(isa) || fm_isa_for("int8", isa) != isa) continue;
        fm_model *model = make_int8_model(isa);
        const int most = fm_isa_images(isa) == 1 ? 2 : 7;
        forward(model, FM_FLOAT32, 0, IMAGES, 1, want);
        for (int threads = 2; threads <= most; threads++) {
            for (size_t n = 1; n <= IMAGES; n += 2) {
                forward(model, FM_FLOAT32, 0, n, threads, got);
                expect(memcmp(got, want, n * features_each * sizeof *got) == 0, "8-bit: many threads in one call");
            }
        }
        fm_model_free(model);
    }
}

typedef struct job {
    const fm_model *model;
    const float *want;
    int seed, wrong;
} job;

static void *work(void *argument) {
    job *mine = argument;
    static _Thread_local float features[IMAGES * MOST_FEATURES];
    for (int i = 0; i < 8; i++) {
        const size_t first = (size_t)(mine->seed + i) % IMAGES, n = IMAGES - first;
        forward(mine->model, FM_FLOAT32, first, n, 1, features);
        mine->wrong |= memcmp(features, mine->want + first * features_each, n * features_each * sizeof(float)) != 0;
    }
    return NULL;
}

static void check_threads(const fm_weights *weights) {
    enum { WORKERS = 6 };
    static float want[IMAGES * MOST_FEATURES], got[IMAGES * MOST_FEATURES];
    fm_model *model = make_model(fm_isa_at(fm_isa_count() - 1), weights);
    for (int i = fm_isa_count() - 1; !fm_isa_supported(fm_isa_at(i)); i--) {
        fm_model_free(model);
        model = make_model(fm_isa_at(i - 1), weights);
    }
    forward(model, FM_FLOAT32, 0, IMAGES, 1, want);
    for (int threads = 2; threads <= 9; threads++) {
        for (size_t n = 1; n <= IMAGES; n++) {
            memset(got, 0xff, sizeof got);
            forward(model, FM_FLOAT32, 0, n, threads, got);
            expect(memcmp(got, want, n * features_each * sizeof(float)) == 0, "many threads in one call");
        }
    }
    pthread_t workers[WORKERS];
    job jobs[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        jobs[i] = (job){model, want, i, 0};
        if (pthread_create(&workers[i], NULL, work, &jobs[i])) abort();
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i], NULL);
        expect(!jobs[i].wrong, "one model from many threads");
    }
    fm_model_free(model);
}

/* Calls after a rest, when the system wakes threads on any processor: the same bits, and every thread keeps its CPU
 * affinity (fm_spread changes it for a moment). */
static void check_rested(const fm_weights *weights) {
    static float want[MOST_FEATURES], got[MOST_FEATURES];
    fm_model *model = make_model(fm_isa_at(0), weights);
    forward(model, FM_FLOAT32, 0, 1, 1, want);
    const int cpus = fm_affinity_cpus();
    for (int i = 0; i < 8; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        forward(model, FM_FLOAT32, 0, 1, 2 + i % 3, got);
        expect(memcmp(got, want, sizeof got) == 0, "after a rest");
#ifdef _OPENMP
#pragma omp parallel num_threads(4)
#endif
        if (fm_affinity_cpus() != cpus) {
#ifdef _OPENMP
#pragma omp critical
#endif
            expect(0, "a thread's affinity has changed");
        }
    }
    fm_model_free(model);
}

/* Calls from inside another parallel region, where OpenMP gives a call fewer threads than it requests. */
static void check_nested(const fm_weights *weights) {
    enum { CALLERS = 4 };
    static float want[IMAGES * MOST_FEATURES], got[CALLERS][IMAGES * MOST_FEATURES];
    fm_model *model = make_model(fm_isa_at(0), weights);
    forward(model, FM_FLOAT32, 0, IMAGES, 1, want);
#ifdef _OPENMP
#pragma omp parallel for num_threads(CALLERS)
#endif
    for (int i = 0; i < CALLERS; i++) forward(model, FM_FLOAT32, 0, IMAGES, 1 + i, got[i]);
    for (int i = 0; i < CALLERS; i++) expect(memcmp(got[i], want, sizeof want) == 0, "inside a parallel region");
    fm_model_free(model);
}

#ifdef CHECK_MUTANT
float __wrap_fmaf(float a, float b, float c);
float __wrap_fmaf(float a, float b, float c) {
    const float product = a * b;
    return product + c;
}
#endif

/* ---- failing allocations: the linker sends the core's allocations here ---- */

static long allowed = -1, asked; /* -1: all succeed */

static void allow(long allocations) {
    allowed = allocations;
    asked = 0;
}

#ifdef CHECK_MEMORY
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes) {
    return allowed < 0 || asked++ < allowed ? __real_calloc(count, bytes) : NULL;
}
int __real_posix_memalign(void **block, size_t align, size_t bytes);
int __wrap_posix_memalign(void **block, size_t align, size_t bytes);
int __wrap_posix_memalign(void **block, size_t align, size_t bytes) {
    return allowed < 0 || asked++ < allowed ? __real_posix_memalign(block, align, bytes) : 12; /* ENOMEM */
}
#endif

static void check_memory(const fm_weights *weights) {
    static float want[IMAGES * MOST_FEATURES], got[IMAGES * MOST_FEATURES];
    const fm_isa *isa = fm_isa_at(0);
    fm_model *model = make_model(isa, weights), *other = NULL;
    forward(model, FM_FLOAT32, 0, IMAGES, 1, want);
    fm_model_free(model);

    long tried = 0;
    for (fm_status status = FM_NO_MEMORY; status != FM_OK; tried++) {
        allow(tried);
        status = fm_model_new(isa, &network, weights, &other);
        expect(status == FM_OK || status == FM_NO_MEMORY, "status of fm_model_new");
    }
    expect(tried >= 3, "fm_model_new's two allocations can fail");

    const fm_request request = {.images = float_images, .n = IMAGES, .features = got, .threads = 3};
    int outside = 0;
    tried = 0;
    for (fm_status status = FM_NO_MEMORY; status != FM_OK; tried++) {
        allow(tried);
        memset(got, 0x5a, sizeof got);
        status = fm_forward(other, &request, &outside);
        for (size_t i = 0; status != FM_OK && i < sizeof got; i++) expect(((char *)got)[i] == 0x5a, "nothing written");
    }
    allow(-1);
    expect(tried >= 2, "fm_forward's allocations can fail");
    expect(memcmp(want, got, sizeof got) == 0, "the model is still usable");
    fm_model_free(other);
}

/* Fully connected layers: the same bits for any number of rows and on any instruction set; failing allocations. */
static void check_dense(void) {
    enum { ROWS = 21, MOST = 70 };
    static const int shapes[][2] = {{1, 1}, {37, 19}, {64, 48}, {5, 70}, {70, 8}};
    static float x[ROWS * MOST], kernel[MOST * MOST], bias[MOST], want[ROWS * MOST], got[ROWS * MOST];
    for (int i = 0; i < ROWS * MOST; i++) x[i] = between(1.0f);
    for (int i = 0; i < MOST * MOST; i++) kernel[i] = between(1.0f);
    for (int i = 0; i < MOST; i++) bias[i] = between(1.0f);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const int inputs = shapes[s][0], outputs = shapes[s][1];
        for (int i = 0, first = 1; i < fm_isa_count(); i++) {
            fm_dense *dense = NULL;
            if (!fm_isa_supported(fm_isa_at(i))) continue;
            fm_status status = FM_NO_MEMORY;
            for (long tried = 0; status != FM_OK; tried++) {
                allow(tried);
                status = fm_dense_new(fm_isa_at(i), inputs, outputs, kernel, bias, &dense);
            }
            allow(-1);
            fm_dense_run(dense, x, ROWS, first ? want : got);
            const size_t bytes = sizeof(float) * (size_t)(ROWS * outputs);
            expect(first || memcmp(want, got, bytes) == 0, "a dense layer on another instruction set");
            for (int n = 1; n <= 9; n += 4) {
                fm_dense_run(dense, x + 3 * inputs, (size_t)n, got);
                const float *rows = want + 3 * outputs;
                expect(memcmp(rows, got, sizeof(float) * (size_t)(n * outputs)) == 0, "a dense layer's fewer rows");
            }
            fm_dense_free(dense);
            first = 0;
        }
    }
}

static long resident_pages(void) {
    long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file) {
        if (fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
        fclose(file);
    }
    return resident;
}

/* Compares peaks, because the freed memory that the C library keeps goes up and down. */
static void check_soak(const fm_weights *weights, long calls) {
    static float features[IMAGES * MOST_FEATURES];
    fm_model *model = NULL;
    long first_peak = 0, peak = 0;
    int fastest = fm_isa_count() - 1;
    while (!fm_isa_supported(fm_isa_at(fastest))) fastest--;
    for (long i = 0; i < calls; i++) {
        if (i % 100 == 0) { /* also load and unload */
            fm_model_free(model);
            model = make_model(fm_isa_at(fastest), weights);
        }
        forward(model, FM_FLOAT32, 0, 1, 1 + (int)(i & 1), features);
        const long pages = i % 10 == 9 ? resident_pages() : 0;
        if (pages > peak) peak = pages;
        if (i == calls / 2) first_peak = peak;
    }
    fm_model_free(model);
    printf("%ld calls: at most %ld pages more in the second half than in the first\n", calls, peak - first_peak);
    expect(peak - first_peak < 256, "resident memory stays");
}

/* An array that is one float too short, which a sanitizer must report. */
static void check_overrun(const fm_weights *weights) {
    fm_model *model = make_model(fm_isa_at(0), weights);
    float *features = need(malloc((features_each - 1) * sizeof(float)));
    forward(model, FM_FLOAT32, 0, 1, 1, features);
    free(features);
    fm_model_free(model);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "digest";
    make_network(0.75, 96, 96);
    if (features_each != MOST_FEATURES || network.classes != MOST_CLASSES) abort();
    const fm_weights weights = make_weights();
    make_images();
    if (strcmp(what, "digest") == 0) {
        check_digest(&weights);
        check_int8_digest();
    } else if (strcmp(what, "threads") == 0) {
        check_threads(&weights);
        check_int8_threads();
    } else if (strcmp(what, "nested") == 0) check_nested(&weights);
    else if (strcmp(what, "rested") == 0) check_rested(&weights);
    else if (strcmp(what, "memory") == 0) check_memory(&weights);
    else if (strcmp(what, "soak") == 0) check_soak(&weights, argc > 2 ? atol(argv[2]) : 1000);
    else if (strcmp(what, "dense") == 0) check_dense();
    else if (strcmp(what, "overrun") == 0) check_overrun(&weights);
    else expect(0, "expected digest, threads, nested, rested, memory, overrun or soak N");
    free_weights();
    free_images();
    printf("%s: %d failures\n", what, failures);
    return failures != 0;
}
