/*
 * To be preloaded: half of all calls of pthread_mutex_lock wait for a moment before they lock, and
 * half of all once they have, so that other threads come in between where they seldom would.
 * SLOW_LOCKS_MAX is how many microseconds a moment may last (200 if it is not set); SLOW_LOCKS_SEED
 * has them last as long again.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>

typedef int lock_function(pthread_mutex_t *);

static _Atomic(lock_function *) next_lock;
static _Atomic uint64_t seeds;
static _Atomic int64_t longest; /* in microseconds */

static _Thread_local uint64_t random_state;

__attribute__((constructor)) static void prepare(void)
{
    const char *max = getenv("SLOW_LOCKS_MAX");
    if (getenv("SLOW_LOCKS_SEED") == NULL) { /* else it is a process that such a one has started */
        char seed[32];
        snprintf(seed, sizeof seed, "0x%" PRIx64, (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid());
        fprintf(stderr, "SLOW_LOCKS_SEED=%s\n", seed);
        setenv("SLOW_LOCKS_SEED", seed, 1);
    }
    atomic_store(&seeds, strtoull(getenv("SLOW_LOCKS_SEED"), NULL, 0));
    atomic_store(&longest, max != NULL ? strtoll(max, NULL, 0) : 200);
}

/* Without a lock of its own; the system call is made directly, since nanosleep could be cancelled.
 */
static void wait_for_a_moment(void)
{
    if (random_state == 0)
        random_state = atomic_fetch_add(&seeds, 0x9e3779b97f4a7c15u) | 1;
    int64_t most = atomic_load(&longest);
    if (most <= 0 || random_below(&random_state, 2) == 0)
        return;
    long nanoseconds = (long)random_below(&random_state, (uint64_t)most * 1000);
    syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

__attribute__((visibility("default"))) int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    lock_function *lock = atomic_load(&next_lock);
    if (lock == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "pthread_mutex_lock");
        memcpy(&lock, &symbol, sizeof lock);
        atomic_store(&next_lock, lock);
    }
    wait_for_a_moment();
    int result = lock(mutex);
    wait_for_a_moment();
    return result;
}
