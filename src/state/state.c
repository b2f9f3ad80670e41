#include "state.h"

#include "closing.h"
#include "interpreter.h"

#include <stdlib.h>
#include <string.h>

static void destroy(struct record *r)
{
    struct state *s = state_of_record(r);
    interrupt_destroy(&s->interrupt);
    ownership_destroy(&s->ownership);
    free(s);
}

static bool is_closed(struct record *r)
{
    return state_is_closed(state_of_record(r));
}

static const struct record_kind kind = {destroy, is_closed};

struct state *state_new(struct thread *self, const struct state_options *o)
{
    struct state *s = malloc(sizeof *s + o->name_length);
    if (s == NULL)
        return NULL;
    if (o->name != NULL)
        memcpy(s->name, o->name, o->name_length);
    if (!ownership_init(&s->ownership, self->number)) {
        free(s);
        return NULL;
    }
    interrupt_init(&s->interrupt);
    record_init(&s->record, o->name != NULL ? s->name : NULL, o->name_length, &kind);
    record_retain(&s->record); /* the interpreter's */
    atomic_init(&s->owners, 1);
    s->around = NULL;
    s->time_limit = o->time_limit;
    s->allows_hooks = 1;
    s->queued_to_close = false;
    s->finalized = NULL;
    s->memory_limit = (struct memory_limit){0};
    arena_init(&s->arena, o->memory_limit);
    if (!interpreter_new(s, o->libs)) {
        destroy(&s->record); /* nobody has seen it */
        return NULL;
    }
    return s;
}

enum entry state_close(struct state *s, struct thread *self)
{
    enum entry entry = ownership_begin_close(&s->ownership, self->number);
    if (entry == ENTRY_ENTERED)
        closing_begin(s, self);
    return entry == ENTRY_NESTED && s->queued_to_close ? ENTRY_CLOSED : entry;
}

bool state_own(struct state *s)
{
    uint32_t owners = atomic_load_explicit(&s->owners, memory_order_relaxed);
    while (owners != 0)
        if (atomic_compare_exchange_weak_explicit(&s->owners, &owners, owners + 1,
                                                  memory_order_relaxed, memory_order_relaxed))
            return true;
    return false;
}

void state_disown(struct state *s, struct thread *self)
{
    if (atomic_fetch_sub_explicit(&s->owners, 1, memory_order_acq_rel) != 1)
        return;
    if (ownership_abandon(&s->ownership, self->number))
        closing_begin(s, self);
    else
        registry_remove(&s->record);
}
