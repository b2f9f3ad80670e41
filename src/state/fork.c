#include "fork.h"

#include "carray.h"
#include "counters.h"
#include "pool.h"
#include "singleton.h"
#include "sync/ticker.h"
#include "time_limit.h"

#include <pthread.h>

/* In the order in which the locks are taken inside of each other. */
static void before(void)
{
    singleton_fork_begin();
    ticker_fork_begin();
    registry_fork_begin();
    ownership_fork_begin();
    thread_fork_begin();
    counters_fork_begin();
    carray_fork_begin();
}

static void after(bool is_child)
{
    pool_fork_end(is_child);
    carray_fork_end();
    counters_fork_end();
    thread_fork_end(is_child);
    ownership_fork_end();
    registry_fork_end();
    ticker_fork_end(is_child);
    time_limit_fork_end(is_child);
    singleton_fork_end(is_child);
}

static void in_parent(void)
{
    after(false);
}

static void in_child(void)
{
    after(true);
}

bool fork_watch(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static bool watching;
    pthread_mutex_lock(&mutex);
    watching = watching || pthread_atfork(before, in_parent, in_child) == 0;
    bool result = watching;
    pthread_mutex_unlock(&mutex);
    return result;
}
