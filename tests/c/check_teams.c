/* Teams with a thread that is held back, and teams with unequal shares. The clock is simulated, so the machine's load
 * does not matter. The linker redirects the core's calls of clock_gettime, fm_spread, fm_follow_speeds, fm_wait,
 * fm_wait_or_end and fm_current_cpu here.
 *
 *   check_teams            all checks; prints "skipped" if no second thread can be started
 *   check_teams ISA        the same on this instruction set */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fastmnv2.h"
#include "sample_models.h"
#include "parallel.h"
#include "patience.h"

enum { THREADS = 2, MOST_FEATURES = 1280 };

static int failures;

static void expect(int good, const char *what) {
    if (good) return;
    printf("FAIL %s\n", what);
    failures++;
}

/* ---- the clock, which moves only when a check moves it ---- */

static _Atomic int64_t nanoseconds = 1;
static _Thread_local int64_t held_for; /* nanoseconds in which the calling thread did not run */

int __wrap_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time) {
    const int64_t now = atomic_load(&nanoseconds) - (clock == CLOCK_THREAD_CPUTIME_ID ? held_for : 0);
    *time = (struct timespec){.tv_sec = now / 1000000000, .tv_nsec = now % 1000000000};
    return 0;
}

/* ---- the thread that is held back, and where ---- */

enum { NOWHERE = -1, AT_THE_START = 0 }; /* or at the n-th barrier */

static struct {
    int rank, barrier, works; /* works: it is late because it runs, not because it is held back */
} held = {.barrier = NOWHERE};

static _Thread_local int barriers;
static atomic_int teams; /* teams that began together */

/* Holds the thread back until the others have noticed. */
static void hold_back(atomic_int *noticed) {
    for (int turns = 0; !atomic_load(noticed) && turns < 100000; turns++) {
        atomic_fetch_add(&nanoseconds, 1000000);
        if (!held.works) held_for += 1000000;
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    expect(atomic_load(noticed), "a thread that waits too long notices");
}

static int is_held(fm_team team, int barrier) {
    return team.size > 1 && held.barrier == barrier && held.rank == team.rank;
}

int __real_fm_spread(fm_team team);
int __wrap_fm_spread(fm_team team);
int __wrap_fm_spread(fm_team team) {
    barriers = 0;
    if (is_held(team, AT_THE_START)) hold_back(&team.barrier->start);
    const int together = __real_fm_spread(team);
    if (together && team.size > 1 && team.rank == 0) atomic_fetch_add(&teams, 1);
    return together;
}

/* ---- unequal shares, which change at every barrier ---- */

enum { SPLITS = 7 };
static const double splits[SPLITS] = {0.0, 0.37, 1.0, 0.9, 0.04, 0.5, 0.63};
static int unequal; /* 0: shares follow the speeds; otherwise, which split comes first */

static void divide(fm_team team) {
    if (unequal && team.size == 2) team.pace->begins[1] = splits[(barriers + unequal) % SPLITS];
}

void __real_fm_follow_speeds(fm_team *team, fm_pace *pace);
void __wrap_fm_follow_speeds(fm_team *team, fm_pace *pace);
void __wrap_fm_follow_speeds(fm_team *team, fm_pace *pace) {
    __real_fm_follow_speeds(team, pace);
    divide(*team);
}

void __real_fm_wait(fm_team team);
void __wrap_fm_wait(fm_team team);
void __wrap_fm_wait(fm_team team) {
    if (is_held(team, ++barriers)) hold_back(&team.barrier->waited);
    __real_fm_wait(team);
    divide(team);
}

int __real_fm_wait_or_end(fm_team *team);
int __wrap_fm_wait_or_end(fm_team *team);
int __wrap_fm_wait_or_end(fm_team *team) {
    if (is_held(*team, ++barriers)) hold_back(&team->barrier->waited);
    const int stays = __real_fm_wait_or_end(team);
    divide(*team);
    return stays;
}

/* Every thread seems to have a processor of its own. */
int __wrap_fm_current_cpu(void);
int __wrap_fm_current_cpu(void) { return -1; }

/* ---- checks ---- */

static uint64_t want; /* the digest of the current model */

static uint64_t digest_of_one(const fm_model *model, int threads) {
    float features[MOST_FEATURES];
    memset(features, 0xff, sizeof features);
    forward(model, FM_FLOAT32, 0, 1, threads, features);
    return fnv1a(0xcbf29ce484222325u, features, features_each * sizeof *features);
}

static void embed_one(const fm_model *model) { expect(digest_of_one(model, THREADS) == want, "the same bits"); }

/* Ends the pause and resets its length. */
static void end_pause(void) {
    for (int i = 0; i < 10; i++) {
        atomic_fetch_add(&nanoseconds, 4000000000);
        fm_team_ended(THREADS, 0);
    }
}

/* A call in which thread `rank` is held back at this barrier gives the same bits. The next call uses one thread; after
 * the pause, calls use both again. */
static void check_held(const fm_model *model, int rank, int barrier) {
    end_pause();
    const unsigned long late = fm_late_teams();
    const int before = atomic_load(&teams);
    held.rank = rank;
    held.barrier = barrier;
    embed_one(model);
    held.barrier = NOWHERE;
    expect(fm_late_teams() == late + 1, "a late thread is noticed");
    embed_one(model);
    expect(atomic_load(&teams) == before + (barrier != AT_THE_START), "no team in the pause");
    atomic_fetch_add(&nanoseconds, 40000000);
    embed_one(model);
    expect(atomic_load(&teams) == before + 1 + (barrier != AT_THE_START), "a team after the pause");
    expect(fm_late_teams() == late + 1, "a thread in time is not reported as late");
}

static void check_calls(const fm_model *model) {
    atomic_store(&teams, 0);
    embed_one(model);
    const int last = barriers; /* barriers of rank 0, which is this thread */
    if (atomic_load(&teams) == 0) {
        printf("skipped: no second thread\n");
        return;
    }
    expect(last > 20, "a call has barriers");
    /* The first thread may begin without the second one, but the second never begins without the first. */
    check_held(model, 1, AT_THE_START);
    for (int barrier = 1; barrier <= last; barrier++) {
        for (int rank = 0; rank < THREADS; rank++) check_held(model, rank, barrier);
    }
}

/* A thread with more work than the other does not end the team. */
static void check_unequal(const fm_model *model) {
    end_pause();
    const unsigned long late = fm_late_teams();
    held.works = 1;
    held.rank = 1;
    held.barrier = 3;
    embed_one(model);
    held.works = 0;
    held.barrier = NOWHERE;
    expect(fm_late_teams() == late, "a thread that works is not reported as late");
    expect(fm_team_limit(THREADS) == THREADS, "no pause after it");
}

/* Shares of any size, including nothing and everything, give the same bits. */
static void check_unequal_shares(const fm_model *model) {
    end_pause();
    for (unequal = 1; unequal <= SPLITS; unequal++) embed_one(model);
    unequal = 0;
}

/* Two threads take equally long, but the second one computes a much smaller part of the step. */
typedef struct race {
    int steps;
    fm_pace pace[THREADS];
} race;

static void step(fm_team team, void *job) {
    race *own = job;
    fm_pace *pace = &own->pace[team.rank];
    if (team.size != THREADS || !__real_fm_spread(team)) return;
    fm_follow_speeds(&team, pace);
    for (int i = 0; i < own->steps; i++) {
        fm_note_share(team, 1, team.rank ? 1000000 : 1);
        for (const uint64_t start = fm_ticks(); fm_ticks() - start < 10000;) {
        }
        __real_fm_wait(team);
    }
}

/* A slow thread gets a smaller share, but no less than a quarter of the other's. */
static void check_speeds(void) {
    race slow = {.steps = 20};
    end_pause();
    fm_parallel(THREADS, step, &slow);
    if (slow.pace[0].alone[0] == 0.0) return; /* no second thread */
    const double *begins = slow.pace[0].begins;
    expect(begins[0] == 0.0 && begins[2] == 1.0, "shares add up to the whole");
    expect(begins[1] > 0.75 && begins[1] < 0.81, "a slow thread gets a quarter of the other's share");
    expect(memcmp(begins, slow.pace[1].begins, sizeof *begins * (THREADS + 1)) == 0,
           "all threads have the same shares");
}

/* After a failure, teams are half as large for a pause, which grows with each failure. It shrinks only after
 * all teams were in time for as long as the pause lasted. */
static void check_pauses(void) {
    end_pause();
    const int64_t pauses[] = {30000000, 120000000, 480000000, 1920000000, 2000000000, 2000000000};
    for (size_t i = 0; i < sizeof pauses / sizeof pauses[0]; i++) {
        expect(fm_team_limit(8) == 8, "the pause is over");
        fm_team_ended(8, 1);
        expect(fm_team_limit(8) == 4 && fm_team_limit(3) == 3 && fm_team_limit(1) == 1, "half as large");
        fm_team_ended(4, 0);
        atomic_fetch_add(&nanoseconds, pauses[i] - 1);
        expect(fm_team_limit(8) == 4, "smaller teams don't shorten the pause");
        atomic_fetch_add(&nanoseconds, 1);
    }
    end_pause();
    fm_team_ended(3, 1);
    expect(fm_team_limit(3) == 1, "one thread instead of three");
    atomic_fetch_add(&nanoseconds, pauses[0]);
    expect(fm_team_limit(3) == 3, "the first pause again");
    fm_team_ended(8, 1);
    atomic_fetch_add(&nanoseconds, 2 * pauses[1] - 1);
    for (int i = 0; i < 1000; i++) fm_team_ended(8, 0);
    fm_team_ended(8, 1);
    atomic_fetch_add(&nanoseconds, pauses[2] - 1);
    expect(fm_team_limit(8) == 4, "good teams in a short time don't shrink it");
    atomic_fetch_add(&nanoseconds, 1 + pauses[2]);
    fm_team_ended(8, 0);
    fm_team_ended(8, 1);
    atomic_fetch_add(&nanoseconds, pauses[2] - 1);
    expect(fm_team_limit(8) == 4, "as long as before");
    atomic_fetch_add(&nanoseconds, 1);
    expect(fm_team_limit(8) == 8, "not longer");
}

int main(int argc, char **argv) {
    const fm_isa *isa = fm_isa_at(0);
    for (int i = 0; i < fm_isa_count(); i++) {
        const int wanted = argc < 2 || strcmp(argv[1], fm_isa_name(fm_isa_at(i))) == 0;
        if (wanted && fm_isa_supported(fm_isa_at(i))) isa = fm_isa_at(i);
    }
    make_network(0.75, 96, 96);
    if (features_each > MOST_FEATURES) abort();
    const fm_weights weights = make_weights();
    make_images();
    check_pauses();
    check_speeds();
    fm_model *models[] = {make_model(isa, &weights), make_int8_model(isa)};
    for (int i = 0; i < 2; i++) {
        want = digest_of_one(models[i], 1);
        check_calls(models[i]);
        check_unequal(models[i]);
        check_unequal_shares(models[i]);
        fm_model_free(models[i]);
    }
    free_images();
    free_weights();
    printf("%s: %d failures\n", fm_isa_name(isa), failures);
    return failures != 0;
}
