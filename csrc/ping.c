/* How long a cache line takes from one processor to another: the minimum cost of every barrier between threads. */
#include <stdatomic.h>

#include "fastmnv2.h"
#include "parallel.h"
#include "ticks.h"

enum { ROUNDS = 20000 };

typedef struct ball {
    _Alignas(128) atomic_int at; /* odd: the second thread's turn */
    _Alignas(128) uint64_t ticks;
    int rounds;
} ball;

static void play(fm_team team, void *job) {
    ball *b = job;
    if (!fm_spread(team) || team.size < 2 || team.rank > 1) return;
    const uint64_t start = fm_read_ticks();
    for (int turn = team.rank; turn < 2 * ROUNDS; turn += 2) {
        while (atomic_load_explicit(&b->at, memory_order_acquire) != turn) {
        }
        atomic_store_explicit(&b->at, turn + 1, memory_order_release);
    }
    if (team.rank == 0) {
        b->ticks = fm_read_ticks() - start;
        b->rounds = ROUNDS;
    }
}

double fm_ping_ticks(void) {
    ball b = {.ticks = 0};
    if (fm_openmp()) fm_parallel(2, play, &b);
    return b.rounds ? (double)b.ticks / (2.0 * b.rounds) : 0.0;
}
