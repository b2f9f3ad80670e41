#include "interpreter.h"

#include "carray.h"
#include "coroutine.h"
#include "error.h"
#include "image.h"
#include "lua_inside.h"

#include <lualib.h>

/* Keys into a state's registry: the addresses. */
static const char self_key = 0;
static const char callback_key = 0;
static const char errerr_key = 0;
static const char interrupted_key = 0;
static const char time_limit_key = 0;
static const char guard_key = 0;

struct state *interpreter_state(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &self_key);
    struct state *s = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return s;
}

void interpreter_push_interrupted(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &interrupted_key);
}

void interpreter_push_time_limit(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &time_limit_key);
}

void interpreter_push_callback(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &callback_key);
}

void interpreter_set_callback(lua_State *target)
{
    lua_rawsetp(target, LUA_REGISTRYINDEX, &callback_key);
}

/* ---- birth ---- */

/* Of the object that was there first; so this comes before any memory goes. */
static int on_last_finalizer(lua_State *target)
{
    struct state *s = lua_touserdata(target, lua_upvalueindex(1));
    if (s->finalized != NULL)
        _longjmp(*s->finalized, 1);
    return 0;
}

/* (the state) */
static int begin(lua_State *target)
{
    lua_rawsetp(target, LUA_REGISTRYINDEX, &self_key);
    lua_newuserdatauv(target, 0, 0); /* the guard */
    lua_createtable(target, 0, 1);   /* its metatable */
    lua_rawgetp(target, LUA_REGISTRYINDEX, &self_key);
    lua_pushcclosure(target, on_last_finalizer, 1);
    lua_setfield(target, -2, "__gc");
    lua_setmetatable(target, -2);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &guard_key);
    lua_pushliteral(target, LUA_INSIDE_ERRERR);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &errerr_key);
    lua_pushliteral(target, ERROR_INTERRUPTED);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &interrupted_key);
    lua_pushliteral(target, ERROR_TIME_LIMIT);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &time_limit_key);
    carray_open(target);
    return 0;
}

/* ---- libraries ---- */

/*
 * Where it closes the Lua state: a finalizer of a closing state may call it, which has to come back
 * here; and nothing may be interrupted from then on. What may fail is checked before. The upvalues:
 * the state, Lua's own.
 */
static int os_exit(lua_State *target)
{
    struct state *s = lua_touserdata(target, lua_upvalueindex(1));
    if (lua_toboolean(target, 2)) {
        if (!lua_isboolean(target, 1))
            luaL_optinteger(target, 1, 0);
        s->finalized = NULL;
        interrupt_detach(&s->interrupt);
    }
    return lua_tocfunction(target, lua_upvalueindex(2))(target);
}

static int os_open(lua_State *target)
{
    luaopen_os(target);
    lua_pushlightuserdata(target, interpreter_state(target));
    lua_getfield(target, -2, "exit");
    lua_pushcclosure(target, os_exit, 2);
    lua_setfield(target, -2, "exit");
    return 1;
}

/* Of the library on top of the stack. No id comes twice, so no sequence does. [-0, +0, m] */
static void seed_math(lua_State *target)
{
    int64_t id = interpreter_state(target)->record.id;
    lua_getfield(target, -1, "randomseed");
    lua_pushinteger(target, (lua_Integer)registry_secret(id));
    lua_pushinteger(target, id);
    lua_call(target, 2, 0);
}

static int math_open(lua_State *target)
{
    luaopen_math(target);
    seed_math(target);
    return 1;
}

static int debug_open(lua_State *target)
{
    luaopen_debug(target);
    interrupt_open_debug(target, &interpreter_state(target)->interrupt);
    return 1;
}

static int coroutine_open_for(lua_State *target)
{
    return coroutine_open(target, &interpreter_state(target)->interrupt);
}

static int base_open(lua_State *target)
{
    luaopen_base(target);
    interrupt_open_base(target, &interpreter_state(target)->interrupt);
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
        {LUA_GNAME, base_open}, {LUA_LOADLIBNAME, luaopen_package}, {NULL, NULL}};
    static const luaL_Reg others[] = {
        {LUA_COLIBNAME, coroutine_open_for},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_IOLIBNAME, luaopen_io},
        {LUA_OSLIBNAME, os_open},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, math_open},
        {LUA_UTF8LIBNAME, luaopen_utf8},
        {LUA_DBLIBNAME, debug_open},
        {NULL, NULL},
    };
    make_library_tables(target, libs);
    for (const luaL_Reg *l = always; l->func != NULL; l++) {
        luaL_requiref(target, l->name, l->func, 1);
        lua_pop(target, 1);
    }
    if (libs) {
        for (const luaL_Reg *l = others; l->func != NULL; l++) {
            luaL_requiref(target, l->name, l->func, 1);
            lua_pop(target, 1);
        }
    } else {
        luaL_getsubtable(target, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
        luaL_setfuncs(target, others, 0);
        lua_pop(target, 1);
    }
}

/* (the state, libs) */
static int open_all(lua_State *target)
{
    bool libs = lua_toboolean(target, 2);
    lua_settop(target, 1);
    begin(target);
    open_libraries(target, libs);
    return 0;
}

/* The collector sleeps: of what the libraries make little is garbage. */
lua_State *interpreter_open(lua_Alloc allocate, void *ud, struct state *s, bool libs)
{
    lua_State *target = lua_inside_newstate(allocate, ud);
    if (target == NULL)
        return NULL;
    lua_gc(target, LUA_GCSTOP);
    lua_pushcfunction(target, open_all);
    lua_pushlightuserdata(target, s);
    lua_pushboolean(target, libs);
    if (lua_pcall(target, 2, 0, 0) == LUA_OK)
        return target;
    lua_close(target);
    return NULL;
}

bool interpreter_new(struct state *s, bool libs)
{
    s->main = image_copy(s, libs);
    if (s->main == NULL)
        s->main = interpreter_open(arena_resize, &s->arena, s, libs);
    if (s->main == NULL) {
        arena_clear(&s->arena);
        return false;
    }
    warning_attach(&s->warning, s->main);
    interrupt_attach(&s->interrupt, s->main);
    return true;
}

/* In test builds the collector never pauses. */
void interpreter_start(lua_State *target)
{
    if (lua_getglobal(target, LUA_MATHLIBNAME) == LUA_TTABLE)
        seed_math(target); /* again: a copy has the seed of its image */
    lua_pop(target, 1);
    if (arena_is_limited(&interpreter_state(target)->arena))
        memory_limit_open(target);
    lua_gc(target, LUA_GCRESTART);
#if MTSTATES_GC_STRESS
    lua_inside_stress(target);
#else
    lua_inside_let_double(target);
#endif
}

/* ---- rest and end ---- */

void interpreter_rest(struct state *s, lua_CFunction handler, bool was_large)
{
    if (was_large) {
        arena_lend(&s->arena);
        lua_inside_shrink_stack(s->main);
        lua_checkstack(s->main, 2 * LUA_MINSTACK); /* as at birth: finalizers need some */
        arena_take_back(&s->arena);
    }
    lua_settop(s->main, 0);
    lua_pushcfunction(s->main, handler);
    interpreter_push_callback(s->main);
}

void interpreter_close(struct state *s)
{
    jmp_buf finalized;
    interrupt_detach(&s->interrupt);
    lua_settop(s->main, 0); /* the finalizers need stack */
    memory_limit_close(&s->arena);
    s->finalized = &finalized;
    if (_setjmp(finalized) == 0)
        lua_close(s->main);
    arena_clear(&s->arena);
    s->main = NULL;
}
