/*
 * The methods of handles of states.
 */
#include "handle.h"

#include "state/call.h"
#include "state/error.h"
#include "stats.h"

#include <lauxlib.h>

/* The state of the handle at index 1, which may be closed. */
static inline struct state *check_state(lua_State *L, const char *method)
{
    return state_of_record(handle_check(L, &state_kind, method));
}

/* The same, not closed when asked. */
static struct state *check_open(lua_State *L, const char *method)
{
    struct state *s = check_state(L, method);
    if (state_is_closed(s))
        handle_raise_closed(L, &s->record);
    return s;
}

static int raise_busy(lua_State *L, const struct state *s)
{
    return handle_raise_busy(L, &s->record,
                             ERROR_CONCURRENT_ACCESS ": state %s is busy in another thread");
}

/* Why no stay has begun. */
static int raise_refusal(lua_State *L, struct state *s, enum entry entry)
{
    return entry == ENTRY_BUSY ? raise_busy(L, s) : call_raise_refusal(L, &s->record, entry);
}

static inline int call(lua_State *L)
{
    struct state *s = check_state(L, "call");
    struct call c;
    call_prepare(&c, L, 2, "call");
    enum entry entry = stay_begin(&c.stay, s, thread_self());
    if (__builtin_expect(entry == ENTRY_ENTERED, 1))
        return call_entered(&c);
    return entry == ENTRY_NESTED ? call_nested(&c) : raise_refusal(L, s, entry);
}

static int method_call(lua_State *L)
{
    return call(L);
}

/* Another function, so that one can tell which was called. */
static int meta_call(lua_State *L)
{
    return call(L);
}

static enum entry begin_in_time(struct stay *stay, struct state *s, double timeout)
{
    struct thread *self = thread_self();
    struct timespec t;
    if (timeout <= 0)
        return stay_begin(stay, s, self);
    return stay_begin_wait(stay, s, self, handle_deadline(timeout, &t));
}

static int method_tcall(lua_State *L)
{
    struct state *s = check_state(L, "tcall");
    double timeout = handle_check_timeout(L, "tcall");
    struct call c;
    call_prepare(&c, L, 3, "tcall");
    enum entry entry = begin_in_time(&c.stay, s, timeout);
    if (entry == ENTRY_BUSY) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (!stay_has_begun(entry))
        return raise_refusal(L, s, entry);
    return handle_return_true(L, call_begun(&c, entry));
}

static int method_interrupt(lua_State *L)
{
    struct state *s = check_state(L, "interrupt"); /* also one that is closed when it is left */
    if (!interrupt_send(s, handle_check_request(L)))
        return handle_raise_closed(L, &s->record);
    return 0;
}

static int method_close(lua_State *L)
{
    struct state *s = check_state(L, "close");
    switch (state_close(s, thread_self())) {
    case ENTRY_BUSY:
        return raise_busy(L, s);
    case ENTRY_NESTED:
        return error_raise_for(L, ERROR_CONCURRENT_ACCESS, &s->record,
                               "cannot be closed from inside itself");
    default:
        handle_drop_weight(lua_touserdata(L, 1));
        return 0;
    }
}

static int method_memory(lua_State *L)
{
    struct arena *a = &check_open(L, "memory")->arena;
    lua_pushinteger(L, (lua_Integer)arena_used(a));
    lua_pushinteger(L, (lua_Integer)arena_peak(a));
    if (arena_is_limited(a))
        lua_pushinteger(L, (lua_Integer)a->limit);
    else
        lua_pushnil(L);
    return 3;
}

static int method_stats(lua_State *L)
{
    struct stats s = stats_of_state(check_open(L, "stats"));
    stats_push(L, &s);
    lua_pushboolean(L, s.busy != 0);
    lua_setfield(L, -2, "busy");
    return 1;
}

const luaL_Reg state_methods[] = {
    {"call", method_call},
    {"tcall", method_tcall},
    {"interrupt", method_interrupt},
    {"close", method_close},
    {"memory", method_memory},
    {"stats", method_stats},
    {NULL, NULL},
};

const luaL_Reg state_metamethods[] = {{"__call", meta_call}, {NULL, NULL}};
