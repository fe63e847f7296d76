#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include <stddef.h>

#include "parallel.h"

#include "cpu.h"
#include "fastmnv2.h"
#include "fpenv.h"
#include "patience.h"
#include "pool.h"
#include "ticks.h"

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
/* Takes some 50 us in practice. */
static void sleep_briefly(void) { nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL); }
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

#ifdef _OPENMP
static void barrier_init(fm_barrier *barrier, int threads) {
    atomic_int *const flags[] = {&barrier->present, &barrier->start, &barrier->crowded, &barrier->absent,
                                 &barrier->waited};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) atomic_init(flags[i], 0);
    atomic_init(&barrier->ends, 0);
    for (int i = 0; i < threads; i++) {
        atomic_init(&barrier->ranks[i].arrivals, 0);
        atomic_init(&barrier->ranks[i].cpu, -1);
    }
}

/* Teams that used no barrier show nothing about lateness, unless some of their threads never began. */
static void report(const fm_barrier *barrier, int size) {
    const int absent = atomic_load(&barrier->absent), late = absent || atomic_load(&barrier->ends);
    if (absent || atomic_load(&barrier->ranks[0].arrivals)) fm_team_ended(size, late);
}
#endif

void fm_parallel(int threads, void (*work)(fm_team team, void *job), void *job) {
#ifdef _OPENMP
    threads = fm_pool_ask(threads);
    if (threads > 1) {
        fm_barrier barrier;
        int size = 0;
        barrier_init(&barrier, threads);
#pragma omp parallel num_threads(threads)
        {
            const fm_team team = {omp_get_thread_num(), omp_get_num_threads(), &barrier, NULL};
            if (team.rank == 0) fm_pool_begun(size = team.size);
            else fm_pool_joined();
            work_in_mode(team, work, job);
        }
        report(&barrier, size);
        return;
    }
#endif
    (void)threads;
    work_in_mode((fm_team){.size = 1}, work, job);
}

/* ---- shares that follow the threads' speeds ----------------------------------------------------------
 *
 * The threads of a team are rarely equally fast: virtual processors share their cores with others, and many processors
 * have fast and slow cores. With equal shares, all threads wait for the slowest one at each barrier. One image on two
 * threads (Zen 3 in a virtual machine, one processor often 10 to 30 % slower than the other for some milliseconds) lost
 * 11 % of its time this way in float32 and 5 % in int8. Shares by speed win back about half of it. Between equal
 * threads they cost 0.05 us at each barrier. Tried: starting with the speeds of the last call (calls back to back 1 %
 * faster, a call every 5 ms 1 % slower); forgetting older steps of a call, or a narrower limit for the slowest thread
 * (no effect). */

/* Shares proportional to 1 / alone, because a thread that would take twice as long is half as fast. */
static void set_shares(fm_pace *pace, int size) {
    double sum = 0.0;
    for (int i = 0; i < size; i++) {
        pace->begins[i] = sum;
        sum += 1.0 / pace->alone[i];
    }
    for (int i = 0; i < size; i++) pace->begins[i] /= sum;
    pace->begins[size] = 1.0;
}

void fm_follow_speeds(fm_team *team, fm_pace *pace) {
    if (team->size == 1) return;
    /* Speeds are equal at first. One tick is far less than a step, so it soon counts little. */
    for (int i = 0; i < team->size; i++) pace->alone[i] = 1.0;
    set_shares(pace, team->size);
    pace->own = 0;
    pace->since = fm_read_ticks();
    team->pace = pace;
}

/* Before a wait: tells the other threads how long this thread would need for the whole step; 0 if unknown. Waits of
 * even and odd numbers use different places, because a fast thread may arrive at the next wait before a slow one has
 * read the values of this one. */
static void tell_pace(fm_team team, unsigned number) {
    fm_pace *pace = team.pace;
    const double ticks = (double)(fm_read_ticks() - pace->since);
    const double alone = pace->own > 0 ? ticks * pace->count / pace->own : 0.0;
    atomic_store_explicit(&team.barrier->ranks[team.rank].alone[number % 2], (uint64_t)alone, memory_order_relaxed);
}

/* After a wait: updates the shares with the times of the step that has ended. */
static void adjust_shares(fm_team team, unsigned number) {
    enum { SLOWEST = 4 }; /* times the fastest thread's ticks; a step that took longer was interrupted */
    fm_pace *pace = team.pace;
    double alone[FM_MAX_THREADS], fastest = 0.0;
    pace->since = fm_read_ticks();
    pace->own = 0;
    for (int i = 0; i < team.size; i++) {
        alone[i] = (double)atomic_load_explicit(&team.barrier->ranks[i].alone[number % 2], memory_order_relaxed);
        if (alone[i] > 0.0 && (fastest == 0.0 || alone[i] < fastest)) fastest = alone[i];
    }
    for (int i = 0; i < team.size; i++) {
        const double most = SLOWEST * fastest;
        pace->alone[i] += alone[i] == 0.0 ? fastest : alone[i] < most ? alone[i] : most;
    }
    set_shares(pace, team.size);
}

/* ---- waiting ---------------------------------------------------------------------------------------- */

/* Counts this thread's arrival and waits for the others. Returns the number of waits so far, this one included.
 *
 * A call has some thirty waits a few microseconds apart, so waiting threads spin: OpenMP's own barrier takes six times
 * as long (two cores, Zen 4). After a while they yield, because there may be more threads than processors.
 *
 * A team ends if one of its threads was kept from running. Two conditions tell this from a thread with more work:
 * another thread has waited too long (`waited`), and this thread itself has been idle for too long since it began. The
 * late thread sets `ends` before it arrives, so that all threads see it when they leave. */
static unsigned barrier_wait(fm_team team) {
    enum { SPINS = 2000 }; /* tens of microseconds */
    fm_barrier *barrier = team.barrier;
    const unsigned number = 1 + atomic_load_explicit(&barrier->ranks[team.rank].arrivals, memory_order_relaxed);
    if (atomic_load_explicit(&barrier->waited, memory_order_relaxed) &&
        fm_idle_time() - barrier->ranks[team.rank].idle_time > FM_PATIENCE) {
        atomic_store(&barrier->ends, number);
    }
    if (team.pace) tell_pace(team, number);
    atomic_store_explicit(&barrier->ranks[team.rank].arrivals, number, memory_order_release);
    int64_t since = 0;
    for (int i = 0; i < team.size; i++) {
        const atomic_uint *other = &barrier->ranks[i].arrivals;
        /* The difference is signed, so that a thread that has already arrived at the next wait counts as present. */
        for (int spun = 0; (int)(atomic_load_explicit(other, memory_order_acquire) - number) < 0; spun++) {
            if (spun < SPINS) {
                pause_briefly();
                continue;
            }
            let_others_run();
            const int64_t now = fm_now();
            if (!since) since = now;
            else if (now - since > FM_PATIENCE) atomic_store(&barrier->waited, 1);
        }
    }
    if (team.pace) adjust_shares(team, number);
    return number;
}

void fm_wait(fm_team team) {
    if (team.size > 1) barrier_wait(team);
}

int fm_wait_or_end(fm_team *team) {
    if (team->size == 1) return 1;
    const unsigned number = barrier_wait(*team), ends = atomic_load(&team->barrier->ends);
    if (!ends || number < ends) return 1;
    const int first = team->rank == 0;
    *team = (fm_team){.size = 1};
    return first;
}

/* ---- how a team begins ------------------------------------------------------------------------------ */

enum { UNSETTLED, TOGETHER, ALONE }; /* fm_barrier.start */

static int settle(fm_barrier *barrier, int start) {
    int unsettled = UNSETTLED;
    return atomic_compare_exchange_strong(&barrier->start, &unsettled, start);
}

/* Moves this thread away from a processor that another thread of the team has. Sets `crowded` if that fails. */
static void take_processor(fm_team team) {
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
}

/* Linux often wakes a sleeping thread on the processor of the thread that woke it, although another one is idle (in
 * virtual machines, idle virtual processors count as busy). The woken thread then waits for its turn, while the other
 * spins and waits for it, until the system moves one of them after some milliseconds. So a thread that waits too long
 * here sleeps, which lets the others begin, and a thread that begins on a busy processor moves.
 *
 * This reduced the time of one image on two threads after 100 ms of rest from 7.1 to 0.8 ms. One thread takes 0.95 ms,
 * and two threads without a rest take 0.36 ms (two cores of a Xeon).
 *
 * If a thread does not begin in time, the first one works alone, and threads that begin later leave. */
int fm_spread(fm_team team) {
    enum { SPINS = 100 }; /* a few microseconds */
    fm_barrier *barrier = team.barrier;
    if (team.size == 1) return 1;
    take_processor(team);
    if (atomic_fetch_add(&barrier->present, 1) == team.size - 1) {
        settle(barrier, atomic_load(&barrier->crowded) ? ALONE : TOGETHER);
    }
    int64_t since = 0;
    for (int spun = 0; atomic_load_explicit(&barrier->start, memory_order_acquire) == UNSETTLED; spun++) {
        if (spun < SPINS) {
            pause_briefly();
            continue;
        }
        sleep_briefly();
        const int64_t now = team.rank == 0 ? fm_now() : 0;
        if (!since) since = now;
        else if (now - since > FM_PATIENCE && settle(barrier, ALONE)) atomic_store(&barrier->absent, 1);
    }
    barrier->ranks[team.rank].idle_time = fm_idle_time();
    return atomic_load(&barrier->start) == TOGETHER;
}
