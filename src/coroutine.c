#include "coroutine.h"

#include "interrupt.h"

#include <lauxlib.h>
#include <lualib.h>

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

/* lua_resume catches errors, so what is switched is always switched back. [-0, +0, -] on L */
static int resume_published(lua_State *L, lua_State *co, int arguments, int *results)
{
    struct interrupt *i = interrupt_of(L);
    lua_State *before = interrupt_switch(i, co);
    int status = lua_resume(co, L, arguments, results);
    interrupt_switch(i, before);
    return status;
}

static int reset_published(lua_State *L, lua_State *co)
{
    struct interrupt *i = interrupt_of(L);
    lua_State *before = interrupt_switch(i, co);
    int status = lua_resetthread(co); /* runs pending __close metamethods */
    interrupt_switch(i, before);
    return status;
}

/* Resumes `co` with the top values of L. The number of results, now on top of L, or -1 and an error
 * object there. [-arguments, +(results|1), m] */
static int resume(lua_State *L, lua_State *co, int arguments)
{
    int results;
    if (!lua_checkstack(co, arguments)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, arguments);
    int status = resume_published(L, co, arguments, &results);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, results + 1)) {
        lua_pop(co, results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, results);
    return results;
}

static int coroutine_resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int results = resume(L, co, lua_gettop(L) - 1);
    int values = results < 0 ? 1 : results;
    lua_pushboolean(L, results >= 0);
    lua_insert(L, -(values + 1));
    return values + 1;
}

/* The function that wrap returns; an error goes on to the caller, with its position. */
static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int results = resume(L, co, lua_gettop(L));
    if (results >= 0)
        return results;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        status = reset_published(L, co);
        lua_xmove(co, L, 1);
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int coroutine_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

/* Running, or waiting for one that it resumed: Lua refuses to close it. */
static bool is_active(lua_State *L, lua_State *co)
{
    lua_Debug ar;
    return co == L || (lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar));
}

static int coroutine_close(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    if (is_active(L, co))
        return luaL_error(L, "cannot close a %s coroutine", co == L ? "running" : "normal");
    if (reset_published(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

int coroutine_open(lua_State *L)
{
    static const luaL_Reg published[] = {
        {"resume", coroutine_resume},
        {"wrap", coroutine_wrap},
        {"close", coroutine_close},
        {NULL, NULL},
    };
    luaopen_coroutine(L);
    luaL_setfuncs(L, published, 0);
    return 1;
}
