// How much a call, a look-up, a refusal, a wait, a new state cost, seen from Lua. README.md says
// how to run this and how to read it.
//
// Each benchmark is a piece of Lua that returns a function of n, which does the thing n times; the
// same piece runs with mtstates and with its rivals (rivals.hpp). Each thread has a Lua state of
// its own.
//
//     mtstates_bench [--module=NAME=PATH ...] [Google Benchmark's options]
//
// Without --module the module of the same build is measured, as "mtstates".
#include "host.hpp"
#include "records.h"
#include "rivals.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace
{

using benchmark::State;
using Benchmark = benchmark::internal::Benchmark;

const Module floor_module{"floor", luaopen_floor};
const Module baseline{"baseline", luaopen_baseline};

constexpr lua_Integer batch = 1000;
constexpr lua_Integer slow_batch = 10; // of what takes long
constexpr int threads_max = 16;

void measure(State &state, Host &host, lua_Integer per_iteration = batch)
{
    for (auto _ : state)
        host.repeat(per_iteration);
    state.SetItemsProcessed(state.iterations() * per_iteration);
}

// `function` gets the state, the module and the code.
template <typename Function>
Benchmark *add(const std::string &family, const Module &module, Function function,
               const std::string &code)
{
    return benchmark::RegisterBenchmark((family + "/" + module.name).c_str(),
                                        [=](State &state) { function(state, module, code); });
}

// From one thread to sixteen. Each run has to be long beside the time that the system takes to
// spread new threads over the cores.
void by_threads(Benchmark *b, int most = threads_max)
{
    b->UseRealTime()->MinTime(0.5)->ThreadRange(1, most);
}

// Each thread with what it needs of its own.
template <lua_Integer per_iteration = batch>
void alone(State &state, const Module &module, const std::string &code)
{
    Host host(module);
    host.run(code);
    measure(state, host, per_iteration);
}

// The code gets the benchmark's argument.
void alone_sized(State &state, const Module &module, const std::string &code)
{
    Host host(module);
    host.run(code, state.range(0));
    measure(state, host);
}

const std::string new_echo =
    "local s = m.newstate(function() return function(...) return ... end end)\n";

// The same code with options that the state is made with.
std::string with_options(const std::string &code, const std::string &options)
{
    const std::string plain = "m.newstate(";
    const size_t at = code.find(plain) + plain.size();
    return code.substr(0, at) + "{ " + options + " }, " + code.substr(at);
}

std::string call_code(const std::string &arguments, const std::string &text = "''")
{
    return new_echo + "local text = " + text + "\nreturn function(n) for _ = 1, n do s:call(" +
           arguments + ") end end";
}

// ---- tables ----

// There and back. With JSON, the text of it.
const std::string make_tables =
    "local function integers(n) local t = {} for i = 1, n do t[i] = i end return t end\n"
    "local function fields(n)\n"
    "    local t = {} for i = 1, n do t['field ' .. i] = 'value ' .. i end return t\n"
    "end\n"
    "local function records(n)\n"
    "    local t = {} for i = 1, n do\n"
    "        t[i] = { id = i, name = 'name ' .. i, score = i / 3, active = i % 2 == 0 }\n"
    "    end return t\n"
    "end\n"
    "local function nested()\n"
    "    return { title = 'order', paid = true, lines = { { item = 'pen', price = 1.5 },\n"
    "        { item = 'ink', price = 7 } }, to = { name = 'Ann', address = { city = 'Ulm' } } }\n"
    "end\n";

std::string table_code(const std::string &table)
{
    return new_echo + make_tables + "local t = " + table +
           "\nreturn function(n) for _ = 1, n do s:call(t) end end";
}

std::string json_code(const std::string &table)
{
    return make_tables +
           "local json = require('cjson')\n"
           "local s = m.newstate(function()\n"
           "    local json = require('cjson')\n"
           "    return function(text) return json.encode(json.decode(text)) end\n"
           "end)\n"
           "local t = " +
           table +
           "\nreturn function(n) for _ = 1, n do json.decode(s:call(json.encode(t))) end end";
}

// A call of so many entries in one iteration, or of a few small ones.
void sized_table(State &state, const Module &module, const std::string &code)
{
    Host host(module);
    host.run(code, state.range(0));
    lua_Integer calls = std::max<lua_Integer>(1, 10000 / state.range(0));
    for (auto _ : state)
        host.repeat(calls);
    state.SetItemsProcessed(state.iterations() * calls * state.range(0)); // entries
}

// ---- jobs ----

// An integer and a string go to a worker that counts, in another thread unless it is a state, and
// an answer comes back. So many are sent before their answers are waited for.
struct JobsBy {
    const char *name, *code;
};

const JobsBy jobs_by[] = {
    {"mtstates", "worker = m.newstate(function()\n"
                 "    local count = 0\n"
                 "    return function(i, text) count = count + 1 return count + i, text end\n"
                 "end)\n"
                 "local id, state = worker:id(), m.state\n"
                 "return function(n) for i = 1, n do state(id):call(i, 'job') end end"},
    {"luv", "local at_once, uv, answers = ..., require('luv'), 0\n"
            "uv.os_setenv('UV_THREADPOOL_SIZE', '1')\n"
            "local work = uv.new_work(function(i, text)\n"
            "    count = (count or 0) + 1\n"
            "    return count + i, text\n"
            "end, function() answers = answers + 1 end)\n"
            "return function(n)\n"
            "    answers = 0\n"
            "    for first = 1, n, at_once do\n"
            "        for i = first, first + at_once - 1 do work:queue(i, 'job') end\n"
            "        uv.run()\n"
            "    end\n"
            "    assert(answers == n)\n"
            "end"},
    {"cqueues", "local at_once, thread = ..., require('cqueues.thread')\n"
                "local _, pipe = thread.start(function(pipe)\n"
                "    local count = 0\n"
                "    for line in pipe:lines() do\n"
                "        local i, text = line:match('^(%d+) (.*)$')\n"
                "        count = count + 1\n"
                "        pipe:write(count + i, ' ', text, '\\n')\n"
                "    end\n"
                "end)\n"
                "pipe:setmode('t', 'tf') -- writes what comes together at once\n"
                "return function(n)\n"
                "    for first = 1, n, at_once do\n"
                "        for i = first, first + at_once - 1 do pipe:write(i, ' job\\n') end\n"
                "        pipe:flush()\n"
                "        for _ = 1, at_once do assert(pipe:read('*l'):match('^(%d+) (.*)$')) end\n"
                "    end\n"
                "end"},
};

// Nothing to do and nothing to tell.
const JobsBy empty_jobs_by[] = {
    {"mtstates", "local p = m.newpool({}, function() return function() end end)\n"
                 "return function(n) for _ = 1, n do p:call() end end"},
    {"luv", "local uv, answers = require('luv'), 0\n"
            "uv.os_setenv('UV_THREADPOOL_SIZE', '1') -- more are slower here\n"
            "local work = uv.new_work(function() end, function() answers = answers + 1 end)\n"
            "return function(n)\n"
            "    answers = 0\n"
            "    for _ = 1, n do work:queue() end\n"
            "    uv.run()\n"
            "    assert(answers == n)\n"
            "end"},
};

void add_jobs(const Module &module)
{
    for (const auto &by : empty_jobs_by)
        add("jobs, empty", {by.name, module.open}, alone<>, by.code)->UseRealTime();
    for (const auto &by : jobs_by)
        for (lua_Integer at_once : {1, 1000})
            add(at_once == 1 ? "jobs, one by one" : "jobs, 1000 at once", {by.name, module.open},
                alone_sized, by.code)
                ->Arg(at_once)
                ->UseRealTime();
}

// ---- look-ups ----

// Many small states; the code looks up all in turn, in steps of a prime.
std::string lookup_code(const std::string &key)
{
    return "local count = ...\n"
           "states, keys = {}, {}\n"
           "for i = 1, count do\n"
           "    states[i] = m.newstate('name ' .. i, false, 'return function() end')\n"
           "    keys[i] = " +
           key +
           "\nend\n"
           "local at = 0\n"
           "return function(n) for _ = 1, n do at = (at + 7919) % count m.state(keys[at + 1]) end "
           "end";
}

const std::string work_setup =
    "function() return function(work) for _ = 1, work or 0 do end end end";
const std::string new_common =
    "common = m.newstate('common', " + work_setup + ")\n" + "return common:id()";
// With so many members, which do what those states do that `call ()` measures.
const std::string echo_setup = "function() return function(...) return ... end end";
const std::string new_pool =
    "common = m.newpool({ size = ... }, " + echo_setup + ")\n" + "return common:id()";

// A state or pool, made before the threads start and dropped after they end, that all of them use.
class Common
{
  public:
    explicit Common(const Module &module, const std::string &code = new_common,
                    lua_Integer argument = 0)
        : host(module)
    {
        host.run(code, argument);
    }
    lua_Integer id() const
    {
        return host.integer();
    }

  private:
    Host host;
};

// A thread that does something for as long as this lives.
class Background
{
  public:
    Background(const Module &module, const std::string &code)
        : thread([this, &module, code] {
              Host host(module);
              host.run(code);
              while (!stopped.load(std::memory_order_relaxed))
                  host.repeat(1);
          })
    {
    }
    Background(const Background &) = delete;
    Background &operator=(const Background &) = delete;
    ~Background()
    {
        stopped.store(true, std::memory_order_relaxed);
        thread.join();
    }

  private:
    std::atomic<bool> stopped{false};
    std::thread thread;
};

// All threads do the same with one state, or with a pool of so many `members`. `beside`: what one
// more thread does meanwhile, or "".
void use_same(State &state, const Module &module, const std::string &code,
              const std::string &beside, int members = 0)
{
    static std::unique_ptr<Common> common;
    static std::unique_ptr<Background> background;
    if (state.thread_index() == 0) {
        common = std::make_unique<Common>(module, members > 0 ? new_pool : new_common, members);
        if (!beside.empty())
            background = std::make_unique<Background>(module, beside);
    }
    Host host(module);
    bool ready = false; // the loop's start is a barrier, so the id is read inside it
    for (auto _ : state) {
        if (!ready) {
            host.run(code, common->id());
            ready = true;
        }
        host.repeat(batch);
    }
    state.SetItemsProcessed(state.iterations() * batch);
    if (state.thread_index() == 0) {
        background.reset();
        common.reset();
    }
}

void same_state(State &state, const Module &module, const std::string &code)
{
    use_same(state, module, code, "");
}

void same_state_disturbed(State &state, const Module &module, const std::string &code)
{
    use_same(state, module, code,
             "local setup = function() return function() end end\n"
             "return function() m.newstate(setup):close() end");
}

void same_state_refused(State &state, const Module &module, const std::string &code)
{
    use_same(state, module, code,
             "local s repeat local found found, s = pcall(m.state, 'common') until found\n"
             "return function() for _ = 1, 1000 do pcall(s.call, s) end end");
}

constexpr int some_members = 4;

void same_pool(State &state, const Module &module, const std::string &code)
{
    use_same(state, module, code, "", some_members);
}

void same_pool_with_a_member_each(State &state, const Module &module, const std::string &code)
{
    use_same(state, module, code, "", state.threads());
}

const std::string pool_call = "local p = m.pool(...)\n"
                              "return function(n) for _ = 1, n do p:call() end end";
const std::string pool_wait = "local p = m.pool(...)\n"
                              "return function(n) for _ = 1, n do p:tcall(math.huge) end end";

const std::string lookup_same = "local id = ... return function(n)\n"
                                "for _ = 1, n do m.state(id) end end";
const std::string lookup_own = "own = m.newstate(function() return function() end end)\n"
                               "local id = own:id()\n"
                               "return function(n) for _ = 1, n do m.state(id) end end";
const std::string wait_same = "local s = m.state(...)\n"
                              "return function(n) for _ = 1, n do s:tcall(math.huge) end end";

// Some 10 us in the state, again and again.
const std::string work_inside = "local s = m.state(...)\n"
                                "return function(n)\n"
                                "    for _ = 1, n // 100 do s:tcall(math.huge, 2000) end\n"
                                "end";

// The registry without Lua.
void records(State &state, bool at_random)
{
    auto count = static_cast<size_t>(state.range(0));
    if (!records_make(count)) {
        state.SkipWithError("out of memory");
        return;
    }
    for (auto _ : state)
        records_find(batch, at_random);
    state.SetItemsProcessed(state.iterations() * batch);
    records_remove();
}

// What a look-up at random waits for: two accesses of memory, one after the other.
void two_accesses(State &state)
{
    if (!stops_make(static_cast<size_t>(state.range(0)))) {
        state.SkipWithError("out of memory");
        return;
    }
    for (auto _ : state)
        benchmark::DoNotOptimize(stops_follow(batch));
    state.SetItemsProcessed(state.iterations() * batch);
    stops_remove();
}

// ---- watching ----

// What timing takes at least.
void two_clock_readings(State &state)
{
    timespec now;
    for (auto _ : state) {
        for (lua_Integer i = 0; i < batch; i++) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            clock_gettime(CLOCK_MONOTONIC, &now);
        }
    }
    state.SetItemsProcessed(state.iterations() * batch);
}

// A thread's half of a thousand states that work in turn, some 20 us each.
const std::string work_in_many =
    "local states = {}\n"
    "for i = 1, 500 do\n"
    "    states[i] = m.newstate(nil, false, function()\n"
    "        local function work(n) local x = 0 for i = 1, n do x = x + i % 7 end return x end\n"
    "        return function(n) local x = work(n) return x end\n"
    "    end)\n"
    "end\n"
    "return function(n) for i = 1, n do states[i % 500 + 1]:call(2000) end end";

// While a profile is taken of all threads.
void profiled(State &state, const Module &module, const std::string &code)
{
    Host host(module);
    host.run(code);
    Host profiler(module);
    if (state.thread_index() == 0)
        profiler.run("m.profile.start() return m.profile.stop");
    measure(state, host);
    if (state.thread_index() == 0)
        profiler.repeat(1);
}

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

void refused(State &state, const Module &module, const std::string &code)
{
    static std::unique_ptr<Occupied> occupied;
    if (state.thread_index() == 0)
        occupied = std::make_unique<Occupied>(module);
    Host host(module);
    host.run("repeat local found\n"
             "    found, s = pcall(m.state, 'occupied')\n"
             "until found\n"
             "repeat until not pcall(s.call, s)\n" +
             code);
    measure(state, host);
    if (state.thread_index() == 0)
        occupied.reset();
}

constexpr int busy_members = 64;

// One thread is inside of all members of a pool: each calls the pool, and finds the next.
void refused_by_pool(State &state, const Module &module, const std::string &code)
{
    int ends[2];
    if (pipe(ends) != 0)
        std::abort();
    std::thread thread([&module, &ends] {
        Host host(module);
        host.run("local size = ...\n"
                 "occupied = m.newpool({ name = 'occupied', size = size }, function()\n"
                 "    return function(pool, left, fd)\n"
                 "        if left > 1 then return pool:call(pool, left - 1, fd) end\n"
                 "        local pipe = io.open('/dev/fd/' .. fd) pipe:read(1) pipe:close()\n"
                 "    end\n"
                 "end)\n"
                 "local pool = m.pool(occupied:id()) -- does not own\n"
                 "return function(fd) pool:call(pool, size, fd) end",
                 busy_members);
        host.repeat(ends[0]);
    });
    Host host(module);
    host.run("repeat local found\n"
             "    found, s = pcall(m.pool, 'occupied')\n"
             "until found and s:stats().idle == 0\n" +
             code);
    measure(state, host);
    if (write(ends[1], "x", 1) != 1)
        std::abort();
    thread.join();
    close(ends[0]);
    close(ends[1]);
}

const std::string raise_error = "return function(n) for _ = 1, n do pcall(error, 'x') end end";
const std::string refused_call =
    "local s = s return function(n) for _ = 1, n do pcall(s.call, s) end end";
const std::string refused_tcall =
    "local s = s return function(n) for _ = 1, n do s:tcall(0) end end";

// ---- fairness ----

// Threads wait for one state, or for a pool, for five seconds: how much more often the busiest got
// in.
template <int members = 0>
void fairness(State &state, const Module &module, const std::string &code)
{
    using Clock = std::chrono::steady_clock;
    static std::unique_ptr<Common> common;
    static std::array<lua_Integer, threads_max> calls;
    if (state.thread_index() == 0)
        common = std::make_unique<Common>(module, members > 0 ? new_pool : new_common, members);
    Host host(module);
    for (auto _ : state) {
        lua_Integer count = 0;
        host.run(code, common->id());
        for (auto end = Clock::now() + std::chrono::seconds(5); Clock::now() < end; count += 10)
            host.repeat(10);
        calls[static_cast<size_t>(state.thread_index())] = count;
    }
    if (state.thread_index() == 0) {
        auto last = calls.begin() + state.threads();
        auto range = std::minmax_element(calls.begin(), last);
        state.counters["busiest_to_laziest"] =
            static_cast<double>(*range.second) /
            static_cast<double>(std::max<lua_Integer>(*range.first, 1));
        common.reset();
    }
}

// ---- making, allocating, memory ----

std::string make_close_code(const std::string &libs)
{
    return "return function(n) for _ = 1, n do\n"
           "m.newstate(nil, " +
           libs + ", 'return function() end'):close() end end";
}

// Tables, closures and strings; 200 of each.
const std::string allocate = "local function work()\n"
                             "    local t = {}\n"
                             "    for i = 1, 200 do\n"
                             "        local text = 'number ' .. i\n"
                             "        t[i] = { i, text, function() return i end }\n"
                             "    end\n"
                             "    return #t\n"
                             "end\n";
const std::string allocate_in_host = allocate + "return function(n) for _ = 1, n do work() end end";
const std::string allocate_in_state = "local s = m.newstate([[" + allocate +
                                      "return work]])\n"
                                      "return function(n) for _ = 1, n do s:call() end end";

#if defined(__GLIBC__)
double allocated()
{
    auto info = mallinfo2();
    return static_cast<double>(info.uordblks + info.hblkhd);
}

// What a state takes from the system, with its handle, and what Lua itself counts of it.
void idle_memory(State &state, const Module &module, const std::string &libs)
{
    constexpr int count = 1000;
    Host host(module);
    host.run("states = table.pack(table.unpack({}, 1, " + std::to_string(count) +
             ")) -- has room for all\n"
             "collectgarbage()\n"
             "collectgarbage('stop')\n"
             "return function(n) for i = 1, n do states[i] = m.newstate(nil, " +
             libs +
             ", 'return function() return collectgarbage(\"count\") * 1024 // 1 | 0 end') end end");
    for (auto _ : state) {
        double before = allocated();
        host.repeat(count);
        state.counters["bytes"] = (allocated() - before) / count;
    }
    host.run("return states[1]:call()");
    state.counters["lua_bytes"] = static_cast<double>(host.integer());
}
#endif

void add_calls(const Module &module)
{
    const std::vector<std::pair<const char *, const char *>> shapes = {
        {"()", ""},
        {"(i)", "1"},
        {"(i,i,i)", "1, 2, 3"},
        {"(f,b,nil)", "1.5, true, nil"},
        {"(short)", "'hello'"},
        {"(short,short,short)", "'hello', 'small', 'world'"},
    };
    for (const auto &shape : shapes)
        add(std::string("call ") + shape.first, module, alone<>, call_code(shape.second));
    add("call (1KB)", module, alone<>, call_code("text", "('k'):rep(1024)"));
    add("call (16KB)", module, alone<>, call_code("text", "('k'):rep(16384)"));
    add("call by size", module, alone_sized, call_code("text", "('k'):rep(...)"))
        ->Arg(0)
        ->RangeMultiplier(8)
        ->Range(1, 1 << 20);
    by_threads(add("call, own states", module, alone<>, call_code("")));
}

struct Shape {
    const char *name, *table;
    void (*function)(State &, const Module &, const std::string &);
};

const std::vector<Shape> table_shapes = {
    {"{}", "{}", alone<>},
    {"{1,2,3}", "{ 1, 2, 3 }", alone<>},
    {"10 integers", "integers(10)", alone<>},
    {"10 fields", "fields(10)", alone<>},
    {"nested record", "nested()", alone<>},
    {"1000 records", "records(1000)", alone<slow_batch>},
    {"100000 integers", "integers(100000)", alone<1>},
};

void add_tables(const Module &module)
{
    for (const Shape &shape : table_shapes)
        add(std::string("table ") + shape.name, module, shape.function, table_code(shape.table));
    for (const char *kind : {"integers", "fields", "records"})
        add(std::string("table by entries, ") + kind, module, sized_table,
            table_code(std::string(kind) + "(...)"))
            ->RangeMultiplier(10)
            ->Range(10, kind == std::string("integers") ? 1000000 : 100000);
}

// The same by JSON in text; what mtstates is used for here, anybody could be.
void add_json(const Module &module)
{
    for (const Shape &shape : table_shapes)
        add(std::string("table ") + shape.name, {"json", module.open}, shape.function,
            json_code(shape.table));
}

void add_lookups(const Module &module)
{
    by_threads(add("look-up, own states", module, alone<>, lookup_own));
    by_threads(add("look-up, same state", module, same_state, lookup_same));
    by_threads(add("look-up, same state, while states are made", module, same_state_disturbed,
                   lookup_same),
               2);
}

void add_pools(const Module &module)
{
    add("pool call ()", module, alone_sized,
        "local p = m.newpool({ size = ... }, " + echo_setup + ")\n" +
            "return function(n) for _ = 1, n do p:call() end end")
        ->Arg(some_members);
    by_threads(add("pool call, a member each", module, same_pool_with_a_member_each, pool_call));
    by_threads(add("pool wait", module, same_pool, pool_wait));
}

void add_lookups_among(const Module &module, int states_max)
{
    for (const char *key : {"id", "name"})
        for (int count = 1; count <= states_max; count *= 10)
            add(std::string("look-up by ") + key + " among", module, alone_sized,
                lookup_code(key == std::string("id") ? "states[i]:id()" : "'name ' .. i"))
                ->Arg(count)
                ->Iterations(100); // so that the states are made once
}

void add_all(const std::vector<Module> &modules)
{
    std::vector<Module> all = modules;
    all.push_back(floor_module);
    all.push_back(baseline);
    for (const Module &module : all) {
        add_calls(module);
        add_tables(module);
        add_lookups(module);
        add("make and close (libs)", module, alone<slow_batch>, make_close_code("true"));
        add("make and close (bare)", module, alone<slow_batch>, make_close_code("false"));
    }
    add_json(modules.front());
    add_jobs(modules.front());
    add_lookups_among(floor_module, 1);
    add_lookups_among(baseline, 1000);
    add("refused call", floor_module, alone<>, raise_error);
    add("refused tcall(0)", floor_module, alone<>, new_echo + refused_tcall);
    for (const Module &module : modules) {
        add_lookups_among(module, 100000);
        by_threads(add("work inside", module, same_state, work_inside), 1);
        by_threads(
            add("work inside, while calls are refused", module, same_state_refused, work_inside),
            1);
        add("fairness", module, fairness<>, wait_same)->Threads(4)->Iterations(1)->Repetitions(3);
        add("pool fairness", module, fairness<some_members>, pool_wait)
            ->Threads(threads_max)
            ->Iterations(1)
            ->Repetitions(3);
        add("refused call of a pool", module, refused_by_pool, refused_call);
        add("allocate", module, alone<slow_batch>, allocate_in_state);
        add("call () with a time limit", module, alone<>,
            with_options(call_code(""), "time_limit = 60"));
        add("call () with timing", module, alone<>, with_options(call_code(""), "timing = true"));
        add("work in 1000 states", module, alone<>, work_in_many)->Threads(2)->UseRealTime();
        add("work in 1000 states, profiled", module, profiled, work_in_many)
            ->Threads(2)
            ->UseRealTime();
        add("allocate with a memory limit", module, alone<slow_batch>,
            with_options(allocate_in_state, "memory_limit = 1e9"));
#if defined(__GLIBC__)
        add("idle memory (libs)", module, idle_memory, "true")->Iterations(1)->Repetitions(3);
        add("idle memory (bare)", module, idle_memory, "false")->Iterations(1)->Repetitions(3);
#endif
    }
    add("allocate", floor_module, alone<slow_batch>, allocate_in_host);
    all.erase(all.end() - 2); // the floor has nobody inside
    for (const Module &module : all) {
        add_pools(module);
        by_threads(add("refused call", module, refused, refused_call));
        by_threads(add("refused tcall(0)", module, refused, refused_tcall));
        by_threads(add("wait, same state", module, same_state, wait_same));
    }
    const std::vector<std::pair<const char *, std::function<void(State &)>>> by_size = {
        {"registry, one id", [](State &state) { records(state, false); }},
        {"registry, random ids", [](State &state) { records(state, true); }},
        {"two accesses of memory", two_accesses},
    };
    benchmark::RegisterBenchmark("two readings of the clock", two_clock_readings);
    for (const auto &[name, function] : by_size)
        benchmark::RegisterBenchmark(name, function)
            ->RangeMultiplier(10)
            ->Range(1, 1000000)
            ->Iterations(500);
}

// Takes --module=NAME=PATH out of the arguments.
std::vector<Module> take_modules(int &argc, char **argv)
{
    const std::string option = "--module=";
    std::vector<Module> modules;
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        std::string argument = argv[i];
        size_t equals = argument.find('=', option.size());
        if (argument.compare(0, option.size(), option) == 0 && equals != std::string::npos)
            modules.push_back(load_module(argument.substr(option.size(), equals - option.size()),
                                          argument.substr(equals + 1)));
        else
            argv[kept++] = argv[i];
    }
    argc = kept;
    if (modules.empty())
        modules.push_back(load_module("mtstates", MTSTATES_BENCH_MODULE));
    return modules;
}

void add_context(const std::vector<Module> &modules)
{
    benchmark::AddCustomContext("lua", LUA_RELEASE);
    benchmark::AddCustomContext("compiler", MTSTATES_BENCH_COMPILER);
    for (const Module &module : modules) {
        lua_State *L = luaL_newstate();
        luaL_requiref(L, "m", module.open, 0);
        if (lua_getfield(L, -1, "_INFO") == LUA_TSTRING)
            benchmark::AddCustomContext(module.name, lua_tostring(L, -1));
        lua_close(L);
    }
}

} // namespace

int main(int argc, char **argv)
{
    std::vector<Module> modules = take_modules(argc, argv);
    add_context(modules);
    add_all(modules);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
