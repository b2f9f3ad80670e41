/*
 * The module as Lua sees it: require("mtstates"). mtstates.d.lua documents each function for users
 * and their editors; here is how arguments become what the rest of the module takes.
 */
#include "mtstates.h"

#include "error.h"
#include "handle.h"
#include "make.h"
#include "singleton.h"

#include <lauxlib.h>
#include <string.h>

#if defined(__APPLE__)
#include <dlfcn.h>
#endif

#if MTSTATES_PROBES
#define INFO_PROBES "sdt"
#else
#define INFO_PROBES "none"
#endif
#define INFO                                                                                       \
    "mtstates " MTSTATES_VERSION " (" LUA_RELEASE ", ck " CK_VERSION                               \
    ", allocator arena, probes " INFO_PROBES ")"

/* ---- arguments of newstate and singleton ---- */

static void take_name(lua_State *L, int index, int arg, struct recipe *r)
{
    if (lua_type(L, index) != LUA_TSTRING)
        error_argument(L, arg, r->function, "name: string expected, got %s",
                       luaL_typename(L, index));
    r->name = lua_tolstring(L, index, &r->name_length);
    if (r->name_length > RECORD_NAME_MAX)
        error_argument(L, arg, r->function, "name longer than %d bytes", RECORD_NAME_MAX);
}

static bool check_option_flag(lua_State *L, const char *option, const struct recipe *r)
{
    if (!lua_isboolean(L, -1))
        error_argument(L, 1, r->function, "option '%s': boolean expected, got %s", option,
                       luaL_typename(L, -1));
    return lua_toboolean(L, -1);
}

/* True: the options say something about libs. The name takes the table's place on the stack. */
static bool take_options(lua_State *L, struct recipe *r)
{
    bool has_libs = false;
    for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (strcmp(key, "name") == 0)
            take_name(L, -1, 1, r);
        else if (strcmp(key, "libs") == 0)
            has_libs = true, r->libs = check_option_flag(L, key, r);
        else if (strcmp(key, "inherit") == 0)
            r->inherit = check_option_flag(L, key, r);
        else
            error_argument(L, 1, r->function, "unknown option '%s'", luaL_tolstring(L, -2, NULL));
    }
    lua_pushlstring(L, r->name != NULL ? r->name : "", r->name_length);
    lua_replace(L, 1);
    if (r->name != NULL)
        r->name = lua_tostring(L, 1);
    return has_libs;
}

/* Takes `[libs,] setup [, ...]` from `index` on. */
static void take_rest(lua_State *L, int index, bool has_libs, struct recipe *r)
{
    if (lua_isboolean(L, index)) {
        if (has_libs)
            error_argument(L, index, r->function, "libs is among the options already");
        r->libs = lua_toboolean(L, index);
        index++;
    } else if (lua_isnil(L, index)) {
        index++;
    }
    r->setup = r->setup_argument = index;
    make_check(L, r);
}

static struct recipe recipe_for(const char *function)
{
    return (struct recipe){.function = function, .libs = true, .inherit = true};
}

static struct recipe check_newstate(lua_State *L)
{
    struct recipe r = recipe_for("newstate");
    int index = 2;
    bool has_libs = false;
    if (lua_istable(L, 1))
        has_libs = take_options(L, &r);
    else if (lua_type(L, 1) == LUA_TSTRING && lua_gettop(L) > 1)
        take_name(L, 1, 1, &r);
    else if (!lua_isnil(L, 1))
        index = 1;
    take_rest(L, index, has_libs, &r);
    return r;
}

/* ---- module functions ---- */

static void check_nesting(lua_State *L, const char *function)
{
    if (!thread_may_nest(thread_self()))
        luaL_error(L, "C stack overflow: '%s' is called from too many states deep", function);
}

static int module_newstate(lua_State *L)
{
    struct recipe r = check_newstate(L);
    check_nesting(L, r.function);
    struct handle *h = handle_new(L, true);
    lua_insert(L, r.setup++); /* right below what the results replace */
    int results = make_state(L, &r, h);
    handle_tell_weight(L, h);
    return 1 + results;
}

/* What was looked for is described on top of the stack. */
static int raise_not_found(lua_State *L, enum registry_result result)
{
    const char *what = lua_tostring(L, -1);
    switch (result) {
    case REGISTRY_AMBIGUOUS:
        return error_raise(L, ERROR_AMBIGUOUS_NAME, "more than one living state has %s", what);
    case REGISTRY_NO_MEMORY:
        return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory to look up %s", what);
    default:
        return error_raise(L, ERROR_UNKNOWN_OBJECT, "no living state has %s", what);
    }
}

static void push_name_description(lua_State *L, const char *name, size_t length)
{
    lua_pushliteral(L, "the name ");
    error_push_quoted(L, name, length);
    lua_concat(L, 2);
}

static int64_t check_id(lua_State *L)
{
    int is_integer;
    lua_Integer id = lua_tointegerx(L, 1, &is_integer);
    if (!is_integer)
        error_argument(L, 1, "state", "id: number has no integer representation");
    return id;
}

static int module_state(lua_State *L)
{
    int type = lua_type(L, 1);
    if (type != LUA_TNUMBER && type != LUA_TSTRING)
        return error_argument_type(L, 1, "state", "id or name");
    int64_t id = type == LUA_TNUMBER ? check_id(L) : 0;
    size_t length = 0;
    const char *name = type == LUA_TSTRING ? lua_tolstring(L, 1, &length) : NULL;

    struct handle *h = handle_new(L, false);
    if (name == NULL && handle_find_again(h, id))
        return 1;
    struct record *r = NULL;
    enum registry_result result =
        name != NULL ? registry_find_name(name, length, &r) : registry_find_id(id, &r);
    if (result == REGISTRY_FOUND) {
        handle_set_found(h, state_of_record(r));
        if (!state_is_closed(h->state))
            return 1;
    }
    if (name != NULL)
        push_name_description(L, name, length);
    else
        lua_pushfstring(L, "the id %I", (LUAI_UACINT)id);
    return raise_not_found(L, result == REGISTRY_FOUND ? REGISTRY_UNKNOWN : result);
}

/* make_state in a protected call: (recipe, handle, setup, ...) */
static int make_protected(lua_State *L)
{
    struct recipe *r = lua_touserdata(L, 1);
    struct handle *h = lua_touserdata(L, 2);
    r->setup = 3;
    make_state(L, r, h);
    return 0;
}

/* Makes what the recipe says, with the arguments up to the top, and ends the making in any case. */
static void make_singleton(lua_State *L, struct recipe *r, struct handle *h,
                           struct singleton_making *making)
{
    int first = r->setup, arguments = lua_gettop(L) - first + 3;
    lua_pushcfunction(L, make_protected);
    lua_pushlightuserdata(L, r);
    lua_pushlightuserdata(L, h);
    lua_rotate(L, first, 3);
    int status = lua_pcall(L, arguments, 0, 0);
    singleton_end(making);
    if (status != LUA_OK)
        lua_error(L);
}

static int module_singleton(lua_State *L)
{
    struct recipe r = recipe_for("singleton");
    take_name(L, 1, 1, &r);
    take_rest(L, 2, false, &r);
    check_nesting(L, r.function);
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    struct handle *h = handle_new(L, true);
    lua_insert(L, 1); /* the result */
    r.setup++;

    struct singleton_making *making;
    struct state *living;
    enum singleton found = singleton_begin(r.name, r.name_length, thread_self(), &living, &making);
    if (found == SINGLETON_FOUND)
        handle_set(h, living);
    if (found == SINGLETON_MAKE)
        make_singleton(L, &r, h, making);
    if (found == SINGLETON_MAKE || found == SINGLETON_FOUND) {
        lua_settop(L, 1);
        handle_tell_weight(L, h);
        return 1;
    }
    push_name_description(L, r.name, r.name_length);
    if (found == SINGLETON_CIRCLE)
        return luaL_error(L, "the singleton with %s needs itself to be made", lua_tostring(L, -1));
    return raise_not_found(L,
                           found == SINGLETON_AMBIGUOUS ? REGISTRY_AMBIGUOUS : REGISTRY_NO_MEMORY);
}

static int module_id(lua_State *L)
{
    struct state *s = state_of(L);
    if (s != NULL)
        lua_pushinteger(L, s->record.id);
    else
        lua_pushnil(L);
    return 1;
}

/* The metatable's __name, if the value is a userdata whose metatable is registered by that name. */
static bool push_registered_name(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TUSERDATA || luaL_getmetafield(L, 1, "__name") != LUA_TSTRING)
        return false;
    lua_pushvalue(L, -1);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getmetatable(L, 1);
    bool registered = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return registered;
}

static int module_type(lua_State *L)
{
    if (lua_isnone(L, 1))
        error_argument(L, 1, "type", "value expected");
    if (!push_registered_name(L))
        lua_pushstring(L, luaL_typename(L, 1));
    return 1;
}

/*
 * Keeps this library in memory for good: threads run its exit handlers, and states live on, after
 * the Lua state that loaded it has closed. Elsewhere than on macOS the linker flag -z nodelete does
 * it.
 */
static void pin_library(void)
{
#if defined(__APPLE__)
    Dl_info info;
    if (dladdr((const void *)pin_library, &info) != 0)
        dlopen(info.dli_fname, RTLD_LAZY | RTLD_NODELETE);
#endif
}

int luaopen_mtstates(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"newstate", module_newstate},   {"state", module_state},
        {"singleton", module_singleton}, {"id", module_id},
        {"type", module_type},           {NULL, NULL},
    };
    luaL_checkversion(L);
    pin_library();
    if (!registry_init())
        return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory for the registry");
    luaL_newlibtable(L, functions);
    handle_push_upvalues(L);
    luaL_setfuncs(L, functions, 2);
    error_push_names(L);
    lua_setfield(L, -2, "error");
    lua_pushliteral(L, MTSTATES_VERSION);
    lua_setfield(L, -2, "_VERSION");
    lua_pushliteral(L, INFO);
    lua_setfield(L, -2, "_INFO");
    return 1;
}
