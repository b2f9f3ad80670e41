/*
 * Which thread is inside a state: one atomic word and a queue of those who wait for it.
 *
 * Several words, those of a pool's members, may share one queue: then some wait for one of them,
 * and some for any.
 *
 *                    enter A1                      begin_close A2, abandon A2
 *        .----------------------------- idle -----------------------------------.
 *        v        leave R1               ^                                      v
 *    busy by t --------------------------'                                  closing by t
 *      |   ^                                                                    ^   |
 *      |   '-- leave hands over to the first waiter R2                          |   | end_close R3
 *      |                                                                        |   v
 *      '-- abandon sets ABANDONED; then leave turns busy into closing ----------'  closed
 *
 *    The word        bits 3..63       ABANDONED   WAITED   CLOSED
 *    idle            0                0           0        0        (the whole word is 0)
 *    busy            thread's number  0 or 1      0 or 1   0
 *    closing         thread's number  0           0        1
 *    closed          0                0           0        1
 *
 * Who writes the word: from idle, any thread, by compare-and-swap; from busy, the thread inside
 * (leave) and, flags only, a waiter (WAITED) or whoever drops the last owning handle (ABANDONED);
 * from closing, the closing thread. Closed is final. Who reads it: everybody.
 *
 * Orders. What the word guards is the interpreter, which one thread after another uses:
 *   A1, A2  acquire, on the swap away from idle: sees all that the thread before did inside.
 *           Pair with R1. Where a stay begins it is sequentially consistent, and so is the load of
 *           ownership_inside, for the sake of interrupts (interrupt.c says why).
 *   R1      release, on the swap to idle. Pairs with A1, A2.
 *   R2      release, on the swap that names the waiter; the waiter learns of it under `lock`, whose
 *           unlock and lock order the two threads as well.
 *   R3      relaxed, the store of closed: the interpreter is gone, there is nothing to publish.
 *           ownership_is_closed, true from the beginning of the closing, is relaxed as well.
 * Setting a flag publishes nothing, so it is relaxed; it takes effect because leave's swap expects
 * a word without flags, fails on one with flags, and looks again.
 *
 * No wake-up is lost: a waiter sets WAITED on a word that is busy, or takes a word that is idle, in
 * one swap each; hence the thread inside cannot leave without seeing WAITED, and then wakes the
 * first in the queue. A woken waiter that finds the word taken sets WAITED again. Of several words
 * a waiter does so with each in turn, under the lock, before it sleeps; who leaves one of them
 * wakes the first that waits for it and that nobody has woken since; and a waiter that was woken
 * for one word but enters another, or gives up, wakes the next that waits for the first.
 *
 * Nobody starves: whoever comes by may take an idle word, which keeps throughput up while waiters
 * wake, but once the first that waits for it has waited OWNERSHIP_FAIR_NS, leave gives the word
 * to it directly. The idea is the "eventual fairness" of WebKit's ParkingLot (Filip Pizlo, 2016).
 *
 * After a fork, threads that wait and whoever held the lock are not there: the first thread of the
 * child that needs the lock makes lock and queue anew.
 *
 * test/model/ownership.pml is the protocol as a model, and test/model/waiting.pml that of several
 * words, which spin searches exhaustively.
 */
#ifndef MTSTATES_OWNERSHIP_H
#define MTSTATES_OWNERSHIP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct histogram;
struct timespec;
struct waiter;

#define OWNERSHIP_CLOSED ((uint64_t)1)
#define OWNERSHIP_WAITED ((uint64_t)2)
#define OWNERSHIP_ABANDONED ((uint64_t)4)
#define OWNERSHIP_FLAGS ((uint64_t)7)

/* How long the first waiter lets others pass before it is handed the state. */
#define OWNERSHIP_FAIR_NS 500000

/* Of those who waited. Written under the lock, read by everybody; relaxed. */
struct ownership_waits {
    _Atomic uint64_t waited, timed_out, nanoseconds;
    struct histogram *lengths; /* of their waits; NULL: nobody wants to know. Set before any wait */
};

struct ownership_queue {
    pthread_mutex_t lock; /* guards the queue; only waiters and those who meet one take it */
    struct waiter *first; /* longest waiting first */
    struct waiter *last;
    unsigned forks; /* of thread_forks, when lock and queue were made; guarded by a lock of all */
    /*
     * All words were flagged, and none has been left since. Written under the lock, false before
     * the word that is left is idle; so whoever knows of an idle one reads false, and relaxed will
     * do: in the order of this object, or after the release and acquire by which it knows.
     */
    atomic_bool full;
    struct ownership_waits waits; /* of a shared queue: for any of its words */
};

struct ownership {
    _Atomic uint64_t word;
    struct ownership_queue *queue; /* `own`, or one that is shared and lives longer */
    struct ownership_queue
        own; /* where another is shared, only its `waits`, for this word, are used */
};

enum entry {
    ENTRY_ENTERED, /* the caller is inside and must leave */
    ENTRY_NESTED,  /* the calling thread was inside already */
    ENTRY_BUSY,    /* another thread is inside */
    ENTRY_CLOSED,  /* closed, being closed, or about to be */
    /* What stays add to these: */
    ENTRY_TOO_DEEP,  /* the thread cannot be inside of any more */
    ENTRY_NO_MEMORY, /* to see to the state's time limit */
    /* And pools: */
    ENTRY_VACANT /* one more may be made */
};

/* False: the system has no mutex left. */
bool ownership_queue_init(struct ownership_queue *q);
void ownership_queue_destroy(struct ownership_queue *q);

/* The lock of a queue that is shared guards what its words are as well. */
void ownership_queue_lock(struct ownership_queue *q);
void ownership_queue_unlock(struct ownership_queue *q);

/* Under the lock: all who wait look again. */
void ownership_wake_all(struct ownership_queue *q);

/* Under the lock: what take_or_flag has done with all words still holds; or may not any more. */
static inline void ownership_queue_set_full(struct ownership_queue *q, bool full)
{
    atomic_store_explicit(&q->full, full, memory_order_relaxed);
}

/* Any thread: whether all words are busy, for all that one can know without a look at each. */
static inline bool ownership_queue_is_full(struct ownership_queue *q)
{
    return atomic_load_explicit(&q->full, memory_order_relaxed);
}

/* Under the lock: how many wait. */
int ownership_count_waiting(const struct ownership_queue *q);

/* Starts as busy by thread `number`, with a queue of its own where `shared` is NULL. False: the
 * system has no mutex left. */
bool ownership_init(struct ownership *o, uint64_t number, struct ownership_queue *shared);

/* Nobody may use `o` any more. */
void ownership_destroy(struct ownership *o);

/* Why a swap from idle failed on `word`, for thread `number`. */
static inline enum entry ownership_refusal(uint64_t word, uint64_t number)
{
    if (word & OWNERSHIP_CLOSED)
        return ENTRY_CLOSED;
    if ((word & ~OWNERSHIP_FLAGS) == number)
        return ENTRY_NESTED;
    return word & OWNERSHIP_ABANDONED ? ENTRY_CLOSED : ENTRY_BUSY;
}

/*
 * One compare-and-swap; never waits. `number` is the calling thread's. Looks before it swaps, so
 * that those who are turned away leave the word's cache line to the thread inside.
 */
static inline enum entry ownership_enter(struct ownership *o, uint64_t number)
{
    uint64_t word = atomic_load_explicit(&o->word, memory_order_relaxed);
    if (__builtin_expect(word == 0, 1) &&
        __builtin_expect(atomic_compare_exchange_strong_explicit(&o->word, &word, number,
                                                                 memory_order_seq_cst, /* A1 */
                                                                 memory_order_relaxed),
                         1))
        return ENTRY_ENTERED;
    return ownership_refusal(word, number);
}

/*
 * Like ownership_enter, but sleeps while another thread is inside: until `deadline` on the
 * monotonic clock, or for ever when it is NULL. ENTRY_BUSY: the time is up.
 */
enum entry ownership_enter_wait(struct ownership *o, uint64_t number,
                                const struct timespec *deadline);

/* Several words with one queue. */
struct ownership_set {
    struct ownership_queue *queue;
    /*
     * Under the lock: tries each word in turn by ownership_take_or_flag, up to one that it enters
     * and sets `*entered` to. ENTRY_BUSY: all are, wait; any other: what to return.
     */
    enum entry (*take_any)(struct ownership_set *set, uint64_t number, struct ownership **entered);
};

/* Under the lock: takes an idle word, or sets WAITED on a busy one. ENTRY_CLOSED: neither. */
enum entry ownership_take_or_flag(struct ownership *o, uint64_t number);

/* Waits for any of several words, as ownership_enter_wait does for one. On ENTRY_ENTERED, the
 * thread is inside `*entered`. */
enum entry ownership_enter_any_wait(struct ownership_set *set, uint64_t number,
                                    const struct timespec *deadline, struct ownership **entered);

/* Under the lock, by the thread inside: whoever waits for any gets to know of the word when it
 * leaves. */
void ownership_join(struct ownership *o);

/* Under the lock: the same for a word that is idle already. */
void ownership_offer(struct ownership *o);

/* Under the lock: sets WAITED, so that who is inside takes the lock to leave, and sees all that was
 * written before. False: nobody is inside. */
bool ownership_flag(struct ownership *o);

bool ownership_leave_slowly(struct ownership *o, uint64_t number);

/* The same as ownership_leave, under the lock. */
bool ownership_leave_locked(struct ownership *o, uint64_t number);

/* The same, if nobody waits, and nothing else is flagged; false: nothing has changed. */
static inline bool ownership_leave_unflagged(struct ownership *o, uint64_t number)
{
    uint64_t word = number;
    return atomic_compare_exchange_strong_explicit(&o->word, &word, 0,
                                                   memory_order_release, /* R1 */
                                                   memory_order_relaxed);
}

/*
 * Ends a stay that ENTRY_ENTERED began. False: the last owning handle went meanwhile, the word is
 * now closing by the caller, who has to close the state and call ownership_end_close.
 */
static inline bool ownership_leave(struct ownership *o, uint64_t number)
{
    if (__builtin_expect(ownership_leave_unflagged(o, number), 1))
        return true;
    return ownership_leave_slowly(o, number);
}

/*
 * From idle to closing by thread `number`: ENTRY_ENTERED, the caller has to close the state.
 * Otherwise nothing has changed and the result says why: the caller's thread is inside or at
 * closing it (ENTRY_NESTED), another thread is (ENTRY_BUSY), or it is closed.
 */
enum entry ownership_begin_close(struct ownership *o, uint64_t number);

/* Busy by the calling thread, which found nothing worth keeping, to closing. */
void ownership_give_up(struct ownership *o, uint64_t number);

/*
 * The last owning handle is gone. True: the state was idle, is now closing by thread `number`, and
 * the caller has to close it. False: whoever is inside will, or it is closed already.
 */
bool ownership_abandon(struct ownership *o, uint64_t number);

/* Closing to closed; the interpreter is gone. */
void ownership_end_close(struct ownership *o);

/* Whether the state is closed, being closed, or will be when the thread inside leaves. */
static inline bool ownership_is_closed(struct ownership *o)
{
    return atomic_load_explicit(&o->word, memory_order_relaxed) &
           (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED);
}

/* Whether it is closed, or being closed. */
static inline bool ownership_is_closing(struct ownership *o)
{
    return atomic_load_explicit(&o->word, memory_order_relaxed) & OWNERSHIP_CLOSED;
}

/* Round a fork. */
void ownership_fork_begin(void);
void ownership_fork_end(void);

/* The number of the thread that is inside or closes it; 0: none, or it is closed. */
static inline uint64_t ownership_inside(struct ownership *o)
{
    return atomic_load(&o->word) & ~OWNERSHIP_FLAGS;
}

#endif
