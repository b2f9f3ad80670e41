#include "memory_limit.h"

#include "interpreter.h"
#include "lua_inside.h"
#include "state.h"

static struct state *state_of(struct arena *a)
{
    return (void *)((char *)a - offsetof(struct state, arena));
}

/* ---- the pause ---- */

/*
 * A cycle begins when three quarters of what is left below the limit are used: it ends before the
 * rest is, since Lua marks and sweeps many times faster than it allocates. A cycle that began at
 * once would never end.
 */
enum { PART = 4, PARTS_USED = 3, LEAST = 104 };

/* At the end of a cycle what is in use is about what lives. */
static int pause_for(size_t used, size_t limit)
{
    size_t most = used + (limit - used) / PART * PARTS_USED;
    size_t pause = most / (used / 100 + 1);
    return pause < LEAST ? LEAST : pause > INT_MAX ? INT_MAX : (int)pause;
}

/* Called while memory is freed. Only writes a number into Lua. */
static void set_pause(struct arena *a)
{
    struct memory_limit *m = &state_of(a)->memory_limit;
    int has = lua_inside_set_pause(m->collector, LEAST);
    if (has < 0) /* in a finalizer */
        return;
    if (has != m->given_pause)
        m->own_pause = has;
    int pause = pause_for(arena_used(a), a->limit);
    if (pause > m->own_pause)
        pause = m->own_pause;
    lua_inside_set_pause(m->collector, pause);
    m->given_pause = lua_inside_set_pause(m->collector, pause); /* as Lua rounds it */
}

/* ---- emergency collections ---- */

/* So much that Lua cannot have it, and collects. */
static int ask_for_too_much(lua_State *L)
{
    lua_newuserdatauv(L, SIZE_MAX / 4, 0);
    return 0;
}

static int do_nothing(lua_State *L)
{
    (void)L;
    return 0;
}

/* A coroutine's first call makes what Lua keeps for later ones, so `collect` takes no memory: it is
 * called in the middle of a push for which just enough was reserved. [-0, +0, e] on the target */
static void prepare_to_collect(lua_State *target, lua_State *collector)
{
    lua_pushcfunction(collector, do_nothing);
    int status = lua_pcall(collector, 0, 0, 0);
    lua_settop(collector, 0);
    if (status != LUA_OK)
        ask_for_too_much(target); /* raises it */
}

/*
 * Called in the middle of an allocation, where Lua itself would collect, too, or of a function of
 * lauxlib. The coroutine that runs may not be used there; this one may.
 */
static void collect(struct arena *a)
{
    lua_State *collector = state_of(a)->memory_limit.collector;
    lua_pushcfunction(collector, ask_for_too_much);
    lua_pcall(collector, 0, 0, 0);
    lua_settop(collector, 0);
}

/* ---- */

void memory_limit_open(lua_State *target)
{
    static const struct arena_collector collector = {set_pause, collect};
    static const char collector_key = 0; /* into the registry: its address */
    struct state *s = interpreter_state(target);
    lua_State *coroutine = lua_newthread(target);
    lua_rawsetp(target, LUA_REGISTRYINDEX, &collector_key);
    prepare_to_collect(target, coroutine);
    s->memory_limit.collector = coroutine;
    s->arena.collector = &collector;
}

void memory_limit_close(struct arena *a)
{
    a->collector = NULL;
}
