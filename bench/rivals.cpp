#include "rivals.hpp"

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

namespace
{

constexpr int callback_slot = 1;

void copy_table(lua_State *from, int index, lua_State *to);

// Copies a value of the types that benchmarks use.
void copy_value(lua_State *from, int index, lua_State *to)
{
    switch (lua_type(from, index)) {
    case LUA_TNIL:
        lua_pushnil(to);
        break;
    case LUA_TBOOLEAN:
        lua_pushboolean(to, lua_toboolean(from, index));
        break;
    case LUA_TNUMBER:
        if (lua_isinteger(from, index))
            lua_pushinteger(to, lua_tointeger(from, index));
        else
            lua_pushnumber(to, lua_tonumber(from, index));
        break;
    case LUA_TSTRING: {
        size_t length;
        const char *bytes = lua_tolstring(from, index, &length);
        lua_pushlstring(to, bytes, length);
        break;
    }
    case LUA_TTABLE:
        copy_table(from, lua_absindex(from, index), to);
        break;
    default:
        luaL_error(from, "type not supported");
    }
}

// As deep as the stacks have room without asking.
void copy_table(lua_State *from, int index, lua_State *to)
{
    lua_newtable(to);
    lua_pushnil(from);
    while (lua_next(from, index) != 0) {
        copy_value(from, -2, to);
        copy_value(from, -1, to);
        lua_rawset(to, -3);
        lua_pop(from, 1);
    }
}

int append(lua_State *, const void *bytes, size_t length, void *text)
{
    static_cast<std::string *>(text)->append(static_cast<const char *>(bytes), length);
    return 0;
}

// Arguments of newstate([name,] [libs,] setup).
struct Recipe {
    const char *name = nullptr;
    bool libs = true;
    int setup;

    explicit Recipe(lua_State *host) : setup(lua_gettop(host))
    {
        if (setup > 1)
            name = lua_tostring(host, 1);
        if (setup > 2)
            libs = lua_toboolean(host, 2);
    }
};

int load_setup(lua_State *host, int setup, lua_State *target)
{
    size_t length;
    if (const char *text = lua_tolstring(host, setup, &length))
        return luaL_loadbuffer(target, text, length, text);
    std::string code;
    lua_pushvalue(host, setup);
    lua_dump(host, append, &code, 0);
    lua_pop(host, 1);
    return luaL_loadbuffer(target, code.data(), code.size(), "setup");
}

// A new interpreter; on its stack is what setup returns.
lua_State *open_target(lua_State *host, const Recipe &recipe)
{
    lua_State *target = luaL_newstate();
    if (recipe.libs) {
        luaL_openlibs(target);
    } else {
        luaL_requiref(target, LUA_GNAME, luaopen_base, 1);
        luaL_requiref(target, LUA_LOADLIBNAME, luaopen_package, 1);
        lua_settop(target, 0);
    }
    if (load_setup(host, recipe.setup, target) != LUA_OK || lua_pcall(target, 0, 1, 0) != LUA_OK)
        luaL_error(host, "setup failed");
    return target;
}

void make_module(lua_State *L, const char *type, const luaL_Reg *functions, const luaL_Reg *methods,
                 lua_CFunction gc)
{
    luaL_newmetatable(L, type);
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
}

// ---- floor ----

const char *const floor_type = "bench.floor";

struct Floor {
    lua_State *target;
};

int floor_newstate(lua_State *L)
{
    lua_State *target = open_target(L, Recipe(L));
    auto *f = static_cast<Floor *>(lua_newuserdatauv(L, sizeof(Floor), 0));
    f->target = target;
    luaL_setmetatable(L, floor_type);
    return 1;
}

// A look-up cannot cost less than the handle it makes.
int floor_state(lua_State *L)
{
    auto *f = static_cast<Floor *>(lua_newuserdatauv(L, sizeof(Floor), 0));
    f->target = nullptr;
    luaL_setmetatable(L, floor_type);
    return 1;
}

int floor_call(lua_State *L)
{
    lua_State *target = static_cast<Floor *>(luaL_checkudata(L, 1, floor_type))->target;
    int last = lua_gettop(L);
    lua_pushvalue(target, callback_slot);
    for (int i = 2; i <= last; i++)
        copy_value(L, i, target);
    lua_call(target, last - 1, LUA_MULTRET);
    int top = lua_gettop(target);
    for (int i = callback_slot + 1; i <= top; i++)
        copy_value(target, i, L);
    lua_settop(target, callback_slot);
    return top - callback_slot;
}

// A refusal cannot cost less than looking at the handle.
int floor_tcall(lua_State *L)
{
    luaL_checkudata(L, 1, floor_type);
    lua_pushboolean(L, 0);
    return 1;
}

int floor_id(lua_State *L)
{
    lua_pushinteger(L, 1);
    return 1;
}

int floor_close(lua_State *L)
{
    auto *f = static_cast<Floor *>(luaL_checkudata(L, 1, floor_type));
    if (f->target != nullptr)
        lua_close(f->target);
    f->target = nullptr;
    return 0;
}

// ---- baseline ----

const char *const baseline_type = "bench.baseline";

struct Baseline {
    lua_Integer id = 0;
    std::string name;
    lua_State *target = nullptr;
    int callback = LUA_NOREF;
    std::mutex mutex;
    std::condition_variable free;
    bool busy = false;

    ~Baseline()
    {
        if (target != nullptr)
            lua_close(target);
    }
};

using Shared = std::shared_ptr<Baseline>;

std::mutex table_mutex;
std::unordered_map<lua_Integer, std::weak_ptr<Baseline>> table;
lua_Integer last_id = 0;

int push_shared(lua_State *L, Shared shared)
{
    new (lua_newuserdatauv(L, sizeof(Shared), 0)) Shared(std::move(shared));
    luaL_setmetatable(L, baseline_type);
    return 1;
}

Shared &check_shared(lua_State *L)
{
    return *static_cast<Shared *>(luaL_checkudata(L, 1, baseline_type));
}

int baseline_newstate(lua_State *L)
{
    auto made = std::make_shared<Baseline>();
    Recipe recipe(L);
    if (recipe.name != nullptr)
        made->name = recipe.name;
    made->target = open_target(L, recipe);
    made->callback = luaL_ref(made->target, LUA_REGISTRYINDEX);
    {
        std::lock_guard<std::mutex> lock(table_mutex); // not while Lua may run finalizers
        made->id = ++last_id;
        table[made->id] = made;
    }
    return push_shared(L, made);
}

Shared find(lua_State *L)
{
    std::lock_guard<std::mutex> lock(table_mutex);
    if (lua_type(L, 1) == LUA_TNUMBER) {
        auto found = table.find(lua_tointeger(L, 1));
        return found == table.end() ? nullptr : found->second.lock();
    }
    std::string name = lua_tostring(L, 1);
    for (auto &entry : table) {
        Shared candidate = entry.second.lock();
        if (candidate && candidate->name == name)
            return candidate;
    }
    return nullptr;
}

int baseline_state(lua_State *L)
{
    Shared found = find(L);
    return found ? push_shared(L, std::move(found)) : luaL_error(L, "unknown object");
}

struct Copy {
    lua_State *from;
    int first, last;
};

int copy_protected(lua_State *to)
{
    auto *copy = static_cast<Copy *>(lua_touserdata(to, 1));
    lua_settop(to, 0);
    for (int i = copy->first; i <= copy->last; i++)
        copy_value(copy->from, i, to);
    return lua_gettop(to);
}

void copy_values(lua_State *from, int first, int last, lua_State *to)
{
    Copy copy{from, first, last};
    lua_pushcfunction(to, copy_protected);
    lua_pushlightuserdata(to, &copy);
    lua_pcall(to, 1, LUA_MULTRET, 0);
}

bool enter(Baseline &state)
{
    std::lock_guard<std::mutex> lock(state.mutex);
    bool free = !state.busy;
    state.busy = true;
    return free;
}

bool enter_wait(Baseline &state, double seconds)
{
    auto is_free = [&state] { return !state.busy; };
    std::unique_lock<std::mutex> lock(state.mutex);
    if (std::isinf(seconds))
        state.free.wait(lock, is_free);
    else if (!state.free.wait_for(lock, std::chrono::duration<double>(seconds), is_free))
        return false;
    state.busy = true;
    return true;
}

void leave(Baseline &state)
{
    std::lock_guard<std::mutex> lock(state.mutex);
    state.busy = false;
    state.free.notify_one();
}

int add_traceback(lua_State *target)
{
    luaL_traceback(target, target, lua_tostring(target, 1), 1);
    return 1;
}

// Runs the callback with the arguments from `first` on, then leaves by `leave_it()`.
template <typename Leave> int run_callback(lua_State *L, Baseline &state, int first, Leave leave_it)
{
    lua_State *target = state.target;
    int last = lua_gettop(L);
    lua_pushcfunction(target, add_traceback);
    lua_rawgeti(target, LUA_REGISTRYINDEX, state.callback);
    copy_values(L, first, last, target);
    int status = lua_pcall(target, lua_gettop(target) - 2, LUA_MULTRET, 1);
    copy_values(target, 2, lua_gettop(target), L);
    lua_settop(target, 0);
    leave_it();
    return status == LUA_OK ? lua_gettop(L) - last : lua_error(L);
}

int baseline_call(lua_State *L)
{
    Baseline &state = *check_shared(L);
    if (!enter(state))
        return luaL_error(L, "concurrent access to state %I", state.id);
    return run_callback(L, state, 2, [&state] { leave(state); });
}

int add_true(lua_State *L, int results)
{
    lua_pushboolean(L, 1);
    lua_insert(L, -(results + 1));
    return results + 1;
}

int baseline_tcall(lua_State *L)
{
    Baseline &state = *check_shared(L);
    if (!enter_wait(state, luaL_checknumber(L, 2))) {
        lua_pushboolean(L, 0);
        return 1;
    }
    return add_true(L, run_callback(L, state, 3, [&state] { leave(state); }));
}

int baseline_id(lua_State *L)
{
    lua_pushinteger(L, check_shared(L)->id);
    return 1;
}

int baseline_close(lua_State *L)
{
    Baseline &state = *check_shared(L);
    {
        std::lock_guard<std::mutex> lock(table_mutex);
        table.erase(state.id);
    }
    std::lock_guard<std::mutex> lock(state.mutex);
    if (state.target != nullptr)
        lua_close(state.target);
    state.target = nullptr;
    return 0;
}

int baseline_gc(lua_State *L)
{
    Shared &shared = check_shared(L);
    {
        std::lock_guard<std::mutex> lock(table_mutex);
        if (shared.use_count() == 1) // nobody else has one, and none can be had from the table
            table.erase(shared->id);
    }
    shared.~Shared();
    return 0;
}

// ---- the baseline's pools ----

const char *const pool_type = "bench.baseline.pool";

struct Pool {
    lua_Integer id = 0;
    std::mutex mutex;
    std::condition_variable left;
    std::vector<std::unique_ptr<Baseline>> members;
    std::vector<Baseline *> idle;
};

using SharedPool = std::shared_ptr<Pool>;

std::unordered_map<lua_Integer, std::weak_ptr<Pool>> pools; // with the table's mutex

int push_pool(lua_State *L, SharedPool pool)
{
    new (lua_newuserdatauv(L, sizeof(SharedPool), 0)) SharedPool(std::move(pool));
    luaL_setmetatable(L, pool_type);
    return 1;
}

SharedPool &check_pool(lua_State *L)
{
    return *static_cast<SharedPool *>(luaL_checkudata(L, 1, pool_type));
}

// newpool({ size = n }, setup)
int baseline_newpool(lua_State *L)
{
    auto made = std::make_shared<Pool>();
    lua_getfield(L, 1, "size");
    lua_Integer size = lua_tointeger(L, -1);
    lua_settop(L, 2);
    for (lua_Integer i = 0; i < size; i++) {
        made->members.push_back(std::make_unique<Baseline>());
        Baseline *member = made->members.back().get();
        member->target = open_target(L, Recipe(L));
        member->callback = luaL_ref(member->target, LUA_REGISTRYINDEX);
        made->idle.push_back(member);
    }
    {
        std::lock_guard<std::mutex> lock(table_mutex);
        made->id = ++last_id;
        pools[made->id] = made;
    }
    return push_pool(L, made);
}

int baseline_pool(lua_State *L)
{
    SharedPool found;
    {
        std::lock_guard<std::mutex> lock(table_mutex);
        found = pools[lua_tointeger(L, 1)].lock();
    }
    return found ? push_pool(L, std::move(found)) : luaL_error(L, "unknown object");
}

Baseline *take_idle(Pool &pool)
{
    if (pool.idle.empty())
        return nullptr;
    Baseline *member = pool.idle.back();
    pool.idle.pop_back();
    return member;
}

void give_back(Pool &pool, Baseline *member)
{
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.idle.push_back(member);
    pool.left.notify_one();
}

int pool_call(lua_State *L)
{
    Pool &pool = *check_pool(L);
    Baseline *member;
    {
        std::lock_guard<std::mutex> lock(pool.mutex);
        member = take_idle(pool);
    }
    if (member == nullptr)
        return luaL_error(L, "all members of pool %I are busy", pool.id);
    return run_callback(L, *member, 2, [&pool, member] { give_back(pool, member); });
}

// Waits for ever.
int pool_tcall(lua_State *L)
{
    Pool &pool = *check_pool(L);
    Baseline *member;
    {
        std::unique_lock<std::mutex> lock(pool.mutex);
        pool.left.wait(lock, [&pool] { return !pool.idle.empty(); });
        member = take_idle(pool);
    }
    return add_true(L, run_callback(L, *member, 3, [&pool, member] { give_back(pool, member); }));
}

int pool_id(lua_State *L)
{
    lua_pushinteger(L, check_pool(L)->id);
    return 1;
}

int pool_gc(lua_State *L)
{
    check_pool(L).~SharedPool();
    return 0;
}

} // namespace

int luaopen_floor(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"newstate", floor_newstate}, {"state", floor_state}, {nullptr, nullptr}};
    static const luaL_Reg methods[] = {{"call", floor_call},
                                       {"tcall", floor_tcall},
                                       {"id", floor_id},
                                       {"close", floor_close},
                                       {nullptr, nullptr}};
    make_module(L, floor_type, functions, methods, floor_close);
    return 1;
}

int luaopen_baseline(lua_State *L)
{
    static const luaL_Reg functions[] = {{"newstate", baseline_newstate},
                                         {"state", baseline_state},
                                         {"newpool", baseline_newpool},
                                         {"pool", baseline_pool},
                                         {nullptr, nullptr}};
    static const luaL_Reg methods[] = {{"call", baseline_call},
                                       {"tcall", baseline_tcall},
                                       {"id", baseline_id},
                                       {"close", baseline_close},
                                       {nullptr, nullptr}};
    static const luaL_Reg no_functions[] = {{nullptr, nullptr}};
    static const luaL_Reg pool_methods[] = {
        {"call", pool_call}, {"tcall", pool_tcall}, {"id", pool_id}, {nullptr, nullptr}};
    make_module(L, pool_type, no_functions, pool_methods, pool_gc);
    make_module(L, baseline_type, functions, methods, baseline_gc);
    return 1;
}
