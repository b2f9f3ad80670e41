#include "rivals.hpp"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

namespace
{

constexpr int callback_slot = 1;

// Copies a plain value; the only types that benchmarks use.
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
    default:
        luaL_error(from, "type not supported");
    }
}

int append(lua_State *, const void *bytes, size_t length, void *text)
{
    static_cast<std::string *>(text)->append(static_cast<const char *>(bytes), length);
    return 0;
}

// A new interpreter with libraries, the callback of `setup` at its slot.
lua_State *open_target(lua_State *host, int setup)
{
    std::string code;
    lua_pushvalue(host, setup);
    lua_dump(host, append, &code, 0);
    lua_pop(host, 1);
    lua_State *target = luaL_newstate();
    luaL_openlibs(target);
    if (luaL_loadbuffer(target, code.data(), code.size(), "setup") != LUA_OK ||
        lua_pcall(target, 0, 1, 0) != LUA_OK)
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
    lua_State *target = open_target(L, lua_gettop(L));
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
    if (lua_gettop(L) > 1)
        made->name = lua_tostring(L, 1);
    made->target = open_target(L, lua_gettop(L));
    std::lock_guard<std::mutex> lock(table_mutex);
    made->id = ++last_id;
    table[made->id] = made;
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

void leave(Baseline &state)
{
    std::lock_guard<std::mutex> lock(state.mutex);
    state.busy = false;
    state.free.notify_one();
}

int baseline_call(lua_State *L)
{
    Baseline &state = *check_shared(L);
    if (!enter(state))
        return luaL_error(L, "concurrent access to state %I", state.id);
    lua_State *target = state.target;
    int last = lua_gettop(L);
    lua_pushvalue(target, callback_slot);
    copy_values(L, 2, last, target);
    int status = lua_pcall(target, lua_gettop(target) - callback_slot - 1, LUA_MULTRET, 0);
    copy_values(target, callback_slot + 1, lua_gettop(target), L);
    lua_settop(target, callback_slot);
    leave(state);
    return status == LUA_OK ? lua_gettop(L) - last : lua_error(L);
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
    check_shared(L).~Shared();
    return 0;
}

} // namespace

int luaopen_floor(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"newstate", floor_newstate}, {"state", floor_state}, {nullptr, nullptr}};
    static const luaL_Reg methods[] = {
        {"call", floor_call}, {"id", floor_id}, {"close", floor_close}, {nullptr, nullptr}};
    make_module(L, floor_type, functions, methods, floor_close);
    return 1;
}

int luaopen_baseline(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"newstate", baseline_newstate}, {"state", baseline_state}, {nullptr, nullptr}};
    static const luaL_Reg methods[] = {{"call", baseline_call},
                                       {"id", baseline_id},
                                       {"close", baseline_close},
                                       {nullptr, nullptr}};
    make_module(L, baseline_type, functions, methods, baseline_gc);
    return 1;
}
