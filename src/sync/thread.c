#if defined(__linux__)
#define _GNU_SOURCE /* pthread_getattr_np */
#endif

#include "thread.h"

#include "thread_signal.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

_Thread_local struct thread thread_record THREAD_LOCAL_MODEL;
__thread const struct mtstates_thread *mtstates_current;

/*
 * The last number given. Written by every thread once; relaxed, since only its being unique
 * matters. 2^61 numbers do not run out.
 */
static _Atomic uint64_t last_number;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct thread_entry *thread_first;
static _Atomic unsigned count;  /* written under the lock; relaxed: an estimate to others */
static pthread_key_t end_key;   /* has the entry; written once, under the lock, */
static atomic_bool has_end_key; /* with release before this; who reads it without, acquires it */
static unsigned forks;          /* written in a child before it has a second thread */
static void (*drop_sample)(struct sample_slot *); /* the lock's */

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

/*
 * The main thread's C stack grows as far as its limit says, whatever is mapped of it now. Where the
 * system does not tell the bounds, as without memory or /proc, a small stack is taken for granted.
 */
static void stack_bounds(uintptr_t *low, size_t *size)
{
    enum { SMALL = 256 * 1024 };
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
#if defined(__APPLE__)
    (void)here;
    *size = pthread_get_stacksize_np(pthread_self());
    *low = (uintptr_t)pthread_get_stackaddr_np(pthread_self()) - *size;
#elif defined(__linux__)
    pthread_attr_t attr;
    void *address;
    struct rlimit limit;
    uintptr_t high = here;
    *size = 0;
    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        if (pthread_attr_getstack(&attr, &address, size) == 0)
            high = (uintptr_t)address + *size;
        pthread_attr_destroy(&attr);
    }
    if (syscall(SYS_gettid) == getpid() && getrlimit(RLIMIT_STACK, &limit) == 0 &&
        limit.rlim_cur < high)
        *size = limit.rlim_cur;
    if (*size == 0)
        *size = SMALL;
    *low = high - *size;
#else
    *size = SMALL;
    *low = here - SMALL;
#endif
}

static void set_place(struct thread *self, struct thread_place *place)
{
    self->place = place;
    mtstates_current = &place->inside;
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
    set_place(self, &self->unlisted);
    thread_signal_unblock();
    thread_list(self);
}

/* ---- the list ---- */

/* Under the lock. */
static void link_in(struct thread_entry *e)
{
    e->previous = NULL;
    e->next = thread_first;
    if (thread_first != NULL)
        thread_first->previous = e;
    thread_first = e;
    atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
}

void thread_drop(struct thread_entry *e)
{
    *(e->previous ? &e->previous->next : &thread_first) = e->next;
    if (e->next != NULL)
        e->next->previous = e->previous;
    atomic_fetch_sub_explicit(&count, 1, memory_order_relaxed);
    free(atomic_load_explicit(&e->limits, memory_order_relaxed));
    struct sample_slot *sample = atomic_load_explicit(&e->sample, memory_order_relaxed);
    if (sample != NULL)
        drop_sample(sample);
    free(e);
}

void thread_at_drop(void (*drop)(struct sample_slot *))
{
    pthread_mutex_lock(&lock);
    drop_sample = drop;
    pthread_mutex_unlock(&lock);
}

/* A thread that dies inside of states stays in their words. */
static void on_end(void *entry)
{
    struct thread *self = &thread_record;
    while (self->ends != NULL) {
        struct thread_end *e = self->ends;
        self->ends = e->next;
        e->listed = false;
        e->run(e);
    }
    self->entry = NULL;
    self->limits = NULL;
    set_place(self, &self->unlisted);
    self->unlisted.inside.innermost = NULL;
    pthread_mutex_lock(&lock);
    thread_drop(entry);
    pthread_mutex_unlock(&lock);
}

static struct thread_entry *entry_new(const struct thread *self)
{
    struct thread_entry *e = malloc(sizeof *e);
    if (e == NULL)
        return NULL;
    atomic_init(&e->reading, 0);
    atomic_init(&e->limits, NULL);
    atomic_init(&e->sample, NULL);
    e->place.inside = self->place->inside;
    atomic_init(&e->place.pending, 0);
    e->number = self->number;
#if defined(__linux__)
    e->id = (pid_t)syscall(SYS_gettid);
#else
    e->id = pthread_self();
    atomic_init(&e->signalled, false);
#endif
    return e;
}

bool thread_list(struct thread *self)
{
    if (self->entry != NULL)
        return true;
    struct thread_entry *e = entry_new(self);
    if (e == NULL)
        return false;
    pthread_mutex_lock(&lock);
    bool has_key = atomic_load_explicit(&has_end_key, memory_order_relaxed) ||
                   pthread_key_create(&end_key, on_end) == 0;
    atomic_store_explicit(&has_end_key, has_key, memory_order_release);
    if (has_key && pthread_setspecific(end_key, e) == 0) {
        link_in(e);
        self->entry = e;
        set_place(self, &e->place);
        e = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(e);
    return self->entry != NULL;
}

struct thread_entry *thread_entry_here(void)
{
    return atomic_load_explicit(&has_end_key, memory_order_acquire) ? pthread_getspecific(end_key)
                                                                    : NULL;
}

struct thread_entry *thread_first_locked(void)
{
    pthread_mutex_lock(&lock);
    return thread_first;
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

unsigned thread_forks(void)
{
    return forks;
}

void thread_fork_begin(void)
{
    pthread_mutex_lock(&lock);
}

/* In the child the thread has another number of the system's, and the others are gone. */
void thread_fork_end(bool is_child)
{
    if (is_child) {
        struct thread_entry *own = thread_record.entry;
        forks++;
        for (struct thread_entry *e = thread_first, *next; e != NULL; e = next) {
            next = e->next;
            if (e != own)
                thread_drop(e);
        }
        if (own != NULL) {
#if defined(__linux__)
            own->id = (pid_t)syscall(SYS_gettid);
#else
            atomic_store(&own->signalled, false);
#endif
        }
    }
    pthread_mutex_unlock(&lock);
}
