/*
 * What the module assumes of Lua's insides, beyond what its manual promises: all of it, one name
 * each. Read in the sources of 5.4.4 to 5.4.8; what can be seen by trying is tried when the module
 * is first opened. Who moves to another Lua starts here.
 *
 * Not in the list, since `lua` itself does it: that lua_sethook may be called in a signal handler
 * of the thread that runs the state.
 */
#ifndef MTSTATES_LUA_INSIDE_H
#define MTSTATES_LUA_INSIDE_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- tried by lua_inside_check ---- */

/*
 * A coroutine's record begins with a pointer, two bytes, its status, and whether it may call hooks
 * (allowhook in lstate.h).
 *
 * Lua calls no hook inside of a hook, and an error raised there leaves it so until a protected call
 * has caught it: in the message handlers that run before, and in the `__close` metamethods of a
 * coroutine that died of it, no interrupt would strike. So whoever raises an error in a hook allows
 * hooks first, as the protected call would afterwards.
 */
static inline unsigned char *lua_inside_allowhook(lua_State *L)
{
    return (unsigned char *)L + sizeof(void *) + 3;
}

/*
 * How many operations are left until the hook comes for its count: lua_sethook begins anew, and a
 * hook of the program's own that is put back a hundred times a second would never come.
 */
static inline int *lua_inside_hook_left(lua_State *L)
{
    return (int *)(void *)((char *)L + 23 * sizeof(void *) + sizeof(int));
}

/*
 * An object that had a finalizer before all others is finalized after them, when lua_close is about
 * to free all memory, with no collection in between: the end of that finalizer is a place from
 * which to leave lua_close by a jump.
 */

enum lua_inside { LUA_INSIDE_AS_ASSUMED, LUA_INSIDE_OTHER, LUA_INSIDE_NO_MEMORY };

/* Whether this Lua is as assumed. Makes an interpreter; the result is kept. Any thread. */
enum lua_inside lua_inside_check(void);

/* Whether the Lua that runs is the release that this was compiled for, and one of those that states
 * from images (image.c) were tested with. Another one is not refused. */
bool lua_inside_is_tested(void);

/* ---- read only ---- */

/*
 * Lua pushes this message after an error in error handling, outside of any protection. Interned
 * beforehand, the push needs no memory and cannot fail.
 */
#define LUA_INSIDE_ERRERR "error in error handling"

/* A string of n bytes takes at most n and so many more; pushing it allocates nothing else, but for
 * a larger table of short strings, which Lua does without when there is no memory. */
#define LUA_INSIDE_STRING_OVERHEAD ((size_t)64)

/*
 * Strings up to so many bytes (LUAI_MAXSHORTLEN) Lua has once each, so that the address tells one
 * from all others. Of longer ones there may be several that are equal.
 */
#define LUA_INSIDE_INTERNED_MAX ((size_t)40)

/* Why lua_checkstack failed, which it does not tell: so many values are taken for too many for the
 * stack's limit of a million (LUAI_MAXSTACK), fewer for too many for the memory that is left. */
#define LUA_INSIDE_MANY_VALUES 10000

/*
 * lua_gc answers -1 in a finalizer and while the Lua state closes. A new handle is then too late
 * for a finalizer of its own: see account.h.
 */
static inline bool lua_inside_finalizes(lua_State *L)
{
    return lua_gc(L, LUA_GCISRUNNING) < 0;
}

/*
 * Gives back the stack of a coroutine on which nothing runs, also of a main one. Lua shrinks stacks
 * by itself, but never below what a C function once asked for that is still active, as the bottom
 * of a coroutine always is. All values on it go.
 */
static inline void lua_inside_shrink_stack(lua_State *L)
{
#if LUA_VERSION_RELEASE_NUM >= 50406
    lua_closethread(L, NULL);
#else
    lua_resetthread(L);
#endif
}

/*
 * Closes a coroutine, as `coroutine.close` does. Up to 5.4.5 C calls are counted from zero in it;
 * LUA_INSIDE_COUNTS_ON says whether they are counted on from those of L.
 */
#define LUA_INSIDE_COUNTS_ON (LUA_VERSION_RELEASE_NUM >= 50406)

static inline int lua_inside_close_coroutine(lua_State *L, lua_State *co)
{
#if LUA_INSIDE_COUNTS_ON
    return lua_closethread(co, L);
#else
    (void)L;
    return lua_resetthread(co);
#endif
}

/*
 * A collector's step of a negative size is a debt to be run up first: it sleeps until the memory in
 * use has doubled, as after a cycle.
 */
static inline void lua_inside_let_double(lua_State *L)
{
#if LUA_VERSION_NUM < 505
    lua_gc(L, LUA_GCSTEP, -lua_gc(L, LUA_GCCOUNT));
#else
    (void)L;
#endif
}

/*
 * Sets the collector's pause, in percent, and returns what it was; -1, and nothing, in a finalizer.
 * It writes a number that is read at the end of a cycle, and looks at nothing: so an allocator may
 * call it, too.
 */
static inline int lua_inside_set_pause(lua_State *L, int percent)
{
#if LUA_VERSION_NUM < 505
    return lua_gc(L, LUA_GCSETPAUSE, percent);
#else
    return lua_gc(L, LUA_GCPARAM, LUA_GCPPAUSE, percent);
#endif
}

/* ---- 5.4 and 5.5 name these otherwise; nothing else of 5.5 has been looked at ---- */

static inline lua_State *lua_inside_newstate(lua_Alloc allocate, void *ud)
{
#if LUA_VERSION_NUM < 505
    return lua_newstate(allocate, ud);
#else
    return lua_newstate(allocate, ud, luaL_makeseed(NULL));
#endif
}

/* The collector goes on as if so many kilobytes had been allocated. */
static inline void lua_inside_step(lua_State *L, int kilobytes)
{
#if LUA_VERSION_NUM < 505
    lua_gc(L, LUA_GCSTEP, kilobytes);
#else
    lua_gc(L, LUA_GCSTEP, (size_t)kilobytes * 1024);
#endif
}

/* The collector never pauses. */
static inline void lua_inside_stress(lua_State *L)
{
    lua_inside_set_pause(L, 0);
#if LUA_VERSION_NUM < 505
    lua_gc(L, LUA_GCSETSTEPMUL, 1000);
#else
    lua_gc(L, LUA_GCPARAM, LUA_GCPSTEPMUL, 1000);
#endif
}

#endif
