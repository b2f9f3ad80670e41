#include "state.h"

#include "closing.h"
#include "interpreter.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

static void destroy(struct record *r)
{
    struct state *s = state_of_record(r);
    interrupt_destroy(&s->interrupt);
    ownership_destroy(&s->ownership);
    struct member *member = s->member;
    free(s->timing);
    free(s);
    member_destroy(member);
}

static bool is_closed(struct record *r)
{
    return state_is_closed(state_of_record(r));
}

static void abandon(struct record *r, struct thread *self)
{
    struct state *s = state_of_record(r);
    if (ownership_abandon(&s->ownership, self->number))
        closing_begin(s, self);
    else
        registry_remove(r);
}

const struct record_kind state_kind = {
    .what = "state",
    .registry = &registry_states,
    .destroy = destroy,
    .is_closed = is_closed,
    .abandon = abandon,
};

struct state *state_new(struct thread *self, const struct state_options *o)
{
    struct state *s = malloc(sizeof *s + o->name_length + 1);
    if (s == NULL)
        return NULL;
    if (o->name != NULL)
        memcpy(s->name, o->name, o->name_length);
    s->name[o->name_length] = '\0'; /* for who looks from outside */
    s->member = o->member;
    struct ownership_queue *shared = o->member != NULL ? &o->member->pool->queue : NULL;
    if (!ownership_init(&s->ownership, self->number, shared)) {
        free(s);
        return NULL;
    }
    s->timing = o->timing ? timing_new(&s->ownership.own.waits) : NULL;
    if (o->timing && s->timing == NULL) {
        ownership_destroy(&s->ownership);
        free(s);
        return NULL;
    }
    interrupt_init(&s->interrupt);
    record_init(&s->record, o->name != NULL ? s->name : NULL, o->name_length, &state_kind);
    record_retain(&s->record); /* the interpreter's */
    counters_init(&s->counters);
    atomic_init(&s->refused, 0);
    s->time_limit = o->time_limit;
    s->begins_specially = o->time_limit != 0 || o->timing;
    s->is_special = s->begins_specially || o->member != NULL;
    s->allows_hooks = 1;
    s->tracebacks = 0;
    s->queued_to_close = false;
    s->finalized = NULL;
    s->memory_limit = (struct memory_limit){0};
    arena_init(&s->arena, o->memory_limit);
    if (!interpreter_new(s, o->libs)) {
        s->member = NULL;    /* the caller's, still */
        destroy(&s->record); /* nobody has seen it */
        return NULL;
    }
    s->inside = (struct mtstates_inside){
        .version = MTSTATES_INSIDE_VERSION,
        .id = s->record.id,
        .name = s->record.name,
        .name_length = s->record.name_length,
        .main = s->main,
    };
    counters_list_state(s);
    return s;
}

enum entry state_close(struct state *s, struct thread *self)
{
    enum entry entry = ownership_begin_close(&s->ownership, self->number);
    if (entry == ENTRY_ENTERED)
        closing_begin(s, self);
    return entry == ENTRY_NESTED && s->queued_to_close ? ENTRY_CLOSED : entry;
}
