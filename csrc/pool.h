/* Care for OpenMP's workers: its runtimes end the process when they can't start one, and wait for ever for those that
 * a fork has left behind. Internal to csrc/. */
#ifndef FM_POOL_H
#define FM_POOL_H

/* From here on forks are noticed. Called again, it does nothing. */
void fm_pool_watch(void);

/* How many threads this thread's next team can have: `wanted`, or as many as could be started. A team of more than one
 * must then be begun at once. Its first thread calls fm_pool_begun with its size, the others fm_pool_joined. */
int fm_pool_ask(int wanted);
void fm_pool_begun(int size);
void fm_pool_joined(void);

/* Whether this thread came out of a fork and computes alone: see pool.c. */
int fm_pool_alone(void);

#endif
