/*
 * Two Lua states take part in a call, and an error of one must not jump over the other's frames. So
 * all that can fail in the target runs in a protected call of the target, or has its memory
 * reserved; and of what can fail in the host nothing runs while the target is in use, unless in a
 * protected call of the host.
 */
#include "call.h"

#include "error.h"
#include "interpreter.h"
#include "lua_inside.h"
#include "parcel.h"
#include "pool.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

/* ---- errors of the target ---- */

static int object_to_string(lua_State *target)
{
    luaL_tolstring(target, 1, NULL);
    return 1;
}

/* The text of the error object at index 1: itself, its __tostring, or its type. [-0, +1, m] */
static void push_error_text(lua_State *target)
{
    if (lua_type(target, 1) == LUA_TSTRING || lua_type(target, 1) == LUA_TNUMBER) {
        lua_pushvalue(target, 1);
        lua_tostring(target, -1);
        return;
    }
    if (luaL_getmetafield(target, 1, "__tostring") != LUA_TNIL) {
        lua_pop(target, 1);
        lua_pushcfunction(target, object_to_string);
        lua_pushvalue(target, 1);
        if (lua_pcall(target, 1, 1, 0) == LUA_OK)
            return;
        if (lua_type(target, -1) == LUA_TSTRING) { /* may be the only trace of an interrupt */
            lua_pushfstring(target, "(error object is a %s value, whose __tostring raised: %s)",
                            luaL_typename(target, 1), lua_tostring(target, -1));
            lua_remove(target, -2);
            return;
        }
        lua_pop(target, 1);
    }
    lua_pushfstring(target, "(error object is a %s value)", luaL_typename(target, 1));
}

/* (text) */
static int add_traceback(lua_State *target)
{
    size_t length;
    const char *text = lua_tolstring(target, 1, &length);
    if (strlen(text) == length) {
        luaL_traceback(target, target, text, 2);
    } else { /* luaL_traceback would stop at the zero byte */
        lua_pushliteral(target, "\n");
        luaL_traceback(target, target, NULL, 2);
        lua_concat(target, 3);
    }
    return 1;
}

/* A call has more errors than one where values being closed raise them, perhaps thousands on a deep
 * stack; and a traceback takes milliseconds there, in which nothing interrupts. */
enum { MOST_TRACEBACKS = 10 };

int call_on_error(lua_State *target)
{
    struct state *s = interpreter_state(target);
    luaL_checkstack(target, LUA_MINSTACK, NULL);
    /* The error may come from a hook of the code's own: nothing that runs here could be
     * interrupted. */
    *lua_inside_allowhook(target) = s->allows_hooks;
    push_error_text(target);
    if (s->tracebacks >= (interrupt_strikes_always(&s->interrupt) ? 1 : MOST_TRACEBACKS))
        return 1;
    s->tracebacks++;
    /* What is said matters more than where it came from, for which there may be no memory. An
     * interrupt would come before that. */
    *lua_inside_allowhook(target) = 0;
    lua_pushcfunction(target, add_traceback);
    lua_pushvalue(target, -2);
    if (lua_pcall(target, 1, 1, 0) != LUA_OK)
        lua_pop(target, 1);
    *lua_inside_allowhook(target) = s->allows_hooks;
    return 1;
}

/* The next error is another call's; but where all calls in the state are being ended, the innermost
 * had the traceback. */
static void forget_tracebacks(struct call *c)
{
    struct state *s = c->stay.state;
    if (c->stay.kind != STAY_NESTED || !interrupt_strikes_always(&s->interrupt))
        s->tracebacks = 0;
}

/* Of the state, or of the host where no limit tells. */
static int raise_out_of_memory(lua_State *host, struct call_subject subject)
{
    const char *detail = "ran out of memory";
    if (subject.memory_limit != ARENA_NO_LIMIT)
        detail =
            lua_pushfstring(host, "%s: memory_limit is %I bytes, %I were in use", detail,
                            (LUAI_UACINT)subject.memory_limit, (LUAI_UACINT)subject.used_at_limit);
    return error_raise_for(host, ERROR_OUT_OF_MEMORY, subject.record, detail);
}

struct call_subject call_subject(struct state *s)
{
    return (struct call_subject){
        .record = &s->record,
        .memory_limit = s->arena.limit,
        .used_at_limit = atomic_load_explicit(&s->arena.used_at_limit, memory_order_relaxed),
    };
}

int call_raise(lua_State *host, struct call_subject subject, int status)
{
    interrupt_strike_always(host); /* the message may be long, and go up through many states */
    if (status == LUA_ERRMEM)
        return raise_out_of_memory(host, subject);
    luaL_checkstack(host, LUA_MINSTACK, NULL);
    lua_pushliteral(host, ERROR_INVOKING_STATE ": state ");
    error_push_record(host, subject.record);
    lua_pushliteral(host, ": ");
    lua_pushvalue(host, -4); /* the message */
    lua_pushliteral(host, "\nouter ");
    luaL_traceback(host, host, NULL, 1);
    lua_concat(host, 6);
    return lua_error(host);
}

int call_raise_refusal(lua_State *host, const struct record *r, enum entry entry)
{
    switch (entry) {
    case ENTRY_TOO_DEEP:
        error_push_record(host, r);
        return luaL_error(host, "C stack overflow: %s %s is called from too many states deep",
                          r->kind->what, lua_tostring(host, -1));
    case ENTRY_NO_MEMORY:
        return error_raise_for(host, ERROR_OUT_OF_MEMORY, r,
                               "has a time limit that there is no memory to see to");
    default:
        return error_raise_for(host, ERROR_OBJECT_CLOSED, r, "is closed");
    }
}

/* ---- the end ---- */

/* So many values fit on a stack without asking: what Lua promises, less the slots of an idle state,
 * a copy of the callback, and one to spare. */
enum { SPARE_SLOTS = LUA_MINSTACK - STATE_SLOTS - 2 };

/* Members have no names. Nested, it stays. */
static void note_member(struct call *c)
{
    struct state *s = c->stay.state;
    if (s->member == NULL || c->stay.kind == STAY_NESTED)
        return;
    c->subject = call_subject(s);
    c->member.id = s->record.id;
    c->member.name = NULL;
    c->member.kind = &state_kind;
    c->subject.record = &c->member;
    c->is_noted = true;
}

static struct call_subject subject(const struct call *c)
{
    return c->is_noted ? c->subject : call_subject(c->stay.state);
}

/* The target's stack as it was, and the stay at its end. */
static void end(struct call *c)
{
    if (c->stay.kind == STAY_NESTED)
        lua_settop(c->target, c->base - 2);
    else if (__builtin_expect(c->most > INTERPRETER_LARGE, 0))
        interpreter_rest(c->stay.state, call_on_error, true);
    else
        lua_settop(c->target, STATE_SLOTS);
    stay_end(&c->stay);
}

/* The same where there may be something to say of the state after it. */
static void end_noted(struct call *c)
{
    note_member(c);
    end(c);
}

static int collect(lua_State *target)
{
    lua_gc(target, LUA_GCCOLLECT);
    return 0;
}

/*
 * After something failed. At a memory limit it may be what only finalizers keep that fills the
 * state, or a stack that has grown; and no collection for want of memory deals with these.
 */
static void end_failed(struct call *c, int status)
{
    forget_tracebacks(c);
    if (arena_is_limited(&c->stay.state->arena)) {
        c->most = INT_MAX;
        if (status == LUA_ERRMEM) {
            PROBE_STATE(memory_limit, c->stay.state);
            if (c->stay.state->member != NULL)
                pool_note_limit(c->stay.state->member);
            lua_pushcfunction(c->target, collect);
            lua_pcall(c->target, 0, 0, 0);
        }
    }
    end_noted(c);
}

/* What kept arguments from crossing; an error of the host's has its object on top. */
static int raise_crossing_argument(struct call *c, enum crossing crossing, const struct refusal *r)
{
    if (crossing == CROSSING_ERROR)
        return lua_error(c->host);
    if (crossing == CROSSING_REFUSED)
        return error_argument(c->host, c->first + r->number - 1, c->method, "%s", r->why);
    return call_raise(c->host, subject(c), LUA_ERRMEM);
}

/* Whatever the arguments were, they give room for the message. */
static int raise_result(struct call *c, const char *format, ...)
{
    va_list arguments;
    lua_settop(c->host, c->first - 1);
    luaL_checkstack(c->host, LUA_MINSTACK, NULL);
    va_start(arguments, format);
    lua_pushvfstring(c->host, format, arguments);
    va_end(arguments);
    return error_raise_for(c->host, ERROR_STATE_RESULT, subject(c).record,
                           lua_tostring(c->host, -1));
}

/* ---- results, which are above `base` on the target ---- */

/* What a parcel takes of the target's stack. */
static void note_slots(struct call *c, const struct parcel *p)
{
    if (parcel_slots(p) > INTERPRETER_LARGE)
        c->most = INT_MAX;
}

/* Packs the values from `first` up to the top of `from`. */
static enum crossing pack(struct call *c, struct parcel *p, lua_State *from, int first,
                          struct refusal *r)
{
    parcel_begin(p);
    enum crossing crossing = parcel_pack(p, from, first, lua_gettop(from), r);
    if (crossing != CROSSING_DONE)
        parcel_end(p);
    note_slots(c, p);
    return crossing;
}

/* What kept results from crossing; an error of the host's has its object on top. */
static int raise_crossing_result(struct call *c, enum crossing crossing, const struct refusal *r)
{
    if (crossing == CROSSING_ERROR)
        return lua_error(c->host);
    if (crossing == CROSSING_REFUSED)
        return raise_result(c, "gave a result that cannot cross: #%d (%s)", r->number, r->why);
    lua_settop(c->host, c->first - 1);
    return call_raise(c->host, subject(c), LUA_ERRMEM);
}

/* Packed results; their state has been left. [-?, +n, e] on the host */
static int return_packed(struct call *c, struct parcel *p)
{
    struct refusal r;
    int count = p->count;
    lua_settop(c->host, c->first - 1);
    enum crossing crossing = parcel_unpack(p, c->host, 0, &r);
    parcel_end(p);
    return crossing == CROSSING_DONE ? count : raise_crossing_result(c, crossing, &r);
}

/* Objects among them. [-?, +n, e] on the host */
static int __attribute__((noinline)) return_objects(struct call *c)
{
    struct parcel parcel;
    struct refusal r;
    enum crossing crossing = pack(c, &parcel, c->target, c->base + 1, &r);
    end_noted(c);
    return crossing == CROSSING_DONE ? return_packed(c, &parcel)
                                     : raise_crossing_result(c, crossing, &r);
}

/* Plain ones, when they are large. [-0, +n, e] on the host */
static int return_large(struct call *c)
{
    int top = lua_gettop(c->target);
    int status = parcel_copy_protected(c->target, c->base + 1, top, c->host);
    int count = top - c->base;
    end(c);
    return status == LUA_OK ? count : lua_error(c->host);
}

/* So many results are copied one by one, though each may be the same long string, of which packing
 * makes one. */
enum { FEW_RESULTS = 4 };

/* Plain ones, strings among them, from index `first` on; those before, `done`, are on the host
 * already; or objects after all. [-done, +n, e] on the host */
static int __attribute__((noinline)) return_small(struct call *c, int first, int done)
{
    struct parcel_small parcel;
    int top = lua_gettop(c->target);
    enum crossing crossing = parcel_pack_small(&parcel, c->target, first, top);
    if (crossing == CROSSING_DONE) {
        end(c);
        parcel_unpack_small(&parcel, c->host);
        return done + top - first + 1;
    }
    if (crossing == CROSSING_NEEDS_MEMORY && top - c->base <= FEW_RESULTS &&
        parcel_are_plain(c->target, first, top)) {
        lua_pop(c->host, done);
        return return_large(c);
    }
    return return_objects(c);
}

/* Makes room for many results, at the arguments' expense. [-?, +0, -] on the host */
static bool make_room(struct call *c, int count)
{
    lua_settop(c->host, c->first - 1);
    return lua_checkstack(c->host, count + LUA_MINSTACK);
}

/* [-?, +n, e] on the host */
static int return_results(struct call *c)
{
    int count = lua_gettop(c->target) - c->base;
    c->most = count > c->most ? count : c->most;
    if (count > SPARE_SLOTS && !make_room(c, count)) {
        end_noted(c);
        if (count < LUA_INSIDE_MANY_VALUES)
            return call_raise(c->host, subject(c), LUA_ERRMEM);
        return raise_result(c, "returned %d values: too many for the stack", count);
    }
    for (int i = 0; i < count; i++) {
        enum crossing crossing = parcel_copy_plain(c->target, c->base + 1 + i, c->host);
        if (crossing == CROSSING_NEEDS_MEMORY)
            return return_small(c, c->base + 1 + i, i);
        if (crossing == CROSSING_REFUSED)
            return return_objects(c);
    }
    end(c);
    return count;
}

static void note_error(struct state *s)
{
    count_add(&s->counters.errors, 1);
    PROBE_STATE(error, s);
}

/* The message on top of the target, which call_on_error or Lua made: a string. */
static int return_error(struct call *c, int status)
{
    int copied = LUA_OK;
    note_error(c->stay.state);
    if (status != LUA_ERRMEM) {
        int top = lua_gettop(c->target);
        lua_settop(c->host, c->first - 1);
        copied = parcel_copy_protected(c->target, top, top, c->host);
    }
    end_failed(c, status);
    return copied == LUA_OK ? call_raise(c->host, subject(c), status) : lua_error(c->host);
}

/* ---- the call ---- */

/*
 * Copies a string argument outside of any protected call, which would cost as much as the string:
 * the memory that the push takes is reserved beforehand.
 */
static bool copy_string(lua_State *host, int index, struct state *s)
{
    size_t length;
    const char *bytes = lua_tolstring(host, index, &length);
    if (!arena_reserve(&s->arena, length + LUA_INSIDE_STRING_OVERHEAD))
        return false;
    lua_pushlstring(s->main, bytes, length);
    return true;
}

/* A stack has no room for the arguments. */
static int raise_no_room(struct call *c)
{
    if (c->last - c->first < LUA_INSIDE_MANY_VALUES)
        return call_raise(c->host, subject(c), LUA_ERRMEM);
    return luaL_error(c->host, "stack overflow (too many arguments to '%s')", c->method);
}

/* Copies all arguments, objects among them, or strings for which there is no memory before Lua has
 * collected, above the callback's copy; or leaves the state and raises an error. [-0, +0, e] on the
 * host */
static void __attribute__((noinline)) copy_objects(struct call *c)
{
    struct parcel parcel;
    struct refusal r;
    lua_settop(c->target, c->base + 1);
    enum crossing crossing = pack(c, &parcel, c->host, c->first, &r);
    if (crossing == CROSSING_DONE) {
        crossing = parcel_unpack(&parcel, c->target, c->base - 1, &r);
        parcel_end(&parcel);
    }
    if (crossing == CROSSING_DONE)
        return;
    if (crossing == CROSSING_ERROR)
        return_error(c, LUA_ERRRUN); /* raises it */
    end_failed(c, crossing == CROSSING_NEEDS_MEMORY ? LUA_ERRMEM : LUA_ERRRUN);
    raise_crossing_argument(c, crossing, &r);
}

/* On top of handler and callback: adds the arguments, and runs it. [-?, +n, e] on the host */
static int run(struct call *c)
{
    int count = c->last - c->first + 1;
    c->most = count;
    if (count > SPARE_SLOTS && !lua_checkstack(c->target, count + LUA_MINSTACK)) {
        end_failed(c, LUA_ERRMEM);
        return raise_no_room(c);
    }
    lua_pushvalue(c->target, c->base);
    for (int i = c->first; i <= c->last; i++) {
        enum crossing crossing = parcel_copy_plain(c->host, i, c->target);
        if (crossing == CROSSING_DONE)
            continue;
        if (crossing == CROSSING_REFUSED || !copy_string(c->host, i, c->stay.state)) {
            copy_objects(c);
            break;
        }
    }
    int status = lua_pcall(c->target, count, LUA_MULTRET, c->base - 1);
    return status == LUA_OK ? return_results(c) : return_error(c, status);
}

/* ---- a state that calls itself ---- */

/* Replaces the values from `first` up to the top by copies; or by an error object.
 * [-n, +(n|1|0), -] */
static enum crossing copy_within(struct call *c, struct refusal *r)
{
    struct parcel parcel;
    enum crossing crossing = pack(c, &parcel, c->host, c->first, r);
    if (crossing != CROSSING_DONE)
        return crossing;
    lua_settop(c->host, c->first - 1);
    crossing = parcel_unpack(&parcel, c->host, 0, r);
    parcel_end(&parcel);
    return crossing;
}

/* [-n, +n, e] */
static void __attribute__((noinline)) copy_arguments_within(struct call *c)
{
    struct refusal r;
    enum crossing crossing = copy_within(c, &r);
    if (crossing == CROSSING_DONE)
        return;
    stay_end(&c->stay);
    raise_crossing_argument(c, crossing, &r);
}

/* [-n, +n, e] */
static void __attribute__((noinline)) copy_results_within(struct call *c)
{
    struct refusal r;
    enum crossing crossing = copy_within(c, &r);
    if (crossing != CROSSING_DONE)
        raise_crossing_result(c, crossing, &r);
}

/*
 * The state calls itself: plain values are where they have to go, so the callback runs on the
 * coroutine that asks. Objects are copied all the same: what one side does with a table, the other
 * does not see.
 */
static int run_within(struct call *c)
{
    lua_State *L = c->host;
    if (!lua_checkstack(L, LUA_MINSTACK)) {
        stay_end(&c->stay);
        return raise_no_room(c);
    }
    if (!parcel_are_plain(L, c->first, c->last))
        copy_arguments_within(c);
    stay_run_on(&c->stay, L);
    lua_pushcfunction(L, call_on_error);
    lua_insert(L, c->first);
    interpreter_push_callback(L);
    lua_insert(L, c->first + 1); /* handler, callback, arguments */
    int status = lua_pcall(L, c->last - c->first + 1, LUA_MULTRET, c->first);
    if (status != LUA_OK) {
        forget_tracebacks(c);
        note_error(c->stay.state);
    }
    stay_end(&c->stay);
    if (status != LUA_OK)
        return call_raise(L, subject(c), status);
    lua_remove(L, c->first);
    if (!parcel_are_plain(L, c->first, lua_gettop(L)))
        copy_results_within(c);
    return lua_gettop(L) - c->first + 1;
}

/* Puts handler and callback on the main coroutine once more. False: no memory for that. */
static bool begin_nested(struct call *c)
{
    c->target = c->stay.state->main;
    if (!lua_checkstack(c->target, STATE_SLOTS + LUA_MINSTACK))
        return false;
    stay_run_on(&c->stay, c->target);
    lua_pushcfunction(c->target, call_on_error);
    interpreter_push_callback(c->target);
    c->base = lua_gettop(c->target);
    return true;
}

static inline void begin_entered(struct call *c)
{
    c->target = c->stay.state->main;
    c->base = STATE_SLOT_CALLBACK;
}

int call_nested(struct call *c)
{
    if (interpreter_state(c->host) == c->stay.state)
        return run_within(c);
    if (!begin_nested(c)) {
        stay_end(&c->stay);
        return call_raise(c->host, subject(c), LUA_ERRMEM);
    }
    return run(c);
}

int call_entered(struct call *c)
{
    begin_entered(c);
    return run(c);
}

/* ---- a caller without Lua ---- */

static enum call_outcome outcome_of(enum crossing crossing, enum call_outcome done,
                                    enum call_outcome refused)
{
    if (crossing == CROSSING_DONE)
        return done;
    return crossing == CROSSING_REFUSED ? refused : CALL_NO_MEMORY;
}

/* The message on top of the target, as in return_error. */
static enum call_outcome pack_error(struct call *c, int status, struct parcel *results,
                                    struct refusal *r)
{
    enum crossing crossing = CROSSING_NEEDS_MEMORY;
    int top = lua_gettop(c->target);
    note_error(c->stay.state);
    if (status != LUA_ERRMEM)
        crossing = parcel_pack(results, c->target, top, top, r);
    end_failed(c, status);
    return crossing == CROSSING_DONE ? CALL_ERROR : CALL_NO_MEMORY;
}

static enum call_outcome pack_results(struct call *c, struct parcel *results, struct refusal *r)
{
    enum crossing crossing = parcel_pack(results, c->target, c->base + 1, lua_gettop(c->target), r);
    note_slots(c, results);
    end(c);
    return outcome_of(crossing, CALL_DONE, CALL_RESULT);
}

enum call_outcome call_packed(struct call *c, enum entry entry, const struct parcel *arguments,
                              bool wants_results, struct parcel *results, struct refusal *r)
{
    c->is_noted = false;
    c->most = 0;
    int count = 0;
    if (entry == ENTRY_ENTERED) {
        begin_entered(c);
    } else if (!begin_nested(c)) {
        stay_end(&c->stay);
        return CALL_NO_MEMORY;
    }
    lua_pushvalue(c->target, c->base);
    enum crossing crossing = CROSSING_DONE;
    if (arguments != NULL) {
        note_slots(c, arguments);
        count = arguments->count;
        crossing = parcel_unpack(arguments, c->target, c->base - 1, r);
    }
    if (crossing == CROSSING_ERROR)
        return pack_error(c, LUA_ERRRUN, results, r);
    if (crossing != CROSSING_DONE) {
        end_failed(c, crossing == CROSSING_NEEDS_MEMORY ? LUA_ERRMEM : LUA_ERRRUN);
        return outcome_of(crossing, CALL_DONE, CALL_ARGUMENT);
    }
    int status = lua_pcall(c->target, count, LUA_MULTRET, c->base - 1);
    if (status != LUA_OK)
        return pack_error(c, status, results, r);
    if (wants_results)
        return pack_results(c, results, r);
    end(c);
    return CALL_DONE;
}
