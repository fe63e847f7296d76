#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "patience.h"

#include <stdatomic.h>
#include <time.h>

#include "fastmnv2.h"
#include "parallel.h"

/* Nanoseconds that teams stay small after a thread was late: the first time, and at most. Each of these pauses ends
 * with an attempt that may cost a call the system's 3 ms or more, so they grow fast, to one attempt in 400 of the
 * calls that come every 5 ms. An idle machine pays for a false alarm with the shortest. */
enum { FIRST_PAUSE = 30000000, LONGEST_PAUSE = 2000000000, GROWTH = 4 };

/* The process's, for busy neighbours are everybody's. It decides on speed alone: results are the same bits on any
 * number of threads. Calls at the same time may overwrite what each other noted, which costs an attempt. */
static struct {
    _Atomic int64_t until; /* teams stay small; 0: they don't */
    _Atomic int64_t pause; /* the last one, less with each good team since */
    atomic_int most;       /* threads of a small team */
    atomic_ulong late;
} busy;

int64_t fm_now(void) {
    struct timespec time;
#if defined(_WIN32)
    timespec_get(&time, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &time);
#endif
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t fm_idle_time(void) {
#if defined(_WIN32)
    return 0; /* its thread times go by 15 ms */
#else
    struct timespec ran;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran)) return 0;
    return fm_now() - ((int64_t)ran.tv_sec * 1000000000 + ran.tv_nsec);
#endif
}

static int64_t within(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

void fm_team_ended(int size, int late) {
    const int64_t until = atomic_load(&busy.until), pause = atomic_load(&busy.pause);
    if (late) {
        const int64_t next = within(GROWTH * pause, FIRST_PAUSE, LONGEST_PAUSE);
        atomic_fetch_add(&busy.late, 1);
        atomic_store(&busy.most, size > 3 ? size / 2 : 1);
        atomic_store(&busy.pause, next);
        atomic_store(&busy.until, fm_now() + next);
    } else if (pause && (!until || fm_now() >= until)) {
        /* Some 40 good teams after the first pause it is forgotten, 80 after the longest. */
        const int64_t less = pause - pause / 16;
        atomic_store(&busy.until, 0);
        atomic_store(&busy.pause, less < FIRST_PAUSE / 8 ? 0 : less);
    }
}

int fm_team_limit(int threads) {
    const int64_t until = atomic_load(&busy.until);
    const int most = atomic_load(&busy.most);
    return until && threads > most && fm_now() < until ? most : threads;
}

unsigned long fm_late_teams(void) { return atomic_load(&busy.late); }
