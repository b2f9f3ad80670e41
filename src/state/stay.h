/*
 * A stay: one thread's time inside one state. This is the only way in and out: for calls, for those
 * that the thread inside makes again (also when a state calls itself), for setup, for the
 * finalizers of a closing state.
 *
 * The states that a thread is inside of are linked, each to the one around it; struct thread has
 * the innermost. Whoever asks what a thread is inside of reads that list: the handler of interrupts
 * does. So a state is linked after its word names the thread, and unlinked before it does so no
 * more. It is states that are linked, since a stay lies on the C stack of its thread, which may die
 * or jump away; a state's record stays as long as the word names a thread. For the same reason one
 * that is not the innermost can leave: the C stack may be one of several that a thread has.
 */
#ifndef MTSTATES_STAY_H
#define MTSTATES_STAY_H

#include "closing.h"
#include "probes.h"

enum stay_kind {
    STAY_OUTERMOST, /* the thread entered the state */
    STAY_SPECIAL,   /* the same, with a time limit, timed, or in a member of a pool */
    STAY_NESTED     /* it was inside already */
};

struct stay {
    struct state *state;
    struct thread *self;
    enum stay_kind kind;
    struct timespec begun;        /* in a state that is timed */
    struct limited_stay *limited; /* in a state with a time limit; NULL: no memory for it */
    unsigned char allowed_hooks;  /* nested: these two belong to the code that made the call */
    lua_State *ran_before;
};

/* The thread enters an outermost stay. */
static inline void stay_link(struct stay *s, struct state *state, struct thread *self)
{
    s->state = state;
    s->self = self;
    s->kind = state->is_special ? STAY_SPECIAL : STAY_OUTERMOST;
    state->inside.around = self->place->inside.innermost;
    atomic_signal_fence(memory_order_release);
    __atomic_store_n(&self->place->inside.innermost, &state->inside, __ATOMIC_RELAXED);
    self->depth++;
}

static inline void stay_unlink(struct stay *s)
{
    const struct mtstates_inside **link = &s->self->place->inside.innermost;
    while (__builtin_expect(*link != &s->state->inside, 0))
        link = &state_of_inside(*link)->inside.around;
    __atomic_store_n(link, s->state->inside.around, __ATOMIC_RELAXED); /* the ticker reads it */
    atomic_signal_fence(memory_order_acq_rel);
    s->self->depth--;
}

/* One with a time limit, or timed, or in which something is to strike. ENTRY_NO_MEMORY: it has
 * ended again. */
enum entry stay_begun_specially(struct stay *s);

/* After entering an idle state. */
static inline __attribute__((always_inline)) enum entry
stay_begun(struct stay *s, struct state *state, struct thread *self)
{
    stay_link(s, state, self);
    uint32_t is_watched =
        (uint32_t)atomic_load(&state->interrupt.request) /* I2 */ |
        (uint32_t)atomic_load_explicit(&self->place->pending, memory_order_relaxed) |
        state->begins_specially;
    if (__builtin_expect(is_watched != 0, 0))
        return stay_begun_specially(s);
    PROBE_CALL(call_enter, state, state->main);
    return ENTRY_ENTERED;
}

/* After a try to enter that found it not idle. Nested, it begins as well. */
enum entry stay_not_begun(struct stay *s, struct state *state, struct thread *self,
                          enum entry entry);

static inline bool stay_has_begun(enum entry entry)
{
    return entry == ENTRY_ENTERED || entry == ENTRY_NESTED;
}

/*
 * Begins a stay for a call, if the result is ENTRY_ENTERED or, where the thread is inside already,
 * ENTRY_NESTED; else nothing has begun. Never waits.
 */
static inline __attribute__((always_inline)) enum entry
stay_begin(struct stay *s, struct state *state, struct thread *self)
{
    if (__builtin_expect(!thread_may_nest(self), 0))
        return ENTRY_TOO_DEEP;
    enum entry entry = ownership_enter(&state->ownership, self->number);
    if (__builtin_expect(entry != ENTRY_ENTERED, 0))
        return stay_not_begun(s, state, self, entry);
    return stay_begun(s, state, self);
}

/* The same, but waits for a busy state: until `deadline`, or for ever when that is NULL. */
enum entry stay_begin_wait(struct stay *s, struct state *state, struct thread *self,
                           const struct timespec *deadline);

/* The stay is nested: coroutine `L` is the one that runs until it ends. */
void stay_run_on(struct stay *s, lua_State *L);

/* The thread inside, in no stay any more, leaves the state, and closes it if it was abandoned
 * meanwhile. */
static inline void stay_leave_state(struct state *state, struct thread *self)
{
    if (__builtin_expect(!ownership_leave(&state->ownership, self->number), 0))
        closing_begin(state, self);
}

/* The thread steps out of an outermost stay. */
static inline void stay_leave(struct stay *s)
{
    stay_unlink(s);
    stay_leave_state(s->state, s->self);
}

void stay_end_specially(struct stay *s);

/* Ends a stay for a call. */
static inline void stay_end(struct stay *s)
{
    PROBE_CALL(call_leave, s->state, s->state->main);
    count_add(&s->state->counters.calls, 1);
    if (__builtin_expect(s->kind != STAY_OUTERMOST, 0))
        stay_end_specially(s);
    else
        stay_leave(s);
}

/* Setup, in a state that its maker's thread has been inside of since it was made. False: no memory
 * to see to its time limit; stay_end_failed_setup ends it all the same. */
bool stay_begin_setup(struct stay *s, struct state *state, struct thread *self);

/* Setup went well. */
void stay_end_setup(struct stay *s);

/* Setup did not; nobody else has been inside. Closes the state. */
void stay_end_failed_setup(struct stay *s);

/* Finalizers, in a state whose word is closing by the calling thread. */
void stay_begin_closing(struct stay *s, struct state *state, struct thread *self);
void stay_end_closing(struct stay *s);

#endif
