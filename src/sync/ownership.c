#include "ownership.h"

#include "clock.h"
#include "park.h"
#include "thread.h"

#include <stddef.h>

/*
 * One sleeping thread, on its own stack. All fields but the park belong to the ownership's lock; a
 * waiter takes the lock once more before it returns, so whoever holds the lock may touch it.
 */
struct waiter {
    struct waiter *next, *previous;
    uint64_t number;       /* its thread */
    struct timespec since; /* when it queued */
    struct park park;
    bool queued;
    bool handed; /* the word names this thread already */
};

bool ownership_init(struct ownership *o, uint64_t number)
{
    atomic_init(&o->word, number);
    o->first = o->last = NULL;
    o->forks = thread_forks();
    return pthread_mutex_init(&o->lock, NULL) == 0;
}

void ownership_destroy(struct ownership *o)
{
    pthread_mutex_destroy(&o->lock);
}

static void queue_append(struct ownership *o, struct waiter *w)
{
    w->next = NULL;
    w->previous = o->last;
    *(o->last ? &o->last->next : &o->first) = w;
    o->last = w;
    w->queued = true;
}

static void queue_remove(struct ownership *o, struct waiter *w)
{
    *(w->previous ? &w->previous->next : &o->first) = w->next;
    *(w->next ? &w->next->previous : &o->last) = w->previous;
    w->queued = false;
}

/* Guards the making anew of locks. */
static pthread_mutex_t anew = PTHREAD_MUTEX_INITIALIZER;

void ownership_fork_begin(void)
{
    pthread_mutex_lock(&anew);
}

void ownership_fork_end(void)
{
    pthread_mutex_unlock(&anew);
}

/* In a process that is the child of none it costs a comparison. */
static void take_lock(struct ownership *o)
{
    if (thread_forks() > 0) {
        pthread_mutex_lock(&anew);
        if (o->forks != thread_forks()) {
            pthread_mutex_init(&o->lock, NULL); /* on Linux and macOS it cannot fail */
            o->first = o->last = NULL;
            o->forks = thread_forks();
        }
        pthread_mutex_unlock(&anew);
    }
    pthread_mutex_lock(&o->lock);
}

static void wake_all(struct ownership *o)
{
    take_lock(o);
    for (struct waiter *w = o->first; w != NULL; w = w->next)
        park_wake(&w->park);
    pthread_mutex_unlock(&o->lock);
}

/* Under the lock: takes an idle word, or sets WAITED on a busy one. */
static enum entry take_or_flag(struct ownership *o, uint64_t number)
{
    uint64_t word = atomic_load_explicit(&o->word, memory_order_relaxed);
    for (;;) {
        if (word & (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED))
            return ENTRY_CLOSED;
        if (word & OWNERSHIP_WAITED)
            return ENTRY_BUSY;
        bool idle = word == 0;
        uint64_t wanted = idle ? number : word | OWNERSHIP_WAITED;
        if (atomic_compare_exchange_weak_explicit(&o->word, &word, wanted,
                                                  memory_order_seq_cst, /* A1 when idle */
                                                  memory_order_relaxed))
            return idle ? ENTRY_ENTERED : ENTRY_BUSY;
    }
}

/* Under the lock, by the thread inside as it leaves the queue: it has to see to the next in it. */
static void pass_on(struct ownership *o)
{
    if (o->first != NULL)
        atomic_fetch_or_explicit(&o->word, OWNERSHIP_WAITED, memory_order_relaxed);
}

enum entry ownership_enter_wait(struct ownership *o, uint64_t number,
                                const struct timespec *deadline)
{
    enum entry entry = ownership_enter(o, number);
    if (entry != ENTRY_BUSY)
        return entry;

    struct waiter self = {.number = number, .since = clock_now()};
    bool in_time = true;
    take_lock(o);
    queue_append(o, &self);
    for (;;) {
        entry = self.handed ? ENTRY_ENTERED : take_or_flag(o, number);
        if (entry != ENTRY_BUSY || !in_time)
            break;
        park_reset(&self.park);
        pthread_mutex_unlock(&o->lock);
        in_time = park_wait(&self.park, deadline);
        pthread_mutex_lock(&o->lock);
    }
    if (self.queued)
        queue_remove(o, &self);
    if (entry == ENTRY_ENTERED)
        pass_on(o);
    pthread_mutex_unlock(&o->lock);
    return entry;
}

/* Under the lock: what leave makes of a word with flags. */
static uint64_t word_after(const struct waiter *first, bool hand_over, uint64_t word)
{
    if (word & OWNERSHIP_ABANDONED)
        return (word & ~OWNERSHIP_FLAGS) | OWNERSHIP_CLOSED;
    return hand_over ? first->number : 0;
}

bool ownership_leave_slowly(struct ownership *o, uint64_t number)
{
    take_lock(o);
    struct waiter *first = o->first;
    struct timespec now = clock_now();
    bool hand_over = first && clock_elapsed_ns(&first->since, &now) >= OWNERSHIP_FAIR_NS;
    uint64_t word = number | OWNERSHIP_WAITED;
    uint64_t after;
    do {
        after = word_after(first, hand_over, word);
    } while (!atomic_compare_exchange_weak_explicit(&o->word, &word, after,
                                                    memory_order_release, /* R1, R2 */
                                                    memory_order_relaxed));
    bool abandoned = after & OWNERSHIP_CLOSED;
    if (first != NULL && !abandoned) { /* else ownership_abandon wakes them all */
        if (hand_over) {
            queue_remove(o, first);
            first->handed = true;
        }
        park_wake(&first->park);
    }
    pthread_mutex_unlock(&o->lock);
    return !abandoned;
}

enum entry ownership_begin_close(struct ownership *o, uint64_t number)
{
    uint64_t word = 0;
    if (atomic_compare_exchange_strong_explicit(&o->word, &word, number | OWNERSHIP_CLOSED,
                                                memory_order_acquire, /* A2 */
                                                memory_order_relaxed)) {
        wake_all(o);
        return ENTRY_ENTERED;
    }
    if (word == OWNERSHIP_CLOSED)
        return ENTRY_CLOSED;
    return (word & ~OWNERSHIP_FLAGS) == number ? ENTRY_NESTED : ENTRY_BUSY;
}

void ownership_give_up(struct ownership *o, uint64_t number)
{
    /* Relaxed: the caller goes on using what the word guards, and nobody will after it. */
    atomic_store_explicit(&o->word, number | OWNERSHIP_CLOSED, memory_order_relaxed);
    wake_all(o);
}

bool ownership_abandon(struct ownership *o, uint64_t number)
{
    uint64_t word = atomic_load_explicit(&o->word, memory_order_relaxed);
    while (!(word & OWNERSHIP_CLOSED)) {
        bool idle = word == 0;
        uint64_t wanted = idle ? number | OWNERSHIP_CLOSED : word | OWNERSHIP_ABANDONED;
        if (atomic_compare_exchange_weak_explicit(&o->word, &word, wanted,
                                                  memory_order_acquire, /* A2 when idle */
                                                  memory_order_relaxed)) {
            wake_all(o);
            return idle;
        }
    }
    return false;
}

void ownership_end_close(struct ownership *o)
{
    atomic_store_explicit(&o->word, OWNERSHIP_CLOSED, memory_order_relaxed); /* R3 */
}
