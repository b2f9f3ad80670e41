/* Handles, and userdata of other libraries that get the memory of collected ones. */
#include "handle.h"

#include "check.h"
#include "mtstates.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

static const char script[] =
    "local mt, size, userdata = require('mtstates'), ...\n"
    "local state = mt.newstate(function() return function() end end)\n"
    "local methods = debug.getmetatable(state)\n"
    "local addresses, reused = {}, 0\n"
    "for _ = 1, 200 do\n"
    "  addresses[address(mt.state(state:id()))] = true\n"
    "end\n"
    "collectgarbage()\n"
    "collectgarbage()\n"
    "for _ = 1, 200 do\n"
    "  local other = userdata(size)\n"
    "  reused = reused + (addresses[address(other)] and 1 or 0)\n"
    "  for name, method in pairs(methods.__index) do\n"
    "    local ok, message = pcall(method, other, 0)\n"
    "    assert(not ok and message:find(\"to '\" .. name .. \"'\", 1, true), message)\n"
    "  end\n"
    "  assert(not methods.__eq(state, other))\n"
    "end\n"
    "local other = userdata(size, 0x41)\n"
    "debug.setmetatable(other, methods)\n"
    "assert(not pcall(methods.__index.id, other))\n"
    "debug.setmetatable(other, nil)\n"
    "return reused\n";

/* (size [, byte]): filled with that byte, or with what was there before */
static int userdata(lua_State *L)
{
    size_t size = (size_t)luaL_checkinteger(L, 1);
    int byte = (int)luaL_optinteger(L, 2, -1);
    void *bytes = lua_newuserdatauv(L, size, 1);
    if (byte >= 0)
        memset(bytes, byte, size);
    return 1;
}

static int address(lua_State *L)
{
    lua_pushlightuserdata(L, lua_touserdata(L, 1));
    return 1;
}

static void userdata_in_the_memory_of_a_handle_is_no_handle(lua_State *L)
{
    luaL_requiref(L, "mtstates", luaopen_mtstates, 0);
    lua_register(L, "address", address);
    lua_settop(L, 0);
    CHECK(luaL_loadstring(L, script) == LUA_OK);
    lua_pushinteger(L, sizeof(struct handle));
    lua_pushcfunction(L, userdata);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        exit(1);
    }
    CHECK(lua_tointeger(L, -1) > 0);
}

int main(void)
{
    struct arena arena; /* gives the same memory again at once */
    CHECK(arena_init(&arena));
    lua_State *L = lua_newstate(arena_resize, &arena);
    CHECK(L != NULL);
    luaL_openlibs(L);
    userdata_in_the_memory_of_a_handle_is_no_handle(L);
    lua_close(L);
    arena_destroy(&arena);
    return 0;
}
