/* Handles, and userdata of other libraries that get the memory of collected ones. */
#include "module/handle.h"

#include "open_lua.h"

#include <string.h>

static const char script[] =
    "local mt, alien = require('mtstates'), require('alien')\n"
    "local state = mt.newstate(function() return function() end end)\n"
    "local methods = debug.getmetatable(state)\n"
    "local addresses, reused = {}, 0\n"
    "for _ = 1, 200 do\n"
    "  addresses[alien.address(mt.state(state:id()))] = true\n"
    "end\n"
    "collectgarbage()\n"
    "collectgarbage()\n"
    "for _ = 1, 200 do\n"
    "  local other = alien.userdata()\n"
    "  reused = reused + (addresses[alien.address(other)] and 1 or 0)\n"
    "  for name, method in pairs(methods.__index) do\n"
    "    local ok, message = pcall(method, other, 0)\n"
    "    assert(not ok and message:find(\"to '\" .. name .. \"'\", 1, true), message)\n"
    "  end\n"
    "  assert(not methods.__eq(state, other))\n"
    "end\n"
    "local other = alien.userdata(0x41)\n"
    "debug.setmetatable(other, methods)\n"
    "assert(not pcall(methods.__index.id, other))\n"
    "debug.setmetatable(other, nil)\n"
    "assert(reused > 0)\n";

/* ([byte]): as large as a handle, filled with that byte, or with what was there before */
static int userdata(lua_State *L)
{
    int byte = (int)luaL_optinteger(L, 1, -1);
    void *bytes = lua_newuserdatauv(L, sizeof(struct handle), 1);
    if (byte >= 0)
        memset(bytes, byte, sizeof(struct handle));
    return 1;
}

static int address(lua_State *L)
{
    lua_pushlightuserdata(L, lua_touserdata(L, 1));
    return 1;
}

static int open_alien(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"userdata", userdata}, {"address", address}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}

static void userdata_in_the_memory_of_a_handle_is_no_handle(void)
{
    struct arena arena; /* gives the same memory again at once */
    arena_init(&arena, ARENA_NO_LIMIT);
    lua_State *L = lua_newstate(arena_resize, &arena);
    CHECK(L != NULL);
    open_libraries(L, "alien", open_alien);
    check_lua(L, luaL_dostring(L, script));
    lua_close(L);
    arena_clear(&arena);
}

int main(void)
{
    userdata_in_the_memory_of_a_handle_is_no_handle();
    return 0;
}
