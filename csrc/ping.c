/* How long a cache line takes from one processor to another: the minimum cost of every barrier between threads. */
#include <stdatomic.h>

#include "fastmnv2.h"
#include "parallel.h"
#include "ticks.h"

enum { ROUNDS = 20000 };

typedef struct exchange {
    _Alignas(128) atomic_int turn; /* even: the first thread's turn; odd: the second one's */
    _Alignas(128) uint64_t ticks;
    int rounds;
} exchange;

static void take_turns(fm_team team, void *job) {
    exchange *shared = job;
    if (!fm_spread(team) || team.size < 2 || team.rank > 1) return;
    const uint64_t start = fm_read_ticks();
    for (int turn = team.rank; turn < 2 * ROUNDS; turn += 2) {
        while (atomic_load_explicit(&shared->turn, memory_order_acquire) != turn) {
        }
        atomic_store_explicit(&shared->turn, turn + 1, memory_order_release);
    }
    if (team.rank == 0) {
        shared->ticks = fm_read_ticks() - start;
        shared->rounds = ROUNDS;
    }
}

double fm_ping_ticks(void) {
    exchange shared = {.ticks = 0};
    if (fm_openmp()) fm_parallel(2, take_turns, &shared);
    return shared.rounds ? (double)shared.ticks / (2.0 * shared.rounds) : 0.0;
}
