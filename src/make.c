#include "make.h"

#include "call.h"
#include "coroutine.h"
#include "error.h"
#include "probe.h"
#include "value.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* ---- the setup function's code ---- */

struct code {
    const char *bytes;
    size_t length;
    const char *chunk_name;
    char *buffer; /* malloc'd, if the bytes are a function's; else NULL */
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

/* False: out of memory. [-0, +0, -] */
static bool code_get(struct code *code, lua_State *host, int setup)
{
    memset(code, 0, sizeof *code);
    if (lua_type(host, setup) == LUA_TSTRING) {
        code->bytes = lua_tolstring(host, setup, &code->length);
        code->chunk_name = code->bytes; /* as `load` does */
        return true;
    }
    lua_pushvalue(host, setup);
    int failed = lua_dump(host, code_append, code, 0);
    lua_pop(host, 1);
    code->bytes = code->buffer;
    code->chunk_name = "=setup"; /* not used: a dumped function brings its own */
    return !failed;
}

/*
 * Whether upvalue `i`, whose value is on top, may stay behind: _ENV, which `load` sets anew.
 * Without debug information it has no name, but is the first upvalue and has the globals.
 */
static bool is_environment(lua_State *host, int i, const char *name)
{
    if (strcmp(name, "_ENV") == 0)
        return true;
    if (i != 1 || strcmp(name, "(no name)") != 0)
        return false;
    lua_pushglobaltable(host);
    bool same = lua_rawequal(host, -1, -2);
    lua_pop(host, 1);
    return same;
}

static void check_upvalues(lua_State *host, const struct recipe *recipe)
{
    const char *name;
    for (int i = 1; (name = lua_getupvalue(host, recipe->setup, i)) != NULL; i++) {
        if (!is_environment(host, i, name))
            error_argument(host, recipe->setup, recipe->function,
                           "setup function uses upvalue '%s'", name);
        lua_pop(host, 1);
    }
}

void make_check(lua_State *host, const struct recipe *recipe)
{
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    if (lua_iscfunction(host, recipe->setup))
        error_argument(host, recipe->setup, recipe->function, "lua function expected");
    if (lua_type(host, recipe->setup) == LUA_TFUNCTION)
        check_upvalues(host, recipe);
    else if (lua_type(host, recipe->setup) != LUA_TSTRING)
        error_argument_type(host, recipe->setup, recipe->function, "lua function or string");
    int refused = value_find_refused(host, recipe->setup + 1, lua_gettop(host));
    if (refused != 0)
        error_argument(host, refused, recipe->function, "value of type '%s' not supported",
                       luaL_typename(host, refused));
}

/* ---- inside the new state ---- */

enum failure { FAILURE_NONE, FAILURE_SYNTAX, FAILURE_CALLBACK, FAILURE_RESULT };

/* What runs in the target has to say to, and hear from, the host's side. */
struct setup {
    lua_State *host;
    const struct recipe *recipe;
    struct code code;
    int last;      /* the host's index of setup's last argument */
    int inherited; /* the host's index of path, cpath, preload; each may be nil */
    enum failure failure;
    int refused; /* FAILURE_RESULT: which result */
    const char *type;
};

/* A finalizer of a closing state may end the process, too. The upvalue is Lua's own. */
static int os_exit(lua_State *target)
{
    state_let_close_return(target);
    return lua_tocfunction(target, lua_upvalueindex(1))(target);
}

static int os_open(lua_State *target)
{
    luaopen_os(target);
    lua_getfield(target, -1, "exit");
    lua_pushcclosure(target, os_exit, 1);
    lua_setfield(target, -2, "exit");
    return 1;
}

/* Two tables that would grow step by step are made as large as they get. */
static void make_library_tables(lua_State *target, bool libs)
{
    lua_createtable(target, 0, libs ? 40 : 28);
    lua_rawseti(target, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_createtable(target, 0, libs ? 12 : 4);
    lua_setfield(target, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
}

static void open_libraries(lua_State *target, bool libs)
{
    static const luaL_Reg always[] = {
        {LUA_GNAME, luaopen_base}, {LUA_LOADLIBNAME, luaopen_package}, {NULL, NULL}};
    static const luaL_Reg others[] = {
        {LUA_COLIBNAME, coroutine_open},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_IOLIBNAME, luaopen_io},
        {LUA_OSLIBNAME, os_open},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8},
        {LUA_DBLIBNAME, luaopen_debug},
        {NULL, NULL},
    };
    make_library_tables(target, libs);
    for (const luaL_Reg *l = always; l->func != NULL; l++)
        luaL_requiref(target, l->name, l->func, 1);
    lua_settop(target, 0);
    if (!libs) {
        luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
        luaL_setfuncs(target, others, 0);
    } else {
        for (const luaL_Reg *l = others; l->func != NULL; l++)
            luaL_requiref(target, l->name, l->func, 1);
    }
    lua_settop(target, 0);
}

/* Pushes package.path, package.cpath and package.preload of the host, or nils. [-0, +3, m] */
static void push_inherited(lua_State *host)
{
    int top = lua_gettop(host);
    if (lua_getfield(host, LUA_REGISTRYINDEX, LUA_LOADED_TABLE) == LUA_TTABLE) {
        lua_pushliteral(host, LUA_LOADLIBNAME);
        if (lua_rawget(host, -2) == LUA_TTABLE) {
            lua_pushliteral(host, "path");
            lua_rawget(host, top + 2);
            lua_pushliteral(host, "cpath");
            lua_rawget(host, top + 2);
            lua_getfield(host, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
            lua_remove(host, top + 1);
            lua_remove(host, top + 1);
            return;
        }
    }
    lua_settop(host, top);
    lua_settop(host, top + 3);
}

/* A C function that needs nothing but itself. [-0, +0, -] */
static bool is_plain_cfunction(lua_State *L, int index)
{
    if (!lua_iscfunction(L, index))
        return false;
    if (lua_getupvalue(L, index, 1) == NULL)
        return true;
    lua_pop(L, 1);
    return false;
}

/* Copies the C functions of the host's package.preload that the target does not have. */
static void inherit_preload(lua_State *target, lua_State *host, int preload)
{
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (lua_pushnil(host); lua_next(host, preload) != 0; lua_pop(host, 1)) {
        if (lua_type(host, -2) != LUA_TSTRING || !is_plain_cfunction(host, -1))
            continue;
        value_copy(host, lua_absindex(host, -2), target);
        lua_pushvalue(target, -1);
        bool loaded = lua_rawget(target, -4) != LUA_TNIL;
        lua_pushvalue(target, -2);
        bool present = lua_rawget(target, -4) != LUA_TNIL;
        lua_pop(target, 2);
        if (loaded || present) {
            lua_pop(target, 1);
        } else {
            lua_pushcfunction(target, lua_tocfunction(host, -1));
            lua_rawset(target, -3);
        }
    }
    lua_pop(target, 2);
}

static void inherit(lua_State *target, const struct setup *s)
{
    static const char *const fields[] = {"path", "cpath"};
    lua_getglobal(target, LUA_LOADLIBNAME);
    for (int i = 0; i < 2; i++) {
        if (lua_type(s->host, s->inherited + i) == LUA_TSTRING) {
            value_copy(s->host, s->inherited + i, target);
            lua_setfield(target, -2, fields[i]);
        }
    }
    lua_pop(target, 1);
    if (lua_istable(s->host, s->inherited + 2))
        inherit_preload(target, s->host, s->inherited + 2);
}

/* Checks and takes setup's results, from index 1 on. Returns how many are for the host. */
static int take_results(lua_State *target, struct setup *s)
{
    s->type = luaL_typename(target, 1);
    if (lua_type(target, 1) != LUA_TFUNCTION || lua_iscfunction(target, 1)) {
        s->failure = FAILURE_CALLBACK;
        return 0;
    }
    s->refused = value_find_refused(target, 2, lua_gettop(target));
    if (s->refused != 0) {
        s->failure = FAILURE_RESULT;
        s->type = luaL_typename(target, s->refused);
        return 0;
    }
    lua_pushvalue(target, 1);
    state_set_callback(target);
    return lua_gettop(target) - 1;
}

/*
 * The collector sleeps while the libraries are opened, of which little is garbage, and then until
 * the memory in use has doubled, as after a cycle: a step of a negative size is a debt to be run up
 * first. In test builds it never pauses.
 */
static void start_collector(lua_State *target)
{
    lua_gc(target, LUA_GCRESTART);
#if MTSTATES_GC_STRESS
    lua_gc(target, LUA_GCSETPAUSE, 0);
    lua_gc(target, LUA_GCSETSTEPMUL, 1000);
#else
    lua_gc(target, LUA_GCSTEP, -lua_gc(target, LUA_GCCOUNT));
#endif
}

/* In the target, protected. Leaves setup's further results, or a syntax error's message. */
static int run_setup(lua_State *target)
{
    struct setup *s = lua_touserdata(target, 1);
    const struct code *code = &s->code;
    lua_gc(target, LUA_GCSTOP);
    open_libraries(target, s->recipe->libs);
    start_collector(target);
    if (s->recipe->inherit)
        inherit(target, s);
    int status = luaL_loadbufferx(target, code->bytes, code->length, code->chunk_name, NULL);
    if (status == LUA_ERRMEM)
        return lua_error(target);
    if (status != LUA_OK) {
        s->failure = FAILURE_SYNTAX;
        return 1;
    }
    luaL_checkstack(target, s->last - s->recipe->setup, "too many arguments");
    for (int i = s->recipe->setup + 1; i <= s->last; i++)
        value_copy(s->host, i, target);
    lua_call(target, s->last - s->recipe->setup, LUA_MULTRET);
    if (lua_gettop(target) == 0)
        lua_pushnil(target);
    return take_results(target, s);
}

/* ---- on the host's side ---- */

static int raise_failure(lua_State *host, const struct setup *s, struct state *state)
{
    switch (s->failure) {
    case FAILURE_SYNTAX:
        return error_argument(host, s->recipe->setup_argument, s->recipe->function, "%s",
                              lua_tostring(host, -1));
    case FAILURE_CALLBACK:
        lua_pushfstring(host, "gave no callback: setup returned %s, lua function expected",
                        strcmp(s->type, "function") == 0 ? "a C function" : s->type);
        break;
    default:
        lua_pushfstring(host,
                        "gave a value of type '%s' as result #%d of setup: type not supported",
                        s->type, s->refused);
    }
    return error_raise_for(host, ERROR_STATE_RESULT, &state->record, lua_tostring(host, -1));
}

/* Raises what went wrong; the target has its message on top. Closes the state first. */
static int fail(struct state *state, struct thread *self, struct setup *s, int status)
{
    int copied = LUA_OK;
    bool has_message = status == LUA_OK ? s->failure == FAILURE_SYNTAX : status != LUA_ERRMEM;
    if (has_message)
        copied = call_copy_message(s->host, state->target);
    state_discard(state, self);
    if (copied != LUA_OK)
        return lua_error(s->host);
    return status == LUA_OK ? raise_failure(s->host, s, state) : call_raise(s->host, state, status);
}

static int raise_no_memory(lua_State *host, const struct recipe *recipe)
{
    return error_raise(host, ERROR_OUT_OF_MEMORY, "no memory for '%s'", recipe->function);
}

int make_state(lua_State *host, const struct recipe *recipe, struct handle *handle)
{
    struct thread *self = thread_self();
    struct setup s = {.host = host, .recipe = recipe, .last = lua_gettop(host)};
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    push_inherited(host);
    s.inherited = s.last + 1;

    /* From here until the code is freed nothing may raise an error in the host. */
    bool have_code = code_get(&s.code, host, recipe->setup);
    struct state *state = have_code ? state_new(self, recipe->name, recipe->name_length) : NULL;
    if (state == NULL) {
        free(s.code.buffer);
        return raise_no_memory(host, recipe);
    }
    handle_set(handle, state);
    int top = lua_gettop(host);
    lua_State *target = state->target;
    lua_pushcfunction(target, call_on_error);
    lua_pushcfunction(target, run_setup);
    lua_pushlightuserdata(target, &s);
    self->depth++;
    int status = lua_pcall(target, 1, LUA_MULTRET, STATE_SLOT_HANDLER);
    self->depth--;
    free(s.code.buffer);
    lua_settop(host, top); /* an error may have left parts of an iteration */
    if (status != LUA_OK || s.failure != FAILURE_NONE)
        return fail(state, self, &s, status);

    int count;
    lua_settop(host, recipe->setup - 1);
    int copied = call_copy_results(host, target, STATE_SLOT_HANDLER + 1, &count);
    if (copied != LUA_OK || !registry_add(&state->record)) {
        state_discard(state, self);
        return copied != LUA_OK ? lua_error(host) : raise_no_memory(host, recipe);
    }
    lua_settop(target, STATE_SLOT_HANDLER);
    state_push_callback(target);
    handle->kilobytes = lua_gc(target, LUA_GCCOUNT);
    PROBE_STATE(state_make, state);
    state_leave(state, self);
    return count;
}
