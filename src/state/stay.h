/*
 * A stay: one thread's time inside one state. This is the only way in and out: for calls, for those
 * that the thread inside makes again (also when a state calls itself), for setup, for the
 * finalizers of a closing state.
 *
 * A stay lies on the C stack of its thread, linked to the one around it; struct thread has the
 * innermost. Whoever asks what a thread is inside of reads that list: the handler of interrupts
 * does. So a stay is linked after the word names the thread, and unlinked before it does so no
 * more.
 */
#ifndef MTSTATES_STAY_H
#define MTSTATES_STAY_H

#include "closing.h"
#include "probes.h"

struct stay {
    struct stay *around; /* the one that the thread was in before; NULL: none */
    struct state *state;
    struct thread *self;
    lua_State *ran_before; /* nested: the coroutine that ran */
    bool nested;
};

static inline void stay_link(struct stay *s, struct state *state, struct thread *self)
{
    s->state = state;
    s->self = self;
    s->around = self->stay;
    atomic_signal_fence(memory_order_release);
    self->stay = s;
    self->depth++;
}

static inline void stay_unlink(struct stay *s)
{
    s->self->depth--;
    s->self->stay = s->around;
    atomic_signal_fence(memory_order_acq_rel);
}

/* After entering an idle state. */
static inline void stay_begun(struct stay *s, struct state *state, struct thread *self)
{
    s->nested = false;
    stay_link(s, state, self);
    if (__builtin_expect(interrupt_is_pending(&state->interrupt), 0))
        interrupt_meet(&state->interrupt);
    PROBE_STATE(call_enter, state);
}

/* After a try to enter that found it not idle. Nested, it begins as well. */
enum entry stay_not_begun(struct stay *s, struct state *state, struct thread *self,
                          enum entry entry);

/*
 * Begins a stay for a call, if the result is ENTRY_ENTERED or, where the thread is inside already,
 * ENTRY_NESTED; else nothing has begun. Never waits.
 */
static inline enum entry stay_begin(struct stay *s, struct state *state, struct thread *self)
{
    if (__builtin_expect(!thread_may_nest(self), 0))
        return ENTRY_TOO_DEEP;
    enum entry entry = ownership_enter(&state->ownership, self->number);
    if (__builtin_expect(entry != ENTRY_ENTERED, 0))
        return stay_not_begun(s, state, self, entry);
    stay_begun(s, state, self);
    return ENTRY_ENTERED;
}

/* The same, but waits for a busy state: until `deadline`, or for ever when that is NULL. */
enum entry stay_begin_wait(struct stay *s, struct state *state, struct thread *self,
                           const struct timespec *deadline);

/* The stay is nested: coroutine `L` is the one that runs until it ends. */
static inline void stay_run_on(struct stay *s, lua_State *L)
{
    interrupt_switch(&s->state->interrupt, L);
}

/* The thread steps out, and closes the state if it was abandoned meanwhile. */
static inline void stay_end(struct stay *s)
{
    struct state *state = s->state;
    PROBE_STATE(call_leave, state);
    stay_unlink(s);
    if (__builtin_expect(s->nested, 0))
        interrupt_switch(&state->interrupt, s->ran_before);
    else if (__builtin_expect(!ownership_leave(&state->ownership, s->self->number), 0))
        closing_begin(state, s->self);
}

/* Setup, in a state that its maker's thread has been inside of since it was made. */
void stay_begin_setup(struct stay *s, struct state *state, struct thread *self);

/* Setup went well. */
void stay_end_setup(struct stay *s);

/* Setup did not; nobody else has been inside. Closes the state. */
void stay_end_failed_setup(struct stay *s);

/* Finalizers, in a state whose word is closing by the calling thread. */
void stay_begin_closing(struct stay *s, struct state *state, struct thread *self);
void stay_end_closing(struct stay *s);

#endif
