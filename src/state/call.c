/*
 * Two Lua states take part in a call, and an error of one must not jump over the other's frames. So
 * all that can fail in the target runs in a protected call of the target, or has its memory
 * reserved; and of what can fail in the host nothing runs while the target is in use, unless in a
 * protected call of the host.
 */
#include "call.h"

#include "error.h"
#include "interpreter.h"
#include "lua_inside.h"
#include "parcel.h"

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
    /* The error may come from a hook of the code's own: nothing that runs here could be
     * interrupted. */
    *lua_inside_allowhook(target) = interpreter_state(target)->allows_hooks;
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
    lua_pushvalue(host, -4); /* the message */
    lua_pushliteral(host, "\nouter ");
    luaL_traceback(host, host, NULL, 1);
    lua_concat(host, 6);
    return lua_error(host);
}

/* ---- the end ---- */

/* So many values fit on a stack without asking: what Lua promises, less the slots of an idle state,
 * a copy of the callback, and one to spare. */
enum { SPARE_SLOTS = LUA_MINSTACK - STATE_SLOTS - 2 };

/* The target's stack as it was, and the stay at its end. */
static void end(struct call *c)
{
    if (c->stay.nested)
        lua_settop(c->target, c->base - 2);
    else if (__builtin_expect(c->most > INTERPRETER_LARGE, 0))
        interpreter_rest(c->stay.state, call_on_error, true);
    else
        lua_settop(c->target, STATE_SLOTS);
    stay_end(&c->stay);
}

static int raise_refused_argument(struct call *c, int index)
{
    return error_argument(c->host, index, c->method, "value of type '%s' not supported",
                          luaL_typename(c->host, index));
}

/* Whatever the arguments were, they give room for the message. */
static int raise_result(struct call *c, const char *format, ...)
{
    va_list arguments;
    lua_settop(c->host, c->first - 1);
    luaL_checkstack(c->host, LUA_MINSTACK, NULL);
    va_start(arguments, format);
    lua_pushvfstring(c->host, format, arguments);
    va_end(arguments);
    return error_raise_for(c->host, ERROR_STATE_RESULT, &c->stay.state->record,
                           lua_tostring(c->host, -1));
}

static int raise_refused_result(struct call *c, const char *type, int number)
{
    return raise_result(c, "returned a value of type '%s' as result #%d: type not supported", type,
                        number);
}

/* ---- results, which are above `base` on the target ---- */

static int end_refused(struct call *c, int index)
{
    const char *type = luaL_typename(c->target, index);
    end(c);
    return raise_refused_result(c, type, index - c->base);
}

/* All of them, when they are large. [-0, +n, e] on the host */
static int return_large(struct call *c)
{
    int top = lua_gettop(c->target);
    int refused = parcel_find_refused(c->target, c->base + 1, top);
    if (refused != 0)
        return end_refused(c, refused);
    int status = parcel_copy_protected(c->target, c->base + 1, top, c->host);
    int count = top - c->base;
    end(c);
    return status == LUA_OK ? count : lua_error(c->host);
}

/* Those from index `first` on, in a parcel; those before, `done`, are on the host already.
 * [-done, +n, e] on the host */
static int __attribute__((noinline)) return_packed(struct call *c, int first, int done)
{
    struct parcel parcel;
    switch (parcel_pack(&parcel, c->target, first, lua_gettop(c->target))) {
    case CROSSING_DONE:
        end(c);
        parcel_unpack(&parcel, c->host);
        return done + (int)parcel.count;
    case CROSSING_REFUSED:
        return end_refused(c, first + (int)parcel.count);
    default:
        lua_pop(c->host, done);
        return return_large(c);
    }
}

/* Makes room for many results, at the arguments' expense. [-?, +0, -] on the host */
static bool make_room(struct call *c, int count)
{
    lua_settop(c->host, c->first - 1);
    return lua_checkstack(c->host, count + LUA_MINSTACK);
}

/* [-?, +n, e] on the host */
static int return_results(struct call *c)
{
    int count = lua_gettop(c->target) - c->base;
    c->most = count > c->most ? count : c->most;
    if (count > SPARE_SLOTS && !make_room(c, count)) {
        end(c);
        if (count < LUA_INSIDE_MANY_VALUES)
            return call_raise(c->host, c->stay.state, LUA_ERRMEM);
        return raise_result(c, "returned %d values: too many for the stack", count);
    }
    for (int i = 0; i < count; i++)
        if (parcel_copy_plain(c->target, c->base + 1 + i, c->host) != CROSSING_DONE)
            return return_packed(c, c->base + 1 + i, i);
    end(c);
    return count;
}

/* The message on top of the target, which call_on_error or Lua made: a string. */
static int return_error(struct call *c, int status)
{
    int copied = LUA_OK;
    if (status != LUA_ERRMEM) {
        int top = lua_gettop(c->target);
        lua_settop(c->host, c->first - 1);
        copied = parcel_copy_protected(c->target, top, top, c->host);
    }
    end(c);
    return copied == LUA_OK ? call_raise(c->host, c->stay.state, status) : lua_error(c->host);
}

/* ---- the call ---- */

/*
 * Copies a string argument outside of any protected call, which would cost as much as the string:
 * the memory that the push takes is reserved beforehand.
 */
static enum crossing copy_string(lua_State *host, int index, struct state *s)
{
    size_t length;
    const char *bytes = lua_tolstring(host, index, &length);
    if (!arena_reserve(&s->arena, length + LUA_INSIDE_STRING_OVERHEAD))
        return CROSSING_NEEDS_MEMORY;
    lua_pushlstring(s->main, bytes, length);
    return CROSSING_DONE;
}

/* A stack has no room for the arguments. */
static int raise_no_room(struct call *c)
{
    if (c->last - c->first < LUA_INSIDE_MANY_VALUES)
        return call_raise(c->host, c->stay.state, LUA_ERRMEM);
    return luaL_error(c->host, "stack overflow (too many arguments to '%s')", c->method);
}

/* On top of handler and callback: adds the arguments, and runs it. [-?, +n, e] on the host */
static int run(struct call *c)
{
    struct state *state = c->stay.state;
    int count = c->last - c->first + 1;
    c->most = count;
    if (count > SPARE_SLOTS && !lua_checkstack(c->target, count + LUA_MINSTACK)) {
        end(c);
        return raise_no_room(c);
    }
    lua_pushvalue(c->target, c->base);
    for (int i = c->first; i <= c->last; i++) {
        enum crossing crossing = parcel_copy_plain(c->host, i, c->target);
        if (crossing == CROSSING_NEEDS_MEMORY)
            crossing = copy_string(c->host, i, state);
        if (__builtin_expect(crossing != CROSSING_DONE, 0)) {
            end(c);
            return crossing == CROSSING_REFUSED ? raise_refused_argument(c, i)
                                                : call_raise(c->host, state, LUA_ERRMEM);
        }
    }
    int status = lua_pcall(c->target, count, LUA_MULTRET, c->base - 1);
    return status == LUA_OK ? return_results(c) : return_error(c, status);
}

/*
 * The state calls itself: the values are where they have to go, so the callback runs on the
 * coroutine that asks, and nothing is copied.
 */
static int run_within(struct call *c)
{
    lua_State *L = c->host;
    int refused = parcel_find_refused(L, c->first, c->last);
    if (refused != 0) {
        stay_end(&c->stay);
        return raise_refused_argument(c, refused);
    }
    if (!lua_checkstack(L, LUA_MINSTACK)) {
        stay_end(&c->stay);
        return raise_no_room(c);
    }
    stay_run_on(&c->stay, L);
    lua_pushcfunction(L, call_on_error);
    lua_insert(L, c->first);
    interpreter_push_callback(L);
    lua_insert(L, c->first + 1); /* handler, callback, arguments */
    int status = lua_pcall(L, c->last - c->first + 1, LUA_MULTRET, c->first);
    stay_end(&c->stay);
    if (status != LUA_OK)
        return call_raise(L, c->stay.state, status);
    lua_remove(L, c->first);
    refused = parcel_find_refused(L, c->first, lua_gettop(L));
    if (refused != 0)
        return raise_refused_result(c, luaL_typename(L, refused), refused - c->first + 1);
    return lua_gettop(L) - c->first + 1;
}

int call_nested(struct call *c)
{
    c->target = c->stay.state->main;
    if (interpreter_state(c->host) == c->stay.state)
        return run_within(c);
    if (!lua_checkstack(c->target, STATE_SLOTS + LUA_MINSTACK)) {
        stay_end(&c->stay);
        return call_raise(c->host, c->stay.state, LUA_ERRMEM);
    }
    stay_run_on(&c->stay, c->target);
    lua_pushcfunction(c->target, call_on_error);
    interpreter_push_callback(c->target);
    c->base = lua_gettop(c->target);
    return run(c);
}

int call_entered(struct call *c)
{
    c->target = c->stay.state->main;
    c->base = STATE_SLOT_CALLBACK;
    return run(c);
}
