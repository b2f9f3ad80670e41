/*
 * The module as Lua sees it: require("mtstates"). mtstates.d.lua documents each function for users
 * and their editors; here is how arguments become what the rest of the module takes.
 */
#include "mtstates.h"

#include "handle.h"
#include "native.h"
#include "options.h"
#include "profile_handle.h"
#include "push_text.h"
#include "state/carray.h"
#include "state/class.h"
#include "state/error.h"
#include "state/fork.h"
#include "state/image.h"
#include "state/interpreter.h"
#include "state/lua_inside.h"
#include "state/setup.h"
#include "state/singleton.h"
#include "stats.h"
#include "sync/cpus.h"
#include "watch/metrics.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__APPLE__)
#include <dlfcn.h>
#endif

#if MTSTATES_PROBES
#define INFO_PROBES "sdt"
#else
#define INFO_PROBES "none"
#endif

/* ---- arguments of newstate, singleton and newpool ---- */

/* The name at `index`; it belongs to argument 1. */
static void take_name(lua_State *L, int index, struct recipe *r)
{
    if (lua_type(L, index) != LUA_TSTRING)
        error_argument(L, 1, r->function, "name: string expected, got %s", luaL_typename(L, index));
    r->options.name = lua_tolstring(L, index, &r->options.name_length);
    if (r->options.name_length > RECORD_NAME_MAX)
        error_argument(L, 1, r->function, "name longer than %d bytes", RECORD_NAME_MAX);
}

/* In milliseconds, rounded up. */
static uint32_t check_time_limit(lua_State *L, const struct recipe *r)
{
    double limit = option_check_limit(L, "time_limit", r->function) * 1e3;
    if (limit > TIME_LIMIT_MAX)
        error_argument(L, 1, r->function,
                       "option 'time_limit': %s seconds are more than the longest limit, %d days",
                       luaL_tolstring(L, -1, NULL), (int)(TIME_LIMIT_MAX / (24 * 60 * 60 * 1000u)));
    uint32_t whole = (uint32_t)limit;
    return whole < limit ? whole + 1 : whole;
}

static size_t check_memory_limit(lua_State *L, const struct recipe *r)
{
    double limit = option_check_limit(L, "memory_limit", r->function);
    return limit < (double)PTRDIFF_MAX ? (size_t)limit : (size_t)PTRDIFF_MAX;
}

/* An option of every kind of state; its name and value are on top of the stack. False: it is none.
 */
static bool take_option(lua_State *L, struct recipe *r, bool *has_libs)
{
    struct state_options *o = &r->options;
    if (option_is(L, "name")) {
        take_name(L, -1, r);
    } else if (option_is(L, "libs")) {
        *has_libs = true;
        o->libs = option_check_flag(L, "libs", r->function);
    } else if (option_is(L, "inherit")) {
        r->inherit = option_check_flag(L, "inherit", r->function);
    } else if (option_is(L, "memory_limit")) {
        o->memory_limit = check_memory_limit(L, r);
    } else if (option_is(L, "time_limit")) {
        o->time_limit = check_time_limit(L, r);
    } else if (option_is(L, "timing")) {
        o->timing = option_check_flag(L, "timing", r->function);
    } else {
        return false;
    }
    return true;
}

/* True: the options say something about libs. The name takes the table's place on the stack. */
static bool take_options(lua_State *L, struct recipe *r)
{
    struct state_options *o = &r->options;
    bool has_libs = false;
    for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1))
        if (!take_option(L, r, &has_libs))
            option_raise_unknown(L, r->function);
    lua_pushlstring(L, o->name != NULL ? o->name : "", o->name_length);
    lua_replace(L, 1);
    if (o->name != NULL)
        o->name = lua_tostring(L, 1);
    return has_libs;
}

/* Takes `[libs,] setup [, ...]` from `index` on. */
static void take_rest(lua_State *L, int index, bool has_libs, struct recipe *r)
{
    if (lua_isboolean(L, index)) {
        if (has_libs)
            error_argument(L, index, r->function, "libs is among the options already");
        r->options.libs = lua_toboolean(L, index);
        index++;
    } else if (lua_isnil(L, index)) {
        index++;
    }
    r->setup = index;
    r->last = lua_gettop(L) > index ? lua_gettop(L) : index;
    setup_check(L, r);
}

static struct recipe recipe_for(const char *function)
{
    return (struct recipe){
        .function = function,
        .options = {.libs = true, .memory_limit = ARENA_NO_LIMIT},
        .inherit = true,
    };
}

static struct recipe check_newstate(lua_State *L)
{
    struct recipe r = recipe_for("newstate");
    r.gives_results = true;
    int index = 2;
    bool has_libs = false;
    if (lua_istable(L, 1))
        has_libs = take_options(L, &r);
    else if (lua_type(L, 1) == LUA_TSTRING && lua_gettop(L) > 1)
        take_name(L, 1, &r);
    else if (!lua_isnil(L, 1))
        index = 1;
    take_rest(L, index, has_libs, &r);
    return r;
}

/* ---- arguments of newpool ---- */

/* The table on top of the stack. */
static void take_recycle(lua_State *L, struct pool_options *o, const struct recipe *r)
{
    option_check_type(L, "recycle", LUA_TTABLE, r->function);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
        if (option_is(L, "calls")) {
            o->recycle_calls = option_check_count(L, "recycle.calls", LUA_MAXINTEGER, r->function);
        } else if (option_is(L, "bytes")) {
            o->recycle_bytes = option_check_count(L, "recycle.bytes", LUA_MAXINTEGER, r->function);
        } else if (option_is(L, "seconds")) {
            double seconds = option_check_limit(L, "recycle.seconds", r->function);
            o->recycle_milliseconds = seconds < 1e12 ? (uint64_t)(seconds * 1e3) : UINT64_MAX;
        } else {
            error_argument(L, 1, r->function, "unknown option 'recycle.%s'",
                           luaL_tolstring(L, -2, NULL));
        }
    }
}

static struct recipe check_newpool(lua_State *L, struct pool_options *o)
{
    struct recipe r = recipe_for("newpool");
    bool has_libs = false;
    if (lua_type(L, 1) != LUA_TTABLE)
        error_argument_type(L, 1, r.function, "table");
    for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
        if (option_is(L, "size"))
            o->size = (unsigned)option_check_count(L, "size", POOL_SIZE_MAX, r.function);
        else if (option_is(L, "min"))
            o->min = (unsigned)option_check_count(L, "min", POOL_SIZE_MAX, r.function);
        else if (option_is(L, "recycle"))
            take_recycle(L, o, &r);
        else if (!take_option(L, &r, &has_libs))
            option_raise_unknown(L, r.function);
    }
    if (o->size == 0)
        o->size = cpus_count() < POOL_SIZE_MAX ? cpus_count() : POOL_SIZE_MAX;
    if (o->min == 0)
        o->min = o->size;
    if (o->min > o->size)
        error_argument(L, 1, r.function, "option 'min': %d is more than size, which is %d",
                       (int)o->min, (int)o->size);
    r.setup = 2;
    r.last = lua_gettop(L) > 2 ? lua_gettop(L) : 2;
    setup_check(L, &r);
    o->name = r.options.name;
    o->name_length = r.options.name_length;
    o->inherit = r.inherit;
    o->state = r.options;
    o->state.name = NULL;
    o->state.name_length = 0;
    return r;
}

/* ---- module functions ---- */

static int raise_no_memory(lua_State *L, const struct recipe *r)
{
    return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory for '%s'", r->function);
}

/* The handle on top of the stack becomes that of what was made, or failed: an error may follow. */
static void take_made(lua_State *L, int handle, const struct setup *s)
{
    struct handle *h = lua_touserdata(L, handle);
    handle_set_made(h, s, true);
    if (s->failure == SETUP_WELL)
        handle_weigh(L, h, s->kilobytes);
}

static int module_newstate(lua_State *L)
{
    struct recipe r = check_newstate(L);
    struct setup s;
    handle_check_nesting(L, r.function);
    setup_prepare(&s, L, &r);
    handle_new(L, &state_kind);
    int handle = lua_gettop(L);
    int results = setup_make(&s);
    take_made(L, handle, &s);
    return s.failure == SETUP_WELL ? 1 + results : setup_raise(&s);
}

/* Makes a member for a new pool, unless setups have filled it already; `keeper` is an empty handle
 * that keeps what failed. Returns the kilobytes that it takes. */
static int make_first(lua_State *L, struct pool *p, const struct recipe *r, struct handle *keeper)
{
    struct setup s = {.host = L};
    unsigned place;
    bool claimed = pool_claim(p, &place);
    if (!claimed && !pool_is_closed(p))
        return 0;
    if (!claimed || !pool_make(p, &s, L, thread_self(), place)) {
        handle_set_made(keeper, &s, false);
        pool_shut(p, thread_self());
        s.recipe = r;
        s.failure == SETUP_WELL ? handle_raise_closed(L, &p->record) : setup_raise(&s);
    }
    stay_leave_state(s.state, thread_self());
    record_release(&s.state->record);
    return s.kilobytes;
}

static int module_newpool(lua_State *L)
{
    struct pool_options o = {
        .recycle_calls = UINT64_MAX,
        .recycle_milliseconds = UINT64_MAX,
        .recycle_bytes = UINT64_MAX,
    };
    struct recipe r = check_newpool(L, &o);
    struct setup s;
    int kilobytes = 0;
    handle_check_nesting(L, r.function);
    setup_prepare(&s, L, &r);
    struct handle *h = handle_new(L, &pool_kind);
    int handle = lua_gettop(L);
    struct plan *plan = plan_new(&s);
    if (plan == NULL)
        return setup_raise(&s);
    struct pool *p = pool_new(&o, plan);
    if (p == NULL) {
        plan_release(plan);
        return raise_no_memory(L, &r);
    }
    handle_set(h, &p->record, true);
    for (unsigned i = 0; i < o.min; i++) {
        kilobytes += make_first(L, p, &r, handle_new(L, &state_kind));
        lua_settop(L, handle);
    }
    if (!registry_add(&p->record)) {
        pool_shut(p, thread_self());
        return raise_no_memory(L, &r);
    }
    if (pool_is_closed(p)) /* by a setup's doing, before it was there to be removed */
        registry_remove(&p->record);
    handle_weigh(L, h, kilobytes);
    return 1;
}

/* ---- look-ups, which are the same for states and pools ---- */

/* What was looked for is described on top of the stack. */
static int raise_not_found(lua_State *L, const struct record_kind *kind,
                           enum registry_result result)
{
    const char *sought = lua_tostring(L, -1);
    if (result == REGISTRY_AMBIGUOUS)
        return error_raise(L, ERROR_AMBIGUOUS_NAME, "more than one living %s has %s", kind->what,
                           sought);
    return error_raise(L, ERROR_UNKNOWN_OBJECT, "no living %s has %s", kind->what, sought);
}

static void push_name_description(lua_State *L, const char *name, size_t length)
{
    lua_pushliteral(L, "the name ");
    error_push_quoted(L, name, length);
    lua_concat(L, 2);
}

static int64_t check_id(lua_State *L, const struct record_kind *kind)
{
    int is_integer;
    lua_Integer id = lua_tointegerx(L, 1, &is_integer);
    if (!is_integer)
        error_argument(L, 1, kind->what, "id: number has no integer representation");
    return id;
}

/* Pushes the handle of the living object of that id; or says why there is none. [-0, +1, e] */
static inline enum registry_result push_by_id(lua_State *L, const struct record_kind *kind,
                                              int64_t id)
{
    struct record *r;
    if (handle_push_known(L, kind, id))
        return REGISTRY_FOUND;
    handle_new(L, kind);
    enum registry_result result = registry_find_id(kind->registry, id, &r);
    if (result == REGISTRY_FOUND)
        handle_make_known(L, r);
    return result;
}

static inline int find_by_id(lua_State *L, const struct record_kind *kind)
{
    int64_t id = check_id(L, kind);
    enum registry_result result = push_by_id(L, kind, id);
    if (result == REGISTRY_FOUND)
        return 1;
    lua_pushfstring(L, "the id %I", (LUAI_UACINT)id);
    return raise_not_found(L, kind, result);
}

/* The name tells which id to look for; when there is no handle yet, it is asked again after one is
 * made, which may fail. */
static int find_by_unknown_name(lua_State *L, const struct record_kind *kind)
{
    struct record *r;
    size_t length;
    const char *name = lua_tolstring(L, 1, &length);
    enum registry_result result = registry_find_name(kind->registry, name, length, &r);
    if (result == REGISTRY_FOUND) {
        bool known = handle_push_known(L, kind, r->id);
        record_release(r);
        if (!known) {
            handle_new(L, kind);
            result = registry_find_name(kind->registry, name, length, &r);
            if (result == REGISTRY_FOUND)
                handle_make_known(L, r);
        }
    }
    if (result != REGISTRY_FOUND) {
        push_name_description(L, name, length);
        return raise_not_found(L, kind, result);
    }
    handle_set_known_name(L, 1);
    return 1;
}

static inline int find(lua_State *L, const struct record_kind *kind)
{
    switch (lua_type(L, 1)) {
    case LUA_TNUMBER:
        return find_by_id(L, kind);
    case LUA_TSTRING:
        return handle_push_known_name(L, kind, 1) ? 1 : find_by_unknown_name(L, kind);
    default:
        return error_argument_type(L, 1, kind->what, "id or name");
    }
}

static int module_state(lua_State *L)
{
    return find(L, &state_kind);
}

/* The pool that the running code is in a member of, and the place. */
static int push_pool_inside(lua_State *L)
{
    struct state *s = interpreter_state(L);
    if (s == NULL || s->member == NULL) {
        lua_pushnil(L);
        return 1;
    }
    const struct member *m = s->member;
    handle_push_for(L, &m->pool->record);
    if (m->place == m->pool->options.size)
        return 1;
    lua_pushinteger(L, m->place + 1);
    return 2;
}

static int module_pool(lua_State *L)
{
    return lua_isnone(L, 1) ? push_pool_inside(L) : find(L, &pool_kind);
}

/* ---- what there is ---- */

/* Under the list's lock: the ids of up to `room` of that kind, or how many there are if `ids` is
 * NULL. */
static size_t list_ids(const struct record_kind *kind, lua_Integer *ids, size_t room)
{
    size_t count = 0;
    struct state *s = kind == &state_kind ? counters_next_state(NULL) : NULL;
    struct pool *p = kind == &pool_kind ? counters_next_pool(NULL) : NULL;
    while ((s != NULL || p != NULL) && (ids == NULL || count < room)) {
        if (ids != NULL)
            ids[count] = s != NULL ? s->record.id : p->record.id;
        count++;
        s = s != NULL ? counters_next_state(s) : NULL;
        p = p != NULL ? counters_next_pool(p) : NULL;
    }
    return count;
}

/* A list of handles of all that live. Their ids first: no Lua runs under the lock. */
static int push_all(lua_State *L, const struct record_kind *kind)
{
    counters_lock();
    size_t room = list_ids(kind, NULL, 0);
    counters_unlock();
    lua_settop(L, 0);
    lua_Integer *ids = lua_newuserdatauv(L, (room + 1) * sizeof *ids, 0);
    counters_lock();
    size_t count = list_ids(kind, ids, room);
    counters_unlock();
    lua_createtable(L, count < INT_MAX ? (int)count : 0, 0);
    lua_Integer found = 0;
    for (size_t i = 0; i < count; i++) {
        if (push_by_id(L, kind, ids[i]) == REGISTRY_FOUND)
            lua_rawseti(L, 2, ++found);
        lua_settop(L, 2);
    }
    return 1;
}

static int module_states(lua_State *L)
{
    return push_all(L, &state_kind);
}

static int module_pools(lua_State *L)
{
    return push_all(L, &pool_kind);
}

static int module_stats(lua_State *L)
{
    uint64_t made, pools;
    struct stats s = stats_of_process(&made, &pools);
    stats_push(L, &s);
    stats_set(L, "busy", s.busy);
    stats_set(L, "states", s.states);
    stats_set(L, "pools", pools);
    stats_set(L, "made", made);
    return 1;
}

static int module_metrics(lua_State *L)
{
    const struct recipe r = {.function = "metrics"};
    bool by_name = false;
    if (!lua_isnoneornil(L, 1)) {
        if (lua_type(L, 1) != LUA_TTABLE)
            error_argument_type(L, 1, r.function, "table or nil");
        for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
            if (!option_is(L, "names"))
                option_raise_unknown(L, r.function);
            by_name = option_check_flag(L, "names", r.function);
        }
    }
    size_t length;
    push_text_begin(L);
    char *text = metrics_text(by_name, &length);
    return push_text_end(L, text, length, r.function);
}

/* What there is to raise when the singleton was neither found nor made. */
static int raise_no_singleton(lua_State *L, enum singleton why, const struct recipe *r)
{
    push_name_description(L, r->options.name, r->options.name_length);
    const char *what = lua_tostring(L, -1);
    switch (why) {
    case SINGLETON_AMBIGUOUS:
        return raise_not_found(L, &state_kind, REGISTRY_AMBIGUOUS);
    case SINGLETON_CIRCLE:
        return luaL_error(L, "the singleton with %s needs itself to be made", what);
    default:
        return raise_no_memory(L, r);
    }
}

static int module_singleton(lua_State *L)
{
    struct recipe r = recipe_for("singleton");
    struct setup s;
    bool has_libs = false;
    if (lua_istable(L, 1))
        has_libs = take_options(L, &r);
    else
        take_name(L, 1, &r);
    if (r.options.name == NULL)
        error_argument(L, 1, r.function, "option 'name' is missing");
    take_rest(L, 2, has_libs, &r);
    handle_check_nesting(L, r.function);
    setup_prepare(&s, L, &r);
    struct handle *h = handle_new(L, &state_kind);
    int handle = lua_gettop(L);

    struct singleton_answer answer =
        singleton_begin(r.options.name, r.options.name_length, thread_self());
    switch (answer.kind) {
    case SINGLETON_FOUND:
        handle_set(h, &answer.found->record, true);
        break;
    case SINGLETON_MAKE:
        setup_make(&s); /* raises no error */
        singleton_end(answer.making);
        take_made(L, handle, &s);
        if (s.failure != SETUP_WELL)
            return setup_raise(&s);
        break;
    default:
        return raise_no_singleton(L, answer.kind, &r);
    }
    lua_settop(L, handle);
    return 1;
}

static int module_id(lua_State *L)
{
    struct state *s = interpreter_state(L);
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

static int module_class(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING)
        error_argument_type(L, 1, "class", "string");
    if (lua_type(L, 2) != LUA_TTABLE)
        error_argument_type(L, 2, "class", "metatable");
    lua_settop(L, 2);
    class_define(L);
    return 0;
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

/* What has to be there before anything else is; raises an error if it cannot be had. */
static void prepare(lua_State *L)
{
    static atomic_bool
        prepared; /* set with release, read with acquire; and no lock is taken then */
    luaL_checkversion(L);
    if (atomic_load_explicit(&prepared, memory_order_acquire))
        return;
    enum lua_inside inside = lua_inside_check();
    if (inside == LUA_INSIDE_OTHER)
        luaL_error(L, "mtstates does not know this build of Lua: see src/state/lua_inside.h");
    pin_library();
    interrupt_prepare();
    if (inside == LUA_INSIDE_NO_MEMORY || !registry_init() || !fork_watch() ||
        !image_prepare(interpreter_open))
        error_raise(L, ERROR_OUT_OF_MEMORY, "no memory to load mtstates");
    native_prepare();
    atomic_store_explicit(&prepared, true, memory_order_release);
}

int luaopen_mtstates(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"newstate", module_newstate},
        {"state", module_state},
        {"singleton", module_singleton},
        {"newpool", module_newpool},
        {"pool", module_pool},
        {"id", module_id},
        {"type", module_type},
        {"class", module_class},
        {"states", module_states},
        {"pools", module_pools},
        {"stats", module_stats},
        {"metrics", module_metrics},
        {NULL, NULL},
    };
    prepare(L);
    carray_open(L);
    luaL_newlibtable(L, functions);
    handle_push_upvalues(L);
    luaL_setfuncs(L, functions, HANDLE_UPVALUES);
    error_push_names(L);
    lua_setfield(L, -2, "error");
    profile_push_functions(L);
    lua_setfield(L, -2, "profile");
    lua_pushliteral(L, MTSTATES_VERSION);
    lua_setfield(L, -2, "_VERSION");
    lua_pushfstring(L,
                    "mtstates " MTSTATES_VERSION " (" LUA_RELEASE
                    ", %s, allocator arena, states from %s, probes " INFO_PROBES ")",
                    registry_info(), image_info());
    lua_setfield(L, -2, "_INFO");
    return 1;
}
