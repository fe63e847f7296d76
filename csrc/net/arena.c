#define _DEFAULT_SOURCE /* madvise, posix_memalign */
#include "net/arena.h"

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
    /* Large blocks go on huge pages where the system has them: fewer faults while loading, and no TLB
     * misses while megabytes of weights stream by. */
    const size_t huge = (size_t)2 << 20, align = bytes >= huge ? huge : FM_ALIGN;
    void *block = NULL;
    if (posix_memalign(&block, align, bytes)) return NULL; /* aligned_alloc is not on macOS before 10.15 */
#if defined(__linux__)
    if (align == huge) madvise(block, bytes, MADV_HUGEPAGE); /* a wish: failure is no matter */
#endif
    return block;
#endif
}

void fm_aligned_free(void *block) {
#ifdef _WIN32
    _aligned_free(block);
#else
    free(block);
#endif
}

enum { SLOTS = sizeof(((fm_model *)0)->idle) / sizeof(((fm_model *)0)->idle[0]) };

fm_arena *fm_arena_take(fm_model *model) {
    for (int i = 0; i < SLOTS; i++) {
        fm_arena *arena = atomic_exchange(&model->idle[i], NULL);
        if (arena) return arena;
    }
    return fm_aligned_alloc(sizeof(fm_arena));
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
