/*
 * What happened in states, counted by whoever writes there anyway: the thread inside, with a load
 * and a store; those who wait, under the lock that they hold (sync/ownership.h); and those who are
 * refused, by an addition. Everybody reads, and stops nobody. All relaxed: each is a number for
 * itself.
 *
 * And the list of all states and pools that there are. It has a lock, which those take who make and
 * close states; callers never do. What a state has counted when it is closed, its pool and the
 * process keep: so no sum ever falls.
 */
#ifndef MTSTATES_COUNTERS_H
#define MTSTATES_COUNTERS_H

#include "sync/clock.h"
#include "sync/histogram.h"
#include "sync/ownership.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state;
struct pool;

struct counters {
    _Atomic uint64_t calls;       /* that began, nested ones as well */
    _Atomic uint64_t errors;      /* that ended by one */
    _Atomic uint64_t interrupted; /* times that an interrupt has struck */
};

/* What is measured besides where the option `timing` asks for it. */
struct timing {
    _Atomic uint64_t
        inside_nanoseconds; /* of outermost stays; the thread's inside, and so is this: */
    struct histogram stays;
    struct histogram waits; /* those who wait write it */
};

/* NULL: out of memory. */
struct timing *timing_new(struct ownership_waits *waits);

/* The thread inside, at the end of a stay. */
void timing_add_stay(struct timing *t, const struct timespec *begun);

static inline void counters_init(struct counters *c)
{
    atomic_init(&c->calls, 0);
    atomic_init(&c->errors, 0);
    atomic_init(&c->interrupted, 0);
}

/* Any thread. States and pools have `refused` in a cache line apart from what calls use: whoever is
 * turned away would have the thread inside wait for that line. */
static inline void counters_add_refused(_Atomic uint64_t *refused)
{
    atomic_fetch_add_explicit(refused, 1, memory_order_relaxed);
}

/* What was counted, of one state or of several. None of these ever falls. */
struct counts {
    uint64_t calls, errors, interrupted, refused, waited, timed_out, wait_nanoseconds;
};

/* That, and what there is. */
struct stats {
    struct counts counts;
    uint64_t states, busy, bytes, peak_bytes;
    bool is_timed; /* what follows was measured, of some of them at least */
    uint64_t inside_nanoseconds;
    uint64_t stays[HISTOGRAM_COUNTS], waits[HISTOGRAM_COUNTS];
};

void stats_add(struct stats *sum, const struct stats *more);

struct stats stats_of_state(struct state *s);

/* Of the members that the pool has, with what those had counted that it had, and of calls to it. */
struct stats stats_of_pool(struct pool *p);

/* The same for each pool, in its `stats`, until the lock is returned; and what there is in no pool,
 * with what was: the caller has the list's lock. */
struct stats stats_by_pool(void);

/* All of the process; and how many states were ever made. */
struct stats stats_of_process(uint64_t *made, uint64_t *pools);

/* ---- the list ---- */

/* In what is in it. */
struct listed {
    struct listed *next, *previous;
};

/* A state comes to be; its interpreter is gone. */
void counters_list_state(struct state *s);
void counters_unlist_state(struct state *s);

/* A pool comes to be; its record goes. */
void counters_list_pool(struct pool *p);
void counters_unlist_pool(struct pool *p);

/* The list's lock: meanwhile nothing of it goes. */
void counters_lock(void);
void counters_unlock(void);

/* Under the lock: the next one; of NULL the first; NULL: there is none. */
struct state *counters_next_state(struct state *s);
struct pool *counters_next_pool(struct pool *p);

/* Round a fork. */
void counters_fork_begin(void);
void counters_fork_end(void);

#endif
