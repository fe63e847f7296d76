/* Guards against two failures of OpenMP's runtimes: they end the process if a thread can't be started, and after a fork
 * they wait forever for workers that the child does not have. Internal to csrc/. */
#ifndef FM_POOL_H
#define FM_POOL_H

/* Notice forks from now on. Further calls do nothing. */
void fm_pool_watch(void);

/* How many threads the next team of the calling thread can have: `wanted`, or as many as could be started. If it is
 * more than one, that team must be started at once: its first thread calls fm_pool_begun with the team's size, each
 * other thread fm_pool_joined. */
int fm_pool_ask(int wanted);
void fm_pool_begun(int size);
void fm_pool_joined(void);

/* Whether the calling thread survived a fork and must compute alone: see pool.c. */
int fm_pool_alone(void);

#endif
