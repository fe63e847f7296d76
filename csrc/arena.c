#include "arena.h"

#include <stdlib.h>
#ifdef _WIN32
#include <malloc.h>
#endif

void *fm_aligned_alloc(size_t bytes) {
#ifdef _WIN32
    return _aligned_malloc(bytes, FM_ALIGN);
#else
    return aligned_alloc(FM_ALIGN, (bytes + FM_ALIGN - 1) / FM_ALIGN * FM_ALIGN);
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
