/*
 * Stopping Lua code of a state from any thread, and where its time is over (time_limit.h). The hook
 * that does it takes the samples of a profile, too (sample.h).
 *
 * Lua stops code at a debug hook, and a hook that is always set makes code several times slower. So
 * it is set when there is a request, by the thread that runs the code, which alone may touch its
 * Lua: when it enters, when it changes from one coroutine to another, and, for code that does
 * neither, in a handler of a signal that the requester sends it (sync/thread_signal.h). That is how
 * `lua` itself ends a script at ^C.
 *
 * No request is lost.
 *   Who sends writes the request (I1), then reads the ownership word: is a thread inside? Who
 *   enters swaps the word, then reads the request (I2). All four are sequentially consistent, so
 *   either the sender sees the thread, or the thread sees the request.
 *   A thread that is seen gets a signal, and again and again until the request has struck or the
 *   thread is out. That makes up for what Lua does with a hook that comes at a bad moment: between
 *   an instruction that reads the hook mask and one that writes `trap` or `hookcount` because of
 *   it, or in the middle of lua_sethook that a C module calls.
 *   A request that its thread never met strikes at the next entering.
 * test/model/interrupt.pml is this as a model, which spin searches exhaustively.
 *
 * Nothing is struck twice by one request: INTERRUPT_ONCE becomes INTERRUPT_NONE by the swap of the
 * one hook that raises the error. A hook that finds no request goes away.
 *
 * `request` is written by senders and, from ONCE to NONE, by the thread inside. `running`,
 * `hooked`, `changing` and `own` are written by the thread inside and its handler; one runs at a
 * time, so the fences between are for the compiler only. From one thread inside to the next they
 * are ordered by the ownership word. While the thread is changing hooks itself (`changing`) the
 * handler writes nothing, and the thread looks for a request once more after that.
 *
 * Only `running` is given our hook, so there is one hook of the state's own to be kept and given
 * back, with the operations that were left of its count. As long as ours is there it hands on what
 * that one wants. A coroutine that is made in just this moment inherits ours: functions of Lua give
 * it the state's own (interrupt_pass_on_hook); in one that a C module makes ours goes away when it
 * is called there, and what it should have inherited is lost to it.
 *
 * Where every operation is struck, no pcall keeps what it caught, so errors would only go up from
 * one to the next. Of those there may be 200 000 in a coroutine, whose depth Lua counts anew after
 * each error, and for each error Lua walks them all: code that has recursed for 0.1 s through pcall
 * took 7 s to end. So such a coroutine yields to the function that resumed it, which closes it.
 */
#include "interrupt.h"

#include "call.h"
#include "error.h"
#include "interpreter.h"
#include "lua_inside.h"
#include "probes.h"
#include "sync/thread_signal.h"

#include <lauxlib.h>
#include <string.h>

/* Of objects that only one thread, and its handler, use. */
#define GET(object) atomic_load_explicit(&(object), memory_order_relaxed)
#define SET(object, value) atomic_store_explicit(&(object), value, memory_order_relaxed)
#define COMPILER_FENCE() atomic_signal_fence(memory_order_seq_cst)

static void on_hook(lua_State *L, lua_Debug *ar);
static int handle_error(lua_State *L);

/* ---- hooks, by the thread inside or its handler ---- */

/* Ours comes at the next operation; and when the function that runs, perhaps one of C, calls
 * another or returns. */
static void hook_put(struct interrupt *i, lua_State *L)
{
    lua_Hook function = lua_gethook(L);
    if (function != on_hook) {
        i->own.function = function;
        i->own.mask = lua_gethookmask(L);
        i->own.count = lua_gethookcount(L);
        i->own.left = *lua_inside_hook_left(L);
    } else if (GET(i->hooked) != L) { /* a new coroutine, made by one that had it */
        i->own.function = NULL;
        i->own.mask = i->own.count = i->own.left = 0;
    }
    SET(i->hooked, L);
    lua_sethook(L, on_hook, i->own.mask | LUA_MASKCOUNT | LUA_MASKCALL | LUA_MASKRET, 1);
}

static void hook_take(struct interrupt *i)
{
    lua_State *L = GET(i->hooked);
    SET(i->hooked, NULL);
    if (lua_gethook(L) != on_hook)
        return;
    lua_sethook(L, i->own.function, i->own.mask, i->own.count);
    /* 0: ours was put where Lua had counted to the end and not begun anew, and no operation has
     * been seen since, as in a hook. From 0 Lua would count 2^32 operations to the next event. */
    if (i->own.left > 0)
        *lua_inside_hook_left(L) = i->own.left;
}

static void change_begin(struct interrupt *i)
{
    SET(i->changing, true);
    COMPILER_FENCE();
}

static void change_end(struct interrupt *i)
{
    COMPILER_FENCE();
    SET(i->changing, false);
    COMPILER_FENCE();
}

/* Again if a signal came meanwhile, whose handler kept off. */
void interrupt_settle(struct interrupt *i)
{
    do {
        lua_State *running = GET(i->running);
        change_begin(i);
        if (GET(i->hooked) != NULL && GET(i->hooked) != running)
            hook_take(i);
        if (running != NULL && interrupt_is_pending(i))
            hook_put(i, running);
        change_end(i);
    } while (GET(i->running) != NULL && interrupt_is_pending(i) &&
             GET(i->hooked) != GET(i->running));
}

/* In the handler. If the thread is just changing from `hooked` to `running`, it settles itself. */
static void settle_in_handler(struct interrupt *i)
{
    lua_State *running = GET(i->running), *hooked = GET(i->hooked);
    if (running != NULL && !GET(i->changing) && (hooked == NULL || hooked == running) &&
        interrupt_is_pending(i))
        hook_put(i, running);
}

/* In the handler, of the thread that is inside of all these. */
static void look_at_states(const struct mtstates_inside *innermost)
{
    sample_hold(innermost);
    for (const struct mtstates_inside *i = innermost; i != NULL; i = i->around)
        settle_in_handler(&state_of_inside(i)->interrupt);
}

/* ---- striking ---- */

/*
 * With a message that is there already, so that no memory is needed. Hooks are allowed again, so
 * that what runs before the error is caught can be interrupted as well. [-0, +0, v]
 */
static void strike(lua_State *L, interrupt_message push)
{
    *lua_inside_allowhook(L) = 1;
    push(L);
    lua_error(L);
}

/* What every operation would be struck by, or NULL. */
static interrupt_message always_struck_by(struct interrupt *i)
{
    if (atomic_load(&i->request) == INTERRUPT_ALWAYS)
        return interpreter_push_interrupted;
    return time_limit_due() == TIME_LIMIT_ALWAYS ? interpreter_push_time_limit : NULL;
}

bool interrupt_strikes_always(struct interrupt *i)
{
    return always_struck_by(i) != NULL;
}

static void strike_if_always(struct interrupt *i, lua_State *L)
{
    interrupt_message push = always_struck_by(i);
    if (push != NULL)
        strike(L, push);
}

void interrupt_strike_always(lua_State *L)
{
    struct state *s = interpreter_state(L);
    if (s == NULL || GET(s->interrupt.running) == NULL || !*lua_inside_allowhook(L))
        return;
    strike_if_always(&s->interrupt, L);
}

/* In coroutine.c's hands: yields, and its resume does the rest. */
static void strike_always(struct interrupt *i, lua_State *L, interrupt_message push)
{
    if (GET(i->running) != L || !lua_isyieldable(L))
        strike(L, push);
    i->yielded = push;
    lua_yield(L, 0); /* returns, as this is a hook */
}

/* The request, and whether it is taken: one that strikes once is. */
static int take_request(struct interrupt *i)
{
    int request = INTERRUPT_ONCE;
    if (atomic_compare_exchange_strong(&i->request, &request, INTERRUPT_NONE))
        return INTERRUPT_ONCE;
    return request;
}

/* The hook goes, from `L`, the running coroutine or one that inherited it. It may be put back. */
static void hook_end(struct interrupt *i, lua_State *L)
{
    change_begin(i);
    if (GET(i->hooked) == L)
        hook_take(i);
    else
        lua_sethook(L, NULL, 0, 0);
    change_end(i);
    if (interrupt_is_pending(i))
        interrupt_settle(i);
}

/* What is raised at an operation, if anything. [-0, +0, v] */
static void look_for_strikes(struct state *s, lua_State *L)
{
    struct interrupt *i = &s->interrupt;
    int request = take_request(i);
    if (request != INTERRUPT_NONE) {
        count_add(&s->counters.interrupted, 1);
        PROBE_STATE(interrupt, s);
    }
    if (request == INTERRUPT_ALWAYS) {
        strike_always(i, L, interpreter_push_interrupted);
        return;
    }
    enum time_limit_strike late = TIME_LIMIT_NONE;
    if (request == INTERRUPT_NONE)
        late = time_limit_take();
    if (late != TIME_LIMIT_NONE)
        PROBE_STATE(time_limit, s);
    if (late == TIME_LIMIT_ALWAYS) {
        strike_always(i, L, interpreter_push_time_limit);
        return;
    }
    hook_end(i, L);
    if (request == INTERRUPT_ONCE)
        strike(L, interpreter_push_interrupted);
    if (late == TIME_LIMIT_ONCE)
        strike(L, interpreter_push_time_limit);
}

/* Whether the C function on top of the stack, which has just been called, is what a userdata has to
 * be closed by, and is called with that: a file or a handle, say. [-0, +0, m] */
static bool closes_userdata(lua_State *L, lua_Debug *ar)
{
    bool closes = false;
    int top = lua_gettop(L);
    if (lua_getlocal(L, ar, 1) != NULL && lua_type(L, -1) == LUA_TUSERDATA &&
        luaL_getmetafield(L, -1, "__close") != LUA_TNIL)
        closes = lua_rawequal(L, -1, top);
    lua_settop(L, top);
    return closes;
}

/* C functions that C calls may be thousands with no operation between, such as those that close
 * values: nothing more of them begins, but for what gives back more than memory. Message handlers
 * have to, or they would be called for this error as well. [-0, +0, v] */
static void look_for_strikes_at_call(struct interrupt *i, lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "f", ar);
    lua_CFunction function = lua_tocfunction(L, -1);
    if (function != NULL && function != handle_error && function != call_on_error &&
        !closes_userdata(L, ar))
        strike_if_always(i, L);
    lua_pop(L, 1);
}

/* The hook that the state's own code has set there, if this is an event for it, or NULL. */
static lua_Hook own_hook(struct interrupt *i, lua_State *L, int event)
{
    int mask = event == LUA_HOOKTAILCALL ? LUA_MASKCALL : 1 << event;
    if (GET(i->hooked) != L || !(i->own.mask & mask))
        return NULL;
    if (event == LUA_HOOKCOUNT) {
        if (--i->own.left > 0)
            return NULL;
        i->own.left = i->own.count;
    }
    return i->own.function;
}

/* In the state: before an operation of coroutine `L`, the running one or one that inherited the
 * hook, or at another event there. */
static void on_hook(lua_State *L, lua_Debug *ar)
{
    struct state *s = interpreter_state(L);
    struct interrupt *i = &s->interrupt;
    bool strikes = interrupt_strikes(i);
    lua_Hook own = own_hook(i, L, ar->event);
    if (!strikes) /* names of functions may take long to find */
        sample_take(i, L, ar->event == LUA_HOOKCALL ? 1 : 0); /* what is called has just begun */
    if (ar->event == LUA_HOOKCOUNT)
        look_for_strikes(s, L);
    else if (!interrupt_is_pending(i))
        hook_end(i, L);
    else if (ar->event == LUA_HOOKCALL)
        look_for_strikes_at_call(i, L, ar);
    if (own != NULL && !strikes) /* which might have it run on in an error's handling */
        own(L, ar);
}

/* ---- requests ---- */

void interrupt_prepare(void)
{
    thread_signal_prepare(look_at_states);
}

void interrupt_init(struct interrupt *i)
{
    atomic_init(&i->request, INTERRUPT_NONE);
    atomic_init(&i->running, NULL);
    atomic_init(&i->hooked, NULL);
    atomic_init(&i->changing, false);
    i->yielded = NULL;
    i->resumed = NULL;
    i->tick = (struct tick){.listed = false};
}

void interrupt_attach(struct interrupt *i, lua_State *target)
{
    SET(i->running, target);
}

void interrupt_detach(struct interrupt *i)
{
    SET(i->running, NULL);
    COMPILER_FENCE();
    atomic_store(&i->request, INTERRUPT_NONE);
    interrupt_settle(i);
}

void interrupt_pass_on_hook(struct interrupt *i, lua_State *L, lua_State *co)
{
    if (lua_gethook(co) != on_hook)
        return;
    if (GET(i->hooked) == L)
        lua_sethook(co, i->own.function, i->own.mask, i->own.count);
    else
        lua_sethook(co, NULL, 0, 0);
}

void interrupt_destroy(struct interrupt *i)
{
    ticker_remove(&i->tick);
}

static bool send_signal(struct state *s)
{
    uint64_t inside = ownership_inside(&s->ownership);
    return inside != 0 && thread_signal_send(inside);
}

/* In the ticker. False: it has struck, or nobody is inside, or that thread is gone. */
static bool send_again(struct tick *t)
{
    struct state *s = (void *)((char *)t - offsetof(struct state, interrupt.tick));
    if (!interrupt_is_requested(&s->interrupt) || ownership_inside(&s->ownership) == 0)
        return false;
    return !tick_is_turn(t->looks) || send_signal(s);
}

void interrupt_meet(struct interrupt *i)
{
    interrupt_settle(i);
    if (interrupt_is_requested(i))
        ticker_add(&i->tick, send_again, TICKER_SECONDS); /* the sender saw nobody inside */
}

bool interrupt_send(struct state *s, enum interrupt_request request)
{
    struct interrupt *i = &s->interrupt;
    int none = INTERRUPT_NONE;
    if (ownership_is_closing(&s->ownership))
        return false;
    if (request == INTERRUPT_ONCE) /* does not weaken INTERRUPT_ALWAYS */
        atomic_compare_exchange_strong(&i->request, &none, INTERRUPT_ONCE); /* I1 */
    else
        atomic_store(&i->request, (int)request); /* I1 */
    if (request != INTERRUPT_NONE && send_signal(s))
        ticker_add(&i->tick, send_again, TICKER_SECONDS);
    return true;
}

/* ---- functions of the states' own ---- */

/* The upvalues of a message handler that xpcall puts before the user's. */
enum {
    HANDLER_FUNCTION = 1,
    HANDLER_INTERRUPT,
    HANDLER_HOOKS,
    HANDLER_RUNS,
    HANDLER_UPVALUES = HANDLER_RUNS
};

static struct interrupt *to_interrupt(lua_State *L, int upvalue)
{
    return lua_touserdata(L, lua_upvalueindex(upvalue));
}

/* With a position or a traceback, perhaps: coroutines and other states hand the message on. */
static bool is_interrupted(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TSTRING)
        return false;
    const char *message = lua_tostring(L, index);
    return strstr(message, ERROR_INTERRUPTED) != NULL || strstr(message, ERROR_TIME_LIMIT) != NULL;
}

/* A C function that needs nothing but its stack; NULL: it is no such. [-0, +0, -] */
static lua_CFunction to_plain_function(lua_State *L, int index)
{
    lua_CFunction function = lua_tocfunction(L, index);
    if (function != NULL && lua_getupvalue(L, index, 1) != NULL) {
        lua_pop(L, 1);
        function = NULL;
    }
    return function;
}

/*
 * A handler runs where the error was raised, and an error in it calls it again. So a handler that
 * does not end would take any number of interrupts: it is not called when it would be interrupted
 * at once, nor again when it was interrupted. A C function like debug.traceback is called in our
 * place, so that it finds the levels where they are in Lua.
 */
static int handle_error(lua_State *L)
{
    struct interrupt *i = to_interrupt(L, HANDLER_INTERRUPT);
    lua_CFunction plain = to_plain_function(L, lua_upvalueindex(HANDLER_FUNCTION));
    *lua_inside_allowhook(L) = (unsigned char)lua_toboolean(L, lua_upvalueindex(HANDLER_HOOKS));
    if (interrupt_strikes_always(i) ||
        (lua_toboolean(L, lua_upvalueindex(HANDLER_RUNS)) && is_interrupted(L, 1)))
        return 1;
    lua_pushboolean(L, 1);
    lua_replace(L, lua_upvalueindex(HANDLER_RUNS));
    if (plain != NULL)
        return plain(L);
    lua_pushvalue(L, lua_upvalueindex(HANDLER_FUNCTION));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static int end_xpcall(lua_State *L, int status, lua_KContext below)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)below;
}

/* Lua's own (luaB_xpcall), but for what it puts before the handler. */
static int base_xpcall(lua_State *L)
{
    int arguments = lua_gettop(L) - 2;
    luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_checkstack(L, HANDLER_UPVALUES, NULL);
    lua_pushvalue(L, 2);
    lua_pushlightuserdata(L, to_interrupt(L, 1));
    lua_pushboolean(L, *lua_inside_allowhook(L));
    lua_pushboolean(L, 0);
    lua_pushcclosure(L, handle_error, HANDLER_UPVALUES);
    lua_replace(L, 2);
    lua_pushboolean(L, 1); /* the first result */
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2); /* function, handler, true, function, arguments */
    int status = lua_pcallk(L, arguments, LUA_MULTRET, 2, 2, end_xpcall);
    return end_xpcall(L, status, 2);
}

void interrupt_open_base(lua_State *target, struct interrupt *i)
{
    lua_pushlightuserdata(target, i);
    lua_pushcclosure(target, base_xpcall, 1);
    lua_setglobal(target, "xpcall");
}

/*
 * Functions of the debug library's that have to do with hooks: Lua's own, upvalue 2, while ours is
 * away and no handler puts it there. Afterwards ours is put back: code that does nothing else would
 * take it away each time before it strikes. [-n, +results, e]
 */
static int call_without_hook(lua_State *L)
{
    struct interrupt *i = to_interrupt(L, 1);
    luaL_checkstack(L, 1, NULL);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    change_begin(i);
    if (GET(i->hooked) != NULL)
        hook_take(i);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    change_end(i);
    if (interrupt_is_pending(i))
        interrupt_settle(i);
    return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* The checks of Lua's own (db_sethook), so that what follows them fails for lack of memory only. */
static void check_sethook(lua_State *L)
{
    int argument = lua_isthread(L, 1) ? 2 : 1;
    if (lua_isnoneornil(L, argument))
        return;
    luaL_checkstring(L, argument + 1);
    luaL_checktype(L, argument, LUA_TFUNCTION);
    luaL_optinteger(L, argument + 2, 0);
}

static int debug_sethook(lua_State *L)
{
    check_sethook(L);
    return call_without_hook(L);
}

static void replace_hook_function(lua_State *target, struct interrupt *i, const char *name,
                                  lua_CFunction function)
{
    lua_pushlightuserdata(target, i);
    lua_getfield(target, -2, name);
    lua_pushcclosure(target, function, 2);
    lua_setfield(target, -2, name);
}

void interrupt_open_debug(lua_State *target, struct interrupt *i)
{
    replace_hook_function(target, i, "sethook", debug_sethook);
    replace_hook_function(target, i, "gethook", call_without_hook);
}
