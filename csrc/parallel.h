/* The only place that knows about threads: OpenMP, or nothing. */
#ifndef FM_PARALLEL_H
#define FM_PARALLEL_H

#include <stdatomic.h>

#include "cpu.h"

#if defined(FM_X86)
#include <emmintrin.h>
static inline void fm_pause(void) { _mm_pause(); }
#elif defined(FM_ARM64) && defined(__GNUC__)
static inline void fm_pause(void) { __asm__ volatile("yield"); }
#else
static inline void fm_pause(void) {}
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static inline void fm_yield(void) { SwitchToThread(); }
#else
#include <sched.h>
static inline void fm_yield(void) { sched_yield(); }
#endif

#ifdef _OPENMP
#include <omp.h>
#define FM_PRAGMA(text) _Pragma(#text)
static inline int fm_rank(void) { return omp_get_thread_num(); }
static inline int fm_team_size(void) { return omp_get_num_threads(); }
#else
#define FM_PRAGMA(text)
static inline int fm_rank(void) { return 0; }
static inline int fm_team_size(void) { return 1; }
#endif

/* All of a team wait for each other here. A call has some thirty of these a few microseconds apart: spinning
 * takes 0.04 us where OpenMP's own barrier takes 0.25 (two cores, Zen 4). With more threads than processors
 * the others need to be let in, hence the yielding. */
typedef struct fm_barrier {
    atomic_int arrived, phase;
} fm_barrier;

/* The threads that work on one image (or one group of images) together. */
typedef struct fm_team {
    int rank, size;
    fm_barrier *barrier; /* may be NULL for a team of one */
} fm_team;

/* A thread's share of `count` things begins here; it ends where the next rank's begins. */
static inline int fm_share(fm_team team, int count) { return (int)((long long)count * team.rank / team.size); }

static inline fm_team fm_next(fm_team team) { return (fm_team){team.rank + 1, team.size, NULL}; }

static inline void fm_wait(fm_team team) {
    enum { SPINS = 2000 }; /* about 20 us */
    if (team.size == 1) return;
    fm_barrier *barrier = team.barrier;
    const int phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == team.size - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->phase, memory_order_acquire) == phase; spins++) {
        if (spins < SPINS) fm_pause();
        else fm_yield();
    }
}

#endif
