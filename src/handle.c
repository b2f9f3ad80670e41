#include "handle.h"

#include "call.h"
#include "error.h"
#include "park.h"
#include "probe.h"

#include <lauxlib.h>
#include <limits.h>
#include <string.h>

#define UPVALUE_METATABLE lua_upvalueindex(1)
#define UPVALUE_HOST lua_upvalueindex(2)

/* The handle's user value: the refusal, once it was raised. */
enum { USER_VALUE_REFUSAL = 1, USER_VALUES = USER_VALUE_REFUSAL };

/* A longer timeout, in seconds, is taken for "for ever". */
#define TIMEOUT_MAX 1e9

/*
 * A reference that handles share: those of one state that look-ups by id add. To look up again what
 * one has a handle of changes nothing that other threads read or write.
 */
struct shared {
    struct state *state;
    size_t handles; /* 0: the place is free */
};

enum { SHARED_PLACES = 16 };

/* What the module knows of a host. */
struct host {
    struct shared shared[SHARED_PLACES]; /* by id */
    bool closed;              /* it closes, and the last chance to give up handles has passed */
    int64_t untold_kilobytes; /* of new states, that its collector has not been told of */
};

/* The host's user value: a table whose weak keys are the strays. */
enum { HOST_STRAYS = 1, HOST_USER_VALUES = HOST_STRAYS };

/*
 * A state weighs on the host's collector as a few bytes of handle. So the host is told of the
 * memory whenever WEIGHT_STEP has come together, times WEIGHT_FACTOR: a collector with Lua's
 * default pause starts when its debt has grown to the size of its heap, so hosts with a heap much
 * larger than their states would keep too many dropped ones.
 */
enum { WEIGHT_STEP = 1024, WEIGHT_FACTOR = 4 };

/* The handle on top of the stack. [-0, +0, m] */
static void stray_add(lua_State *L)
{
    lua_getiuservalue(L, UPVALUE_HOST, HOST_STRAYS);
    lua_pushvalue(L, -2);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* The handle is of no more use, and no more an owner. */
static void give_up(struct handle *h)
{
    struct state *s = h->state;
    h->state = NULL;
    if (s != NULL && h->owns)
        state_disown(s, thread_self());
}

static struct shared *shared_place(struct host *host, int64_t id)
{
    return &host->shared[(uint64_t)id % SHARED_PLACES];
}

static uintptr_t seal_of(const struct handle *h)
{
    static const char unique = 0; /* its address */
    return (uintptr_t)h ^ (uintptr_t)&unique;
}

/* Drops all that the handle has. */
static void finalize(struct handle *h)
{
    struct state *s = h->held;
    h->held = NULL;
    h->seal = ~seal_of(h);
    give_up(h);
    if (s != NULL && !(h->shares && --shared_place(h->host, s->record.id)->handles > 0))
        record_release(&s->record);
}

struct handle *handle_new(lua_State *L, bool owns)
{
    struct host *host = lua_touserdata(L, UPVALUE_HOST);
    if (host->closed)
        luaL_error(L, "this Lua state is closing");
    struct handle *h = lua_newuserdatauv(L, sizeof *h, USER_VALUES);
    h->seal = seal_of(h);
    h->state = h->held = NULL;
    h->owns = owns;
    h->shares = false;
    h->host = host;
    h->kilobytes = 0;
    lua_pushvalue(L, UPVALUE_METATABLE);
    lua_setmetatable(L, -2);
    if (lua_gc(L, LUA_GCISRUNNING) != 1) /* in a finalizer, or stopped by the user */
        stray_add(L);
    return h;
}

bool handle_find_again(struct handle *h, int64_t id)
{
    struct shared *place = shared_place(h->host, id);
    if (place->handles == 0 || place->state->record.id != id || state_is_closed(place->state))
        return false;
    place->handles++;
    h->shares = true;
    handle_set(h, place->state);
    return true;
}

void handle_set_found(struct handle *h, struct state *s)
{
    struct shared *place = shared_place(h->host, s->record.id);
    handle_set(h, s);
    if (place->handles > 0)
        return;
    *place = (struct shared){s, 1};
    h->shares = true;
}

static inline bool has_seal(lua_State *L, int index, const struct handle *h, uintptr_t seal)
{
    return h != NULL && lua_rawlen(L, index) == sizeof *h && h->seal == seal;
}

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
        error_raise(L, ERROR_OBJECT_CLOSED, "this handle was given up");
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

static struct thread *check_nesting(lua_State *L, struct state *s)
{
    struct thread *self = thread_self();
    if (__builtin_expect(!thread_may_nest(self), 0))
        raise_nesting(L, s);
    return self;
}

/*
 * Refuses a busy state. The message is made once per handle and kept, since a worker pool meets
 * refusals as often as results.
 */
static int raise_busy(lua_State *L, struct state *s)
{
    PROBE_STATE(call_refused, s);
    if (lua_getiuservalue(L, 1, USER_VALUE_REFUSAL) != LUA_TSTRING) {
        error_push_record(L, &s->record);
        lua_pushfstring(L, ERROR_CONCURRENT_ACCESS ": state %s is busy in another thread",
                        lua_tostring(L, -1));
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, USER_VALUE_REFUSAL);
    }
    return lua_error(L);
}

/* ---- methods ---- */

/* `uncounted`: 1 when users do not count the handle among the arguments, as in h(...). */
static inline int call(lua_State *L, int uncounted)
{
    struct state *s = check_state(L, "call");
    struct call c = {L, s, check_nesting(L, s), 2, lua_gettop(L), "call", uncounted};
    switch (ownership_enter(&s->ownership, c.self->number)) {
    case ENTRY_ENTERED:
        return call_entered(&c);
    case ENTRY_NESTED:
        return call_nested(&c);
    case ENTRY_BUSY:
        return raise_busy(L, s);
    default:
        return raise_closed(L, s);
    }
}

static int method_call(lua_State *L)
{
    return call(L, 0);
}

static int meta_call(lua_State *L)
{
    return call(L, 1);
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

static enum entry enter_in_time(struct state *s, struct thread *self, double timeout)
{
    if (timeout <= 0)
        return ownership_enter(&s->ownership, self->number);
    if (timeout > TIMEOUT_MAX)
        return ownership_enter_wait(&s->ownership, self->number, NULL);
    struct timespec deadline = clock_after(timeout);
    return ownership_enter_wait(&s->ownership, self->number, &deadline);
}

static int method_tcall(lua_State *L)
{
    struct state *s = check_state(L, "tcall");
    double timeout = check_timeout(L);
    struct call c = {L, s, check_nesting(L, s), 3, lua_gettop(L), "tcall", 0};
    enum entry entry = enter_in_time(s, c.self, timeout);
    if (entry == ENTRY_BUSY) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (entry == ENTRY_CLOSED)
        return raise_closed(L, s);
    int results = entry == ENTRY_ENTERED ? call_entered(&c) : call_nested(&c);
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
    if (!interrupt_send(&s->interrupt, check_request(L)))
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

static int method_isowner(lua_State *L)
{
    check_open(L, "isowner");
    lua_pushboolean(L, check_handle(L, "isowner")->owns);
    return 1;
}

static int meta_close(lua_State *L)
{
    give_up(check_handle(L, "__close"));
    return 0;
}

/*
 * Whether Lua says of the running function that it is a finalizer, or runs during a hook, when it
 * says nothing else. By hand only __call and __close of an object that is being finalized look like
 * that, and they pass more arguments.
 */
static bool is_called_by_collector(lua_State *L)
{
    lua_Debug ar;
    if (lua_gettop(L) != 1)
        return false;
    lua_getstack(L, 0, &ar);
    lua_getinfo(L, "n", &ar);
    return strcmp(ar.namewhat, "metamethod") == 0 ? strcmp(ar.name, "__gc") == 0
                                                  : strcmp(ar.namewhat, "hook") == 0;
}

static int meta_gc(lua_State *L)
{
    struct handle *h = check_handle(L, "__gc");
    if (is_called_by_collector(L))
        finalize(h);
    else
        give_up(h); /* a method that is at work may need the record yet */
    return 0;
}

static int meta_tostring(lua_State *L)
{
    struct handle *h = check_handle(L, "__tostring");
    if (h->state == NULL) {
        lua_pushliteral(L, HANDLE_TYPE ": (given up)");
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

static void push_metatable(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"call", method_call},           {"tcall", method_tcall},
        {"interrupt", method_interrupt}, {"close", method_close},
        {"isowner", method_isowner},     {"id", method_id},
        {"name", method_name},           {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__gc", meta_gc},     {"__close", meta_close}, {"__tostring", meta_tostring},
        {"__call", meta_call}, {"__eq", meta_eq},       {NULL, NULL},
    };
    if (luaL_getmetatable(L, HANDLE_TYPE) == LUA_TTABLE)
        return;
    lua_pop(L, 1);
    luaL_newlib(L, metamethods);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, HANDLE_TYPE);
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, HANDLE_TYPE);
    lua_setfield(L, -2, "__metatable");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, HANDLE_TYPE); /* last: whoever finds it finds it whole */
}

static int host_gc(lua_State *L)
{
    struct host *host = lua_touserdata(L, 1);
    lua_getiuservalue(L, 1, HOST_STRAYS);
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
        finalize(lua_touserdata(L, -2));
    host->closed = true;
    state_close_queued(thread_self());
    return 0;
}

/* [-0, +1, m] */
static void push_strays(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

static void push_host(lua_State *L)
{
    static const char key = 0; /* of the registry: the address */
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) == LUA_TUSERDATA)
        return;
    lua_pop(L, 1);
    /* In a finalizer of a Lua state that is closing, host_gc would not be called any more. */
    if (lua_gc(L, LUA_GCISRUNNING) < 0)
        luaL_error(L, "a finalizer cannot be the first to load mtstates; load it beforehand");
    struct host *host = lua_newuserdatauv(L, sizeof *host, HOST_USER_VALUES);
    *host = (struct host){.closed = false};
    push_strays(L);
    lua_setiuservalue(L, -2, HOST_STRAYS);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, host_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
}

void handle_push_upvalues(lua_State *L)
{
    push_metatable(L);
    push_host(L);
}

void handle_tell_weight(lua_State *L, const struct handle *h)
{
    struct host *host = h->host;
    host->untold_kilobytes += h->kilobytes;
    if (host->untold_kilobytes < WEIGHT_STEP || lua_gc(L, LUA_GCISRUNNING) != 1)
        return;
    int64_t told = host->untold_kilobytes * WEIGHT_FACTOR;
    host->untold_kilobytes = 0;
    lua_gc(L, LUA_GCSTEP, told < INT_MAX ? (int)told : INT_MAX);
}
