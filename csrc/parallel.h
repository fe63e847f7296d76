/* The only place that knows about threads: OpenMP, or nothing. */
#ifndef FM_PARALLEL_H
#define FM_PARALLEL_H

#ifdef _OPENMP
#include <omp.h>
#define FM_PRAGMA(text) _Pragma(#text)
#define FM_BARRIER() FM_PRAGMA(omp barrier)
static inline int fm_rank(void) { return omp_get_thread_num(); }
static inline int fm_team_size(void) { return omp_get_num_threads(); }
#else
#define FM_PRAGMA(text)
#define FM_BARRIER() ((void)0)
static inline int fm_rank(void) { return 0; }
static inline int fm_team_size(void) { return 1; }
#endif

/* The threads that work on one image (or one group of images) together. */
typedef struct fm_team {
    int rank, size;
} fm_team;

/* A thread's share of `count` things begins here; it ends where the next rank's begins. */
static inline int fm_share(fm_team team, int count) { return (int)((long long)count * team.rank / team.size); }

static inline fm_team fm_next(fm_team team) { return (fm_team){team.rank + 1, team.size}; }

static inline void fm_wait(fm_team team) {
    if (team.size > 1) {
        FM_BARRIER();
    }
}

#endif
