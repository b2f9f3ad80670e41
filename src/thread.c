#if defined(__linux__)
#define _GNU_SOURCE /* pthread_getattr_np */
#endif

#include "thread.h"

_Thread_local struct thread thread_record THREAD_LOCAL_MODEL;

/*
 * The last number given. Written by every thread once; relaxed, since only its being unique
 * matters. 2^61 numbers do not run out.
 */
static _Atomic uint64_t last_number;

/*
 * C stack that is left for the state entered last: Lua's 200 C calls take up to about 448 KB, in
 * string.format or string.gsub; twice that where there is plenty. On a stack that is hardly larger
 * the most part of it, as far as it goes: below 448 KB Lua alone can overflow a stack.
 */
#define RESERVE_MAX ((size_t)1024 * 1024)
#define RESERVE_LUA ((size_t)448 * 1024)

static size_t stack_reserve(size_t size)
{
    if (size / 2 >= RESERVE_LUA)
        return size / 2 < RESERVE_MAX ? size / 2 : RESERVE_MAX;
    return size / 8 * 7 < RESERVE_LUA ? size / 8 * 7 : RESERVE_LUA;
}

static void stack_bounds(uintptr_t *low, size_t *size)
{
    *low = 0;
    *size = 0;
#if defined(__APPLE__)
    *size = pthread_get_stacksize_np(pthread_self());
    *low = (uintptr_t)pthread_get_stackaddr_np(pthread_self()) - *size;
#elif defined(__linux__)
    pthread_attr_t attr;
    void *address;
    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    if (pthread_attr_getstack(&attr, &address, size) == 0)
        *low = (uintptr_t)address;
    pthread_attr_destroy(&attr);
#endif
}

void thread_begin(void)
{
    struct thread *t = &thread_record;
    size_t size;
    stack_bounds(&t->stack_low, &size);
    t->stack_reserve = stack_reserve(size);
    t->number = atomic_fetch_add_explicit(&last_number, THREAD_NUMBER_STEP, memory_order_relaxed) +
                THREAD_NUMBER_STEP;
}

static bool watch_ready(struct thread_watch *w)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    if (atomic_load_explicit(&w->ready, memory_order_acquire))
        return true;
    pthread_mutex_lock(&mutex);
    bool ready = atomic_load_explicit(&w->ready, memory_order_relaxed) ||
                 pthread_key_create(&w->key, w->end) == 0;
    atomic_store_explicit(&w->ready, ready, memory_order_release);
    pthread_mutex_unlock(&mutex);
    return ready;
}

bool thread_watch_end(struct thread_watch *w, const void *value)
{
    return watch_ready(w) && pthread_setspecific(w->key, value) == 0;
}
