/*
 * Time limits: how long one outermost stay in a state may last.
 *
 * A thread keeps a list of the limited stays that it is in, each with its number and its limit in
 * one word. Entering adds a word, leaving takes it away: no clock is read, and nothing is written
 * that other threads write. The ticker looks at the lists of all threads. A word that it sees at
 * two looks is one and the same stay, which has lasted at least as long as lies between them: so
 * time runs from the first look on, no limit strikes early, and none more than two ticks late.
 *
 * What has lasted too long gets a strike, which names the stay by its number: once, so that the
 * code inside can clean up, and after as long again at every operation. The strike is one more
 * reason for the hook of interrupts (interrupt.c), in whatever state the thread runs then: that is
 * the one with the limit, or one that is called from there. A strike that comes when its stay has
 * ended finds no such number, and hits nobody else. (Numbers are of 32 bits, and come again after
 * so many stays; a strike is gone by then, since every stay that has its place clears it.)
 *
 * `word` and `count` are written by the thread, read by the ticker; `strike` is written by the
 * ticker, and the thread swaps once away. Each is a value for itself, so all are relaxed; only the
 * list is published with release (L1) and read with acquire (L2) when it is new.
 *
 * PENDING_LIMIT in the thread's place says that there is a strike to be looked at. The ticker sets
 * it after it has written one, with release (L3), and sends the signal; the thread looks when it is
 * set, takes it back with acquire (L4), and then sets it again if one is still due. So either
 * taking it back sees what the ticker set, and the thread the strike, or it stays set. Also a
 * thread that blocks the signal sees it when it next enters a state or a coroutine.
 *
 * The ticker sleeps when there has been no limited stay for a while. It says so in `watching`,
 * looks once more a tick later, and only then sleeps. A thread that enters writes its word, then
 * reads `watching`, with no fence between, which would cost as much as all the rest: if the read
 * came first and gave the old value, the word is there a tick later, since no processor keeps a
 * store back for milliseconds. (Adam Morrison and Yehuda Afek, "Temporally Bounding TSO for
 * Fence-Free Asymmetric Synchronization", 2015.)
 *
 * In the child of a fork the ticker looks again from the next limited stay on.
 */
#ifndef MTSTATES_TIME_LIMIT_H
#define MTSTATES_TIME_LIMIT_H

#include "sync/thread.h"

#include <time.h>

enum time_limit_strike {
    TIME_LIMIT_NONE,
    TIME_LIMIT_ONCE,  /* at the next operation */
    TIME_LIMIT_ALWAYS /* at every operation until the stay ends */
};

/* The longest one, in milliseconds. */
#define TIME_LIMIT_MAX UINT32_MAX

/* The number of a stay is above the 32 bits of what else is in a word. */
#define TIME_LIMIT_NUMBER_SHIFT 32

struct limited_stay {
    _Atomic uint64_t word;   /* its number, and its limit in milliseconds; 0: it has ended */
    _Atomic uint64_t strike; /* the number of a stay, and an enum time_limit_strike */
    bool struck;             /* once; the thread's own */
    /* The ticker's: */
    uint64_t seen; /* this word */
    struct timespec since;
    enum time_limit_strike sent;
    struct timespec sent_at;
    unsigned looks; /* since the strike was sent */
};

struct time_limits {
    _Atomic int count; /* up to the last stay that has not ended */
    uint64_t last;     /* number that was given */
    struct limited_stay stays[THREAD_DEPTH_MAX];
};

extern atomic_bool time_limit_watching;

/* The rare parts of time_limit_begin. */
struct limited_stay *time_limit_begin_first(struct thread *self, uint32_t milliseconds);
struct limited_stay *time_limit_find_gap(struct time_limits *limits);
struct limited_stay *time_limit_watch(struct thread *self, struct limited_stay *l);

/*
 * The calling thread begins a stay that may last so many milliseconds, 1 or more. NULL: no memory
 * for the list, for the ticker, or for the thread's entry.
 */
static inline struct limited_stay *time_limit_begin(struct thread *self, uint32_t milliseconds)
{
    struct time_limits *limits = self->limits;
    if (__builtin_expect(limits == NULL, 0))
        return time_limit_begin_first(self, milliseconds);
    int count = atomic_load_explicit(&limits->count, memory_order_relaxed);
    struct limited_stay *l = &limits->stays[count];
    if (__builtin_expect(count == THREAD_DEPTH_MAX, 0))
        l = time_limit_find_gap(limits);
    else
        atomic_store_explicit(&limits->count, count + 1, memory_order_relaxed);
    uint64_t word = ++limits->last << TIME_LIMIT_NUMBER_SHIFT | milliseconds;
    l->struck = false;
    atomic_store_explicit(&l->strike, 0, memory_order_relaxed);
    atomic_store_explicit(&l->word, word, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (__builtin_expect(!atomic_load_explicit(&time_limit_watching, memory_order_relaxed), 0))
        return time_limit_watch(self, l);
    return l;
}

/* Notes in the thread's place whether a strike is due. */
void time_limit_note(struct thread *self);

/* The stay ends, and what is due for it goes. */
static inline void time_limit_end(struct thread *self, struct limited_stay *l)
{
    struct time_limits *limits = self->limits;
    int count = atomic_load_explicit(&limits->count, memory_order_relaxed);
    atomic_store_explicit(&l->word, 0, memory_order_relaxed);
    while (count > 0 &&
           atomic_load_explicit(&limits->stays[count - 1].word, memory_order_relaxed) == 0)
        count--;
    atomic_store_explicit(&limits->count, count, memory_order_relaxed);
    int pending = atomic_load_explicit(&self->place->pending, memory_order_relaxed);
    if (__builtin_expect(pending & PENDING_LIMIT, 0))
        time_limit_note(self);
}

/* Whether a stay of the calling thread has used up its time. */
bool time_limit_has_struck(const struct limited_stay *l);

/* Which strike is due in the calling thread. */
enum time_limit_strike time_limit_due(void);

/* The same; one that strikes once is taken. */
enum time_limit_strike time_limit_take(void);

/* After a fork. */
void time_limit_fork_end(bool is_child);

#endif
