#include "ownership.h"

#include "clock.h"
#include "histogram.h"
#include "park.h"
#include "thread.h"

#include <stddef.h>

/*
 * One sleeping thread, on its own stack. All fields but the park belong to the queue's lock; a
 * waiter takes the lock once more before it returns, so whoever holds the lock may touch it.
 */
struct waiter {
    struct waiter *next, *previous;
    uint64_t number;        /* its thread */
    struct timespec since;  /* when it queued */
    struct ownership *only; /* what it waits for; NULL: any word of the queue */
    struct park park;
    bool queued;
    struct ownership *handed; /* its word names this thread already */
    struct ownership *woken;  /* was left, and the waiter woken for it, since it looked last */
};

static void init_waits(struct ownership_waits *w)
{
    atomic_init(&w->waited, 0);
    atomic_init(&w->timed_out, 0);
    atomic_init(&w->nanoseconds, 0);
    w->lengths = NULL;
}

bool ownership_queue_init(struct ownership_queue *q)
{
    init_waits(&q->waits);
    q->first = q->last = NULL;
    q->forks = thread_forks();
    atomic_init(&q->full, false);
    return pthread_mutex_init(&q->lock, NULL) == 0;
}

void ownership_queue_destroy(struct ownership_queue *q)
{
    pthread_mutex_destroy(&q->lock);
}

bool ownership_init(struct ownership *o, uint64_t number, struct ownership_queue *shared)
{
    atomic_init(&o->word, number);
    o->queue = shared != NULL ? shared : &o->own;
    init_waits(&o->own.waits);
    return shared != NULL || ownership_queue_init(&o->own);
}

void ownership_destroy(struct ownership *o)
{
    if (o->queue == &o->own)
        ownership_queue_destroy(&o->own);
}

static void queue_append(struct ownership_queue *q, struct waiter *w)
{
    w->next = NULL;
    w->previous = q->last;
    *(q->last ? &q->last->next : &q->first) = w;
    q->last = w;
    w->queued = true;
}

static void queue_remove(struct ownership_queue *q, struct waiter *w)
{
    *(w->previous ? &w->previous->next : &q->first) = w->next;
    *(w->next ? &w->next->previous : &q->last) = w->previous;
    w->queued = false;
}

/* The first, from `w` on, that waits for the word. */
static struct waiter *find_waiter(struct waiter *w, const struct ownership *o)
{
    while (w != NULL && w->only != NULL && w->only != o)
        w = w->next;
    return w;
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
void ownership_queue_lock(struct ownership_queue *q)
{
    if (thread_forks() > 0) {
        pthread_mutex_lock(&anew);
        if (q->forks != thread_forks()) {
            pthread_mutex_init(&q->lock, NULL); /* on Linux and macOS it cannot fail */
            q->first = q->last = NULL;
            q->forks = thread_forks();
        }
        pthread_mutex_unlock(&anew);
    }
    pthread_mutex_lock(&q->lock);
}

void ownership_queue_unlock(struct ownership_queue *q)
{
    pthread_mutex_unlock(&q->lock);
}

void ownership_wake_all(struct ownership_queue *q)
{
    for (struct waiter *w = q->first; w != NULL; w = w->next)
        park_wake(&w->park);
}

int ownership_count_waiting(const struct ownership_queue *q)
{
    int count = 0;
    for (const struct waiter *w = q->first; w != NULL; w = w->next)
        count++;
    return count;
}

static void wake_all(struct ownership *o)
{
    ownership_queue_lock(o->queue);
    ownership_wake_all(o->queue);
    ownership_queue_unlock(o->queue);
}

enum entry ownership_take_or_flag(struct ownership *o, uint64_t number)
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

void ownership_join(struct ownership *o)
{
    if (o->queue->first != NULL)
        atomic_fetch_or_explicit(&o->word, OWNERSHIP_WAITED, memory_order_relaxed);
}

/* Under the lock: the word is idle, or even gone, and the first that waits for it and was not woken
 * yet is. */
static void wake_next(struct ownership_queue *q, struct ownership *o)
{
    struct waiter *w = find_waiter(q->first, o);
    while (w != NULL && w->woken != NULL)
        w = find_waiter(w->next, o);
    if (w == NULL)
        return;
    w->woken = o;
    park_wake(&w->park);
}

void ownership_offer(struct ownership *o)
{
    wake_next(o->queue, o);
}

/* One more try under the lock. */
static enum entry try_again(struct waiter *w, struct ownership_set *set, struct ownership **entered)
{
    *entered = w->handed != NULL ? w->handed : w->only;
    if (w->handed != NULL)
        return ENTRY_ENTERED;
    if (w->only != NULL)
        return ownership_take_or_flag(w->only, w->number);
    return set->take_any(set, w->number, entered);
}

/* Under the lock. */
static void count_wait(struct ownership_waits *waits, const struct waiter *w, enum entry entry)
{
    struct timespec now = clock_now();
    uint64_t nanoseconds = (uint64_t)clock_elapsed_ns(&w->since, &now);
    count_add(&waits->waited, 1);
    count_add(&waits->timed_out, entry == ENTRY_BUSY);
    count_add(&waits->nanoseconds, nanoseconds);
    if (waits->lengths != NULL)
        histogram_add(waits->lengths, nanoseconds);
}

/* For `only`, or for any word of the set. */
static enum entry enter_wait(struct ownership_queue *q, struct ownership *only,
                             struct ownership_set *set, uint64_t number,
                             const struct timespec *deadline, struct ownership **entered)
{
    struct waiter self = {.number = number, .since = clock_now(), .only = only};
    bool in_time = true;
    enum entry entry;
    ownership_queue_lock(q);
    queue_append(q, &self);
    for (;;) {
        entry = try_again(&self, set, entered);
        if (entry != ENTRY_BUSY || !in_time)
            break;
        self.woken = NULL;
        park_reset(&self.park);
        pthread_mutex_unlock(&q->lock);
        in_time = park_wait(&self.park, deadline);
        pthread_mutex_lock(&q->lock);
    }
    if (self.queued)
        queue_remove(q, &self);
    if (entry == ENTRY_ENTERED)
        ownership_join(*entered); /* who is inside has to see to the next in the queue */
    /* However it ends: the word that it was woken for is another's to look at. */
    if (self.woken != NULL && (entry != ENTRY_ENTERED || self.woken != *entered))
        wake_next(q, self.woken);
    count_wait(only != NULL ? &only->own.waits : &q->waits, &self, entry);
    ownership_queue_unlock(q);
    return entry;
}

enum entry ownership_enter_wait(struct ownership *o, uint64_t number,
                                const struct timespec *deadline)
{
    struct ownership *entered;
    enum entry entry = ownership_enter(o, number);
    return entry == ENTRY_BUSY ? enter_wait(o->queue, o, NULL, number, deadline, &entered) : entry;
}

enum entry ownership_enter_any_wait(struct ownership_set *set, uint64_t number,
                                    const struct timespec *deadline, struct ownership **entered)
{
    return enter_wait(set->queue, NULL, set, number, deadline, entered);
}

/* Under the lock: what leave makes of a word with flags. */
static uint64_t word_after(const struct waiter *first, bool hand_over, uint64_t word)
{
    if (word & OWNERSHIP_ABANDONED)
        return (word & ~OWNERSHIP_FLAGS) | OWNERSHIP_CLOSED;
    return hand_over ? first->number : 0;
}

bool ownership_flag(struct ownership *o)
{
    uint64_t word = atomic_load_explicit(&o->word, memory_order_relaxed);
    while ((word & ~OWNERSHIP_FLAGS) != 0 && !(word & OWNERSHIP_CLOSED))
        if (atomic_compare_exchange_weak_explicit(&o->word, &word, word | OWNERSHIP_WAITED,
                                                  memory_order_relaxed, memory_order_relaxed))
            return true;
    return false;
}

bool ownership_leave_locked(struct ownership *o, uint64_t number)
{
    struct waiter *first = find_waiter(o->queue->first, o);
    struct timespec now = clock_now();
    bool hand_over = first && clock_elapsed_ns(&first->since, &now) >= OWNERSHIP_FAIR_NS;
    uint64_t word = number | OWNERSHIP_WAITED;
    uint64_t after;
    ownership_queue_set_full(o->queue, false);
    do {
        after = word_after(first, hand_over, word);
    } while (!atomic_compare_exchange_weak_explicit(&o->word, &word, after,
                                                    memory_order_release, /* R1, R2 */
                                                    memory_order_relaxed));
    bool abandoned = after & OWNERSHIP_CLOSED;
    if (first != NULL && !abandoned) { /* else ownership_abandon wakes them all */
        if (hand_over) {
            queue_remove(o->queue, first);
            first->handed = o;
            park_wake(&first->park);
        } else {
            wake_next(o->queue, o);
        }
    }
    return !abandoned;
}

bool ownership_leave_slowly(struct ownership *o, uint64_t number)
{
    struct ownership_queue *q = o->queue; /* `o` may be gone when the lock is returned */
    ownership_queue_lock(q);
    bool stays = ownership_leave_locked(o, number);
    ownership_queue_unlock(q);
    return stays;
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
