/*
 * Pools: an array of places, each with a member, a state made by the pool's plan.
 *
 * A caller enters the first idle member that it meets: the one that it used last, for which it has
 * a reference, then from that place on; it looks at each word, and swaps where it is idle. That
 * takes no lock and writes nothing but the word of the member. What it meets is kept in place by a
 * grace period, as in look-ups: a member that leaves its place loses the pool's reference after
 * that. One that has left its place is closed, or just about to be.
 *
 * Members share the pool's queue (ownership.h), so a caller can wait for any of them. All else is
 * guarded by the lock of that queue, under which no Lua code runs and nothing is made or closed.
 *
 * `member` of a place is written under the lock (release), and read by callers (acquire): who gets
 * the pointer sees the state that it points to. Whether the pool is closed is written under the
 * lock and read by everybody, relaxed: a closed pool has no members, so who finds none looks again
 * under the lock.
 *
 * A member that has to be replaced is taken out of its place by the thread that leaves it, which
 * then makes another one there. Where that fails the place stays vacant, and is taken by the next
 * caller that finds all others busy. A reload makes the next member first, and then swaps it in.
 */
#ifndef MTSTATES_POOL_H
#define MTSTATES_POOL_H

#include "setup.h"
#include "stay.h"

#define POOL_SIZE_MAX 4096

enum pool_retired {
    POOL_RETIRED_NOT,
    POOL_RETIRED_CALLS,
    POOL_RETIRED_SECONDS,
    POOL_RETIRED_BYTES,
    POOL_RETIRED_LIMIT,  /* it ran into its memory or time limit */
    POOL_RETIRED_RELOAD, /* the pool has a newer plan */
    POOL_RETIRED_CLOSED, /* by somebody else */
    POOL_RETIRED_COUNT
};

/* As users know them; of POOL_RETIRED_NOT: NULL. */
extern const char *const pool_retired_names[POOL_RETIRED_COUNT];

struct pool_options {
    const char *name; /* NULL: none; else name_length bytes */
    size_t name_length;
    unsigned size, min;
    bool inherit;               /* for setups that come by reload */
    struct state_options state; /* what members are made with */
    uint64_t recycle_calls;     /* these three: UINT64_MAX, never */
    uint64_t recycle_milliseconds;
    uint64_t recycle_bytes;
};

/* What a pool knows of a member; the thread inside has it. */
struct member {
    struct pool *pool;   /* with a reference; these three do not change */
    unsigned place;      /* from 0; the pool's size: none was to be had */
    uint64_t generation; /* the pool's, of the plan that it is made by */
    struct timespec since;
    bool ran_into_limit;
    /* From so many calls on it is judged. Read, and set to 0, by the thread inside; set to 0 by a
     * reload, too, under the lock; relaxed, for it guards nothing. */
    _Atomic uint64_t judged_from;
};

struct pool_place {
    struct state *_Atomic member; /* with a reference and an owner's share; NULL: none */
    bool making;                  /* a thread has claimed it, to make one; the lock's */
};

struct plan;

struct pool {
    struct ownership_queue queue;
    struct plan *plan; /* these are the lock's; NULL: closed */
    unsigned living;   /* members that exist, in a place or not, or are in the making */
    struct closer *closers;
    uint64_t reloads; /* that have begun; each has its number */
    uint64_t made, retired[POOL_RETIRED_COUNT];
    _Atomic uint64_t generation; /* the reload that `plan` came by, or 0; written under the lock,
                                    and read, relaxed, by those who judge a member, too */
    _Atomic bool closed;
    struct pool_options options; /* these do not change */
    struct counts gone;          /* of members; and this: the lock's of counters.h */
    struct timing *timing;       /* of calls' waits, no more; NULL: nobody asked for it */
    struct timing *gone_timing;  /* of members; the lock's of counters.h */
    struct listed listed;
    struct stats stats;       /* stats_by_pool's */
    _Atomic uint64_t refused; /* calls that found all members busy and did not wait */
    struct plan *last_plan;   /* these two: once it is closed */
    struct closing closing;
    struct record record;
    struct pool_place *places;
    char name[];
};

extern const struct record_kind pool_kind;

static inline struct pool *pool_of_record(struct record *r)
{
    return (void *)((char *)r - offsetof(struct pool, record));
}

/* A setup with its arguments, packed, to be made from by any thread. NULL: `s` says why.
 * [-0, +0, -] on the host */
struct plan *plan_new(struct setup *s);
void plan_release(struct plan *plan);

/* An empty pool that the registry does not know yet, with one reference and one owner, both the
 * caller's; takes the caller's reference of the plan. NULL: out of memory. */
struct pool *pool_new(const struct pool_options *o, struct plan *plan);

static inline bool pool_is_closed(struct pool *p)
{
    return atomic_load_explicit(&p->closed, memory_order_relaxed);
}

/* Enters the member that was used last, if there is one, and it is idle. */
static inline bool pool_enter_last(const struct thread *self, struct state *last)
{
    return last != NULL && ownership_enter(&last->ownership, self->number) == ENTRY_ENTERED;
}

/* The same as pool_begin for a thread that may nest, and has looked at `*last`. */
enum entry pool_begin_in_any(struct pool *p, struct stay *stay, struct thread *self,
                             struct state **last);

/*
 * Begins a stay in an idle member, `*last` first, and sets `*last`, which has a reference, or is
 * NULL. ENTRY_VACANT: all are busy, but one more may be made. ENTRY_NESTED: it has begun in one
 * that the thread is inside of. Never waits.
 */
static inline enum entry pool_begin(struct pool *p, struct stay *stay, struct thread *self,
                                    struct state **last)
{
    if (__builtin_expect(!thread_may_nest(self), 0))
        return ENTRY_TOO_DEEP;
    if (__builtin_expect(pool_enter_last(self, *last), 1))
        return stay_begun(stay, *last, self);
    return pool_begin_in_any(p, stay, self, last);
}

/* The same, but waits when all are busy: until `deadline`, or for ever when that is NULL. */
enum entry pool_begin_wait(struct pool *p, struct stay *stay, struct thread *self,
                           struct state **last, const struct timespec *deadline);

/* Takes a vacant place, where the caller then has to make a member. False: there is none, or the
 * pool is closed. */
bool pool_claim(struct pool *p, unsigned *place);

/* Makes a member in a place that the caller has claimed. The calling thread is inside of it. False:
 * `s` says why, or with SETUP_WELL: the pool was closed. Whatever there is of a state has a
 * reference more, the caller's. [-0, +(0|1), -] on the host, if any */
bool pool_make(struct pool *p, struct setup *s, lua_State *host, struct thread *self,
               unsigned place);

/* The thread inside: the member has run into a limit. */
void pool_note_limit(struct member *m);

/* The thread steps out of an outermost stay in a member; it may replace it. */
void pool_end_stay(struct stay *stay);

/* Makes a reload's first member, by a plan that the pool may not have yet, for a place where
 * another may be still; else as pool_make. */
bool pool_make_next(struct pool *p, struct plan *plan, struct setup *s, lua_State *host,
                    struct thread *self);

/* Gives the pool its plan and `s`, which pool_make_next has made, and replaces members that are
 * idle. `is_new`: otherwise it is the plan that the pool had, and counts no more if the pool has
 * another one by now. The caller is inside of `s`, and is no more after. Takes the caller's
 * reference of the plan. False: the pool is closed. */
bool pool_reload(struct pool *p, struct plan *plan, bool is_new, struct state *s,
                 struct thread *self);

/* The plan as it is, with a reference, and its generation's number; NULL: closed. */
struct plan *pool_plan(struct pool *p, uint64_t *number);

/* The member at a place, with a reference, or NULL. */
struct state *pool_member(struct pool *p, unsigned place);

/* Takes no new callers, closes members that are idle, and has busy ones closed as they are left. */
void pool_shut(struct pool *p, struct thread *self);

/* The same, and waits for members that are busy: until `deadline`, or for ever when that is NULL.
 * True: none is left. From inside a member it does not wait. */
bool pool_close(struct pool *p, struct thread *self, const struct timespec *deadline);

/* After a fork: threads that waited, or were changing something, are not in the child. The caller
 * has the lock of counters.h. */
void pool_fork_end(bool is_child);

/* A member is closed, though its record has still to go; or it never came to be. */
void pool_note_gone(struct pool *p);

/* Its record goes. */
void member_destroy(struct member *m);

struct pool_counts {
    unsigned members, idle, busy;
    int waiting;
    uint64_t made, retired[POOL_RETIRED_COUNT];
};

struct pool_counts pool_count(struct pool *p);

#endif
