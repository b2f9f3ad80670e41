#if defined(__linux__)
#define _GNU_SOURCE /* dladdr */
#endif

#include "handle.h"

#include "account.h"
#include "state/call.h"
#include "state/error.h"
#include "state/parcel.h"
#include "sync/clock.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <string.h>

#define UPVALUE_METATABLE lua_upvalueindex(1)
#define UPVALUE_ACCOUNT lua_upvalueindex(2)
#define UPVALUE_KNOWN lua_upvalueindex(3)

/* The handle's user value: the refusal, once it was raised. */
enum { USER_VALUE_REFUSAL = 1, USER_VALUES = USER_VALUE_REFUSAL };

/* A longer timeout, in seconds, is taken for "for ever". */
#define TIMEOUT_MAX 1e9

static uintptr_t seal_of(const struct handle *h)
{
    static const char unique = 0; /* its address */
    return (uintptr_t)h ^ (uintptr_t)&unique;
}

static void drop_weight(struct handle *h)
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
    drop_weight(h);
    state_disown(h->state, thread_self());
}

static void finalize(struct handle *h)
{
    struct state *s = h->state;
    h->seal = ~seal_of(h);
    if (s == NULL)
        return;
    drop_ownership(h);
    h->state = NULL;
    record_release(&s->record);
}

struct handle *handle_new(lua_State *L)
{
    struct account *account = lua_touserdata(L, UPVALUE_ACCOUNT);
    if (account->closed)
        luaL_error(L, "this Lua state is closing");
    struct handle *h = lua_newuserdatauv(L, sizeof *h, USER_VALUES);
    *h = (struct handle){.seal = seal_of(h), .account = account};
    lua_pushvalue(L, UPVALUE_METATABLE);
    lua_setmetatable(L, -2);
    account_note_stray(L, UPVALUE_ACCOUNT);
    return h;
}

/* The state of the known handle on top of the stack if it is in use, or NULL. [-0, +0, -] */
static struct state *known_state(lua_State *L)
{
    const struct handle *h = lua_touserdata(L, -1);
    return h != NULL && h->state != NULL && !state_is_closed(h->state) ? h->state : NULL;
}

bool handle_push_known(lua_State *L, int64_t id)
{
    account_push_known(L, UPVALUE_KNOWN, account_place_of_id(id));
    const struct state *s = known_state(L);
    if (s != NULL && s->record.id == id)
        return true;
    lua_pop(L, 1);
    return false;
}

bool handle_push_known_name(lua_State *L, int index)
{
    size_t length;
    const char *name = lua_tolstring(L, index, &length);
    account_push_known(L, UPVALUE_KNOWN, account_place_of_name(L, index));
    const struct state *s = known_state(L);
    if (s != NULL && s->record.name_length == length && s->record.name != NULL &&
        memcmp(s->record.name, name, length) == 0 &&
        !atomic_load_explicit(&s->record.shares_name, memory_order_relaxed))
        return true;
    lua_pop(L, 1);
    return false;
}

void handle_make_known(lua_State *L, struct state *s)
{
    handle_set(lua_touserdata(L, -1), s, false);
    account_set_known(L, UPVALUE_KNOWN, account_place_of_id(s->record.id));
}

void handle_set_known_name(lua_State *L, int index)
{
    account_set_known(L, UPVALUE_KNOWN, account_place_of_name(L, index));
}

void handle_weigh(lua_State *L, struct handle *h, int kilobytes)
{
    h->kilobytes = kilobytes;
    account_add_weight(L, h->account, kilobytes);
}

static inline bool has_seal(lua_State *L, int index, const struct handle *h, uintptr_t seal)
{
    return h != NULL && lua_rawlen(L, index) == sizeof *h && h->seal == seal;
}

/* ---- handles that cross ---- */

bool parcel_handle_at(lua_State *L, int index, struct parcel_handle *p)
{
    const struct handle *h = lua_touserdata(L, index);
    if (!has_seal(L, index, h, seal_of(h)) || h->state == NULL)
        return false;
    *p = (struct parcel_handle){.state = h->state, .kilobytes = h->kilobytes, .owns = h->owns};
    return true;
}

/* (what a parcel knows of the handle) */
static int receive(lua_State *L)
{
    const struct parcel_handle *p = lua_touserdata(L, 1);
    struct record *r = &p->state->record;
    bool may_be_known = !p->owns && !p->is_another;
    if (may_be_known && handle_push_known(L, r->id))
        return 1;
    struct handle *h = handle_new(L);
    record_retain(r);
    handle_set(h, p->state, p->owns && state_own(p->state));
    if (may_be_known)
        handle_make_known(L, p->state);
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
static __attribute__((noinline)) struct handle *to_finalized(lua_State *L, int index)
{
    struct handle *h = luaL_testudata(L, index, HANDLE_TYPE);
    return has_seal(L, index, h, ~seal_of(h)) ? h : NULL;
}

/*
 * The handle at an index, or NULL. The seal takes half the calls of Lua's API that a look at the
 * metatable takes, and stays with a handle whose metatable was changed by the debug library.
 * [-0, +0, m]
 */
static inline struct handle *to_handle(lua_State *L, int index)
{
    struct handle *h = lua_touserdata(L, index);
    return __builtin_expect(has_seal(L, index, h, seal_of(h)), 1) ? h : to_finalized(L, index);
}

static inline struct handle *check_handle(lua_State *L, const char *method)
{
    struct handle *h = to_handle(L, 1);
    if (__builtin_expect(h == NULL, 0))
        error_argument_type(L, 1, method, HANDLE_TYPE);
    return h;
}

static int raise_closed(lua_State *L, const struct state *s)
{
    return error_raise_for(L, ERROR_OBJECT_CLOSED, &s->record, "is closed");
}

/* The state of the handle at index 1, which may be closed. */
static struct state *check_state(lua_State *L, const char *method)
{
    struct state *s = check_handle(L, method)->state;
    if (__builtin_expect(s == NULL, 0))
        error_raise(L, ERROR_OBJECT_CLOSED, "this handle was finalized");
    return s;
}

/* The same, not closed when asked. */
static struct state *check_open(lua_State *L, const char *method)
{
    struct state *s = check_state(L, method);
    if (state_is_closed(s))
        raise_closed(L, s);
    return s;
}

static int raise_nesting(lua_State *L, struct state *s)
{
    error_push_record(L, &s->record);
    return luaL_error(L, "C stack overflow: state %s is called from too many states deep",
                      lua_tostring(L, -1));
}

/*
 * Refuses a busy state. The message is made once per handle and kept, since a worker pool meets
 * refusals as often as results.
 */
static int raise_busy(lua_State *L, struct state *s)
{
    if (lua_getiuservalue(L, 1, USER_VALUE_REFUSAL) != LUA_TSTRING) {
        error_push_record(L, &s->record);
        lua_pushfstring(L, ERROR_CONCURRENT_ACCESS ": state %s is busy in another thread",
                        lua_tostring(L, -1));
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, USER_VALUE_REFUSAL);
    }
    return lua_error(L);
}

/* Why no stay has begun. */
static int raise_refusal(lua_State *L, struct state *s, enum entry entry)
{
    switch (entry) {
    case ENTRY_BUSY:
        return raise_busy(L, s);
    case ENTRY_TOO_DEEP:
        return raise_nesting(L, s);
    case ENTRY_NO_MEMORY:
        return error_raise_for(L, ERROR_OUT_OF_MEMORY, &s->record,
                               "has a time limit that there is no memory to see to");
    default:
        return raise_closed(L, s);
    }
}

/* ---- methods ---- */

static inline int call(lua_State *L)
{
    struct state *s = check_state(L, "call");
    struct call c;
    call_prepare(&c, L, 2, "call");
    enum entry entry = stay_begin(&c.stay, s, thread_self());
    if (__builtin_expect(entry == ENTRY_ENTERED, 1))
        return call_entered(&c);
    return entry == ENTRY_NESTED ? call_nested(&c) : raise_refusal(L, s, entry);
}

static int method_call(lua_State *L)
{
    return call(L);
}

/* Another function, so that one can tell which was called. */
static int meta_call(lua_State *L)
{
    return call(L);
}

static double check_timeout(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TNUMBER)
        error_argument_type(L, 2, "tcall", "number");
    double timeout = lua_tonumber(L, 2);
    if (timeout != timeout)
        error_argument(L, 2, "tcall", "timeout is NaN");
    return timeout;
}

static enum entry begin_in_time(struct stay *stay, struct state *s, double timeout)
{
    struct thread *self = thread_self();
    if (timeout <= 0)
        return stay_begin(stay, s, self);
    if (timeout > TIMEOUT_MAX)
        return stay_begin_wait(stay, s, self, NULL);
    struct timespec deadline = clock_after(timeout);
    return stay_begin_wait(stay, s, self, &deadline);
}

static int method_tcall(lua_State *L)
{
    struct state *s = check_state(L, "tcall");
    double timeout = check_timeout(L);
    struct call c;
    call_prepare(&c, L, 3, "tcall");
    enum entry entry = begin_in_time(&c.stay, s, timeout);
    if (entry == ENTRY_BUSY) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (entry != ENTRY_ENTERED && entry != ENTRY_NESTED)
        return raise_refusal(L, s, entry);
    int results = entry == ENTRY_ENTERED ? call_entered(&c) : call_nested(&c);
    luaL_checkstack(L, 1, "too many results");
    lua_pushboolean(L, 1);
    lua_insert(L, -(results + 1));
    return results + 1;
}

static enum interrupt_request check_request(lua_State *L)
{
    if (lua_isnoneornil(L, 2))
        return INTERRUPT_ONCE;
    if (!lua_isboolean(L, 2))
        error_argument_type(L, 2, "interrupt", "boolean or nil");
    return lua_toboolean(L, 2) ? INTERRUPT_ALWAYS : INTERRUPT_NONE;
}

static int method_interrupt(lua_State *L)
{
    struct state *s = check_state(L, "interrupt"); /* also one that is closed when it is left */
    if (!interrupt_send(s, check_request(L)))
        return raise_closed(L, s);
    return 0;
}

static int method_close(lua_State *L)
{
    struct state *s = check_state(L, "close");
    switch (state_close(s, thread_self())) {
    case ENTRY_BUSY:
        return raise_busy(L, s);
    case ENTRY_NESTED:
        return error_raise_for(L, ERROR_CONCURRENT_ACCESS, &s->record,
                               "cannot be closed from inside itself");
    default:
        drop_weight(lua_touserdata(L, 1));
        return 0;
    }
}

static int method_id(lua_State *L)
{
    lua_pushinteger(L, check_open(L, "id")->record.id);
    return 1;
}

static int method_name(lua_State *L)
{
    const struct record *r = &check_open(L, "name")->record;
    if (r->name != NULL)
        lua_pushlstring(L, r->name, r->name_length);
    else
        lua_pushnil(L);
    return 1;
}

static int method_memory(lua_State *L)
{
    struct arena *a = &check_open(L, "memory")->arena;
    lua_pushinteger(L, (lua_Integer)arena_used(a));
    lua_pushinteger(L, (lua_Integer)arena_peak(a));
    if (arena_is_limited(a))
        lua_pushinteger(L, (lua_Integer)a->limit);
    else
        lua_pushnil(L);
    return 3;
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
    if (h->state == NULL) {
        lua_pushliteral(L, HANDLE_TYPE ": (finalized)");
        return 1;
    }
    error_push_record(L, &h->state->record);
    lua_pushfstring(L, HANDLE_TYPE ": %p %s", (void *)h->state, lua_tostring(L, -1));
    return 1;
}

static int meta_eq(lua_State *L)
{
    struct handle *a = to_handle(L, 1), *b = to_handle(L, 2);
    lua_pushboolean(L, a != NULL && b != NULL && a->state == b->state && a->state != NULL);
    return 1;
}

/* ---- the metatable ---- */

/* The file that this copy of the module came from. */
static const char *file_name(void)
{
    static const char here = 0; /* its address */
    Dl_info info;
    return dladdr(&here, &info) != 0 && info.dli_fname != NULL ? info.dli_fname : "?";
}

static void make_metatable(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"call", method_call},   {"tcall", method_tcall},     {"interrupt", method_interrupt},
        {"close", method_close}, {"isowner", method_isowner}, {"memory", method_memory},
        {"id", method_id},       {"name", method_name},       {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__gc", meta_gc},     {"__close", meta_close}, {"__tostring", meta_tostring},
        {"__call", meta_call}, {"__eq", meta_eq},       {NULL, NULL},
    };
    luaL_newlib(L, metamethods);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, HANDLE_TYPE);
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, HANDLE_TYPE);
    lua_setfield(L, -2, "__metatable");
    lua_pushstring(L, file_name());
    lua_setfield(L, -2, "__file");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, HANDLE_TYPE); /* last: whoever finds it finds it whole */
}

/* Two copies in one Lua state would take each other's handles for their own. */
static void check_copy(lua_State *L)
{
    lua_getfield(L, -1, "__gc");
    if (lua_tocfunction(L, -1) != meta_gc) {
        lua_getfield(L, -2, "__file");
        luaL_error(L, "mtstates is loaded in this Lua state from '%s'; '%s' is another copy of it",
                   luaL_tolstring(L, -1, NULL), file_name());
    }
    lua_pop(L, 1);
}

void handle_push_upvalues(lua_State *L)
{
    if (luaL_getmetatable(L, HANDLE_TYPE) == LUA_TTABLE) {
        check_copy(L);
    } else {
        lua_pop(L, 1);
        make_metatable(L);
    }
    account_push(L, finalize);
}
