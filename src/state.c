#include "state.h"

#include "probe.h"

#include <stdlib.h>
#include <string.h>

/* Keys into a state's registry: the addresses. */
static const char self_key = 0;
static const char callback_key = 0;
static const char message_key = 0;

static void state_free(struct record *r)
{
    struct state *s = state_of_record(r);
    ownership_destroy(&s->ownership);
    alloc_destroy(&s->alloc);
    free(s);
}

static int set_self(lua_State *target)
{
    lua_rawsetp(target, LUA_REGISTRYINDEX, &self_key);
    /*
     * Lua pushes this message after an error while it handles an error, outside of any protection;
     * interned beforehand, the push needs no memory and cannot fail.
     */
    lua_pushliteral(target, "error in error handling");
    lua_rawsetp(target, LUA_REGISTRYINDEX, &message_key);
    return 0;
}

static lua_State *interpreter_new(struct state *s)
{
    lua_State *target = lua_newstate(alloc_resize, &s->alloc);
    if (target == NULL)
        return NULL;
    interrupt_attach(&s->interrupt, target, &s->alloc);
    lua_pushcfunction(target, set_self);
    lua_pushlightuserdata(target, s);
    if (lua_pcall(target, 1, 0, 0) == LUA_OK)
        return target;
    lua_close(target);
    return NULL;
}

struct state *state_new(struct thread *self, const char *name, size_t name_length)
{
    struct state *s = malloc(sizeof *s + name_length);
    if (s == NULL)
        return NULL;
    if (name != NULL)
        memcpy(s->name, name, name_length);
    if (!ownership_init(&s->ownership, self->number))
        goto no_ownership;
    if (!alloc_init(&s->alloc))
        goto no_alloc;
    s->target = interpreter_new(s);
    if (s->target == NULL)
        goto no_interpreter;
    record_init(&s->record, name != NULL ? s->name : NULL, name_length, state_free);
    record_retain(&s->record); /* the interpreter's */
    atomic_init(&s->owners, 1);
    return s;

no_interpreter:
    alloc_destroy(&s->alloc);
no_alloc:
    ownership_destroy(&s->ownership);
no_ownership:
    free(s);
    return NULL;
}

struct state *state_of(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &self_key);
    struct state *s = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return s;
}

void state_push_callback(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &callback_key);
}

void state_set_callback(lua_State *target)
{
    lua_rawsetp(target, LUA_REGISTRYINDEX, &callback_key);
}

/* ---- closing ---- */

/*
 * States that this thread has to close while it is closing one: the finalizers of one state may
 * drop the last handle of the next, and so on, so they queue here instead of nesting on the C
 * stack.
 */
static _Thread_local struct {
    bool active;
    struct state *first;
} closings;

static void interpreter_close(struct state *s)
{
    PROBE_STATE(state_close, s);
    interrupt_detach(&s->interrupt);
    lua_close(s->target);
    s->target = NULL;
    ownership_end_close(&s->ownership);
    record_release(&s->record);
}

/* The word is closing by the calling thread. */
static void close_now(struct state *s)
{
    registry_remove(&s->record);
    if (closings.active) {
        s->next_closing = closings.first;
        closings.first = s;
        return;
    }
    closings.active = true;
    interpreter_close(s);
    while ((s = closings.first) != NULL) {
        closings.first = s->next_closing;
        interpreter_close(s);
    }
    closings.active = false;
}

void state_leave(struct state *s, struct thread *self)
{
    if (!ownership_leave(&s->ownership, self->number))
        close_now(s);
}

enum entry state_close(struct state *s, struct thread *self)
{
    bool closing_by_other;
    enum entry entry = ownership_begin_close(&s->ownership, self->number, &closing_by_other);
    if (entry == ENTRY_ENTERED)
        close_now(s);
    return closing_by_other ? ENTRY_BUSY : entry;
}

void state_discard(struct state *s, struct thread *self)
{
    ownership_give_up(&s->ownership, self->number);
    close_now(s);
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
        close_now(s);
    else
        registry_remove(&s->record);
}
