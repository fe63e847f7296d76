/* Teams of threads: OpenMP's, or a single thread in builds without it. */
#ifndef FM_PARALLEL_H
#define FM_PARALLEL_H

#include <stdatomic.h>
#include <stdint.h>

enum { FM_MAX_THREADS = 64 };

/* A team's barrier. Every thread counts its arrivals in a cache line of its own and reads the others' lines, so an
 * arrival takes one transfer from core to core; a shared counter and a flag would take two. The counters are 128 bytes
 * apart, because processors fetch lines in pairs. */
typedef struct fm_barrier {
    struct {
        _Alignas(128) atomic_uint arrivals;
        atomic_int cpu;            /* the processor that the thread began on; -1 before */
        int64_t idle_time;         /* the thread's idle time when it began */
        _Atomic uint64_t alone[2]; /* ticks that its last step would have taken it alone (see tell_pace) */
    } ranks[FM_MAX_THREADS];
    _Alignas(128) atomic_int present; /* threads that have begun */
    atomic_int start;                 /* whether the threads work together: UNSETTLED at first */
    atomic_int crowded;               /* two threads share a processor */
    atomic_int absent;                /* some threads did not begin in time */
    atomic_int waited;                /* some thread has waited too long */
    atomic_uint ends;                 /* the number of the wait that ends the team; 0: none so far */
} fm_barrier;

/* How fast the threads of a team are. Each thread has a copy. After each barrier all copies are the same, except for
 * the last three members. */
typedef struct fm_pace {
    double begins[FM_MAX_THREADS + 1]; /* where each rank's share begins, from 0 to 1 */
    double alone[FM_MAX_THREADS];      /* ticks that all steps so far would have taken each thread alone */
    uint64_t since;                    /* when this thread began its current step */
    int own, count;                    /* its share of this step; 0 if unknown */
} fm_pace;

/* The threads that share a job, and this thread's rank among them. */
typedef struct fm_team {
    int rank, size;
    fm_barrier *barrier; /* may be NULL for a team of one */
    fm_pace *pace;       /* NULL: shares are equal */
} fm_team;

/* Calls `work` on up to `threads` threads at the same time (1 <= threads <= FM_MAX_THREADS). Each gets its rank and the
 * size of the team, which may be less than requested, and runs in the floating-point mode that the bits require. */
void fm_parallel(int threads, void (*work)(fm_team team, void *job), void *job);

/* A barrier for the whole team. */
void fm_wait(fm_team team);

/* The same, but the team may end here. If the system has kept one of its threads from running for too long, the first
 * thread continues as a team of one. In the others this returns 0, and they must leave. */
int fm_wait_or_end(fm_team *team);

/* The size, at most `threads`, that a team with barriers should have now. It is smaller for a while after a team had to
 * end. */
int fm_team_limit(int threads);

/* Called by every thread of a team that is going to use barriers: gives each thread a processor of its own. Returns
 * whether that succeeded and all threads have begun. If not, threads would wait for each other's processor, and the
 * first thread is faster alone. */
int fm_spread(fm_team team);

/* From now on shares are proportional to the threads' speeds, which each barrier measures. Shares change only in
 * barriers, and are the same in all threads. */
void fm_follow_speeds(fm_team *team, fm_pace *pace);

/* The beginning of a thread's share of `count` items. It ends where the next rank's share begins. */
static inline int fm_share(fm_team team, int count) {
    if (team.pace) return (int)(team.pace->begins[team.rank] * count + 0.5);
    return (int)((long long)count * team.rank / team.size);
}

static inline fm_team fm_next(fm_team team) { return (fm_team){team.rank + 1, team.size, NULL, team.pace}; }

/* Notes how much of a step this thread computes before the next barrier: `own` of `count` equal parts. */
static inline void fm_note_share(fm_team team, int own, int count) {
    if (!team.pace) return;
    team.pace->own = own;
    team.pace->count = count;
}

#endif
