/*
 * A state: an interpreter and its record, from making to closing.
 *
 * Two counts. References (struct record) keep the memory of the record: every handle has one, and
 * the registry while it knows the state, and the interpreter while it exists. Owners keep the
 * interpreter: when the last one goes, the state is closed there and then, or by the thread inside
 * as it leaves.
 *
 * owners  written by whoever makes or drops an owning handle. Taking one more is relaxed and only
 * from above 0 (state_own); dropping is acq_rel, so that whoever drops the last sees all that was
 *         done by the others before they dropped theirs.
 *
 * `target` belongs to the thread inside (ownership.h).
 */
#ifndef MTSTATES_STATE_H
#define MTSTATES_STATE_H

#include "arena.h"
#include "interrupt.h"
#include "ownership.h"
#include "registry.h"
#include "thread.h"

#include <lua.h>
#include <setjmp.h>

/* The stack of an idle state's main coroutine. */
enum { STATE_SLOT_HANDLER = 1, STATE_SLOT_CALLBACK, STATE_SLOTS = STATE_SLOT_CALLBACK };

struct state {
    struct ownership ownership;
    struct interrupt interrupt;
    lua_State *target; /* the interpreter's main coroutine; NULL once it is closed */
    struct arena arena;
    struct state *next_closing; /* these three are for the thread that closes it */
    bool queued_to_close;
    jmp_buf *finalized; /* where to go after the last finalizer; NULL: nowhere */
    struct record record;
    _Atomic uint32_t owners;
    char name[];
};

static inline struct state *state_of_record(struct record *r)
{
    return (void *)((char *)r - offsetof(struct state, record));
}

/*
 * A state with an empty interpreter, busy by the calling thread, that the registry does not know
 * yet, with one reference and one owner, both the caller's. NULL: out of memory.
 */
struct state *state_new(struct thread *self, const char *name, size_t name_length);

/* The state that `L` belongs to, if the module made it, else NULL. [-0, +0, -] */
struct state *state_of(lua_State *L);

/* In code of a state: a lua_close that it calls comes back, also while the state is closing. */
void state_let_close_return(lua_State *L);

/* Pushes the state's callback on any coroutine of the state, or nil before it has one. [-0, +1, -]
 */
void state_push_callback(lua_State *L);

/* Makes the function on top of the main coroutine's stack the callback. [-1, +0, m] */
void state_set_callback(lua_State *target);

static inline bool state_is_closed(struct state *s)
{
    return ownership_is_closed(&s->ownership);
}

/* The thread inside steps out, and closes the state if it was abandoned meanwhile. */
void state_leave(struct state *s, struct thread *self);

/*
 * Closes an idle state; finalizers run in the calling thread. ENTRY_ENTERED: closed. ENTRY_CLOSED:
 * was closed already. ENTRY_BUSY or ENTRY_NESTED: somebody is inside, or its finalizers run;
 * nothing done.
 */
enum entry state_close(struct state *s, struct thread *self);

/* Closes a state that the calling thread is making and that nobody else has been inside of. */
void state_discard(struct state *s, struct thread *self);

/* One more owner for a state that has one. False: the last one has gone. */
bool state_own(struct state *s);

/* Drops an owner. */
void state_disown(struct state *s, struct thread *self);

/* Closes what the calling thread left for later, if its C stack has room now. */
void state_close_queued(struct thread *self);

#endif
