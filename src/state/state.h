/*
 * A state: an interpreter and its record, from making to closing.
 *
 * Two counts, both in struct record. References keep the memory of the record: every handle has
 * one, and the registry while it knows the state, and the interpreter while it exists. Owners keep
 * the interpreter: when the last one goes, the state is closed there and then, or by the thread
 * inside as it leaves.
 *
 * `main` and what is behind it belong to the thread inside (ownership.h).
 */
#ifndef MTSTATES_STATE_H
#define MTSTATES_STATE_H

#include "arena.h"
#include "counters.h"
#include "interrupt.h"
#include "memory_limit.h"
#include "sync/ownership.h"
#include "sync/registry.h"
#include "sync/thread.h"
#include "warning.h"

#include <lua.h>
#include <setjmp.h>

struct member;

/* What a thread has to close queues by this: closing.h. */
struct closing {
    struct closing *next;
    void (*run)(struct closing *, struct thread *);
};

struct state {
    struct ownership ownership;
    struct interrupt interrupt;
    lua_State *main; /* the interpreter's main coroutine; NULL once it is closed */
    struct arena arena;
    struct counters counters;
    struct mtstates_inside inside; /* `around` is the thread's inside, and its handler's */
    struct member *member;         /* of a pool (pool.h); NULL: of none */
    uint32_t time_limit;           /* of a stay, in milliseconds; 0: none */
    bool is_special;               /* it has a time limit, or is timed, or a member */
    bool begins_specially;         /* one of the first two */
    struct timing *timing;         /* NULL: nobody asked for it */
    unsigned char allows_hooks;    /* what the innermost call in it has to restore: lua_inside.h */
    unsigned char tracebacks;      /* of errors in that call */
    struct warning warning;
    struct record record;
    struct memory_limit memory_limit; /* from here on for rare use, which keeps `refused` apart */
    struct listed listed;
    struct closing closing; /* these three are for the thread that closes it */
    bool queued_to_close;
    jmp_buf *finalized;       /* where to go after the last finalizer; NULL: nowhere */
    _Atomic uint64_t refused; /* calls that found it busy and did not wait */
    char name[];
};

extern const struct record_kind state_kind;

static inline struct state *state_of_record(struct record *r)
{
    return (void *)((char *)r - offsetof(struct state, record));
}

/* What a thread is inside of. */
static inline struct state *state_of_inside(const struct mtstates_inside *i)
{
    return (void *)((uintptr_t)i - offsetof(struct state, inside));
}

/* The state around it, or NULL. */
static inline struct state *state_around(const struct state *s)
{
    return s->inside.around != NULL ? state_of_inside(s->inside.around) : NULL;
}

/* The innermost state that the thread is inside of, or NULL. */
static inline struct state *state_innermost(const struct mtstates_thread *t)
{
    return t->innermost != NULL ? state_of_inside(t->innermost) : NULL;
}

/* What a state is made with. */
struct state_options {
    const char *name; /* NULL: none; else name_length bytes */
    size_t name_length;
    bool libs;             /* open all standard libraries, or only base and package */
    size_t memory_limit;   /* bytes; ARENA_NO_LIMIT: none */
    uint32_t time_limit;   /* milliseconds; 0: none */
    bool timing;           /* measure it */
    struct member *member; /* of a pool, and the state's from now on; NULL: of none */
};

/*
 * A state with a new interpreter, busy by the calling thread, that the registry does not know yet,
 * with one reference and one owner, both the caller's. NULL: out of memory.
 */
struct state *state_new(struct thread *self, const struct state_options *o);

static inline bool state_is_closed(struct state *s)
{
    return ownership_is_closed(&s->ownership);
}

/*
 * Closes an idle state; finalizers run in the calling thread. ENTRY_ENTERED: closed. ENTRY_CLOSED:
 * was closed already. ENTRY_BUSY or ENTRY_NESTED: somebody is inside, or its finalizers run;
 * nothing done.
 */
enum entry state_close(struct state *s, struct thread *self);

#endif
