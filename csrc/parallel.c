#include <stddef.h>

#include "parallel.h"

#include "cpu.h"
#include "fastmnv2.h"
#include "fpenv.h"

#if defined(FM_X86)
#include <emmintrin.h>
static void pause_briefly(void) { _mm_pause(); }
#elif defined(FM_ARM64) && defined(__GNUC__)
static void pause_briefly(void) { __asm__ volatile("yield"); }
#else
static void pause_briefly(void) {}
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static void let_others_run(void) { SwitchToThread(); }
#else
#include <sched.h>
static void let_others_run(void) { sched_yield(); }
#endif

#ifdef _OPENMP
#include <omp.h>
int fm_openmp(void) { return 1; }
int fm_max_threads(void) { return omp_get_max_threads(); }
#else
int fm_openmp(void) { return 0; }
int fm_max_threads(void) { return 1; }
#endif

static void work_in_mode(fm_team team, void (*work)(fm_team team, void *job), void *job) {
    const fm_fpenv saved = fm_fpenv_enter();
    work(team, job);
    fm_fpenv_leave(saved);
}

void fm_parallel(int threads, void (*work)(fm_team team, void *job), void *job) {
#ifdef _OPENMP
    if (threads > 1) {
        fm_barrier barrier;
        for (int i = 0; i < threads; i++) atomic_init(&barrier.ranks[i].arrivals, 0);
#pragma omp parallel num_threads(threads)
        work_in_mode((fm_team){omp_get_thread_num(), omp_get_num_threads(), &barrier}, work, job);
        return;
    }
#endif
    (void)threads;
    work_in_mode((fm_team){0, 1, NULL}, work, job);
}

/* A call has some thirty of these a few microseconds apart, so waiting is spinning: OpenMP's own barrier takes six
 * times as long (two cores, Zen 4). With more threads than processors the others need to be let in. */
void fm_wait(fm_team team) {
    enum { SPINS = 2000 }; /* about 20 us */
    if (team.size == 1) return;
    const unsigned now = 1 + atomic_fetch_add_explicit(&team.barrier->ranks[team.rank].arrivals, 1, memory_order_release);
    for (int i = 0; i < team.size; i++) {
        const atomic_uint *other = &team.barrier->ranks[i].arrivals;
        /* The difference is signed, so that another's next arrival counts as this one, too. */
        for (int spins = 0; (int)(atomic_load_explicit(other, memory_order_acquire) - now) < 0; spins++) {
            if (spins < SPINS) pause_briefly();
            else let_others_run();
        }
    }
}
