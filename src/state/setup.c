#include "setup.h"

#include "call.h"
#include "error.h"
#include "interpreter.h"
#include "parcel.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

/* ---- on the host's side, before ---- */

void setup_check(lua_State *host, const struct recipe *r)
{
    const char *captured;
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    if (lua_iscfunction(host, r->setup))
        error_argument(host, r->setup, r->function, "lua function expected");
    if (lua_type(host, r->setup) == LUA_TFUNCTION) {
        if ((captured = parcel_find_captured(host, r->setup)) != NULL)
            error_argument(
                host, r->setup, r->function,
                "setup function uses upvalue '%s': make it an argument, or require it inside",
                captured);
    } else if (lua_type(host, r->setup) != LUA_TSTRING) {
        error_argument_type(host, r->setup, r->function, "lua function or string");
    }
}

/* Copies the field of the table at `from`, if it is a string, to the table on top of the stack.
 * [-0, +0, m] */
static void inherit_field(lua_State *L, int from, const char *field)
{
    lua_pushstring(L, field);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, from) == LUA_TSTRING)
        lua_rawset(L, -3);
    else
        lua_pop(L, 2);
}

/*
 * Replaces the function on top of the stack by what can be sent of it: itself, or a C function's
 * address; or by nil where it cannot live elsewhere. [-1, +1, -]
 */
static void inherit_function(lua_State *L)
{
    bool stays;
    lua_CFunction c = lua_tocfunction(L, -1);
    if (c != NULL) {
        stays = lua_getupvalue(L, -1, 1) != NULL;
        lua_settop(L, lua_gettop(L) - 1 - stays);
        if (!stays)
            lua_pushlightuserdata(L, (void *)(uintptr_t)c);
    } else {
        stays = lua_type(L, -1) != LUA_TFUNCTION || parcel_find_captured(L, lua_gettop(L)) != NULL;
        if (stays)
            lua_pop(L, 1);
    }
    if (stays)
        lua_pushnil(L);
}

/* Adds those functions of the table at `preload` that can live elsewhere to the table on top of the
 * stack. [-0, +0, m] */
static void inherit_preload(lua_State *L, int preload)
{
    lua_pushnil(L);
    if (lua_next(L, preload) == 0)
        return; /* mostly it is empty */
    lua_pop(L, 2);
    lua_newtable(L);
    for (lua_pushnil(L); lua_next(L, preload) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            continue;
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        inherit_function(L); /* ours, name, function, name, what is sent */
        lua_rawset(L, -5);
        lua_pushnil(L); /* lua_next's value */
        lua_replace(L, -2);
    }
    lua_setfield(L, -2, "preload");
}

/* Pushes a table of what states inherit. [-0, +1, m] */
static void push_inherited(lua_State *L)
{
    lua_createtable(L, 0, 3);
    int inherited = lua_gettop(L);
    if (lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE) {
        lua_pushliteral(L, LUA_LOADLIBNAME);
        if (lua_rawget(L, -2) == LUA_TTABLE) {
            int package = lua_gettop(L);
            lua_pushvalue(L, inherited);
            inherit_field(L, package, "path");
            inherit_field(L, package, "cpath");
        }
    }
    lua_settop(L, inherited);
    if (lua_getfield(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE) == LUA_TTABLE) {
        lua_pushvalue(L, inherited);
        inherit_preload(L, inherited + 1);
    }
    lua_settop(L, inherited);
}

void setup_prepare(struct setup *s, lua_State *host, const struct recipe *recipe)
{
    *s = (struct setup){.host = host, .recipe = recipe};
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    if (recipe->inherit)
        push_inherited(host);
    else
        lua_pushnil(host);
    s->inherited = lua_gettop(host);
}

/* Notes what kept values from crossing: `refused`, if one was. False: something did. */
static bool note_crossing(struct setup *s, enum crossing crossing, enum setup_failure refused)
{
    if (crossing == CROSSING_REFUSED)
        s->failure = refused;
    else if (crossing == CROSSING_ERROR)
        s->failure = SETUP_HOST_ERROR;
    else if (crossing == CROSSING_NEEDS_MEMORY)
        s->failure = SETUP_NO_MEMORY;
    return crossing == CROSSING_DONE;
}

bool setup_pack(struct setup *s, struct parcel *p)
{
    const struct recipe *r = s->recipe;
    enum crossing crossing = parcel_pack(p, s->host, s->inherited, s->inherited, &s->refusal);
    if (crossing == CROSSING_DONE)
        crossing = parcel_pack(p, s->host, r->setup, r->last, &s->refusal);
    return note_crossing(s, crossing, SETUP_ARGUMENT);
}

/* ---- inside the new state ---- */

/* Sets package[field] to what is inherited. [-0, +0, m] */
static void set_field(lua_State *target, int inherited, const char *field)
{
    if (lua_getfield(target, inherited, field) == LUA_TSTRING)
        lua_setfield(target, -2, field);
    else
        lua_pop(target, 1);
}

/* Whether the table at `index` has something under the key below the top. [-0, +0, -] */
static bool has_key(lua_State *L, int index)
{
    lua_pushvalue(L, -2);
    bool has = lua_rawget(L, index) != LUA_TNIL;
    lua_pop(L, 1);
    return has;
}

/* Takes over what the target does not have from the table on top of the stack. [-0, +0, m] */
static void take_preload(lua_State *target)
{
    int inherited = lua_gettop(target);
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (lua_pushnil(target); lua_next(target, inherited) != 0; lua_pop(target, 1)) {
        if (has_key(target, inherited + 1) || has_key(target, inherited + 2))
            continue;
        lua_pushvalue(target, -2);
        if (lua_islightuserdata(target, -2))
            lua_pushcfunction(target, (lua_CFunction)(uintptr_t)lua_touserdata(target, -2));
        else
            lua_pushvalue(target, -2);
        lua_rawset(target, inherited + 2);
    }
    lua_settop(target, inherited);
}

/* The table at `inherited`, or nil. [-0, +0, m] */
static void take_inherited(lua_State *target, int inherited)
{
    int top = lua_gettop(target);
    if (!lua_istable(target, inherited))
        return;
    lua_getglobal(target, LUA_LOADLIBNAME);
    set_field(target, inherited, "path");
    set_field(target, inherited, "cpath");
    if (lua_getfield(target, inherited, "preload") == LUA_TTABLE)
        take_preload(target);
    lua_settop(target, top);
}

/* Checks setup's results, from index `first` on, which may fill the stack, and takes the callback.
 * Returns how many are for the host. [-1, +0, m] */
static int take_results(lua_State *target, struct setup *s, int first)
{
    s->type = lua_gettop(target) < first ? "nothing" : luaL_typename(target, first);
    if (lua_type(target, first) != LUA_TFUNCTION || lua_iscfunction(target, first)) {
        s->failure = SETUP_NO_CALLBACK;
        return 0;
    }
    lua_rotate(target, first, -1); /* the callback comes on top */
    interpreter_set_callback(target);
    if (s->recipe == NULL || !s->recipe->gives_results)
        lua_settop(target, first - 1);
    return lua_gettop(target) - first + 1;
}

/* What runs in the target knows both. */
struct inside {
    struct setup *setup;
    const struct parcel *arguments;
};

enum { INSIDE = 1, INHERITED, SETUP };

/* Unpacks the arguments. False: they cannot be had. [-0, +n, e] */
static bool take_arguments(lua_State *target, struct inside *in)
{
    struct setup *s = in->setup;
    enum crossing crossing = parcel_unpack(in->arguments, target, 0, &s->refusal);
    if (s->packed != NULL)
        parcel_end(s->packed);
    if (crossing == CROSSING_ERROR)
        return lua_error(target);
    if (crossing == CROSSING_REFUSED)
        refusal_add(&s->refusal, "; arguments of setup arrive before it runs");
    return note_crossing(s, crossing, SETUP_ARGUMENT);
}

/* Replaces setup's code by its function. False: by a syntax error's message. [-0, +0, m] */
static bool load_setup(lua_State *target)
{
    size_t length;
    const char *code = lua_tolstring(target, SETUP, &length);
    if (code == NULL)
        return true;
    int status = luaL_loadbufferx(target, code, length, code, NULL); /* named as `load` does */
    if (status == LUA_ERRMEM)
        lua_error(target);
    lua_replace(target, SETUP);
    return status == LUA_OK;
}

/* (inside) Protected. Leaves setup's further results, or a syntax error's message. */
static int run_setup(lua_State *target)
{
    struct inside *in = lua_touserdata(target, INSIDE);
    struct setup *s = in->setup;
    interpreter_start(target);
    s->is_large = parcel_slots(in->arguments) > INTERPRETER_LARGE;
    if (!take_arguments(target, in))
        return 0;
    luaL_checkstack(target, LUA_MINSTACK, "too many arguments");
    take_inherited(target, INHERITED);
    if (!load_setup(target)) {
        s->failure = SETUP_SYNTAX;
        lua_settop(target, SETUP);
        return 1;
    }
    lua_call(target, lua_gettop(target) - SETUP, LUA_MULTRET);
    s->is_large = s->is_large || lua_gettop(target) > INTERPRETER_LARGE;
    return take_results(target, s, SETUP);
}

/* ---- on the host's side again ---- */

/* Runs setup in the stay that has begun. Returns how many results or messages are left above the
 * handler on the target. */
static int run_inside(struct setup *s, const struct parcel *arguments)
{
    struct inside in = {s, arguments};
    lua_State *target = s->state->main;
    lua_pushcfunction(target, call_on_error);
    lua_pushcfunction(target, run_setup);
    lua_pushlightuserdata(target, &in);
    s->status = lua_pcall(target, 1, LUA_MULTRET, STATE_SLOT_HANDLER);
    if (s->packed != NULL)
        parcel_end(s->packed);
    if (s->status != LUA_OK)
        s->failure = SETUP_ERROR;
    return s->status == LUA_ERRMEM ? 0 : lua_gettop(target) - STATE_SLOT_HANDLER;
}

/* Brings results or messages over, and returns how many. */
static int bring_results(struct setup *s, int count)
{
    struct parcel p;
    if (count == 0 || s->host == NULL)
        return 0;
    parcel_begin(&p);
    enum crossing crossing = parcel_pack(&p, s->state->main, STATE_SLOT_HANDLER + 1,
                                         STATE_SLOT_HANDLER + count, &s->refusal);
    s->is_large = s->is_large || parcel_slots(&p) > INTERPRETER_LARGE;
    if (crossing == CROSSING_DONE)
        crossing = parcel_unpack(&p, s->host, 0, &s->refusal);
    parcel_end(&p);
    if (note_crossing(s, crossing, SETUP_RESULT))
        return count;
    return s->failure == SETUP_HOST_ERROR ? 1 : 0;
}

/* The state, with setup's results on the host's stack, and how many; or what failed. */
static int make(struct setup *s, struct thread *self, const struct state_options *o,
                const struct parcel *arguments)
{
    struct stay stay;
    s->state = state_new(self, o);
    if (s->state == NULL) {
        s->failure = SETUP_NO_MEMORY;
        return 0;
    }
    int count = 0;
    if (stay_begin_setup(&stay, s->state, self))
        count = bring_results(s, run_inside(s, arguments));
    else
        s->failure = SETUP_NO_MEMORY;
    if (s->failure == SETUP_WELL && !registry_add(&s->state->record))
        s->failure = SETUP_NO_MEMORY;
    if (s->failure != SETUP_WELL) {
        stay_end_failed_setup(&stay);
        return count;
    }
    interpreter_rest(s->state, call_on_error, s->is_large);
    s->kilobytes = lua_gc(s->state->main, LUA_GCCOUNT);
    stay_end_setup(&stay);
    return count;
}

int setup_make(struct setup *s)
{
    struct thread *self = thread_self();
    struct parcel arguments;
    thread_list(self); /* once more, where there was no memory for it */
    parcel_begin(&arguments);
    s->packed = &arguments;
    int count = setup_pack(s, &arguments) ? make(s, self, &s->recipe->options, &arguments) : 0;
    parcel_end(&arguments);
    return count;
}

void setup_make_from(struct setup *s, struct thread *self, const struct state_options *o,
                     const struct parcel *p)
{
    thread_list(self);
    make(s, self, o, p);
}

static int raise_no_memory(lua_State *host, const struct recipe *r)
{
    const char *where = "";
    if (r->options.memory_limit != ARENA_NO_LIMIT)
        where = lua_pushfstring(host, ", where memory_limit is %I bytes",
                                (LUAI_UACINT)r->options.memory_limit);
    return error_raise(host, ERROR_OUT_OF_MEMORY, "no memory for '%s'%s", r->function, where);
}

int setup_raise(struct setup *s)
{
    lua_State *host = s->host;
    const struct recipe *r = s->recipe;
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    switch (s->failure) {
    case SETUP_NO_MEMORY:
        if (r == NULL)
            return error_raise(host, ERROR_OUT_OF_MEMORY, "no memory for a member of the pool");
        return raise_no_memory(host, r);
    case SETUP_ARGUMENT: /* in the parcel before setup comes what is inherited */
        if (r == NULL)
            return error_raise(host, ERROR_INVOKING_STATE,
                               "a member's setup gets no argument #%d: %s", s->refusal.number - 2,
                               s->refusal.why);
        return error_argument(host, r->setup + s->refusal.number - 2, r->function, "%s",
                              s->refusal.why);
    case SETUP_SYNTAX:
        if (r == NULL)
            return error_raise(host, ERROR_INVOKING_STATE, "a member's setup: %s",
                               lua_tostring(host, -1));
        return error_argument(host, r->setup, r->function, "%s", lua_tostring(host, -1));
    case SETUP_NO_CALLBACK:
        lua_pushfstring(host, "gave no callback: setup returned %s, lua function expected",
                        strcmp(s->type, "function") == 0 ? "a C function" : s->type);
        break;
    case SETUP_RESULT: /* before the results comes the callback */
        lua_pushfstring(host, "gave a result of setup that cannot cross: #%d (%s)",
                        s->refusal.number + 1, s->refusal.why);
        break;
    case SETUP_HOST_ERROR:
        return lua_error(host);
    default:
        return call_raise(host, call_subject(s->state), s->status);
    }
    return error_raise_for(host, ERROR_STATE_RESULT, &s->state->record, lua_tostring(host, -1));
}
