#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "patience.h"

#include <stdatomic.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <time.h>
#endif

#include "fastmnv2.h"
#include "parallel.h"

/* Nanoseconds that teams stay small after a thread was late: the first time, and at most. After each pause, full teams
 * are tried again, which may delay a call by the system's time slice of 3 ms or more. So pauses grow fast, up to one
 * retry in 400 calls if calls come every 5 ms. A pause shrinks only after no thread was late for as long as it lasted,
 * because a dozen calls may pass between two time slices of a busy process. (When each good call shortened the pause, a
 * thread was late 12 times in 12 s instead of 9: Zen 3, one busy process, 2026-11-26.) On an idle machine, a false
 * alarm costs only the shortest pause. */
enum { FIRST_PAUSE = 30000000, LONGEST_PAUSE = 2000000000, GROWTH = 4 };

/* Shared by the whole process, because busy neighbours slow every call. It only affects speed: results are the same
 * bits on any number of threads. Simultaneous calls may overwrite each other's updates, which costs one more retry. */
static struct {
    _Atomic int64_t until; /* when the last pause ended or will end */
    _Atomic int64_t pause; /* its length, or less if no thread was late since; 0: no pause is remembered */
    atomic_int most;       /* threads of a small team */
    atomic_ulong late;
} busy;

#if defined(_WIN32)
int64_t fm_now(void) {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (int64_t)((double)ticks.QuadPart * (1e9 / (double)per_second.QuadPart));
}

int64_t fm_idle_time(void) { return 0; } /* thread times have a resolution of 15 ms */
#else
static int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

int64_t fm_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return nanoseconds(time);
}

int64_t fm_idle_time(void) {
    struct timespec ran;
    return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran) ? 0 : fm_now() - nanoseconds(ran);
}
#endif

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

void fm_team_ended(int size, int late) {
    const int64_t pause = atomic_load(&busy.pause), now = late || pause ? fm_now() : 0;
    if (late) {
        const int64_t next = clamp(GROWTH * pause, FIRST_PAUSE, LONGEST_PAUSE);
        atomic_fetch_add(&busy.late, 1);
        atomic_store(&busy.most, size > 3 ? size / 2 : 1);
        atomic_store(&busy.until, now + next);
        atomic_store(&busy.pause, next);
    } else if (pause && now >= atomic_load(&busy.until) + pause) {
        const int64_t less = pause / GROWTH;
        atomic_store(&busy.until, now);
        atomic_store(&busy.pause, less < FIRST_PAUSE ? 0 : less);
    }
}

int fm_team_limit(int threads) {
    const int most = atomic_load(&busy.most);
    return atomic_load(&busy.pause) && threads > most && fm_now() < atomic_load(&busy.until) ? most : threads;
}

unsigned long fm_late_teams(void) { return atomic_load(&busy.late); }
