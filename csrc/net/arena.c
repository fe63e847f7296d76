#define _DEFAULT_SOURCE /* madvise, posix_memalign */
#include "net/model.h"

#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

void *fm_aligned_alloc(size_t bytes) {
#if defined(_WIN32)
    return _aligned_malloc(bytes, FM_ALIGN);
#else
    /* Large blocks use huge pages where the system has them. Loading then causes fewer page faults, and reading
     * megabytes of weights causes no TLB misses. */
    const size_t huge = (size_t)2 << 20, align = bytes >= huge ? huge : FM_ALIGN;
    void *memory = NULL;
    if (posix_memalign(&memory, align, bytes)) return NULL; /* macOS before 10.15 lacks aligned_alloc */
#if defined(__linux__)
    if (align == huge) madvise(memory, bytes, MADV_HUGEPAGE); /* only a hint: failure is harmless */
#endif
    return memory;
#endif
}

void fm_aligned_free(void *memory) {
#ifdef _WIN32
    _aligned_free(memory);
#else
    free(memory);
#endif
}

enum { SLOTS = sizeof(((fm_model *)0)->idle) / sizeof(((fm_model *)0)->idle[0]) };

static size_t round_up(size_t bytes) { return (bytes + FM_ALIGN - 1) / FM_ALIGN * FM_ALIGN; }

size_t fm_image_row_bytes(const fm_plan *plan) {
    return round_up((plan->image_row + plan->needs.slack) * plan->needs.element);
}

/* The next part of an arena's memory. If `memory` is NULL, only its size is counted. */
static void *part(char *memory, size_t *used, size_t bytes) {
    char *start = memory ? memory + *used : NULL;
    *used += round_up(bytes);
    return start;
}

/* Sets the pointers of an arena that starts at `memory`. Returns the arena's size in bytes. */
static size_t lay_out(const fm_plan *plan, char *memory) {
    const size_t element = plan->needs.element, slack = plan->needs.slack * element;
    size_t used = 0;
    fm_arena counted;
    fm_arena *arena = part(memory, &used, sizeof *arena);
    if (!arena) arena = &counted;
    for (int i = 0; i < 2; i++) arena->map[i] = part(memory, &used, plan->map * element + slack);
    arena->early = part(memory, &used, (size_t)plan->group * plan->early * element + slack);
    arena->depthwise = part(memory, &used, plan->depthwise * element + slack);
    arena->ring = part(memory, &used, plan->ring * element + slack);
    for (int i = 0; i < FM_IMAGE_ROWS; i++) arena->image[i] = part(memory, &used, fm_image_row_bytes(plan));
    arena->rows = part(memory, &used, ((size_t)plan->tallest_ring + 2) * sizeof *arena->rows);
    return used;
}

static fm_arena *make_arena(const fm_plan *plan) {
    char *memory = fm_aligned_alloc(lay_out(plan, NULL));
    if (memory) lay_out(plan, memory);
    return (fm_arena *)memory;
}

fm_arena *fm_arena_take(fm_model *model) {
    for (int i = 0; i < SLOTS; i++) {
        fm_arena *arena = atomic_exchange(&model->idle[i], NULL);
        if (arena) return arena;
    }
    return make_arena(&model->plan);
}

void fm_arena_give(fm_model *model, fm_arena *arena) {
    for (int i = 0; i < SLOTS; i++) {
        fm_arena *empty = NULL;
        if (atomic_compare_exchange_strong(&model->idle[i], &empty, arena)) return;
    }
    fm_aligned_free(arena);
}

void fm_arena_free_all(fm_model *model) {
    for (int i = 0; i < SLOTS; i++) fm_aligned_free(atomic_exchange(&model->idle[i], NULL));
}
