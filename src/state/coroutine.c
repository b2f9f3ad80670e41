#include "coroutine.h"

#include "lua_inside.h"
#include "sync/thread.h"

#include <lualib.h>

/* Each of our functions has the state's interrupt as its first upvalue. */
static struct interrupt *interrupt_here(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

/* lua_resume catches errors, so what is switched is always switched back. [-0, +0, -] on L */
static int resume_published(lua_State *L, lua_State *co, int arguments, int *results)
{
    struct interrupt *i = interrupt_here(L);
    struct interrupt_resumed resumed;
    interrupt_resume(i, &resumed, co);
    int status = lua_resume(co, L, arguments, results);
    interrupt_resumed_end(i, &resumed);
    return status;
}

/*
 * Runs pending __close metamethods, in which hooks are allowed whatever the coroutine died of. An
 * error raised here is the caller's. [-0, +0, e] on L
 */
static int close_published(lua_State *L, lua_State *co)
{
    struct interrupt *i = interrupt_here(L);
    struct interrupt_resumed resumed;
    if (!LUA_INSIDE_COUNTS_ON && !thread_has_stack(thread_self()))
        luaL_error(L, "C stack overflow");
    *lua_inside_allowhook(co) = 1;
    interrupt_resume(i, &resumed, co);
    int status = lua_inside_close_coroutine(L, co);
    interrupt_resumed_end(i, &resumed);
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
    interrupt_message push_reason = interrupt_take_yielded(interrupt_here(L));
    if (push_reason != NULL) {
        close_published(L, co);
        push_reason(L);
        return -1;
    }
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
    lua_State *co = lua_tothread(L, lua_upvalueindex(2));
    int results = resume(L, co, lua_gettop(L));
    if (results >= 0)
        return results;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        status = close_published(L, co);
        lua_xmove(co, L, 1);
    }
    interrupt_strike_always(L); /* the message may be long, and go up through many coroutines */
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

/* Pushes a coroutine of the function at index 1. [-0, +1, e] */
static void push_coroutine(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    interrupt_pass_on_hook(interrupt_here(L), L, co);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
}

static int coroutine_create(lua_State *L)
{
    push_coroutine(L);
    return 1;
}

static int coroutine_wrap(lua_State *L)
{
    push_coroutine(L);
    lua_pushlightuserdata(L, interrupt_here(L));
    lua_insert(L, -2);
    lua_pushcclosure(L, wrapped, 2);
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
    if (close_published(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

int coroutine_open(lua_State *L, struct interrupt *i)
{
    static const luaL_Reg published[] = {
        {"create", coroutine_create},
        {"resume", coroutine_resume},
        {"wrap", coroutine_wrap},
        {"close", coroutine_close},
        {NULL, NULL},
    };
    luaopen_coroutine(L);
    lua_pushlightuserdata(L, i);
    luaL_setfuncs(L, published, 1);
    return 1;
}
