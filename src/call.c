#include "call.h"

#include "error.h"
#include "probe.h"
#include "value.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <string.h>

/* ---- errors of the target ---- */

static int object_to_string(lua_State *target)
{
    luaL_tolstring(target, 1, NULL);
    return 1;
}

/* The text of the error object at index 1: itself, its __tostring, or its type. [-0, +1, m] */
static void push_error_text(lua_State *target)
{
    if (lua_type(target, 1) == LUA_TSTRING || lua_type(target, 1) == LUA_TNUMBER) {
        lua_pushvalue(target, 1);
        lua_tostring(target, -1);
        return;
    }
    if (luaL_getmetafield(target, 1, "__tostring") != LUA_TNIL) {
        lua_pop(target, 1);
        lua_pushcfunction(target, object_to_string);
        lua_pushvalue(target, 1);
        if (lua_pcall(target, 1, 1, 0) == LUA_OK)
            return;
        if (lua_type(target, -1) == LUA_TSTRING) { /* may be the only trace of an interrupt */
            lua_pushfstring(target, "(error object is a %s value, whose __tostring raised: %s)",
                            luaL_typename(target, 1), lua_tostring(target, -1));
            lua_remove(target, -2);
            return;
        }
        lua_pop(target, 1);
    }
    lua_pushfstring(target, "(error object is a %s value)", luaL_typename(target, 1));
}

int call_on_error(lua_State *target)
{
    luaL_checkstack(target, LUA_MINSTACK, NULL);
    push_error_text(target);
    size_t length;
    const char *text = lua_tolstring(target, -1, &length);
    if (strlen(text) == length) {
        luaL_traceback(target, target, text, 1);
    } else { /* luaL_traceback would stop at the zero byte */
        lua_pushliteral(target, "\n");
        luaL_traceback(target, target, NULL, 1);
        lua_concat(target, 3);
    }
    return 1;
}

int call_raise(lua_State *host, struct state *s, int status)
{
    if (status == LUA_ERRMEM)
        return error_raise_for(host, ERROR_OUT_OF_MEMORY, &s->record, "ran out of memory");
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    lua_pushliteral(host, ERROR_INVOKING_STATE ": state ");
    error_push_record(host, &s->record);
    lua_pushliteral(host, ": ");
    lua_pushvalue(host, -4);
    lua_pushliteral(host, "\nouter ");
    luaL_traceback(host, host, NULL, 1);
    lua_concat(host, 6);
    return lua_error(host);
}

static int copy_message(lua_State *host)
{
    lua_State *target = lua_touserdata(host, 1);
    if (!value_copy(target, -1, host))
        lua_pushliteral(host, "(error in error handling)");
    return 1;
}

int call_copy_message(lua_State *host, lua_State *target)
{
    lua_pushcfunction(host, copy_message);
    lua_pushlightuserdata(host, target);
    return lua_pcall(host, 1, 1, 0);
}

/* ---- results ---- */

struct results {
    lua_State *target;
    int first, last;
};

static int copy_results(lua_State *host)
{
    struct results *r = lua_touserdata(host, 1);
    luaL_checkstack(host, r->last - r->first + 1, "too many results");
    for (int i = r->first; i <= r->last; i++)
        value_copy(r->target, i, host);
    return r->last - r->first + 1;
}

int call_copy_results(lua_State *host, lua_State *target, int first, int *count)
{
    struct results r = {target, first, lua_gettop(target)};
    *count = r.last - r.first + 1;
    lua_pushcfunction(host, copy_results);
    lua_pushlightuserdata(host, &r);
    return lua_pcall(host, 1, LUA_MULTRET, 0);
}

/*
 * Strings that leave the target before they reach the host: with them in hand the state is free,
 * and the host may run out of memory without harm. Saves the protected call in the host for what is
 * small.
 */
enum { PARCEL_STRINGS = 8, PARCEL_BYTES = 1024 };

struct parcel {
    unsigned count, used;
    unsigned placed; /* so many have a placeholder on the host's stack; the rest come on top */
    struct {
        int index; /* of the placeholder */
        unsigned start, length;
    } strings[PARCEL_STRINGS];
    char bytes[PARCEL_BYTES];
};

/* Packs the string at `from`; false if it is too much. [-0, +0, -] */
static bool parcel_add(struct parcel *p, lua_State *target, int from)
{
    size_t length;
    const char *bytes = lua_tolstring(target, from, &length);
    if (p->count == PARCEL_STRINGS || length > PARCEL_BYTES - p->used)
        return false;
    memcpy(p->bytes + p->used, bytes, length);
    p->strings[p->count].start = p->used;
    p->strings[p->count++].length = (unsigned)length;
    p->used += (unsigned)length;
    return true;
}

/* Keeps places for the strings so far, because another value follows. [-0, +n, -] on the host */
static void parcel_place(struct parcel *p, lua_State *host)
{
    for (; p->placed < p->count; p->placed++) {
        lua_pushnil(host);
        p->strings[p->placed].index = lua_gettop(host);
    }
}

/* Puts the strings in their places. [-0, +n, m] */
static void parcel_unpack(const struct parcel *p, lua_State *host)
{
    for (unsigned i = 0; i < p->count; i++) {
        lua_pushlstring(host, p->bytes + p->strings[i].start, p->strings[i].length);
        if (i < p->placed)
            lua_replace(host, p->strings[i].index);
    }
}

/* ---- the call ---- */

/* So many values fit on a stack without asking: what Lua promises, less the slots of an idle state,
 * a copy of the callback, and one to spare. */
enum { SPARE_SLOTS = LUA_MINSTACK - STATE_SLOTS - 2 };

/* Why lua_checkstack failed, which it does not tell: so many values are taken for too many for the
 * stack's limit of a million, fewer for too many for the memory that is left. */
static bool exceeds_stack(int count)
{
    return count > LUAI_MAXSTACK / 100;
}

/* One call in the target, whose stack holds the handler, the callback at `base`, and above it the
 * arguments or the results. */
struct stay {
    struct call *call;
    lua_State *target;
    int base;
    bool nested;
    lua_State *ran_before; /* nested: the coroutine that was running */
};

static void stay_end(struct stay *s)
{
    struct state *state = s->call->state;
    s->call->self->depth--;
    PROBE_STATE(call_leave, state);
    if (s->nested) {
        lua_settop(s->target, s->base - 2);
        interrupt_switch(&state->interrupt, s->ran_before);
    } else {
        lua_settop(s->target, STATE_SLOTS);
        state_leave(state, s->call->self);
    }
}

static int raise_refused_argument(struct call *c, int index)
{
    return error_argument(c->host, index - c->uncounted, c->method,
                          "value of type '%s' not supported", luaL_typename(c->host, index));
}

#define REFUSED_RESULT "returned a value of type '%s' as result #%d: type not supported"

static int raise_result(struct call *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lua_pushvfstring(c->host, format, arguments);
    va_end(arguments);
    return error_raise_for(c->host, ERROR_STATE_RESULT, &c->state->record,
                           lua_tostring(c->host, -1));
}

/* Ends the stay because of the result at `index` of the target. */
static int raise_refused_result(struct stay *s, int index)
{
    const char *type = luaL_typename(s->target, index);
    stay_end(s);
    return raise_result(s->call, REFUSED_RESULT, type, index - s->base);
}

/* All results, when they are too large for a parcel. [-0, +count, e] */
static int return_protected(struct stay *s)
{
    lua_State *host = s->call->host;
    int count;
    int refused = value_find_refused(s->target, s->base + 1, lua_gettop(s->target));
    if (refused != 0)
        return raise_refused_result(s, refused);
    int status = call_copy_results(host, s->target, s->base + 1, &count);
    stay_end(s);
    return status == LUA_OK ? count : lua_error(host);
}

/* `count` results, of which the first `pushed` are on the host and the next is not plain.
 * [-pushed, +count, e] */
static int __attribute__((noinline)) return_rest(struct stay *s, int pushed, int count)
{
    lua_State *host = s->call->host;
    int top = lua_gettop(host) - pushed;
    struct parcel parcel;
    parcel.count = parcel.used = parcel.placed = 0;
    for (int i = pushed; i < count; i++) {
        int from = s->base + 1 + i;
        if (lua_type(s->target, from) != LUA_TSTRING) {
            parcel_place(&parcel, host);
            if (value_copy_plain(s->target, from, host) != CROSSING_DONE)
                return raise_refused_result(s, from);
        } else if (!parcel_add(&parcel, s->target, from)) {
            lua_settop(host, top);
            return return_protected(s);
        }
    }
    stay_end(s);
    parcel_unpack(&parcel, host);
    return count;
}

/* Makes room for many results, at the arguments' expense. [-?, +0, -] on the host */
static bool make_room(struct call *c, int count)
{
    lua_settop(c->host, c->first - 1);
    return lua_checkstack(c->host, count + LUA_MINSTACK);
}

/* [-?, +count, e] on the host */
static int stay_return(struct stay *s)
{
    struct call *c = s->call;
    int count = lua_gettop(s->target) - s->base;
    if (count > SPARE_SLOTS && !make_room(c, count)) {
        bool too_many = exceeds_stack(count);
        stay_end(s);
        return too_many ? raise_result(c, "returned %d values: too many for the stack", count)
                        : call_raise(c->host, c->state, LUA_ERRMEM);
    }
    for (int i = 0; i < count; i++)
        if (value_copy_plain(s->target, s->base + 1 + i, c->host) != CROSSING_DONE)
            return return_rest(s, i, count);
    stay_end(s);
    return count;
}

static int stay_fail(struct stay *s, int status)
{
    struct call *c = s->call;
    int copied = status == LUA_ERRMEM ? LUA_OK : call_copy_message(c->host, s->target);
    stay_end(s);
    return copied == LUA_OK ? call_raise(c->host, c->state, status) : lua_error(c->host);
}

/*
 * Copies a string argument outside of any protected call, which would cost as much as the string.
 * The push allocates the string object, at most STRING_OVERHEAD more than its bytes, which the
 * arena has reserved; and perhaps it grows the table of short strings, which Lua does without when
 * it cannot, or runs finalizers, which are protected. CROSSING_ALLOCATES: no memory.
 */
static enum crossing copy_string(lua_State *host, int index, struct state *s)
{
    enum { STRING_OVERHEAD = 64 };
    size_t length;
    const char *bytes = lua_tolstring(host, index, &length);
    if (!arena_reserve(&s->arena, length + STRING_OVERHEAD))
        return CROSSING_ALLOCATES;
    lua_pushlstring(s->target, bytes, length);
    return CROSSING_DONE;
}

/* Puts the callback and the arguments on the target and runs it. [-0, +n, e] on the host */
static int stay_run(struct stay *s)
{
    struct call *c = s->call;
    int count = c->last - c->first + 1;
    c->self->depth++;
    PROBE_STATE(call_enter, c->state);
    if (count > SPARE_SLOTS && !lua_checkstack(s->target, count + LUA_MINSTACK)) {
        bool too_many = exceeds_stack(count);
        stay_end(s);
        return too_many
                   ? luaL_error(c->host, "stack overflow (too many arguments to '%s')", c->method)
                   : call_raise(c->host, c->state, LUA_ERRMEM);
    }
    lua_pushvalue(s->target, s->base);
    for (int i = c->first; i <= c->last; i++) {
        enum crossing crossing = value_copy_plain(c->host, i, s->target);
        if (crossing == CROSSING_ALLOCATES)
            crossing = copy_string(c->host, i, c->state);
        if (__builtin_expect(crossing != CROSSING_DONE, 0)) {
            stay_end(s);
            return crossing == CROSSING_REFUSED ? raise_refused_argument(c, i)
                                                : call_raise(c->host, c->state, LUA_ERRMEM);
        }
    }
    int status = lua_pcall(s->target, count, LUA_MULTRET, s->base - 1);
    return status == LUA_OK ? stay_return(s) : stay_fail(s, status);
}

int call_entered(struct call *c)
{
    struct stay stay = {.call = c, .target = c->state->target, .base = STATE_SLOT_CALLBACK};
    if (__builtin_expect(interrupt_is_pending(&c->state->interrupt), 0))
        interrupt_arm(&c->state->interrupt, stay.target);
    return stay_run(&stay);
}

/*
 * The state calls itself: the values are where they have to go, so the callback runs on the
 * coroutine that asks, and nothing is copied.
 */
static int call_within(struct call *c)
{
    lua_State *L = c->host;
    int refused = value_find_refused(L, c->first, c->last);
    if (refused != 0)
        return raise_refused_argument(c, refused);
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    lua_pushcfunction(L, call_on_error);
    lua_insert(L, c->first);
    state_push_callback(L);
    lua_insert(L, c->first + 1);
    c->self->depth++;
    int status = lua_pcall(L, c->last - c->first + 1, LUA_MULTRET, c->first);
    c->self->depth--;
    if (status != LUA_OK)
        return call_raise(L, c->state, status);
    lua_remove(L, c->first);
    refused = value_find_refused(L, c->first, lua_gettop(L));
    if (refused != 0)
        return raise_result(c, REFUSED_RESULT, luaL_typename(L, refused), refused - c->first + 1);
    return lua_gettop(L) - c->first + 1;
}

int call_nested(struct call *c)
{
    if (state_of(c->host) == c->state)
        return call_within(c);
    struct stay stay = {.call = c, .target = c->state->target, .nested = true};
    if (!lua_checkstack(stay.target, STATE_SLOTS + LUA_MINSTACK))
        return call_raise(c->host, c->state, LUA_ERRMEM);
    lua_pushcfunction(stay.target, call_on_error);
    state_push_callback(stay.target);
    stay.base = lua_gettop(stay.target);
    stay.ran_before = interrupt_switch(&c->state->interrupt, stay.target);
    return stay_run(&stay);
}
