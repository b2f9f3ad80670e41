#if defined(__linux__)
#define _GNU_SOURCE /* pthread_getattr_np */
#endif

#include "thread.h"

#include "thread_signal.h"

_Thread_local struct thread thread_record THREAD_LOCAL_MODEL;

/*
 * The last number given. Written by every thread once; relaxed, since only its being unique
 * matters. 2^61 numbers do not run out.
 */
static _Atomic uint64_t last_number;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thread *first;
static _Atomic unsigned count; /* written under the lock; relaxed: an estimate to others */
static pthread_key_t end_key;  /* tells of a thread's end; written once, under the lock */
static bool has_end_key;

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
    struct thread *self = &thread_record;
    size_t size;
    stack_bounds(&self->stack_low, &size);
    self->stack_reserve = stack_reserve(size);
    self->number =
        atomic_fetch_add_explicit(&last_number, THREAD_NUMBER_STEP, memory_order_relaxed) +
        THREAD_NUMBER_STEP;
    thread_signal_unblock();
    thread_list(self);
}

/* ---- the list ---- */

/* Under the lock. */
static void link_in(struct thread *t)
{
    t->previous = NULL;
    t->next = first;
    if (first != NULL)
        first->previous = t;
    first = t;
    t->listed = true;
    atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
}

static void unlink_it(struct thread *t)
{
    *(t->previous ? &t->previous->next : &first) = t->next;
    if (t->next != NULL)
        t->next->previous = t->previous;
    t->listed = false;
    atomic_fetch_sub_explicit(&count, 1, memory_order_relaxed);
}

/* A thread that dies inside states stays in their words, but its C stack is as good as gone. */
static void on_end(void *value)
{
    struct thread *self = value;
    self->stay = NULL;
    self->depth = 0;
    while (self->ends != NULL) {
        struct thread_end *e = self->ends;
        self->ends = e->next;
        e->listed = false;
        e->run(e);
    }
    pthread_mutex_lock(&lock);
    unlink_it(self);
    self->ended = true;
    pthread_mutex_unlock(&lock);
}

bool thread_list(struct thread *self)
{
    if (self->listed || self->ended)
        return self->listed;
    pthread_mutex_lock(&lock);
    if (!has_end_key)
        has_end_key = pthread_key_create(&end_key, on_end) == 0;
    if (has_end_key && pthread_setspecific(end_key, self) == 0) {
        self->id = pthread_self();
        link_in(self);
    }
    pthread_mutex_unlock(&lock);
    return self->listed;
}

struct thread *thread_first_locked(void)
{
    pthread_mutex_lock(&lock);
    return first;
}

void thread_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

unsigned thread_count(void)
{
    return atomic_load_explicit(&count, memory_order_relaxed);
}

/* ---- the end of a thread ---- */

bool thread_at_end(struct thread *self, struct thread_end *e)
{
    if (e->listed)
        return true;
    if (!thread_list(self))
        return false;
    e->next = self->ends;
    self->ends = e;
    e->listed = true;
    return true;
}

void thread_not_at_end(struct thread *self, struct thread_end *e)
{
    struct thread_end **link = &self->ends;
    if (!e->listed)
        return;
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    e->listed = false;
}

/* ---- fork ---- */

void thread_fork_begin(void)
{
    pthread_mutex_lock(&lock);
}

void thread_fork_end(bool is_child)
{
    struct thread *self = &thread_record;
    if (is_child) {
        first = NULL;
        atomic_store_explicit(&count, 0, memory_order_relaxed);
        if (self->listed) {
            self->id = pthread_self();
            link_in(self);
        }
    }
    pthread_mutex_unlock(&lock);
}
