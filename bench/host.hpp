// The modules that are measured, and Lua states that have one of them.
#ifndef MTSTATES_BENCH_HOST_HPP
#define MTSTATES_BENCH_HOST_HPP

#include <lua.hpp>

#include <string>

struct Module {
    std::string name;
    lua_CFunction open;
};

// Loads luaopen_mtstates from a shared object, which stays. Ends the program if it cannot.
Module load_module(const std::string &name, const std::string &path);

// A Lua state with all libraries and one of the modules as `m`. Ends the program with the message
// when Lua code raises an error.
class Host
{
  public:
    explicit Host(const Module &module);
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;
    ~Host();

    // Runs code with one argument; its result stays on top of the stack.
    void run(const std::string &code, lua_Integer argument = 0);

    // Calls the function on top of the stack with `n`, and keeps it.
    void repeat(lua_Integer n);

    // What is on top of the stack.
    lua_Integer integer() const;

  private:
    lua_State *L;

    void call(int arguments, int results);
};

#endif
