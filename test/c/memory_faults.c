/*
 * Memory that fails at any single allocation. A scenario runs again and again; in run n the n-th
 * allocation fails, of the host or of the module and its states, until a run needs no n-th. Each
 * run ends in success or in a Lua error, and afterwards the states that were there before still
 * answer.
 *
 * The linker's --wrap sends the module's malloc and realloc here (see CMakeLists.txt).
 */
#include "check.h"
#include "mtstates.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

static long countdown;     /* allocations until the first that fails; 0: none does */
static long window;        /* allocations in a row that fail; Lua tries a failed one once more */
static bool fault_in_host; /* whose allocations count */
static bool fault_happened;

static bool fails(bool host)
{
    if (countdown == 0 || host != fault_in_host || --countdown > 0)
        return false;
    fault_happened = true;
    countdown = --window > 0 ? 1 : 0;
    return true;
}

void *__real_malloc(size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_realloc(void *block, size_t size);

void *__wrap_malloc(size_t size)
{
    return fails(false) ? NULL : __real_malloc(size);
}

void *__wrap_realloc(void *block, size_t size)
{
    return fails(false) ? NULL : __real_realloc(block, size);
}

static void *host_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
    (void)ud;
    if (new_size == 0) {
        free(block);
        return NULL;
    }
    bool grows = block == NULL || new_size > old_size; /* Lua relies on shrinking */
    return grows && fails(true) ? NULL : __real_realloc(block, new_size);
}

static const char *const prepare =
    "mt = require('mtstates')\n"
    "echo = mt.newstate('echo', function() return function(...) return ... end end)\n"
    "other = mt.newstate('other', function()\n"
    "  local mt = require('mtstates')\n"
    "  local echo\n"
    "  return function(...) echo = echo or mt.state('echo') return echo:call(...) end\n"
    "end)\n"
    "long = ('long'):rep(5000)\n";

static const char *const scenarios[] = {
    /* make and drop */
    "local s, x = mt.newstate('made', function(a) return function() return a end, 'extra' end, "
    "'arg')\n"
    "assert(s:call() == 'arg' and x == 'extra')",
    "local s <close> = mt.newstate({ libs = false }, 'return function() return 1 end')\n"
    "assert(s:call() == 1)",
    /* values */
    "assert(echo:call('short', 1, 2.5, nil, true) == 'short')",
    "assert(echo:call(long, long) == long)",
    "local t = {} for i = 1, 100 do t[i] = 'value ' .. i end\n"
    "assert(select(100, echo:call(table.unpack(t))) == 'value 100')",
    "local keep = mt.newstate('keep', false, 'local t, n = {}, 0 for i = 1, 200 do t[i] = false "
    "end\\n'\n"
    "  .. 'return function(s) n = n + 1 t[n] = s return #s end')\n"
    "for i = 180, 280 do assert(keep:call(('s'):rep(i)) == i) end",
    "local t = {} for i = 1, 300 do t[i] = i end\n"
    "assert(select('#', echo:call(table.unpack(t))) == 300)",
    /* nested */
    "assert(other:call('through', long) == 'through')",
    "local s = mt.newstate('self', function()\n"
    "  local mt = require('mtstates')\n"
    "  return function(n) if n > 0 then return mt.state('self'):call(n - 1) end return 'end' end\n"
    "end)\n"
    "assert(s:call(3) == 'end')",
    /* errors and refusals */
    "local s = mt.newstate(function() return function() error('wrong ' .. ('x'):rep(1000)) end "
    "end)\n"
    "local ok, message = pcall(s.call, s)\n"
    "assert(not ok)\n"
    "if not message:find('wrong') then error(message, 0) end",
    "local ok, message = pcall(mt.newstate, function() return 1 end)\n"
    "if not message:find('state_result') then error(message, 0) end",
    "local ok, message = pcall(echo.call, echo, {})\n"
    "if not message:find('bad argument') then error(message, 0) end",
    "local ok, message = pcall(mt.newstate, 'syntax', 'x x')\n"
    "if not message:find('syntax error') then error(message, 0) end",
    /* look-ups */
    "assert(mt.state('echo') == mt.state(echo:id()))",
    "local ok, message = pcall(mt.state, 'nobody')\n"
    "if not message:find('unknown_object') then error(message, 0) end",
    /* singleton, tcall, interrupt, close */
    "local s = mt.singleton('only', function() return function() return 1 end end)\n"
    "assert(s == mt.singleton('only', 'not run') and s:tcall(1))\n",
    "echo:interrupt()\n"
    "local ok, message = pcall(echo.call, echo)\n"
    "echo:interrupt(false)\n"
    "if not message:find('interrupted') then error(message, 0) end",
    "local s = mt.newstate('closed', function()\n"
    "  keep = setmetatable({}, { __gc = function() local t = {} t[1] = 'x' end })\n"
    "  return function() return coroutine.wrap(function() return 'co' end)() end\n"
    "end)\n"
    "assert(s:call() == 'co')\n"
    "s:close()\n"
    "assert(not pcall(s.call, s) and tostring(s):find('closed'))",
    /* the tables of the registry grow */
    "local t = {}\n"
    "for i = 1, 80 do t[i] = mt.newstate('grow ' .. i, false, 'return function() end') end\n"
    "for i = 1, 80 do t[i]:close() end",
};

static lua_State *open_host(void)
{
    lua_State *L = lua_newstate(host_alloc, NULL);
    CHECK(L != NULL);
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_mtstates);
    lua_setfield(L, -2, "mtstates");
    lua_settop(L, 0);
    CHECK(luaL_dostring(L, prepare) == LUA_OK);
    return L;
}

static void check_survivors(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT);
    if (luaL_dostring(
            L, "assert(echo:call('alive') == 'alive')\n"
               "assert(other:call('well', long) == 'well')\n"
               "assert(mt.state('echo') == echo)\n"
               "for _, name in ipairs({ 'made', 'keep', 'self', 'only', 'closed', 'grow 1' }) do\n"
               "  assert(not pcall(mt.state, name), name)\n"
               "end\n") != LUA_OK) {
        fprintf(stderr, "after a fault: %s\n", lua_tostring(L, -1));
        exit(1);
    }
}

/* How many allocations the scenario has, of which each and those after it were let fail. */
static long run_scenario(const char *code, long step, long failures)
{
    for (long n = 1;; n += step) {
        lua_State *L = open_host();
        CHECK(luaL_loadstring(L, code) == LUA_OK);
        fault_happened = false;
        countdown = n;
        window = failures;
        int status = lua_pcall(L, 0, 0, 0);
        countdown = 0;
        if (!fault_happened && status != LUA_OK) {
            fprintf(stderr, "without a fault: %s\n%s\n", code, lua_tostring(L, -1));
            exit(1);
        }
        lua_settop(L, 0);
        check_survivors(L);
        lua_close(L);
        if (!fault_happened)
            return n - 1;
    }
}

int main(void)
{
    static const long windows[] = {1, 2, 1000000};
    size_t count = sizeof scenarios / sizeof *scenarios;
    for (size_t i = 0; i < 2 * 3 * count; i++) {
        size_t scenario = i / 6;
        long step = scenario + 1 == count ? 97 : 1;
        fault_in_host = i % 2;
        long failures = windows[i / 2 % 3];
        long allocations = run_scenario(scenarios[scenario], step, failures);
        if (failures == 1)
            printf("scenario %2zu, %s: %ld allocations\n", scenario + 1,
                   fault_in_host ? "the host's" : "module and states", allocations);
    }
    return 0;
}
