#include "account.h"

#include "state/closing.h"
#include "state/lua_inside.h"
#include "sync/random.h"

#include <lauxlib.h>
#include <limits.h>

/* The account's user values: two weak tables. */
enum { ACCOUNT_STRAYS = 1, ACCOUNT_KNOWN, ACCOUNT_USER_VALUES = ACCOUNT_KNOWN };

/* Of ids; and after them as many of names. */
enum { KNOWN_PLACES = 64 };

/*
 * The collector is told of new states whenever WEIGHT_STEP has come together, times WEIGHT_FACTOR:
 * one with Lua's default pause starts when its debt has grown to the size of its heap, so hosts
 * with a heap much larger than their states would keep too many dropped ones. Hosts that hold many
 * states are told less often, at each WEIGHT_PARTth part of what they hold: each time the collector
 * looks at all their handles that changed.
 *
 * In generational mode that makes collections of young objects only, and a handle that has lived
 * through two is old. So what is held counts, too: when it has doubled since the last whole
 * collection, and is at least WEIGHT_LEAST and half of the host's heap, there is another one.
 * Kilobytes.
 */
enum { WEIGHT_STEP = 1024, WEIGHT_PART = 16, WEIGHT_FACTOR = 4, WEIGHT_LEAST = 16 * 1024 };

/* (account) */
static int finalize_strays(lua_State *L)
{
    struct account *a = lua_touserdata(L, 1);
    lua_getiuservalue(L, 1, ACCOUNT_STRAYS);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
        a->finalize(lua_touserdata(L, -2));
    a->closed = true;
    closing_continue(thread_self());
    return 0;
}

/* [-0, +1, m] */
static void push_weak_table(lua_State *L, const char *mode, int places)
{
    lua_createtable(L, places, 0);
    lua_createtable(L, 0, 1); /* its metatable */
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    for (int i = 1; i <= places; i++) { /* so that setting one needs no memory */
        lua_pushboolean(L, 0);
        lua_rawseti(L, -2, i);
    }
}

/* [-0, +1, e] */
static void push_account(lua_State *L, void (*finalize)(struct handle *))
{
    static const char key = 0; /* of the registry: the address */
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) == LUA_TUSERDATA)
        return;
    lua_pop(L, 1);
    /* Made in a finalizer of a Lua state that is closing, its own would not be called. */
    if (lua_inside_finalizes(L))
        luaL_error(L, "a finalizer cannot be the first to load mtstates; load it beforehand");
    struct account *a = lua_newuserdatauv(L, sizeof *a, ACCOUNT_USER_VALUES);
    *a = (struct account){.finalize = finalize, .collect_at = WEIGHT_LEAST};
    push_weak_table(L, "k", 0);
    lua_setiuservalue(L, -2, ACCOUNT_STRAYS);
    push_weak_table(L, "v", 2 * KNOWN_PLACES);
    lua_setiuservalue(L, -2, ACCOUNT_KNOWN);
    lua_createtable(L, 0, 1); /* its metatable */
    lua_pushcfunction(L, finalize_strays);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
}

void account_push(lua_State *L, void (*finalize)(struct handle *))
{
    push_account(L, finalize);
    lua_getiuservalue(L, -1, ACCOUNT_KNOWN);
}

void account_note_stray(lua_State *L, int account)
{
    if (lua_gc(L, LUA_GCISRUNNING) == 1)
        return; /* neither in a finalizer, nor stopped by the user */
    lua_getiuservalue(L, account, ACCOUNT_STRAYS);
    lua_pushvalue(L, -2); /* the handle */
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

lua_Integer account_place_of_id(int64_t id)
{
    return (lua_Integer)((uint64_t)id % KNOWN_PLACES) + 1;
}

lua_Integer account_place_of_name(lua_State *L, int index)
{
    uint32_t hash = random_hash_address(lua_topointer(L, index));
    return (lua_Integer)(hash % KNOWN_PLACES) + KNOWN_PLACES + 1;
}

void account_set_known(lua_State *L, int known, lua_Integer place)
{
    lua_pushvalue(L, -1);
    lua_rawseti(L, known, place);
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void account_add_weight(lua_State *L, struct account *a, int kilobytes)
{
    a->untold += kilobytes;
    a->held += kilobytes;
    if (lua_gc(L, LUA_GCISRUNNING) != 1)
        return;
    if (a->held >= a->collect_at) {
        int64_t half_heap = lua_gc(L, LUA_GCCOUNT) / 2;
        if (a->held < half_heap) {
            a->collect_at = half_heap;
            return;
        }
        lua_gc(L, LUA_GCCOLLECT);
        a->untold = 0;
        a->collect_at = larger(larger(2 * a->held, half_heap), WEIGHT_LEAST);
    } else if (a->untold >= larger(WEIGHT_STEP, a->held / WEIGHT_PART)) {
        int64_t told = a->untold * WEIGHT_FACTOR;
        a->untold = 0;
        lua_inside_step(L, told < INT_MAX ? (int)told : INT_MAX);
    }
}
