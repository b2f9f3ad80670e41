// How much a call, a look-up, a refusal, a new state cost, seen from Lua. bench/README.md says how
// to run this and how to read it.
//
// Each benchmark is a piece of Lua that returns a function of n, which does the thing n times; the
// same piece runs with mtstates and with its rivals (rivals.hpp). Each thread has a Lua state of
// its own.
#include "mtstates.h"
#include "rivals.hpp"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace
{

struct Module {
    const char *name;
    lua_CFunction open;
};

const Module mtstates{"mtstates", luaopen_mtstates};
const Module floor_module{"floor", luaopen_floor};
const Module baseline{"baseline", luaopen_baseline};

// A Lua state with one of the modules as `m`.
class Host
{
  public:
    explicit Host(const Module &module) : L(luaL_newstate())
    {
        luaL_openlibs(L);
        luaL_requiref(L, "m", module.open, 1);
        lua_settop(L, 0);
    }
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;
    ~Host()
    {
        lua_close(L);
    }

    // Runs code with one argument; its result is left on the stack.
    void run(const std::string &code, lua_Integer argument = 0)
    {
        if (luaL_loadstring(L, code.c_str()) != LUA_OK)
            fail();
        lua_pushinteger(L, argument);
        call(1, 1);
    }

    // Calls the function on top of the stack with `n`, and keeps it.
    void repeat(lua_Integer n)
    {
        lua_pushvalue(L, -1);
        lua_pushinteger(L, n);
        call(1, 0);
    }

    lua_Integer integer() const
    {
        return lua_tointeger(L, -1);
    }

  private:
    lua_State *L;

    void call(int arguments, int results)
    {
        if (lua_pcall(L, arguments, results, 0) != LUA_OK)
            fail();
    }

    [[noreturn]] void fail()
    {
        std::fprintf(stderr, "%s\n", lua_tostring(L, -1));
        std::abort();
    }
};

constexpr lua_Integer batch = 1000;

void measure(benchmark::State &state, Host &host, lua_Integer per_iteration)
{
    for (auto _ : state)
        host.repeat(per_iteration);
    state.SetItemsProcessed(state.iterations() * per_iteration);
}

benchmark::internal::Benchmark *add(const std::string &family, const Module &module,
                                    void (*function)(benchmark::State &, const Module &,
                                                     const std::string &),
                                    const std::string &code)
{
    return benchmark::RegisterBenchmark(
               (family + "/" + module.name).c_str(),
               [=, &module](benchmark::State &state) { function(state, module, code); })
        ->UseRealTime();
}

// ---- one thread ----

void alone(benchmark::State &state, const Module &module, const std::string &code)
{
    Host host(module);
    host.run(code);
    measure(state, host, batch);
}

std::string call_code(const std::string &arguments)
{
    return "local s = m.newstate(function() return function(...) return ... end end)\n"
           "local k1, k16 = ('k'):rep(1024), ('k'):rep(16384)\n"
           "return function(n) for _ = 1, n do s:call(" +
           arguments + ") end end";
}

// Other states that a look-up by name has to tell apart.
const std::string lookup_setup =
    "local echo = function() return function() end end\n"
    "states = {} for i = 1, 100 do states[i] = m.newstate('name ' .. i, echo) end\n";

const std::string lookup_id = lookup_setup +
                              "local id = states[50]:id()\n"
                              "return function(n) for _ = 1, n do m.state(id) end end";
const std::string lookup_name =
    lookup_setup + "return function(n) for _ = 1, n do m.state('name 50') end end";
const std::string make_close =
    "local setup = function() return function() end end\n"
    "return function(n) for _ = 1, n do m.newstate(setup):close() end end";
const std::string raise_error = "return function(n) for _ = 1, n do pcall(error, 'x') end end";

// ---- several threads ----

// A state, made before the threads start and dropped after they end, that all of them look up.
struct Common {
    Host host;
    explicit Common(const Module &module) : host(module)
    {
        host.run("common = m.newstate('common', function() return function() end end)\n"
                 "return common:id()");
    }
};

void same_state(benchmark::State &state, const Module &module, const std::string &code)
{
    static Common *common; // of all threads of one run
    if (state.thread_index() == 0)
        common = new Common(module);
    Host host(module);
    bool ready = false; // the loop's start is a barrier, so the id is read inside it
    for (auto _ : state) {
        if (!ready) {
            host.run(code, common->host.integer());
            ready = true;
        }
        host.repeat(batch);
    }
    state.SetItemsProcessed(state.iterations() * batch);
    if (state.thread_index() == 0)
        delete common;
}

// Each thread looks up a state of its own.
const std::string lookup_own = "own = m.newstate(function() return function() end end)\n"
                               "local id = own:id()\n"
                               "return function(n) for _ = 1, n do m.state(id) end end";
const std::string lookup_same = "local id = ... return function(n)\n"
                                "for _ = 1, n do m.state(id) end end";

// ---- refusals ----

// A state named "occupied" that another thread is inside of: its callback reads from a pipe.
class Occupied
{
  public:
    explicit Occupied(const Module &module)
    {
        if (pipe(ends) != 0)
            std::abort();
        thread = std::thread([this, &module] {
            Host host(module);
            host.run("local s = m.newstate('occupied', function() return function(fd)\n"
                     "  if fd then\n"
                     "    local pipe = io.open('/dev/fd/' .. fd) pipe:read(1) pipe:close()\n"
                     "  end\n"
                     "end end)\n"
                     "return function(fd) repeat until pcall(s.call, s, fd) end");
            host.repeat(ends[0]);
        });
    }
    Occupied(const Occupied &) = delete;
    Occupied &operator=(const Occupied &) = delete;
    ~Occupied()
    {
        if (write(ends[1], "x", 1) != 1)
            std::abort();
        thread.join();
        close(ends[0]);
        close(ends[1]);
    }

  private:
    int ends[2];
    std::thread thread;
};

void refused(benchmark::State &state, const Module &module, const std::string &code)
{
    Occupied occupied(module);
    Host host(module);
    host.run(code);
    measure(state, host, batch);
}

const std::string refusal = "local s\n"
                            "repeat local found found, s = pcall(m.state, 'occupied') until found\n"
                            "repeat until not pcall(s.call, s)\n"
                            "return function(n) for _ = 1, n do pcall(s.call, s) end end";

void add_all()
{
    const std::vector<std::pair<const char *, const char *>> shapes = {
        {"()", ""},
        {"(i)", "1"},
        {"(i,i,i)", "1, 2, 3"},
        {"(f,b,nil)", "1.5, true, nil"},
        {"(short)", "'hello'"},
        {"(short,short,short)", "'hello', 'small', 'world'"},
        {"(1KB)", "k1"},
        {"(16KB)", "k16"},
    };
    for (const auto &shape : shapes)
        for (const Module *module : {&floor_module, &mtstates, &baseline})
            add(std::string("call ") + shape.first, *module, alone, call_code(shape.second));
    for (const Module *module : {&floor_module, &mtstates, &baseline}) {
        add("call () of own states", *module, alone, call_code(""))->ThreadRange(1, 4);
        add("look-up by id", *module, alone, lookup_id);
        add("look-up by name", *module, alone, lookup_name);
        add("look-up by id, own states", *module, alone, lookup_own)->ThreadRange(1, 2);
        add("look-up by id, same state", *module, same_state, lookup_same)->ThreadRange(1, 2);
        add("make and close", *module, alone, make_close);
    }
    add("refusal", floor_module, alone, raise_error);
    for (const Module *module : {&mtstates, &baseline})
        add("refusal", *module, refused, refusal);
}

} // namespace

int main(int argc, char **argv)
{
    benchmark::AddCustomContext("mtstates", MTSTATES_BENCH_INFO);
    add_all();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
