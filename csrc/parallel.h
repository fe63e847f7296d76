/* The only place that knows about threads: OpenMP, or nothing. */
#ifndef FM_PARALLEL_H
#define FM_PARALLEL_H

#include <stdatomic.h>
#include <stdint.h>

enum { FM_MAX_THREADS = 64 };

/* Where a team waits for each other. Every thread counts its arrivals on a cache line of its own, two lines apart
 * because processors fetch lines in pairs, and looks at the others': one line's way from core to core, where a
 * counter that all add to, and a flag behind it, take two. */
typedef struct fm_barrier {
    struct {
        _Alignas(128) atomic_uint arrivals;
        atomic_int cpu;    /* where it began; -1 until it has */
        int64_t idle_time; /* what it was when it began */
    } ranks[FM_MAX_THREADS];
    _Alignas(128) atomic_int present; /* how many have begun */
    atomic_int start;                 /* whether they work together, once that is settled */
    atomic_int crowded;               /* two threads on one processor */
    atomic_int absent;                /* not all came in time */
    atomic_int waited;                /* one has waited for long */
    atomic_uint ends;                 /* the meeting that ends the team; 0: none does yet */
} fm_barrier;

/* The threads that work on something together, and this one's place among them. */
typedef struct fm_team {
    int rank, size;
    fm_barrier *barrier; /* may be NULL for a team of one */
} fm_team;

/* Calls `work` on up to `threads` threads at once (1 <= threads <= FM_MAX_THREADS), each with its place in the team,
 * whose size may be less than asked for, and in the floating-point mode that the same bits need. */
void fm_parallel(int threads, void (*work)(fm_team team, void *job), void *job);

/* All of a team wait for each other here. */
void fm_wait(fm_team team);

/* The same, where a team may end: if the system let something else run for long in place of one of them, the first
 * goes on alone, as a team of one, and the others are told 0 and leave. */
int fm_wait_or_end(fm_team *team);

/* How many of `threads` a team that will wait for each other should have now: fewer for a while after one of the last
 * teams had to end. */
int fm_team_limit(int threads);

/* To be called by all of a team that is going to wait for each other: spreads it over processors of its own. Returns
 * whether each has come and has one; else they would keep each other from what they wait for, and the first thread is
 * faster alone. */
int fm_spread(fm_team team);

/* A thread's share of `count` things begins here; it ends where the next rank's begins. */
static inline int fm_share(fm_team team, int count) { return (int)((long long)count * team.rank / team.size); }

static inline fm_team fm_next(fm_team team) { return (fm_team){team.rank + 1, team.size, NULL}; }

#endif
