#include "host.hpp"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

namespace
{

[[noreturn]] void fail(const char *message)
{
    std::fprintf(stderr, "mtstates_bench: %s\n", message);
    std::exit(1);
}

} // namespace

Module load_module(const std::string &name, const std::string &path)
{
    void *object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void *open = object != nullptr ? dlsym(object, "luaopen_mtstates") : nullptr;
    if (open == nullptr)
        fail(dlerror());
    return {name, reinterpret_cast<lua_CFunction>(open)};
}

Host::Host(const Module &module) : L(luaL_newstate())
{
    luaL_openlibs(L);
    luaL_requiref(L, "m", module.open, 1);
    lua_settop(L, 0);
}

Host::~Host()
{
    lua_close(L);
}

void Host::run(const std::string &code, lua_Integer argument)
{
    if (luaL_loadstring(L, code.c_str()) != LUA_OK)
        fail(lua_tostring(L, -1));
    lua_pushinteger(L, argument);
    call(1, 1);
}

void Host::repeat(lua_Integer n)
{
    lua_pushvalue(L, -1);
    lua_pushinteger(L, n);
    call(1, 0);
}

lua_Integer Host::integer() const
{
    return lua_tointeger(L, -1);
}

void Host::call(int arguments, int results)
{
    if (lua_pcall(L, arguments, results, 0) != LUA_OK)
        fail(lua_tostring(L, -1));
}
