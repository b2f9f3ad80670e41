#if defined(__linux__)
#define _GNU_SOURCE /* dladdr */
#endif

#include "handle.h"

#include "account.h"
#include "capis.h"
#include "state/error.h"
#include "state/parcel.h"
#include "sync/clock.h"

#include <dlfcn.h>
#include <string.h>

#define UPVALUE_METATABLE_STATE lua_upvalueindex(1)
#define UPVALUE_METATABLE_POOL lua_upvalueindex(2)
#define UPVALUE_ACCOUNT lua_upvalueindex(3)
#define UPVALUE_KNOWN lua_upvalueindex(4)

/* The handle's user value: the refusal, once it was raised. */
enum { USER_VALUE_REFUSAL = 1, USER_VALUES = USER_VALUE_REFUSAL };

/* A longer timeout, in seconds, is taken for "for ever". */
#define TIMEOUT_MAX 1e9

static bool is_state(const struct record_kind *kind)
{
    return kind == &state_kind;
}

static const char *type_of(const struct record_kind *kind)
{
    return is_state(kind) ? HANDLE_TYPE_STATE : HANDLE_TYPE_POOL;
}

/* ---- handles come and go ---- */

void handle_drop_weight(struct handle *h)
{
    account_remove_weight(h->account, h->kilobytes);
    h->kilobytes = 0;
}

/* The handle is no more an owner. */
static void drop_ownership(struct handle *h)
{
    if (!h->owns)
        return;
    h->owns = false;
    handle_drop_weight(h);
    record_disown(h->record, thread_self());
}

static void finalize(struct handle *h)
{
    struct record *r = h->record;
    h->seal = ~h->seal;
    if (r == NULL)
        return;
    drop_ownership(h);
    h->record = NULL;
    if (h->last != NULL)
        record_release(&h->last->record);
    record_release(r);
}

struct handle *handle_new(lua_State *L, const struct record_kind *kind)
{
    struct account *account = lua_touserdata(L, UPVALUE_ACCOUNT);
    if (account->closed)
        luaL_error(L, "this Lua state is closing");
    struct handle *h = lua_newuserdatauv(L, sizeof *h, USER_VALUES);
    *h = (struct handle){.seal = handle_seal(h, kind), .account = account};
    lua_pushvalue(L, is_state(kind) ? UPVALUE_METATABLE_STATE : UPVALUE_METATABLE_POOL);
    lua_setmetatable(L, -2);
    account_note_stray(L, UPVALUE_ACCOUNT);
    return h;
}

/* What the kind's own function says, without the call of it: look-ups are many. */
static inline bool is_closed(struct record *r)
{
    return is_state(r->kind) ? state_is_closed(state_of_record(r))
                             : pool_is_closed(pool_of_record(r));
}

/* The record of the known handle on top of the stack if it is of that kind and in use, or NULL.
 * [-0, +0, -] */
static inline struct record *known_record(lua_State *L, const struct record_kind *kind)
{
    const struct handle *h = lua_touserdata(L, -1);
    struct record *r = h != NULL ? h->record : NULL;
    return r != NULL && r->kind == kind && !is_closed(r) ? r : NULL;
}

bool handle_push_known(lua_State *L, const struct record_kind *kind, int64_t id)
{
    account_push_known(L, UPVALUE_KNOWN, account_place_of_id(id));
    const struct record *r = known_record(L, kind);
    if (r != NULL && r->id == id)
        return true;
    lua_pop(L, 1);
    return false;
}

bool handle_push_known_name(lua_State *L, const struct record_kind *kind, int index)
{
    size_t length;
    const char *name = lua_tolstring(L, index, &length);
    account_push_known(L, UPVALUE_KNOWN, account_place_of_name(L, index));
    const struct record *r = known_record(L, kind);
    if (r != NULL && r->name_length == length && r->name != NULL &&
        memcmp(r->name, name, length) == 0 &&
        !atomic_load_explicit(&r->shares_name, memory_order_relaxed))
        return true;
    lua_pop(L, 1);
    return false;
}

void handle_make_known(lua_State *L, struct record *r)
{
    handle_set(lua_touserdata(L, -1), r, false);
    account_set_known(L, UPVALUE_KNOWN, account_place_of_id(r->id));
}

void handle_set_known_name(lua_State *L, int index)
{
    account_set_known(L, UPVALUE_KNOWN, account_place_of_name(L, index));
}

void handle_push_for(lua_State *L, struct record *r)
{
    if (handle_push_known(L, r->kind, r->id))
        return;
    handle_new(L, r->kind);
    record_retain(r);
    handle_make_known(L, r);
}

void handle_weigh(lua_State *L, struct handle *h, int kilobytes)
{
    h->kilobytes = kilobytes;
    account_add_weight(L, h->account, kilobytes);
}

/* ---- handles that cross ---- */

/* Whether the userdata at an index is a handle, of whatever. [-0, +0, -] */
static bool is_handle(lua_State *L, int index, const struct handle *h)
{
    return handle_has_seal(L, index, h, handle_seal(h, &state_kind)) ||
           handle_has_seal(L, index, h, handle_seal(h, &pool_kind));
}

bool parcel_handle_at(lua_State *L, int index, struct parcel_handle *p)
{
    const struct handle *h = lua_touserdata(L, index);
    if (!is_handle(L, index, h) || h->record == NULL)
        return false;
    *p = (struct parcel_handle){.record = h->record, .kilobytes = h->kilobytes, .owns = h->owns};
    return true;
}

/* (what a parcel knows of the handle) */
static int receive(lua_State *L)
{
    const struct parcel_handle *p = lua_touserdata(L, 1);
    if (!p->owns && !p->is_another) {
        handle_push_for(L, p->record);
        return 1;
    }
    struct handle *h = handle_new(L, p->record->kind);
    record_retain(p->record);
    handle_set(h, p->record, p->owns && record_own(p->record));
    if (p->owns)
        handle_weigh(L, h, p->kilobytes);
    return 1;
}

void parcel_push_handle(lua_State *L, const struct parcel_handle *p)
{
    handle_push_upvalues(L);
    lua_pushcclosure(L, receive, HANDLE_UPVALUES);
    lua_pushlightuserdata(L, (void *)p);
    lua_call(L, 1, 1);
}

/* ---- handles as arguments ---- */

/*
 * A finalized handle can still be met in finalizers. It has another seal, so that nobody who gets
 * its memory passes for a handle, and its metatable. [-0, +0, m]
 */
static struct handle *to_finalized(lua_State *L, int index, const struct record_kind *kind)
{
    struct handle *h = luaL_testudata(L, index, type_of(kind));
    return handle_has_seal(L, index, h, ~handle_seal(h, kind)) ? h : NULL;
}

struct handle *handle_check_finalized(lua_State *L, const struct record_kind *kind,
                                      const char *method)
{
    struct handle *h = to_finalized(L, 1, kind);
    if (h == NULL)
        error_argument_type(L, 1, method, type_of(kind));
    return h;
}

int handle_raise_finalized(lua_State *L)
{
    return error_raise(L, ERROR_OBJECT_CLOSED, "this handle was finalized");
}

/* The handle at an index, of whatever, or NULL. [-0, +0, m] */
static struct handle *to_handle(lua_State *L, int index)
{
    struct handle *h = lua_touserdata(L, index);
    if (is_handle(L, index, h))
        return h;
    h = to_finalized(L, index, &state_kind);
    return h != NULL ? h : to_finalized(L, index, &pool_kind);
}

/* What methods of both have: the kind that they are of. */
#define UPVALUE_KIND lua_upvalueindex(1)

static struct handle *check_handle(lua_State *L, const char *method)
{
    return handle_check_any(L, lua_touserdata(L, UPVALUE_KIND), method);
}

/* The record of the handle at index 1, not closed when asked. */
static struct record *check_open(lua_State *L, const char *method)
{
    const struct record_kind *kind = lua_touserdata(L, UPVALUE_KIND);
    struct record *r = handle_check(L, kind, method);
    if (kind->is_closed(r))
        handle_raise_closed(L, r);
    return r;
}

int handle_raise_closed(lua_State *L, const struct record *r)
{
    return error_raise_for(L, ERROR_OBJECT_CLOSED, r, "is closed");
}

int handle_raise_busy(lua_State *L, const struct record *r, const char *format)
{
    if (lua_getiuservalue(L, 1, USER_VALUE_REFUSAL) != LUA_TSTRING) {
        error_push_record(L, r);
        lua_pushfstring(L, format, lua_tostring(L, -1));
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, USER_VALUE_REFUSAL);
    }
    return lua_error(L);
}

void handle_check_nesting(lua_State *L, const char *function)
{
    if (!thread_may_nest(thread_self()))
        luaL_error(L, "C stack overflow: '%s' is called from too many states deep", function);
}

/* ---- what methods of both do ---- */

double handle_check_timeout(lua_State *L, const char *method)
{
    if (lua_type(L, 2) != LUA_TNUMBER)
        error_argument_type(L, 2, method, "number");
    double timeout = lua_tonumber(L, 2);
    if (timeout != timeout)
        error_argument(L, 2, method, "timeout is NaN");
    return timeout;
}

const struct timespec *handle_deadline(double timeout, struct timespec *t)
{
    if (timeout > TIMEOUT_MAX)
        return NULL;
    *t = clock_after(timeout > 0 ? timeout : 0);
    return t;
}

enum interrupt_request handle_check_request(lua_State *L)
{
    if (lua_isnoneornil(L, 2))
        return INTERRUPT_ONCE;
    if (!lua_isboolean(L, 2))
        error_argument_type(L, 2, "interrupt", "boolean or nil");
    return lua_toboolean(L, 2) ? INTERRUPT_ALWAYS : INTERRUPT_NONE;
}

int handle_return_true(lua_State *L, int results)
{
    luaL_checkstack(L, 1, "too many results");
    lua_pushboolean(L, 1);
    lua_insert(L, -(results + 1));
    return results + 1;
}

/* ---- methods of both ---- */

static int method_id(lua_State *L)
{
    lua_pushinteger(L, check_open(L, "id")->id);
    return 1;
}

static int method_name(lua_State *L)
{
    const struct record *r = check_open(L, "name");
    if (r->name != NULL)
        lua_pushlstring(L, r->name, r->name_length);
    else
        lua_pushnil(L);
    return 1;
}

static int method_isowner(lua_State *L)
{
    check_open(L, "isowner");
    lua_pushboolean(L, ((const struct handle *)lua_touserdata(L, 1))->owns);
    return 1;
}

static int meta_close(lua_State *L)
{
    drop_ownership(check_handle(L, "__close"));
    return 0;
}

static int meta_gc(lua_State *L)
{
    finalize(check_handle(L, "__gc"));
    return 0;
}

static int meta_tostring(lua_State *L)
{
    struct handle *h = check_handle(L, "__tostring");
    struct record *r = h->record;
    if (r == NULL) {
        lua_pushfstring(L, "%s: (finalized)", type_of(lua_touserdata(L, UPVALUE_KIND)));
        return 1;
    }
    error_push_record(L, r);
    lua_pushfstring(L, "%s: %p %s", type_of(r->kind), (void *)r, lua_tostring(L, -1));
    return 1;
}

static int meta_eq(lua_State *L)
{
    struct handle *a = to_handle(L, 1), *b = to_handle(L, 2);
    lua_pushboolean(L, a != NULL && b != NULL && a->record == b->record && a->record != NULL);
    return 1;
}

/* ---- the metatables ---- */

/* The file that this copy of the module came from. */
static const char *file_name(void)
{
    static const char here = 0; /* its address */
    Dl_info info;
    return dladdr(&here, &info) != 0 && info.dli_fname != NULL ? info.dli_fname : "?";
}

/* Pushes a new metatable with what handles of both have. [-0, +1, m] */
static void push_new_metatable(lua_State *L, const struct record_kind *kind)
{
    static const luaL_Reg methods[] = {
        {"isowner", method_isowner},
        {"id", method_id},
        {"name", method_name},
        {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__gc", meta_gc},
        {"__close", meta_close},
        {"__tostring", meta_tostring},
        {"__eq", meta_eq},
        {NULL, NULL},
    };
    luaL_newlibtable(L, metamethods);
    lua_pushlightuserdata(L, (void *)kind);
    luaL_setfuncs(L, metamethods, 1);
    luaL_newlibtable(L, methods);
    lua_pushlightuserdata(L, (void *)kind);
    luaL_setfuncs(L, methods, 1);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, type_of(kind));
    lua_setfield(L, -2, "__name");
    lua_pushstring(L, type_of(kind));
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, file_name());
    lua_setfield(L, -2, "__file");
}

/* Gives it its own methods, with the upvalues that begin at `first`. [-0, +0, m] */
static void add_methods(lua_State *L, int metatable, int first, const luaL_Reg *methods,
                        const luaL_Reg *metamethods)
{
    const luaL_Reg *functions[] = {metamethods, methods};
    lua_pushvalue(L, metatable);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < HANDLE_UPVALUES; i++)
            lua_pushvalue(L, first + i);
        luaL_setfuncs(L, functions[k], HANDLE_UPVALUES);
        lua_getfield(L, metatable, "__index"); /* for the methods */
    }
    lua_pop(L, 3); /* the metatable, and __index twice */
}

/* Two copies in one Lua state would take each other's handles for their own. [-0, +0, v] */
static void check_copy(lua_State *L, int metatable)
{
    lua_getfield(L, metatable, "__gc");
    if (lua_tocfunction(L, -1) != meta_gc) {
        lua_getfield(L, metatable, "__file");
        luaL_error(L, "mtstates is loaded in this Lua state from '%s'; '%s' is another copy of it",
                   luaL_tolstring(L, -1, NULL), file_name());
    }
    lua_pop(L, 1);
}

/* Pushes the metatables, checked; false: they are not both there. [-0, +2, v] */
static bool push_metatables(lua_State *L)
{
    bool has_states = luaL_getmetatable(L, HANDLE_TYPE_STATE) == LUA_TTABLE;
    if (has_states)
        check_copy(L, lua_gettop(L));
    return luaL_getmetatable(L, HANDLE_TYPE_POOL) == LUA_TTABLE && has_states;
}

static void push_new_upvalues(lua_State *L)
{
    int first = lua_gettop(L) + 1;
    push_new_metatable(L, &state_kind);
    push_new_metatable(L, &pool_kind);
    account_push(L, finalize);
    add_methods(L, first, first, state_methods, state_metamethods);
    add_methods(L, first + 1, first, pool_methods, pool_metamethods);
    lua_pushvalue(L, first);
    capis_offer(L);
    lua_pop(L, 1);
    for (int i = 0; i < 2; i++) { /* last: whoever finds both finds them whole */
        lua_pushvalue(L, first + i);
        lua_setfield(L, LUA_REGISTRYINDEX, i == 0 ? HANDLE_TYPE_STATE : HANDLE_TYPE_POOL);
    }
}

void handle_push_upvalues(lua_State *L)
{
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    if (push_metatables(L)) {
        account_push(L, finalize);
    } else {
        lua_pop(L, 2);
        push_new_upvalues(L);
    }
}
