/*
 * The methods of handles of pools.
 */
#include "handle.h"

#include "state/call.h"
#include "state/error.h"
#include "stats.h"

static struct pool *check_pool(lua_State *L, const char *method)
{
    return pool_of_record(handle_check(L, &pool_kind, method));
}

static struct pool *check_open(lua_State *L, const char *method)
{
    struct pool *p = check_pool(L, method);
    if (pool_is_closed(p))
        handle_raise_closed(L, &p->record);
    return p;
}

/* ---- calls ---- */

/*
 * Makes the member that is missing, and begins a stay there. On top of the stack is an empty
 * handle, which keeps what failed.
 */
static void make_member(lua_State *L, struct handle *h, struct stay *stay, unsigned place)
{
    struct pool *p = pool_of_record(h->record);
    struct thread *self = thread_self();
    struct handle *keeper = lua_touserdata(L, -1);
    struct setup s;
    if (!pool_make(p, &s, L, self, place)) {
        handle_set_made(keeper, &s, false);
        s.failure == SETUP_WELL ? handle_raise_closed(L, &p->record) : setup_raise(&s);
    }
    if (h->last != NULL)
        record_release(&h->last->record);
    h->last = s.state;
    if (stay_begun(stay, s.state, self) != ENTRY_ENTERED)
        call_raise_refusal(L, &p->record, ENTRY_NO_MEMORY);
}

/* Waits if `in_time`, then until `deadline`. */
static inline enum entry try_to_begin(struct handle *h, struct call *c, bool in_time,
                                      const struct timespec *deadline)
{
    struct pool *p = pool_of_record(h->record);
    struct thread *self = thread_self();
    return in_time ? pool_begin_wait(p, &c->stay, self, &h->last, deadline)
                   : pool_begin(p, &c->stay, self, &h->last);
}

/* Makes members, and tries again, as long as there has to be one more. */
static enum entry __attribute__((noinline))
make_and_begin(lua_State *L, struct handle *h, struct call *c, bool in_time,
               const struct timespec *deadline)
{
    enum entry entry;
    unsigned place;
    do {
        luaL_checkstack(L, LUA_MINSTACK, NULL);
        handle_new(L, &state_kind);
        bool has_room = pool_claim(pool_of_record(h->record), &place);
        if (has_room)
            make_member(L, h, &c->stay, place);
        lua_settop(L, c->last);
        entry = has_room ? ENTRY_ENTERED : try_to_begin(h, c, in_time, deadline);
    } while (entry == ENTRY_VACANT);
    return entry;
}

/* Begins a stay in a member; makes one where there has to be one more. */
static inline enum entry begin(lua_State *L, struct handle *h, struct call *c, bool in_time,
                               const struct timespec *deadline)
{
    enum entry entry = try_to_begin(h, c, in_time, deadline);
    if (__builtin_expect(entry == ENTRY_VACANT, 0))
        return make_and_begin(L, h, c, in_time, deadline);
    return entry;
}

static struct handle *check_handle(lua_State *L, const char *method)
{
    return handle_check_used(L, &pool_kind, method);
}

static inline int call(lua_State *L)
{
    struct handle *h = check_handle(L, "call");
    struct call c;
    call_prepare(&c, L, 2, "call");
    enum entry entry = begin(L, h, &c, false, NULL);
    if (__builtin_expect(entry == ENTRY_ENTERED, 1))
        return call_entered(&c);
    if (entry == ENTRY_NESTED)
        return call_nested(&c);
    if (entry == ENTRY_BUSY)
        return handle_raise_busy(L, h->record,
                                 ERROR_CONCURRENT_ACCESS ": all members of pool %s are busy");
    return call_raise_refusal(L, h->record, entry);
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

static int method_tcall(lua_State *L)
{
    struct handle *h = check_handle(L, "tcall");
    double timeout = handle_check_timeout(L, "tcall");
    struct timespec t;
    struct call c;
    call_prepare(&c, L, 3, "tcall");
    enum entry entry = begin(L, h, &c, timeout > 0, handle_deadline(timeout, &t));
    if (entry == ENTRY_BUSY) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (!stay_has_begun(entry))
        return call_raise_refusal(L, h->record, entry);
    return handle_return_true(L, call_begun(&c, entry));
}

/* ---- all members ---- */

struct broadcast {
    struct state *member;
    bool waits;
    const struct timespec *deadline;
    bool reached;
};

/* (broadcast, its arguments) */
static int reach(lua_State *L)
{
    struct broadcast *b = lua_touserdata(L, 1);
    struct thread *self = thread_self();
    struct call c;
    call_prepare(&c, L, 2, "broadcast");
    enum entry entry = b->waits ? stay_begin_wait(&c.stay, b->member, self, b->deadline)
                                : stay_begin(&c.stay, b->member, self);
    if (entry == ENTRY_NO_MEMORY || entry == ENTRY_TOO_DEEP)
        return call_raise_refusal(L, &b->member->record, entry);
    b->reached = stay_has_begun(entry);
    if (b->reached)
        call_begun(&c, entry);
    return 0;
}

/* Runs the callback in the member of the handle at `index` with the arguments from index 3 to
 * `last`. Leaves the first error that there was, at index `last` + 1, which was nil. */
static bool reach_one(lua_State *L, int index, int last, struct broadcast *b)
{
    b->member = state_of_record(((struct handle *)lua_touserdata(L, index))->record);
    b->reached = false;
    lua_pushcfunction(L, reach);
    lua_pushlightuserdata(L, b);
    for (int i = 3; i <= last; i++)
        lua_pushvalue(L, i);
    if (lua_pcall(L, last - 1, 0, 0) != LUA_OK) {
        if (lua_isnil(L, last + 1))
            lua_replace(L, last + 1);
        else
            lua_pop(L, 1);
    }
    return b->reached;
}

/* Pushes a table of handles of all members. [-0, +1, e] */
static int push_members(lua_State *L, struct pool *p)
{
    int count = 0;
    lua_newtable(L);
    for (unsigned i = 0; i < p->options.size; i++) {
        struct handle *h = handle_new(L, &state_kind);
        struct state *s = pool_member(p, i);
        if (s != NULL)
            handle_set(h, &s->record, false);
        if (s != NULL && !state_is_closed(s))
            lua_rawseti(L, -2, ++count);
        else
            lua_pop(L, 1);
    }
    return count;
}

/* Those that are idle first, then the others. */
static int method_broadcast(lua_State *L)
{
    struct pool *p = check_open(L, "broadcast");
    double timeout = handle_check_timeout(L, "broadcast");
    struct timespec t;
    struct broadcast b = {.deadline = handle_deadline(timeout, &t)};
    int last = lua_gettop(L), reached = 0;
    luaL_checkstack(L, last + LUA_MINSTACK, "too many arguments");
    lua_pushnil(L); /* the first error */
    int count = push_members(L, p);
    int members = lua_gettop(L);
    for (int pass = 0; pass < 2; pass++) {
        b.waits = pass == 1 && timeout > 0;
        for (int i = 1; i <= count && (pass == 0 || b.waits); i++) {
            if (lua_rawgeti(L, members, i) == LUA_TUSERDATA &&
                reach_one(L, members + 1, last, &b)) {
                reached++;
                lua_pushboolean(L, 0);
                lua_rawseti(L, members, i);
            }
            lua_settop(L, members);
        }
    }
    if (!lua_isnil(L, last + 1)) {
        lua_settop(L, last + 1);
        return lua_error(L);
    }
    lua_pushinteger(L, reached);
    lua_pushinteger(L, count - reached);
    return 2;
}

static int method_interrupt(lua_State *L)
{
    struct pool *p = check_open(L, "interrupt");
    enum interrupt_request request = handle_check_request(L);
    for (unsigned i = 0; i < p->options.size; i++) {
        struct state *s = pool_member(p, i);
        if (s == NULL)
            continue;
        if (request != INTERRUPT_ONCE || ownership_inside(&s->ownership) != 0)
            interrupt_send(s, request);
        record_release(&s->record);
    }
    return 0;
}

/* ---- reload ---- */

/* Makes a member and replaces the others. On top of the stack is an empty handle, which keeps what
 * failed. `r`: of the new setup; NULL: the plan is the pool's. */
static void reload(lua_State *L, struct pool *p, struct plan *plan, const struct recipe *r)
{
    struct thread *self = thread_self();
    struct handle *keeper = lua_touserdata(L, -1);
    struct setup s;
    if (!pool_make_next(p, plan, &s, L, self)) {
        plan_release(plan);
        handle_set_made(keeper, &s, false);
        s.recipe = r;
        s.failure == SETUP_WELL ? handle_raise_closed(L, &p->record) : setup_raise(&s);
    }
    bool open = pool_reload(p, plan, r != NULL, s.state, self);
    record_release(&s.state->record);
    if (!open)
        handle_raise_closed(L, &p->record);
}

static int method_reload(lua_State *L)
{
    struct pool *p = check_open(L, "reload");
    struct recipe r = {.function = "reload", .inherit = p->options.inherit};
    struct setup s;
    struct plan *plan;
    uint64_t number;
    bool is_new = !lua_isnoneornil(L, 2);
    handle_check_nesting(L, "reload");
    if (is_new) {
        r.options = p->options.state;
        r.setup = 2;
        r.last = lua_gettop(L);
        setup_check(L, &r);
        setup_prepare(&s, L, &r);
        handle_new(L, &state_kind);
        plan = plan_new(&s);
        if (plan == NULL)
            return setup_raise(&s);
    } else {
        handle_new(L, &state_kind);
        plan = pool_plan(p, &number);
        if (plan == NULL)
            return handle_raise_closed(L, &p->record);
    }
    reload(L, p, plan, is_new ? &r : NULL);
    return 0;
}

/* ---- the rest ---- */

static int method_state(lua_State *L)
{
    struct pool *p = check_open(L, "state");
    int is_integer;
    lua_Integer place = lua_tointegerx(L, 2, &is_integer);
    if (lua_type(L, 2) != LUA_TNUMBER || !is_integer)
        return error_argument_type(L, 2, "state", "integer");
    if (place < 1 || place > (lua_Integer)p->options.size)
        return error_argument(L, 2, "state", "place %I: the pool has places from 1 to %d",
                              (LUAI_UACINT)place, (int)p->options.size);
    struct state *s = pool_member(p, (unsigned)place - 1);
    bool known =
        s != NULL && !state_is_closed(s) && handle_push_known(L, &state_kind, s->record.id);
    if (s != NULL)
        record_release(&s->record);
    if (known)
        return 1;
    handle_new(L, &state_kind);
    s = pool_member(p, (unsigned)place - 1);
    if (s != NULL)
        handle_make_known(L, &s->record);
    if (s == NULL || state_is_closed(s))
        lua_pushnil(L);
    return 1;
}

static int method_close(lua_State *L)
{
    struct pool *p = check_pool(L, "close");
    struct timespec t;
    double timeout = lua_isnoneornil(L, 2) ? 0 : handle_check_timeout(L, "close");
    bool none_is_left = pool_close(p, thread_self(), handle_deadline(timeout, &t));
    handle_drop_weight(lua_touserdata(L, 1));
    lua_pushboolean(L, none_is_left);
    return 1;
}

static int method_stats(lua_State *L)
{
    struct pool *p = check_open(L, "stats");
    struct pool_counts c = pool_count(p);
    struct stats s = stats_of_pool(p);
    stats_push(L, &s);
    stats_set(L, "size", p->options.size);
    stats_set(L, "members", c.members);
    stats_set(L, "idle", c.idle);
    stats_set(L, "busy", c.busy);
    stats_set(L, "waiting", (uint64_t)c.waiting);
    stats_set(L, "made", c.made);
    lua_createtable(L, 0, POOL_RETIRED_COUNT - 1);
    for (int i = 1; i < POOL_RETIRED_COUNT; i++)
        stats_set(L, pool_retired_names[i], c.retired[i]);
    lua_setfield(L, -2, "retired");
    return 1;
}

static int meta_len(lua_State *L)
{
    lua_pushinteger(L, check_open(L, "__len")->options.size);
    return 1;
}

const luaL_Reg pool_methods[] = {
    {"call", method_call},           {"tcall", method_tcall},   {"broadcast", method_broadcast},
    {"interrupt", method_interrupt}, {"reload", method_reload}, {"state", method_state},
    {"close", method_close},         {"stats", method_stats},   {NULL, NULL},
};

const luaL_Reg pool_metamethods[] = {{"__call", meta_call}, {"__len", meta_len}, {NULL, NULL}};
