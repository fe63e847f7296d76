#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include <stddef.h>

#include "parallel.h"

#include "cpu.h"
#include "fastmnv2.h"
#include "fpenv.h"
#include "pool.h"

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
static void sleep_briefly(void) { SwitchToThread(); }
#else
#include <sched.h>
#include <time.h>
static void let_others_run(void) { sched_yield(); }
static void sleep_briefly(void) { nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); } /* some 50 us in the event */
#endif

#ifdef _OPENMP
#include <omp.h>
int fm_openmp(void) { return 1; }
int fm_max_threads(void) { return fm_pool_alone() ? 1 : omp_get_max_threads(); }
#else
int fm_openmp(void) { return 0; }
int fm_max_threads(void) { return 1; }
#endif

void fm_watch_forks(void) { fm_pool_watch(); }

static void work_in_mode(fm_team team, void (*work)(fm_team team, void *job), void *job) {
    const fm_fpenv saved = fm_fpenv_enter();
    work(team, job);
    fm_fpenv_leave(saved);
}

void fm_parallel(int threads, void (*work)(fm_team team, void *job), void *job) {
#ifdef _OPENMP
    threads = fm_pool_ask(threads);
    if (threads > 1) {
        fm_barrier barrier;
        atomic_init(&barrier.crowded, 0);
        for (int i = 0; i < threads; i++) {
            atomic_init(&barrier.ranks[i].arrivals, 0);
            atomic_init(&barrier.ranks[i].cpu, -1);
        }
#pragma omp parallel num_threads(threads)
        {
            const fm_team team = {omp_get_thread_num(), omp_get_num_threads(), &barrier};
            if (team.rank == 0) fm_pool_begun(team.size);
            else fm_pool_joined();
            work_in_mode(team, work, job);
        }
        return;
    }
#endif
    (void)threads;
    work_in_mode((fm_team){0, 1, NULL}, work, job);
}

/* Counts this thread's arrival, and waits for the others': spinning at first, then letting others run each time. */
static void meet(fm_team team, int spins, void (*let_run)(void)) {
    const unsigned now =
        1 + atomic_fetch_add_explicit(&team.barrier->ranks[team.rank].arrivals, 1, memory_order_release);
    for (int i = 0; i < team.size; i++) {
        const atomic_uint *other = &team.barrier->ranks[i].arrivals;
        /* The difference is signed, so that another's next arrival counts as this one, too. */
        for (int spun = 0; (int)(atomic_load_explicit(other, memory_order_acquire) - now) < 0; spun++) {
            if (spun < spins) pause_briefly();
            else let_run();
        }
    }
}

/* A call has some thirty of these a few microseconds apart, so waiting is spinning: OpenMP's own barrier takes six
 * times as long (two cores, Zen 4). With more threads than processors the others need to be let in. */
void fm_wait(fm_team team) {
    enum { SPINS = 2000 }; /* tens of microseconds */
    if (team.size > 1) meet(team, SPINS, let_others_run);
}

/* A thread that slept is often woken on the processor of the one that woke it, although another is idle (Linux guests:
 * idle virtual processors count as taken). There it waits for its turn while the other, spinning, waits for it, until
 * the system moves one after some milliseconds. So who does not find the others here soon goes to sleep, which lets
 * them in, and who comes and finds its processor taken leaves it. One image on two threads after 100 ms of rest:
 * 7.1 ms became 0.8, where one thread takes 0.95 and two take 0.36 without a rest (two cores of a Xeon). */
int fm_spread(fm_team team) {
    enum { SPINS = 100 }; /* a few microseconds */
    if (team.size == 1) return 1;
    int cpus[FM_MAX_THREADS], taken = 0;
    for (int pass = 0; pass < 2; pass++) {
        const int mine = fm_current_cpu();
        atomic_store(&team.barrier->ranks[team.rank].cpu, mine);
        taken = 0;
        for (int i = 0; i < team.size; i++) {
            cpus[i] = i == team.rank ? -1 : atomic_load(&team.barrier->ranks[i].cpu);
            taken |= mine >= 0 && cpus[i] == mine;
        }
        if (taken && pass == 0) fm_leave_cpus(cpus, team.size);
        else break;
    }
    if (taken) atomic_store(&team.barrier->crowded, 1);
    meet(team, SPINS, sleep_briefly);
    return !atomic_load(&team.barrier->crowded);
}
