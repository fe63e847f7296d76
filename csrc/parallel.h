/* The only place that knows about threads: OpenMP, or nothing. */
#ifndef FM_PARALLEL_H
#define FM_PARALLEL_H

#include <stdatomic.h>

enum { FM_MAX_THREADS = 64 };

/* Where a team waits for each other. Every thread counts its arrivals on a cache line of its own, two lines apart
 * because processors fetch lines in pairs, and looks at the others': one line's way from core to core, where a
 * counter that all add to, and a flag behind it, take two. */
typedef struct fm_barrier {
    struct {
        _Alignas(128) atomic_uint arrivals;
        atomic_int cpu; /* where it began; -1 until it has */
    } ranks[FM_MAX_THREADS];
    atomic_int crowded; /* two threads on one processor */
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

/* To be called by all of a team that is going to wait for each other: spreads it over processors of its own. Returns
 * whether each has one; else they would keep each other from what they wait for, and one thread is faster alone. */
int fm_spread(fm_team team);

/* A thread's share of `count` things begins here; it ends where the next rank's begins. */
static inline int fm_share(fm_team team, int count) { return (int)((long long)count * team.rank / team.size); }

static inline fm_team fm_next(fm_team team) { return (fm_team){team.rank + 1, team.size, NULL}; }

#endif
