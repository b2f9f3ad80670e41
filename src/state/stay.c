#include "stay.h"

#include "lua_inside.h"
#include "pool.h"
#include "sample.h"

enum entry stay_not_begun(struct stay *s, struct state *state, struct thread *self,
                          enum entry entry)
{
    if (entry == ENTRY_BUSY) {
        counters_add_refused(&state->refused);
        PROBE_STATE(call_refused, state);
    }
    if (entry == ENTRY_NESTED) {
        s->state = state;
        s->self = self;
        s->kind = STAY_NESTED;
        s->ran_before = interrupt_running(&state->interrupt);
        s->allowed_hooks = state->allows_hooks;
        self->depth++;
        PROBE_CALL(call_enter, state, state->main);
    }
    return entry;
}

enum entry stay_begin_wait(struct stay *s, struct state *state, struct thread *self,
                           const struct timespec *deadline)
{
    if (!thread_may_nest(self))
        return ENTRY_TOO_DEEP;
    enum entry entry = ownership_enter(&state->ownership, self->number);
    if (entry == ENTRY_BUSY) {
        PROBE_STATE(wait_begin, state);
        entry = ownership_enter_wait(&state->ownership, self->number, deadline);
        PROBE_STATE(wait_end, state);
    }
    if (entry == ENTRY_ENTERED)
        return stay_begun(s, state, self);
    if (entry == ENTRY_NESTED)
        return stay_not_begun(s, state, self, entry);
    PROBE_STATE(call_refused, state);
    return entry;
}

void stay_run_on(struct stay *s, lua_State *L)
{
    s->state->allows_hooks = *lua_inside_allowhook(L);
    interrupt_switch(&s->state->interrupt, L);
}

static void end_nested(struct stay *s)
{
    s->state->allows_hooks = s->allowed_hooks;
    s->self->depth--;
    interrupt_switch(&s->state->interrupt, s->ran_before);
}

/* False: no memory to see to the limit. */
static bool begin_limited(struct stay *s)
{
    if (s->state->time_limit == 0)
        return true;
    s->limited = time_limit_begin(s->self, s->state->time_limit);
    return s->limited != NULL;
}

static void end_time_limit(struct stay *s)
{
    if (s->state->member != NULL && time_limit_has_struck(s->limited))
        pool_note_limit(s->state->member);
    time_limit_end(s->self, s->limited);
}

static inline void end_limited(struct stay *s)
{
    if (__builtin_expect(s->state->time_limit != 0, 0) && s->limited != NULL)
        end_time_limit(s);
}

/* What a linked stay begins with besides. False: as before. */
static bool begin_specially(struct stay *s)
{
    if (!begin_limited(s))
        return false;
    if (s->state->timing != NULL)
        s->begun = clock_now();
    sample_leave(s->state);
    if (interrupt_is_pending(&s->state->interrupt))
        interrupt_meet(&s->state->interrupt);
    return true;
}

enum entry stay_begun_specially(struct stay *s)
{
    if (!begin_specially(s)) {
        stay_leave(s);
        return ENTRY_NO_MEMORY;
    }
    PROBE_CALL(call_enter, s->state, s->state->main);
    return ENTRY_ENTERED;
}

void stay_end_specially(struct stay *s)
{
    if (s->kind == STAY_NESTED) {
        end_nested(s);
        return;
    }
    if (s->state->begins_specially) {
        end_limited(s);
        if (s->state->timing != NULL)
            timing_add_stay(s->state->timing, &s->begun);
    }
    if (s->state->member != NULL)
        pool_end_stay(s);
    else
        stay_leave(s);
}

bool stay_begin_setup(struct stay *s, struct state *state, struct thread *self)
{
    stay_link(s, state, self);
    return begin_specially(s);
}

void stay_end_setup(struct stay *s)
{
    PROBE_STATE(state_make, s->state);
    end_limited(s);
    if (s->state->member != NULL)
        stay_unlink(s); /* the thread stays inside: pool_make */
    else
        stay_leave(s);
}

void stay_end_failed_setup(struct stay *s)
{
    end_limited(s);
    stay_unlink(s);
    ownership_give_up(&s->state->ownership, s->self->number);
    closing_begin(s->state, s->self);
}

void stay_begin_closing(struct stay *s, struct state *state, struct thread *self)
{
    PROBE_STATE(state_close, state);
    stay_link(s, state, self);
}

void stay_end_closing(struct stay *s)
{
    stay_unlink(s);
}
