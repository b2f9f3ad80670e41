#include "state.h"

#include "probe.h"

#include <stdlib.h>
#include <string.h>

/* Keys into a state's registry: the addresses. */
static const char self_key = 0;
static const char callback_key = 0;
static const char message_key = 0;
static const char guard_key = 0;

static void state_free(struct record *r)
{
    struct state *s = state_of_record(r);
    ownership_destroy(&s->ownership);
    arena_destroy(&s->arena);
    free(s);
}

/* The state of a coroutine that is known to be one of ours, without a look into its registry. */
static struct state *state_around(lua_State *L)
{
    return (void *)((char *)interrupt_of(L) - offsetof(struct state, interrupt));
}

/*
 * The first object with a finalizer has the last one that runs, before any memory goes, whoever
 * closes the interpreter: interpreter_close, or os.exit from inside.
 */
static int on_last_finalizer(lua_State *target)
{
    struct state *s = state_around(target);
    if (s->finalized != NULL)
        _longjmp(*s->finalized, 1);
    interrupt_detach(&s->interrupt);
    return 0;
}

void state_let_close_return(lua_State *L)
{
    state_around(L)->finalized = NULL;
}

static int set_self(lua_State *target)
{
    lua_rawsetp(target, LUA_REGISTRYINDEX, &self_key);
    lua_newuserdatauv(target, 0, 0);
    lua_createtable(target, 0, 1);
    lua_pushcfunction(target, on_last_finalizer);
    lua_setfield(target, -2, "__gc");
    lua_setmetatable(target, -2);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &guard_key);
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
    lua_State *target = lua_newstate(arena_resize, &s->arena);
    if (target == NULL)
        return NULL;
    interrupt_attach(&s->interrupt, target, &s->arena);
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
    if (!arena_init(&s->arena))
        goto no_arena;
    s->finalized = NULL;
    s->target = interpreter_new(s);
    if (s->target == NULL)
        goto no_interpreter;
    record_init(&s->record, name != NULL ? s->name : NULL, name_length, state_free);
    record_retain(&s->record); /* the interpreter's */
    atomic_init(&s->owners, 1);
    s->queued_to_close = false;
    return s;

no_interpreter:
    arena_destroy(&s->arena);
no_arena:
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
 * States that this thread has to close. They queue while it is closing one, since the finalizers of
 * one state may drop the last handle of the next, and so on, and would nest on the C stack. And
 * they queue while the C stack has no room for finalizers, until the thread closes a state or a
 * host where it has, or ends.
 */
static _Thread_local struct closings {
    bool active;
    struct state *first;
} closings;

/*
 * Once the finalizers have run, Lua would free object by object what goes with the arena at once,
 * so the last finalizer jumps out of lua_close: over frames of Lua and of on_last_finalizer, which
 * hold nothing but memory of the arena. Since Lua 5.4.4 no collection comes in between that would
 * call it early.
 */
static void interpreter_close(struct state *s)
{
    jmp_buf finalized;
    PROBE_STATE(state_close, s);
    interrupt_detach(&s->interrupt);
    lua_settop(s->target, 0); /* the finalizers need stack */
    s->finalized = &finalized;
    if (_setjmp(finalized) == 0)
        lua_close(s->target);
    arena_clear(&s->arena);
    s->target = NULL;
    ownership_end_close(&s->ownership);
    record_release(&s->record);
}

static void close_all(void)
{
    struct state *s;
    closings.active = true;
    while ((s = closings.first) != NULL) {
        closings.first = s->next_closing;
        s->queued_to_close = false;
        interpreter_close(s);
    }
    closings.active = false;
}

/* At the end of a thread that left some, or that died in a finalizer: only that state is lost. */
static void closings_end(void *unused)
{
    (void)unused;
    close_all();
}

static struct thread_watch closings_watch = {.end = closings_end};

void state_close_queued(struct thread *self)
{
    if (closings.first == NULL || closings.active)
        return;
    /* Without memory to watch for it, a thread's end closes nothing; there is no better way. */
    thread_watch_end(&closings_watch, &closings);
    if (!thread_has_stack(self))
        return;
    close_all();
    thread_watch_end(&closings_watch, NULL);
}

/* The word is closing by the calling thread. */
static void close_now(struct state *s, struct thread *self)
{
    registry_remove(&s->record);
    s->queued_to_close = true;
    s->next_closing = closings.first;
    closings.first = s;
    state_close_queued(self);
}

void state_leave(struct state *s, struct thread *self)
{
    if (!ownership_leave(&s->ownership, self->number))
        close_now(s, self);
}

enum entry state_close(struct state *s, struct thread *self)
{
    enum entry entry = ownership_begin_close(&s->ownership, self->number);
    if (entry == ENTRY_ENTERED)
        close_now(s, self);
    return entry == ENTRY_NESTED && s->queued_to_close ? ENTRY_CLOSED : entry;
}

void state_discard(struct state *s, struct thread *self)
{
    ownership_give_up(&s->ownership, self->number);
    close_now(s, self);
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
        close_now(s, self);
    else
        registry_remove(&s->record);
}
