/*
 * Stopping Lua code of a state from any thread: a request, which stays pending until it has struck.
 * interrupt.c says how, and why none is lost.
 */
#ifndef MTSTATES_INTERRUPT_H
#define MTSTATES_INTERRUPT_H

#include "sample.h"
#include "sync/ticker.h"
#include "time_limit.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>

struct state;
struct stay;
struct interrupt_resumed;

enum interrupt_request {
    INTERRUPT_NONE,
    INTERRUPT_ONCE,  /* at the next operation */
    INTERRUPT_ALWAYS /* at every operation until INTERRUPT_NONE */
};

/* Pushes what is raised. */
typedef void (*interrupt_message)(lua_State *);

struct interrupt {
    _Atomic int request; /* enum interrupt_request */
    struct tick tick;
    /* The rest belongs to the thread inside and its signal handler. */
    _Atomic(lua_State *) running; /* the coroutine that runs; NULL: finalizers, as it closes */
    _Atomic(lua_State *) hooked;  /* the one that has our hook, or NULL */
    atomic_bool changing;         /* hooks are just being changed; the handler keeps off */
    struct {                      /* the hook that `hooked` had before */
        lua_Hook function;
        int mask, count;
        int left; /* operations until it comes for its count */
    } own;
    interrupt_message yielded; /* why `running` has yielded in the hook, or NULL */
    const struct interrupt_resumed *resumed;
};

/* A coroutine that has resumed another; on the C stack, innermost first. */
struct interrupt_resumed {
    lua_State *L;
    const struct interrupt_resumed *before;
};

/* Before there is any state. */
void interrupt_prepare(void);

/* Of a new record, which has no interpreter yet. */
void interrupt_init(struct interrupt *i);

/* Makes a new state interruptible: `target`, its main coroutine, and all that are made in it. */
void interrupt_attach(struct interrupt *i, lua_State *target);

/* By the thread inside: from now on nothing that runs in the state is interrupted. */
void interrupt_detach(struct interrupt *i);

/* The record is about to go. */
void interrupt_destroy(struct interrupt *i);

/*
 * Places a request, or takes it back. Any thread that has a reference. False: the state is closed.
 * Waits for nobody's Lua code.
 */
bool interrupt_send(struct state *s, enum interrupt_request request);

/* The thread inside: whether every operation would be struck. */
bool interrupt_strikes_always(struct interrupt *i);

/*
 * In a function of C's: raises what every operation of the code in `L` would be struck by, if
 * there is such; for what takes long where no hook comes. `L` may be no state's. [-0, +0, v]
 */
void interrupt_strike_always(lua_State *L);

/* Any thread. */
static inline bool interrupt_is_requested(struct interrupt *i)
{
    return atomic_load(&i->request) != INTERRUPT_NONE; /* I2: see interrupt.c */
}

/* The thread inside: whether something has to strike, a request or the end of its time. */
static inline bool interrupt_strikes(struct interrupt *i)
{
    return interrupt_is_requested(i) ||
           (atomic_load_explicit(&thread_record.place->pending, memory_order_relaxed) &
            PENDING_LIMIT);
}

/* The same, or whether a sample is held: there is something for the hook. */
static inline bool interrupt_is_pending(struct interrupt *i)
{
    return interrupt_is_requested(i) ||
           atomic_load_explicit(&thread_record.place->pending, memory_order_relaxed) != 0;
}

/* The thread inside: puts the hook where it has to be now. */
void interrupt_settle(struct interrupt *i);

/* The thread that has just entered, and met a request. */
void interrupt_meet(struct interrupt *i);

/* The thread inside: the coroutine that runs; NULL: none that can be interrupted. */
static inline lua_State *interrupt_running(struct interrupt *i)
{
    return atomic_load_explicit(&i->running, memory_order_relaxed);
}

/* The thread inside: `L` runs from here on. Does nothing once it is detached. */
static inline void interrupt_switch(struct interrupt *i, lua_State *L)
{
    lua_State *before = interrupt_running(i);
    if (before == NULL)
        return;
    if (__builtin_expect(sample_is_pending(), 0))
        sample_take(i, before, 0);
    atomic_store_explicit(&i->running, L, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* the handler sees it, or we see the handler's */
    if (__builtin_expect(interrupt_is_pending(i) ||
                             atomic_load_explicit(&i->hooked, memory_order_relaxed) != NULL,
                         0))
        interrupt_settle(i);
}

/* The thread inside: `co` runs, resumed by the coroutine that runs now. */
static inline void interrupt_resume(struct interrupt *i, struct interrupt_resumed *r, lua_State *co)
{
    *r = (struct interrupt_resumed){.L = interrupt_running(i), .before = i->resumed};
    interrupt_switch(i, co);
    i->resumed = r;
}

/* The thread inside: it has come back. */
static inline void interrupt_resumed_end(struct interrupt *i, const struct interrupt_resumed *r)
{
    interrupt_switch(i, r->L);
    i->resumed = r->before;
}

/* The thread inside: `L` has just made `co`, which has the hook that L has; if that is ours, then
 * the one that it should have. */
void interrupt_pass_on_hook(struct interrupt *i, lua_State *L, lua_State *co);

/* The thread inside, when `running` has yielded: NULL, or why it has to be closed. */
static inline interrupt_message interrupt_take_yielded(struct interrupt *i)
{
    interrupt_message push = i->yielded;
    i->yielded = NULL;
    return push;
}

/* Replaces functions from which code could get away, or that could see our hook: xpcall in the
 * globals, sethook and gethook in the table on top. [-0, +0, m] */
void interrupt_open_base(lua_State *target, struct interrupt *i);
void interrupt_open_debug(lua_State *target, struct interrupt *i);

#endif
