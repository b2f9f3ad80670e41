/* A program with a use of its own for lua_getextraspace of a state's coroutines. */
#include "open_lua.h"

#include <pthread.h>
#include <string.h>

/* use(coroutine): fills the extra space of the coroutine, or of the one that runs. */
static int use(lua_State *L)
{
    static char program_data[LUA_EXTRASPACE];
    lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
    for (size_t i = 0; i < LUA_EXTRASPACE; i += sizeof(void *)) {
        void *data = program_data;
        memcpy((char *)lua_getextraspace(co) + i, &data, sizeof data);
    }
    return 0;
}

/* intact(coroutine): whether it still has there what `use` wrote. */
static int intact(lua_State *L)
{
    lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
    lua_State *other = lua_newthread(L);
    void *expected[LUA_EXTRASPACE / sizeof(void *)];
    lua_pushcfunction(L, use);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
    memcpy(expected, lua_getextraspace(other), sizeof expected);
    lua_pushboolean(L, memcmp(expected, lua_getextraspace(co), sizeof expected) == 0);
    return 1;
}

/* zero(coroutine) */
static int zero(lua_State *L)
{
    lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
    memset(lua_getextraspace(co), 0, LUA_EXTRASPACE);
    return 0;
}

/* The thread sanitizer delivers signals at calls of libc that it watches. */
static int breathe(lua_State *L)
{
    (void)L;
    usleep(0);
    return 0;
}

static int open_space(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"use", use}, {"intact", intact}, {"zero", zero}, {"breathe", breathe}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}

static void in_a_state(const char *code)
{
    lua_State *L = open_lua("space", open_space);
    lua_pushstring(L, code);
    lua_setglobal(L, "code");
    check_lua(L, luaL_dostring(L, "local mt = require('mtstates')\n"
                                  "local state = mt.newstate('user', function(code)\n"
                                  "  local body = assert(load(code))\n"
                                  "  return function(again)\n"
                                  "    if again then return again end\n"
                                  "    body(require('mtstates'), require('space'))\n"
                                  "  end\n"
                                  "end, code)\n"
                                  "for _ = 1, 3 do state:call() end\n"
                                  "assert(state:call('usable') == 'usable')\n"
                                  "state:close()\n"));
    lua_close(L);
}

static void a_coroutine_whose_space_is_used_can_be_resumed(void)
{
    in_a_state("local mt, space = ...\n"
               "for _, change in ipairs{space.use, space.zero} do\n"
               "  change()\n" /* the main coroutine */
               "  local co = coroutine.create(function(n)\n"
               "    for i = 1, n do coroutine.yield(i) end\n"
               "    return 'end'\n"
               "  end)\n"
               "  change(co)\n"
               "  for i = 1, 3 do\n"
               "    local ok, value = coroutine.resume(co, 3)\n"
               "    assert(ok and value == i)\n"
               "    change(co)\n"
               "  end\n"
               "  assert(select(2, coroutine.resume(co)) == 'end')\n"
               "end\n");
}

static void a_coroutine_may_use_its_own_space(void)
{
    in_a_state(
        "local mt, space = ...\n"
        "for _, change in ipairs{space.use, space.zero} do\n"
        "  local wrapped = coroutine.wrap(function()\n"
        "    change()\n"
        "    coroutine.yield(1)\n"
        "    change()\n"
        "    local inner = coroutine.wrap(function() change() coroutine.yield(2) error('x') end)\n"
        "    coroutine.yield(inner())\n"
        "    local ok, message = pcall(inner)\n"
        "    coroutine.yield(message)\n"
        "    return 'end'\n"
        "  end)\n"
        "  assert(wrapped() == 1 and wrapped() == 2)\n"
        "  assert(wrapped():match('x'))\n"
        "  assert(wrapped() == 'end')\n"
        "end\n");
}

static void a_coroutine_whose_space_is_used_can_die_and_be_closed(void)
{
    in_a_state("local mt, space = ...\n"
               "for _, change in ipairs{space.use, space.zero} do\n"
               "  local closed = 0\n"
               "  local function body()\n"
               "    local _ <close> = setmetatable({}, { __close = function()\n"
               "      closed = closed + 1 change() end })\n"
               "    change()\n"
               "    coroutine.yield()\n"
               "    error('dies')\n"
               "  end\n"
               "  local co = coroutine.create(body)\n"
               "  coroutine.resume(co)\n"
               "  change(co)\n"
               "  assert(coroutine.close(co))\n"
               "  local wrapped = coroutine.wrap(body)\n"
               "  wrapped()\n"
               "  assert(not pcall(wrapped))\n"
               "  assert(closed == 2)\n"
               "end\n");
}

static void the_module_works_in_such_a_coroutine(void)
{
    in_a_state("local mt, space = ...\n"
               "for _, change in ipairs{space.use, space.zero} do\n"
               "  local id = mt.id()\n"
               "  local wrapped = coroutine.wrap(function()\n"
               "    change()\n"
               "    assert(mt.id() == id)\n"
               "    local own = mt.state('user')\n"
               "    assert(own:id() == id and own:call('nested') == 'nested')\n"
               "    local ok, message = pcall(own.close, own)\n"
               "    assert(not ok and message:match(mt.error.concurrent_access))\n"
               "    local child <close> = mt.newstate('child', function()\n"
               "      return function() return require('mtstates').id() end end)\n"
               "    assert(child:call() == child:id())\n"
               "    coroutine.yield(xpcall(error, function(m) change() return m end, 'message'))\n"
               "    local fresh = coroutine.wrap(function() return mt.id() end)\n"
               "    return fresh()\n"
               "  end)\n"
               "  assert(wrapped() == false)\n"
               "  assert(wrapped() == id)\n"
               "end\n");
}

static void what_the_program_wrote_stays(void)
{
    in_a_state("local mt, space = ...\n"
               "local co = coroutine.create(function()\n"
               "  assert(space.intact())\n"
               "  mt.state('user'):call('nested')\n"
               "  coroutine.yield()\n"
               "  assert(space.intact())\n"
               "end)\n"
               "space.use(co)\n"
               "assert(coroutine.resume(co))\n"
               "assert(space.intact(co))\n"
               "assert(coroutine.resume(co))\n"
               "assert(space.intact(co))\n");
}

static void *interrupt(void *argument)
{
    lua_State *L = argument;
    check_lua(L, luaL_dostring(L, "local mt = require('mtstates')\n"
                                  "local ok, state\n"
                                  "repeat ok, state = pcall(mt.state, 'looping') until ok\n"
                                  "repeat\n"
                                  "  os.execute('sleep 0.02')\n"
                                  "  ok = pcall(state.interrupt, state)\n"
                                  "until not ok\n"));
    return NULL;
}

static void an_interrupt_strikes_in_such_a_coroutine(void)
{
    pthread_t thread;
    lua_State *other = open_lua("space", open_space);
    lua_State *L = open_lua("space", open_space);
    CHECK(pthread_create(&thread, NULL, interrupt, other) == 0);
    check_lua(L, luaL_dostring(L, "local mt = require('mtstates')\n"
                                  "local state = mt.newstate('looping', function()\n"
                                  "  local space = require('space')\n"
                                  "  return function(change)\n"
                                  "    coroutine.wrap(function()\n"
                                  "      space[change]()\n"
                                  "      while true do space.breathe() end\n"
                                  "    end)()\n"
                                  "  end\n"
                                  "end)\n"
                                  "for _, change in ipairs{'use', 'zero', 'use'} do\n"
                                  "  local ok, message = pcall(state.call, state, change)\n"
                                  "  assert(not ok and message:match(mt.error.interrupted))\n"
                                  "end\n"
                                  "state:close()\n"));
    pthread_join(thread, NULL);
    lua_close(L);
    lua_close(other);
}

int main(void)
{
    alarm(60); /* who is not interrupted loops for ever */
    a_coroutine_whose_space_is_used_can_be_resumed();
    a_coroutine_may_use_its_own_space();
    a_coroutine_whose_space_is_used_can_die_and_be_closed();
    the_module_works_in_such_a_coroutine();
    what_the_program_wrote_stays();
    an_interrupt_strikes_in_such_a_coroutine();
    return 0;
}
