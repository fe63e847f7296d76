#define _GNU_SOURCE /* syscall */
#include "pool.h"

/* Windows has no fork, and its limit of threads is not reached in practice. */
#if !defined(_OPENMP) || defined(_WIN32)

void fm_pool_watch(void) {}
int fm_pool_ask(int wanted) { return wanted; }
void fm_pool_begun(int size) { (void)size; }
void fm_pool_joined(void) {}
int fm_pool_alone(void) { return 0; }

#else

#include <ctype.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "parallel.h"

/* OpenMP keeps workers for the calling thread's next team and ends any surplus. So a thread has as many workers as its
 * last team had, unless some have ended since. */
static _Thread_local struct {
    int workers;    /* threads of the last team, this one included; 0 before the first */
    unsigned ended; /* the value of process.ended then */
    int asked;      /* requested size of the team that is being started, while the lock is held; else 0 */
    int refused;    /* a team of this size could not be started */
    time_t when;    /* when that was; retried from the next second on */
    int alone;
#if defined(__linux__)
    int bound;       /* whether OpenMP pins threads to processors */
    cpu_set_t usual; /* if so, where this thread could run before */
#endif
} mine;

/* State of the process. The lock is held from trying out threads until the team has them, so that no other team of this
 * package takes their place. */
static struct {
    pthread_once_t once;
    pthread_mutex_t lock;
    pthread_key_t worker; /* its destructor counts workers that end */
    atomic_uint ended;    /* workers that have ended, because another library may start smaller teams with them */
    size_t stack;         /* bytes of a worker's stack, as set for OpenMP; 0: the system's default */
    int others;           /* whether other threads existed when the fork started */
} process = {.once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER};

static void worker_ends(void *value) {
    (void)value;
    atomic_fetch_add(&process.ended, 1);
}

/* ---- forks --------------------------------------------------------------------------------- */

/* The child of a fork has no workers, but its only thread would wait for them forever (GCC PR 60035), whichever library
 * had started them. So that thread computes alone, unless the parent had no other thread. Threads that it starts later
 * get new workers. */
static int other_threads(void) {
#if defined(__linux__)
    DIR *tasks = opendir("/proc/self/task");
    if (tasks) {
        int count = 0;
        while (readdir(tasks)) count++;
        closedir(tasks);
        return count > 3; /* ".", ".." and this one */
    }
#endif
    return 1; /* unknown: assume that there are */
}

static void before_fork(void) {
    pthread_mutex_lock(&process.lock);
    process.others = other_threads();
}

static void after_fork_in_parent(void) { pthread_mutex_unlock(&process.lock); }

static void after_fork_in_child(void) {
    pthread_mutex_unlock(&process.lock);
    mine.workers = 0;
    if (process.others) mine.alone = 1;
}

/* ---- the stack size that was set for OpenMP ------------------------------------------------ */

/* Parse OpenMP's "64", "64 K", "1G" and so on into bytes; 0 if OpenMP would not accept the text. */
static size_t stack_of(const char *text) {
    static const char units[] = "BKMG";
    if (!text) return 0;
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    if (end == text) return 0;
    while (isspace((unsigned char)*end)) end++;
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : units + 1;
    if (!unit) return 0;
    if (*end) end++;
    while (isspace((unsigned char)*end)) end++;
    const int shift = 10 * (int)(unit - units);
    return *end || number > (SIZE_MAX >> shift) ? 0 : (size_t)number << shift;
}

static void watch(void) {
    /* Read now, because the runtime reads them when it is loaded. Which variable counts depends on the runtime; the
     * largest size is safe for all. */
    static const char *const names[] = {"OMP_STACKSIZE", "OMP_STACKSIZE_ALL", "GOMP_STACKSIZE", "KMP_STACKSIZE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const size_t stack = stack_of(getenv(names[i]));
        if (stack > process.stack) process.stack = stack;
    }
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    pthread_key_create(&process.worker, worker_ends);
}

void fm_pool_watch(void) { pthread_once(&process.once, watch); }

int fm_pool_alone(void) { return mine.alone; }

/* ---- where threads may run ------------------------------------------------------------------ */

/* With OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY, the runtime pins not only its workers but also the thread that
 * begins its first team. That thread's other work, and all threads and processes that it starts, would then share one
 * processor. So its affinity is saved before and restored afterwards. */
static void note_affinity(void) {
#if defined(__linux__)
    mine.bound = omp_get_proc_bind() != omp_proc_bind_false && !sched_getaffinity(0, sizeof mine.usual, &mine.usual);
#endif
}

static void restore_affinity(void) {
#if defined(__linux__)
    if (mine.bound) sched_setaffinity(0, sizeof mine.usual, &mine.usual);
    mine.bound = 0;
#endif
}

/* ---- whether threads can be started -------------------------------------------------------- */

/* A thread that is started only to learn whether the system allows it. */
typedef struct visitor {
    pthread_t thread;
    pthread_mutex_t *stay; /* the thread waits for this lock, then ends */
    long id;
} visitor;

static void *visit(void *argument) {
    visitor *self = argument;
#if defined(__linux__)
    self->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(self->stay);
    pthread_mutex_unlock(self->stay);
    return NULL;
}

/* Wait until the threads are gone, because a joined thread counts against the system's limits for a moment longer. */
static void until_gone(const visitor *visitors, int count) {
#if defined(__linux__)
    for (int i = 0; i < count; i++)
        for (int turns = 0; turns < 10000 && syscall(SYS_tgkill, getpid(), visitors[i].id, 0) == 0; turns++)
            sched_yield();
#else
    (void)visitors, (void)count;
#endif
}

/* Start up to `wanted` threads with OpenMP's stack size, then end them. Returns how many ran at the same time. */
static int try_out(int wanted) {
    visitor visitors[FM_MAX_THREADS];
    pthread_mutex_t stay = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return 0;
    /* If the system refuses the size, OpenMP ignores it too. */
    if (process.stack) (void)pthread_attr_setstacksize(&attributes, process.stack);
    pthread_mutex_lock(&stay);
    int started = 0;
    while (started < wanted) {
        visitor *next = &visitors[started];
        *next = (visitor){.stay = &stay};
        if (pthread_create(&next->thread, &attributes, visit, next)) break;
        started++;
    }
    /* Memory for the runtime's bookkeeping of a team: without it, the runtime would end the process too. */
    void *bookkeeping = malloc((size_t)64 << 10);
    if (!bookkeeping) wanted = 0;
    free(bookkeeping);
    pthread_mutex_unlock(&stay);
    for (int i = 0; i < started; i++) pthread_join(visitors[i].thread, NULL);
    until_gone(visitors, started);
    pthread_attr_destroy(&attributes);
    return wanted ? started : 0;
}

int fm_pool_ask(int wanted) {
    if (wanted <= 1) return 1;
    fm_pool_watch();
    if (mine.alone) return 1;
    note_affinity();
    const int known = mine.ended == atomic_load(&process.ended) && !omp_in_parallel();
    const int have = known && mine.workers > 1 ? mine.workers : 1;
    if (wanted <= have) return wanted;
    const time_t now = time(NULL);
    if (mine.refused && wanted >= mine.refused && now == mine.when) return have;
    pthread_mutex_lock(&process.lock);
    /* Try one more than the team needs, because other processes start threads too. */
    const int most = have - 1 + try_out(wanted - have + 1);
    const int found = most < have ? have : most < wanted ? most : wanted;
    mine.refused = found < wanted ? wanted : 0;
    mine.when = now;
    if (found > 1) mine.asked = wanted;
    else pthread_mutex_unlock(&process.lock);
    return found;
}

void fm_pool_begun(int size) {
    restore_affinity();
    /* OpenMP does not keep the workers of a nested team. */
    mine.workers = omp_get_level() == 1 ? size : 0;
    mine.ended = atomic_load(&process.ended);
    if (!mine.asked) return;
    if (size < mine.asked) mine.refused = mine.asked; /* for example because of OpenMP's own limits */
    mine.asked = 0;
    pthread_mutex_unlock(&process.lock);
}

void fm_pool_joined(void) {
    if (!pthread_getspecific(process.worker)) pthread_setspecific(process.worker, &process);
}

#endif
