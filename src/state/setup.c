#include "setup.h"

#include "call.h"
#include "error.h"
#include "interpreter.h"
#include "parcel.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* ---- the code of functions ---- */

struct code {
    const char *bytes;
    size_t length;
    const char *chunk_name;
    char *buffer; /* malloc'd; what functions are dumped into */
    size_t capacity;
};

/* A lua_Writer: appends to the buffer. */
static int code_append(lua_State *L, const void *bytes, size_t length, void *ud)
{
    (void)L;
    struct code *code = ud;
    if (length > code->capacity - code->length) {
        size_t capacity = 2 * (code->length + length);
        char *grown = realloc(code->buffer, capacity);
        if (grown == NULL)
            return 1;
        code->buffer = grown;
        code->capacity = capacity;
    }
    memcpy(code->buffer + code->length, bytes, length);
    code->length += length;
    return 0;
}

/* Takes the code at `index`, a string's or a function's. False: out of memory. [-0, +0, -] */
static bool code_take(struct code *code, lua_State *L, int index)
{
    if (lua_type(L, index) == LUA_TSTRING) {
        code->bytes = lua_tolstring(L, index, &code->length);
        code->chunk_name = code->bytes; /* as `load` does */
        return true;
    }
    code->length = 0;
    lua_pushvalue(L, index);
    int failed = lua_dump(L, code_append, code, 0);
    lua_pop(L, 1);
    code->bytes = code->buffer;
    code->chunk_name = "=setup"; /* not used: a dumped function brings its own */
    return !failed;
}

/* Pushes the function, with the globals as its _ENV, or a message; the result is lua_load's.
 * [-0, +1, m] */
static int code_load(const struct code *code, lua_State *L)
{
    return luaL_loadbufferx(L, code->bytes, code->length, code->chunk_name, NULL);
}

/*
 * Whether upvalue `i`, whose value is on top, may stay behind: _ENV, which `load` sets anew.
 * Without debug information it has no name, but is the first upvalue and has the globals.
 * [-0, +0, -]
 */
static bool is_environment(lua_State *L, int i, const char *name)
{
    if (strcmp(name, "_ENV") == 0)
        return true;
    if (i != 1 || strcmp(name, "(no name)") != 0)
        return false;
    lua_pushglobaltable(L);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
    return same;
}

/* The name of an upvalue of the Lua function at `index` that cannot stay behind, or NULL.
 * [-0, +0, -] */
static const char *find_captured(lua_State *L, int index)
{
    const char *name;
    for (int i = 1; (name = lua_getupvalue(L, index, i)) != NULL; i++) {
        bool stays = is_environment(L, i, name);
        lua_pop(L, 1);
        if (!stays)
            return name;
    }
    return NULL;
}

/* ---- on the host's side, before ---- */

void setup_check(lua_State *host, const struct recipe *r)
{
    const char *captured;
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    if (lua_iscfunction(host, r->setup))
        error_argument(host, r->setup, r->function, "lua function expected");
    if (lua_type(host, r->setup) == LUA_TFUNCTION) {
        if ((captured = find_captured(host, r->setup)) != NULL)
            error_argument(host, r->setup, r->function, "setup function uses upvalue '%s'",
                           captured);
    } else if (lua_type(host, r->setup) != LUA_TSTRING) {
        error_argument_type(host, r->setup, r->function, "lua function or string");
    }
    int refused = parcel_find_refused(host, r->setup + 1, r->last);
    if (refused != 0)
        error_argument(host, refused, r->function, "value of type '%s' not supported",
                       luaL_typename(host, refused));
}

/* Where a host keeps what its states inherit. */
enum { PACKAGE_PATH, PACKAGE_CPATH, PACKAGE_PRELOAD, PACKAGE_SLOTS };

void setup_prepare(struct setup *s, lua_State *host, const struct recipe *recipe)
{
    *s = (struct setup){.host = host, .recipe = recipe};
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    s->package = lua_gettop(host) + 1;
    lua_settop(host, s->package - 1 + PACKAGE_SLOTS); /* nils */
    if (!recipe->inherit)
        return;
    if (lua_getfield(host, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE) {
        lua_pushliteral(host, LUA_LOADLIBNAME);
        if (lua_rawget(host, -2) == LUA_TTABLE) {
            lua_pushliteral(host, "path");
            lua_rawget(host, -2);
            lua_replace(host, s->package + PACKAGE_PATH);
            lua_pushliteral(host, "cpath");
            lua_rawget(host, -2);
            lua_replace(host, s->package + PACKAGE_CPATH);
        }
    }
    lua_getfield(host, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_replace(host, s->package + PACKAGE_PRELOAD);
    lua_settop(host, s->package - 1 + PACKAGE_SLOTS);
}

/* ---- inside the new state ---- */

/* What runs in the target knows the setup and two pieces of code. */
struct inside {
    struct setup *setup;
    struct code code;    /* setup's */
    struct code preload; /* of the function that is just brought over */
};

/* Sets package[field], if the host has a string at `index`. `package` is on top. [-0, +0, m] */
static void inherit_field(lua_State *target, lua_State *host, int index, const char *field)
{
    if (lua_type(host, index) != LUA_TSTRING)
        return;
    parcel_copy(host, index, index, target);
    lua_setfield(target, -2, field);
}

/* Pushes the function on top of the host if it can live elsewhere; false: it cannot.
 * [-0, +(0|1), m] */
static bool inherit_function(lua_State *target, lua_State *host, struct code *code)
{
    if (lua_iscfunction(host, -1)) {
        if (lua_getupvalue(host, -1, 1) != NULL) {
            lua_pop(host, 1);
            return false;
        }
        lua_pushcfunction(target, lua_tocfunction(host, -1));
        return true;
    }
    if (lua_type(host, -1) != LUA_TFUNCTION || find_captured(host, lua_gettop(host)) != NULL)
        return false;
    if (!code_take(code, host, lua_gettop(host)))
        luaL_error(target, "not enough memory");
    if (code_load(code, target) != LUA_OK)
        lua_error(target);
    return true;
}

/* Whether the table at `index` has something under the key on top. [-0, +0, -] */
static bool has_key(lua_State *L, int index)
{
    lua_pushvalue(L, -1);
    bool has = lua_rawget(L, index) != LUA_TNIL;
    lua_pop(L, 1);
    return has;
}

/* Brings over what the host's package.preload has and the target does not. [-0, +0, m] */
static void inherit_preload(lua_State *target, lua_State *host, int preload, struct code *code)
{
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    int loaded = lua_gettop(target);
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    int present = lua_gettop(target);
    for (lua_pushnil(host); lua_next(host, preload) != 0; lua_pop(host, 1)) {
        int key = lua_gettop(host) - 1;
        if (lua_type(host, key) != LUA_TSTRING)
            continue;
        parcel_copy(host, key, key, target);
        if (!has_key(target, loaded) && !has_key(target, present) &&
            inherit_function(target, host, code))
            lua_rawset(target, present);
        else
            lua_pop(target, 1);
    }
    lua_settop(target, loaded - 1);
}

static void inherit(lua_State *target, struct inside *in)
{
    lua_State *host = in->setup->host;
    int package = in->setup->package;
    lua_getglobal(target, LUA_LOADLIBNAME);
    inherit_field(target, host, package + PACKAGE_PATH, "path");
    inherit_field(target, host, package + PACKAGE_CPATH, "cpath");
    lua_pop(target, 1);
    if (lua_istable(host, package + PACKAGE_PRELOAD))
        inherit_preload(target, host, package + PACKAGE_PRELOAD, &in->preload);
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
    int refused = parcel_find_refused(target, first + 1, lua_gettop(target));
    if (refused != 0) {
        s->failure = SETUP_RESULT;
        s->refused = refused - first + 1;
        s->type = luaL_typename(target, refused);
        return 0;
    }
    lua_rotate(target, first, -1); /* the callback comes on top */
    interpreter_set_callback(target);
    return lua_gettop(target) - first + 1;
}

/* (inside) Protected. Leaves setup's further results, or a syntax error's message. */
static int run_setup(lua_State *target)
{
    struct inside *in = lua_touserdata(target, 1);
    struct setup *s = in->setup;
    const struct recipe *r = s->recipe;
    int arguments = r->last - r->setup;
    interpreter_open_libraries(target, r->libs);
    interpreter_start_collector(target);
    inherit(target, in);
    int status = code_load(&in->code, target);
    if (status == LUA_ERRMEM)
        return lua_error(target);
    if (status != LUA_OK) {
        s->failure = SETUP_SYNTAX;
        return 1;
    }
    luaL_checkstack(target, arguments, "too many arguments");
    parcel_copy(s->host, r->setup + 1, r->last, target);
    lua_call(target, arguments, LUA_MULTRET);
    s->most = lua_gettop(target) > arguments ? lua_gettop(target) : arguments;
    return take_results(target, s, 2);
}

/* ---- on the host's side again ---- */

/* Runs setup in the stay that has begun. Returns how many results or messages are left above the
 * handler on the target. */
static int run_inside(struct setup *s)
{
    struct inside in = {.setup = s};
    lua_State *target = s->state->main;
    int top = lua_gettop(s->host);
    s->status = LUA_ERRMEM;
    if (code_take(&in.code, s->host, s->recipe->setup)) {
        lua_pushcfunction(target, call_on_error);
        lua_pushcfunction(target, run_setup);
        lua_pushlightuserdata(target, &in);
        s->status = lua_pcall(target, 1, LUA_MULTRET, STATE_SLOT_HANDLER);
    }
    free(in.code.buffer);
    free(in.preload.buffer);
    lua_settop(s->host, top); /* an error may have left parts of an iteration */
    if (s->status != LUA_OK)
        s->failure = SETUP_ERROR;
    return s->status == LUA_ERRMEM ? 0 : lua_gettop(target) - STATE_SLOT_HANDLER;
}

int setup_make(struct setup *s)
{
    struct thread *self = thread_self();
    struct stay stay;
    thread_list(self); /* once more, where there was no memory for it */
    s->state = state_new(self, s->recipe->name, s->recipe->name_length);
    s->failure = s->state != NULL ? SETUP_WELL : SETUP_NO_MEMORY;
    if (s->state == NULL)
        return 0;
    stay_begin_setup(&stay, s->state, self);
    int count = run_inside(s);
    int status = parcel_copy_protected(s->state->main, STATE_SLOT_HANDLER + 1,
                                       STATE_SLOT_HANDLER + count, s->host);
    if (status != LUA_OK) { /* the host's own message, or that it has no memory */
        s->failure = SETUP_HOST_ERROR;
        count = 1;
    } else if (s->failure == SETUP_WELL && !registry_add(&s->state->record)) {
        s->failure = SETUP_NO_MEMORY;
    }
    if (s->failure != SETUP_WELL) {
        stay_end_failed_setup(&stay);
        return count;
    }
    interpreter_rest(s->state, call_on_error, s->most > INTERPRETER_LARGE);
    s->kilobytes = lua_gc(s->state->main, LUA_GCCOUNT);
    stay_end_setup(&stay);
    return count;
}

int setup_raise(struct setup *s)
{
    lua_State *host = s->host;
    const struct recipe *r = s->recipe;
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    switch (s->failure) {
    case SETUP_NO_MEMORY:
        return error_raise(host, ERROR_OUT_OF_MEMORY, "no memory for '%s'", r->function);
    case SETUP_SYNTAX:
        return error_argument(host, r->setup, r->function, "%s", lua_tostring(host, -1));
    case SETUP_NO_CALLBACK:
        lua_pushfstring(host, "gave no callback: setup returned %s, lua function expected",
                        strcmp(s->type, "function") == 0 ? "a C function" : s->type);
        break;
    case SETUP_RESULT:
        lua_pushfstring(host,
                        "gave a value of type '%s' as result #%d of setup: type not supported",
                        s->type, s->refused);
        break;
    case SETUP_HOST_ERROR:
        return lua_error(host);
    default:
        return call_raise(host, s->state, s->status);
    }
    return error_raise_for(host, ERROR_STATE_RESULT, &s->state->record, lua_tostring(host, -1));
}
