/*
 * States called from C, without a Lua state of the caller's: by parcels (mtstates.h), and by the
 * interfaces Notify and Receiver as another module would find and use them.
 */
#include "carray.h"
#include "open_lua.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

static void run(lua_State *L, const char *code)
{
    check_lua(L, luaL_dostring(L, code));
}

static mtstates_state *find(const char *name)
{
    mtstates_state *s;
    CHECK(mtstates_find_name(name, strlen(name), &s) == MTSTATES_OK);
    return s;
}

static bool is_string(const struct mtstates_value *v, const char *expected)
{
    return v->type == MTSTATES_STRING && v->length == strlen(expected) &&
           memcmp(v->bytes, expected, v->length) == 0;
}

static void check_next(mtstates_parcel *p, enum mtstates_type type)
{
    struct mtstates_value v;
    CHECK(mtstates_next(p, &v) == type && v.type == type);
}

static void check_integer(mtstates_parcel *p, lua_Integer expected)
{
    struct mtstates_value v;
    CHECK(mtstates_next(p, &v) == MTSTATES_INTEGER && v.integer == expected);
}

static void check_string(mtstates_parcel *p, const char *expected)
{
    struct mtstates_value v;
    mtstates_next(p, &v);
    CHECK(is_string(&v, expected));
}

/* ---- look-up ---- */

static void states_are_found(lua_State *L)
{
    mtstates_state *s, *same, *named;
    run(L, "a = mt.newstate('a', 'return function() end')\n"
           "two = { mt.newstate('two', 'return function() end'), mt.newstate('two', 'return "
           "function() end') }\n"
           "pool = mt.newpool({ name = 'a pool', size = 1 }, 'return function() end')\n");
    lua_getglobal(L, "a");
    s = mtstates_to_state(L, -1);
    named = find("a");
    CHECK(s != NULL && named == s);
    mtstates_release(named);
    lua_getfield(L, -1, "id");
    lua_pushvalue(L, -2);
    lua_call(L, 1, 1);
    CHECK(mtstates_find_id(lua_tointeger(L, -1), &same) == MTSTATES_OK && same == s);
    lua_settop(L, 0);
    mtstates_release(same);
    mtstates_release(s);
    lua_getglobal(L, "pool");
    lua_pushlightuserdata(L, L);
    lua_newuserdatauv(L, 4, 0);
    for (int i = -1; i <= 5; i++)
        CHECK(i == 0 || mtstates_to_state(L, i) == NULL);
    lua_settop(L, 0);

    CHECK(mtstates_find_name("two", 3, &s) == MTSTATES_AMBIGUOUS && s == NULL);
    CHECK(mtstates_find_name("nobody", 6, &s) == MTSTATES_UNKNOWN && s == NULL);
    CHECK(mtstates_find_name("a pool", 6, &s) == MTSTATES_UNKNOWN && s == NULL);
    CHECK(mtstates_find_name(NULL, 0, &s) == MTSTATES_UNKNOWN);
    CHECK(mtstates_find_id(12, &s) == MTSTATES_UNKNOWN && s == NULL);
    CHECK(mtstates_find_name(NULL, 1, &s) == MTSTATES_MISUSE);
    CHECK(mtstates_find_name("a", 1, NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_find_id(12, NULL) == MTSTATES_MISUSE);
    mtstates_release(NULL);
    mtstates_retain(NULL);
    run(L, "a, two, pool = nil collectgarbage()");
}

/* ---- values ---- */

/* 1, -2.5, true, nil, text, { x = { 7 }, [true] = "y" } */
static void add_all(mtstates_parcel *p)
{
    char text[1000];
    memset(text, 'x', sizeof text);
    CHECK(mtstates_add_integer(p, INT64_MIN) == MTSTATES_OK);
    CHECK(mtstates_add_number(p, -2.5) == MTSTATES_OK);
    CHECK(mtstates_add_boolean(p, 2) == MTSTATES_OK);
    CHECK(mtstates_add_nil(p) == MTSTATES_OK);
    CHECK(mtstates_add_string(p, text, sizeof text) == MTSTATES_OK);
    CHECK(mtstates_add_string(p, NULL, 0) == MTSTATES_OK);
    CHECK(mtstates_table_begin(p) == MTSTATES_OK);
    CHECK(mtstates_add_string(p, "x", 1) == MTSTATES_OK);
    CHECK(mtstates_table_begin(p) == MTSTATES_OK);
    CHECK(mtstates_add_integer(p, 1) == MTSTATES_OK && mtstates_add_integer(p, 7) == MTSTATES_OK);
    CHECK(mtstates_table_end(p) == MTSTATES_OK);
    CHECK(mtstates_add_boolean(p, 1) == MTSTATES_OK && mtstates_add_string(p, "y", 1) == 0);
    CHECK(mtstates_table_end(p) == MTSTATES_OK);
}

static void values_go_in_and_come_out(lua_State *L)
{
    struct mtstates_value v;
    mtstates_parcel *in = mtstates_parcel_new(), *out = mtstates_parcel_new();
    run(L, "s = mt.newstate('s', function()\n"
           "  return function(a, b, c, d, e, f, t, ...)\n"
           "    assert(a == math.mininteger and b == -2.5 and c == true and d == nil)\n"
           "    assert(e == ('x'):rep(1000) and f == '' and select('#', ...) == 0)\n"
           "    assert(t.x[1] == 7 and t[true] == 'y' and next(t.x, 1) == nil)\n"
           "    local long, both = ('z'):rep(300), { 5 }\n"
           "    local list = { 10, nil, 30, both, both, long, long, name = both }\n"
           "    return list, a, 1.5, false, nil, long, print == nil or function() return 1 end\n"
           "  end\n"
           "end)");
    mtstates_state *s = find("s");
    add_all(in);
    for (int i = 0; i < 3; i++) {
        CHECK(mtstates_call(s, 0, in, out) == MTSTATES_OK);
        CHECK(mtstates_next(out, &v) == MTSTATES_TABLE && v.integer == 0 && v.bytes == NULL);
        check_integer(out, 1);
        check_integer(out, 10);
        check_integer(out, 3);
        check_integer(out, 30);
        check_integer(out, 4);
        CHECK(mtstates_next(out, &v) == MTSTATES_TABLE && v.integer > 0);
        lua_Integer both = v.integer;
        check_integer(out, 1);
        check_integer(out, 5);
        check_next(out, MTSTATES_TABLE_END);
        check_integer(out, 5);
        CHECK(mtstates_next(out, &v) == MTSTATES_AGAIN && v.integer == both);
        for (int k = 6; k <= 7; k++) {
            check_integer(out, k);
            CHECK(mtstates_next(out, &v) == MTSTATES_STRING && v.length == 300);
            CHECK(v.bytes[0] == 'z' && v.bytes[299] == 'z');
        }
        check_string(out, "name");
        check_next(out, MTSTATES_AGAIN);
        check_next(out, MTSTATES_TABLE_END);
        check_integer(out, INT64_MIN);
        CHECK(mtstates_next(out, &v) == MTSTATES_NUMBER && v.number == 1.5);
        CHECK(mtstates_next(out, &v) == MTSTATES_BOOLEAN && v.boolean == 0);
        check_next(out, MTSTATES_NIL);
        CHECK(mtstates_next(out, &v) == MTSTATES_STRING && v.length == 300);
        CHECK(mtstates_next(out, &v) == MTSTATES_FUNCTION && v.length > 0);
        check_next(out, MTSTATES_NONE);
        check_next(out, MTSTATES_NONE);
    }
    CHECK(mtstates_parcel_read(out) == MTSTATES_OK);
    check_next(out, MTSTATES_TABLE);

    /* What came out goes in elsewhere. */
    run(L, "same = mt.newstate('same', function()\n"
           "  return function(list, ...)\n"
           "    assert(list[4] == list[5] and list.name == list[4] and #list[7] == 300)\n"
           "    return select('#', ...), ...\n"
           "  end\n"
           "end)");
    mtstates_state *same = find("same");
    CHECK(mtstates_call(same, 0, out, in) == MTSTATES_OK);
    check_integer(in, 6);
    check_integer(in, INT64_MIN);

    /* Keys that come again, classes, handles. */
    run(L, "keys = mt.newstate('keys', function()\n"
           "  local mt = require('mtstates')\n"
           "  local point = {}\n"
           "  mt.class('point', point)\n"
           "  return function()\n"
           "    return { key = 1 }, setmetatable({ key = 2 }, point), mt.state(mt.id()), "
           "mt.state(mt.id())\n"
           "  end\n"
           "end)");
    mtstates_state *keys = find("keys");
    CHECK(mtstates_call(keys, 0, NULL, out) == MTSTATES_OK);
    for (int i = 1; i <= 2; i++) {
        CHECK(mtstates_next(out, &v) == MTSTATES_TABLE && (v.bytes != NULL) == (i == 2));
        CHECK(i == 1 || (v.length == 5 && memcmp(v.bytes, "point", 5) == 0));
        check_string(out, "key");
        check_integer(out, i);
        check_next(out, MTSTATES_TABLE_END);
    }
    CHECK(mtstates_next(out, &v) == MTSTATES_HANDLE && v.state == keys);
    check_next(out, MTSTATES_AGAIN);
    check_next(out, MTSTATES_NONE);

    mtstates_parcel_free(in);
    mtstates_parcel_free(out);
    mtstates_release(s);
    mtstates_release(same);
    mtstates_release(keys);
    run(L, "s, same, keys = nil collectgarbage()");
}

static void deep_tables_and_many_values_cross(lua_State *L)
{
    enum { DEEP = 20000, MANY = 100000 };
    mtstates_parcel *in = mtstates_parcel_new(), *out = mtstates_parcel_new();
    run(L, "s = mt.newstate('s', 'return function(...) return ... end')");
    mtstates_state *s = find("s");
    for (int i = 0; i < DEEP; i++)
        CHECK(mtstates_table_begin(in) == MTSTATES_OK && mtstates_add_integer(in, i) == 0);
    CHECK(mtstates_add_boolean(in, 1) == MTSTATES_OK);
    for (int i = 0; i < DEEP; i++)
        CHECK(mtstates_table_end(in) == MTSTATES_OK);
    for (int i = 0; i < MANY; i++)
        CHECK(mtstates_add_integer(in, i) == MTSTATES_OK);
    CHECK(mtstates_call(s, 0, in, out) == MTSTATES_OK);
    for (int i = 0; i < DEEP; i++) {
        check_next(out, MTSTATES_TABLE);
        check_integer(out, i);
    }
    check_next(out, MTSTATES_BOOLEAN);
    for (int i = 0; i < DEEP; i++)
        check_next(out, MTSTATES_TABLE_END);
    for (int i = 0; i < MANY; i++)
        check_integer(out, i);
    check_next(out, MTSTATES_NONE);

    /* More than a Lua stack holds. */
    struct mtstates_value v;
    for (int i = 0; i < 1000000; i++)
        CHECK(mtstates_add_nil(in) == MTSTATES_OK);
    CHECK(mtstates_call(s, 0, in, out) == MTSTATES_ARGUMENT);
    CHECK(mtstates_next(out, &v) == MTSTATES_STRING);
    CHECK(mtstates_call(s, 0, NULL, out) == MTSTATES_OK);
    check_next(out, MTSTATES_NONE);
    mtstates_parcel_free(in);
    mtstates_parcel_free(out);
    mtstates_release(s);
    run(L, "s = nil collectgarbage()");
}

/* ---- what goes wrong ---- */

static void errors_are_told(lua_State *L)
{
    struct mtstates_value v;
    mtstates_parcel *in = mtstates_parcel_new(), *out = mtstates_parcel_new();
    run(L, "s = mt.newstate({ name = 's', memory_limit = 1e6 }, function()\n"
           "  return function(what)\n"
           "    if what == 1 then error('oh') end\n"
           "    if what == 2 then return {}, print end\n"
           "    if what == 3 then return ('x'):rep(1 << 24) end\n"
           "    return what\n"
           "  end\n"
           "end)");
    mtstates_state *s = find("s");
    static const int expected[] = {MTSTATES_OK, MTSTATES_ERROR, MTSTATES_RESULT, MTSTATES_NO_MEMORY,
                                   MTSTATES_OK};
    static const char *const said[] = {NULL, "oh", "print", "", NULL};
    for (int i = 0; i < 5; i++) {
        CHECK(mtstates_parcel_clear(in) == MTSTATES_OK);
        CHECK(mtstates_add_integer(in, i) == MTSTATES_OK);
        CHECK(mtstates_call(s, 0, in, out) == expected[i]);
        if (said[i] == NULL)
            check_integer(out, i);
        else
            CHECK(mtstates_next(out, &v) == MTSTATES_STRING);
        if (i == 1) /* with the traceback */
            CHECK(memchr(v.bytes, '\n', v.length) != NULL);
        check_next(out, MTSTATES_NONE);
        int without = i == 2 ? MTSTATES_OK : expected[i];
        CHECK(mtstates_call(s, 1, in, NULL) == without);
    }
    run(L, "assert(s:stats().errors == 4 and s:call(5) == 5)\n"
           "s:interrupt()");
    CHECK(mtstates_call(s, HUGE_VAL, NULL, out) == MTSTATES_ERROR);
    CHECK(mtstates_close(s) == MTSTATES_OK && mtstates_close(s) == MTSTATES_CLOSED);
    CHECK(mtstates_call(s, 0, NULL, out) == MTSTATES_CLOSED);
    CHECK(mtstates_call(s, 1, NULL, NULL) == MTSTATES_CLOSED);
    check_next(out, MTSTATES_NONE);
    mtstates_release(s);
    mtstates_parcel_free(in);
    mtstates_parcel_free(out);
    run(L, "s = nil collectgarbage()");
}

static void misuse_is_told(lua_State *L)
{
    struct mtstates_value v;
    mtstates_parcel *p = mtstates_parcel_new(), *q = mtstates_parcel_new();
    run(L, "s = mt.newstate('s', 'return function(...) return ... end')");
    mtstates_state *s = find("s");
    CHECK(mtstates_add_nil(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_add_string(p, NULL, 1) == MTSTATES_MISUSE);
    CHECK(mtstates_table_begin(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_table_end(p) == MTSTATES_MISUSE && mtstates_table_end(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_table_begin(p) == MTSTATES_OK);
    CHECK(mtstates_add_nil(p) == MTSTATES_MISUSE);
    CHECK(mtstates_add_number(p, NAN) == MTSTATES_MISUSE);
    CHECK(mtstates_add_number(p, 1) == MTSTATES_OK);
    CHECK(mtstates_table_end(p) == MTSTATES_MISUSE);
    CHECK(mtstates_call(s, 0, p, NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_parcel_read(p) == MTSTATES_MISUSE);
    check_next(p, MTSTATES_NONE);
    CHECK(mtstates_add_nil(p) == MTSTATES_OK && mtstates_table_end(p) == MTSTATES_OK);
    CHECK(mtstates_call(s, 0, p, p) == MTSTATES_MISUSE);
    CHECK(mtstates_call(NULL, 0, p, q) == MTSTATES_MISUSE);
    CHECK(mtstates_call(s, NAN, p, q) == MTSTATES_MISUSE);
    CHECK(mtstates_call(s, 0, p, q) == MTSTATES_OK);
    CHECK(mtstates_add_nil(q) == MTSTATES_MISUSE); /* it is being read */
    CHECK(mtstates_parcel_read(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_parcel_clear(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_next(NULL, &v) == MTSTATES_NONE && mtstates_next(q, NULL) == MTSTATES_NONE);
    CHECK(mtstates_close(NULL) == MTSTATES_MISUSE);
    CHECK(mtstates_to_state(NULL, 1) == NULL);
    mtstates_parcel_free(NULL);
    mtstates_parcel_free(p);
    mtstates_parcel_free(q);
    mtstates_release(s);
    run(L, "s = nil collectgarbage()");
}

/* ---- threads ---- */

enum { CALLS = 2000 };

static void *call_often(void *argument)
{
    mtstates_state *s = argument;
    mtstates_parcel *in = mtstates_parcel_new(), *out = mtstates_parcel_new();
    CHECK(mtstates_add_integer(in, 1) == MTSTATES_OK);
    for (int i = 0; i < CALLS; i++) {
        CHECK(mtstates_call(s, HUGE_VAL, in, out) == MTSTATES_OK);
        int status = mtstates_call(s, 0, in, NULL);
        CHECK(status == MTSTATES_OK || status == MTSTATES_BUSY);
        if (status == MTSTATES_BUSY)
            CHECK(mtstates_call(s, 10, in, NULL) == MTSTATES_OK);
    }
    mtstates_parcel_free(in);
    mtstates_parcel_free(out);
    return NULL;
}

static void threads_without_lua_share_a_state(lua_State *L)
{
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    run(L, "s = mt.newstate('s', function()\n"
           "  local sum = 0\n"
           "  return function(n) sum = sum + (n or 0) return sum end\n"
           "end)");
    mtstates_state *s = find("s");
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, call_often, s) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    lua_getglobal(L, "s");
    lua_call(L, 0, 1);
    CHECK(lua_tointeger(L, -1) == 2 * CALLS * THREADS);
    lua_settop(L, 0);
    mtstates_release(s);
    run(L, "s = nil collectgarbage()");
}

/* ---- Notify and Receiver, as others know them ---- */

typedef void error_handler(void *, const char *, size_t);

struct notify_api {
    int major, minor, patch;
    void *next;
    void *(*to)(lua_State *, int);
    void (*retain)(void *);
    void (*release)(void *);
    int (*notify)(void *, error_handler *, void *);
};

struct receiver_api {
    int major, minor, patch;
    void *next;
    void *(*to)(lua_State *, int);
    void (*retain)(void *);
    void (*release)(void *);
    void *(*new_writer)(size_t, float);
    void (*free_writer)(void *);
    int (*send)(void *, void *, int, int, error_handler *, void *);
    void (*clear_writer)(void *);
    int (*add_boolean)(void *, int);
    int (*add_integer)(void *, lua_Integer);
    int (*add_number)(void *, lua_Number);
    int (*add_string)(void *, const char *, size_t);
    int (*add_bytes)(void *, const unsigned char *, size_t);
    void *(*add_array)(void *, int, size_t);
};

/* What a module looks for at an object, or NULL. */
static const void *find_api(lua_State *L, int index, const char *id)
{
    const void *api = NULL;
    if (!lua_getmetatable(L, index))
        return NULL;
    lua_pushstring(L, id);
    lua_rawget(L, -2);
    const char *u = lua_touserdata(L, -1);
    if (u != NULL && lua_rawlen(L, -1) >= sizeof api + strlen(id) + 1 &&
        strcmp(u + sizeof api, id) == 0)
        memcpy(&api, u, sizeof api);
    lua_pop(L, 2);
    return api;
}

static char handled[200];

static void handle(void *data, const char *message, size_t length)
{
    CHECK(data == handled && length > 0);
    snprintf(handled, sizeof handled, "%.*s", (int)length, message);
}

/* inside(): calls the notifier of the state that runs, from inside. */
static int notify_from_inside(lua_State *L)
{
    const struct notify_api *api = find_api(L, 1, "_capi_notify");
    lua_pushinteger(L, api->notify(api->to(L, 1), handle, handled));
    return 1;
}

static int open_inside(lua_State *L)
{
    lua_pushcfunction(L, notify_from_inside);
    return 1;
}

static void states_are_notifiers(lua_State *L)
{
    run(L, "s = mt.newstate('s', function()\n"
           "  local mt, inside = require('mtstates'), require('inside')\n"
           "  local calls = 0\n"
           "  return function(what, ...)\n"
           "    calls = calls + 1\n"
           "    if what == 'inside' then return inside(mt.state(mt.id())) end\n"
           "    if what == 'calls' then return calls - 1 end\n"
           "    if calls == 3 then error('third') end\n"
           "    assert(select('#', what, ...) == 1 and what == nil)\n"
           "  end\n"
           "end)\n");
    lua_getglobal(L, "s");
    const struct notify_api *api = find_api(L, 1, "_capi_notify");
    CHECK(api != NULL && api->major == 0 && api->minor == 0 && api->patch == 2 && !api->next);
    void *n = api->to(L, 1);
    CHECK(n != NULL && api->to(L, 2) == NULL);
    api->retain(n);
    CHECK(api->notify(n, handle, handled) == 0);
    CHECK(api->notify(n, NULL, NULL) == 0);
    CHECK(api->notify(n, handle, handled) == 990 && strstr(handled, "third") != NULL);
    run(L, "assert(s:call('calls') == 3)\n"
           "assert(s:call('inside') == 0)\n"
           "assert(s:call('calls') == 6)\n"
           "s:close()");
    CHECK(api->notify(n, handle, handled) == 1);
    api->release(n);
    lua_settop(L, 0);
}

/* A thread that is inside of the state until it is told. */
struct occupation {
    void *receiver;
    const struct receiver_api *api;
    int result;
};

static void *occupy(void *argument)
{
    struct occupation *o = argument;
    void *w = o->api->new_writer(0, 0);
    CHECK(o->api->add_string(w, "wait", 4) == 0);
    o->result = o->api->send(o->receiver, w, 0, 0, handle, handled);
    o->api->free_writer(w);
    return NULL;
}

static void states_are_receivers(lua_State *L)
{
    struct occupation o = {.result = -1};
    pthread_t thread;
    run(L, "s = mt.newstate('s', function()\n"
           "  local got\n"
           "  return function(what, ...)\n"
           "    if what == 'wait' then while true do os.time() end end\n"
           "    if what == 'got' then return got end\n"
           "    if what == 'fail' then error('as wanted') end\n"
           "    got = table.concat({ tostring(what), ... }, ' ')\n"
           "  end\n"
           "end)\n");
    lua_getglobal(L, "s");
    const struct receiver_api *api = o.api = find_api(L, 1, "_capi_receiver");
    CHECK(api != NULL && api->major == 2 && api->minor == 0 && api->patch == 0 && !api->next);
    void *r = o.receiver = api->to(L, 1), *w = api->new_writer(100, 2);
    api->retain(r);
    CHECK(api->add_boolean(w, 1) == 0 && api->add_integer(w, 7) == 0);
    CHECK(api->add_number(w, 0.5) == 0 && api->add_string(w, "text", 4) == 0);
    CHECK(api->add_bytes(w, (const unsigned char *)"bytes", 5) == 0);
    CHECK(api->add_array(w, 0, 10) == NULL && api->add_array(w, 13, 10) == NULL);
    CHECK(api->add_array(w, 10, SIZE_MAX / 8) == NULL);
    CHECK(api->send(r, w, 0, 0, handle, handled) == 0);
    run(L, "assert(s:call('got') == 'true 7 0.5 text bytes')");
    CHECK(api->add_string(w, "more", 4) == 0);
    CHECK(api->send(r, w, 1, 1, handle, handled) == 0);
    run(L, "assert(s:call('got') == 'true 7 0.5 text bytes more')");
    CHECK(api->send(r, w, 0, 1, handle, handled) == 0); /* which is empty now */
    run(L, "assert(s:call('got') == 'nil')");
    CHECK(api->add_string(w, "fail", 4) == 0);
    CHECK(api->send(r, w, 1, 0, handle, handled) == 990 && strstr(handled, "as wanted") != NULL);

    CHECK(pthread_create(&thread, NULL, occupy, &o) == 0);
    run(L, "repeat until s:stats().busy");
    CHECK(api->add_string(w, "kept", 4) == 0);
    CHECK(api->send(r, w, 1, 1, handle, handled) == 3);
    run(L, "s:interrupt()");
    CHECK(pthread_join(thread, NULL) == 0 && o.result == 990);
    CHECK(api->send(r, w, 1, 0, handle, handled) == 0);
    run(L, "assert(s:call('got') == 'kept')\n"
           "s:close()");
    CHECK(api->send(r, w, 1, 0, handle, handled) == 1);
    api->clear_writer(w);
    api->free_writer(w);
    api->release(r);
    lua_settop(L, 0);
}

/* ---- arrays of the module carray ---- */

static void arrays_come_out_of_parcels(lua_State *L)
{
    struct mtstates_value v;
    mtstates_parcel *p = mtstates_parcel_new();
    run(L, "carray = require('carray')\n"
           "s = mt.newstate('s', function()\n"
           "  local array = require('carray').new(5, 3)\n"
           "  return function(a)\n"
           "    if a then return a:get(1), rawequal(a, array) end\n"
           "    array:set(2, 7)\n"
           "    local carray = require('carray')\n"
           "    return array, { array }, carray.new(10, 0), carray.read_only(array)\n"
           "  end\n"
           "end)");
    mtstates_state *s = find("s");
    CHECK(mtstates_call(s, 0, NULL, p) == MTSTATES_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(mtstates_next(p, &v) == MTSTATES_ARRAY && v.element == 5 && v.length == 3);
        CHECK(v.integer == 1 && !v.read_only && ((int *)v.pointer)[1] == 7);
        ((int *)v.pointer)[0] = -3;
        check_next(p, MTSTATES_TABLE);
        check_integer(p, 1);
        CHECK(mtstates_next(p, &v) == MTSTATES_AGAIN && v.integer == 1);
        check_next(p, MTSTATES_TABLE_END);
        CHECK(mtstates_next(p, &v) == MTSTATES_ARRAY && v.element == 10 && v.length == 0);
        CHECK(v.pointer == NULL && v.integer == 0);
        CHECK(mtstates_next(p, &v) == MTSTATES_ARRAY && v.read_only);
        CHECK(((const int *)v.pointer)[1] == 7);
        check_next(p, MTSTATES_NONE);
        CHECK(mtstates_parcel_read(p) == MTSTATES_OK);
    }

    /* They stay when their state has gone, and go on into another one. */
    run(L, "s:close()\n"
           "t = mt.newstate('t', function() return function(a, t) return a:get(1), a == t[1] end "
           "end)");
    mtstates_state *t = find("t");
    mtstates_parcel *out = mtstates_parcel_new();
    CHECK(mtstates_next(p, &v) == MTSTATES_ARRAY && ((int *)v.pointer)[0] == -3);
    CHECK(mtstates_call(t, 0, p, out) == MTSTATES_OK);
    check_integer(out, -3);
    CHECK(mtstates_next(out, &v) == MTSTATES_BOOLEAN && v.boolean);
    mtstates_parcel_free(p);
    mtstates_parcel_free(out);
    mtstates_release(s);
    mtstates_release(t);
    run(L, "t:close()\n"
           "assert(carray.alive() == 0)");
}

static void receivers_take_arrays(lua_State *L)
{
    struct mtstates_value v;
    run(L, "s = mt.newstate('s', function()\n"
           "  return function(...)\n"
           "    local carray = require('carray')\n"
           "    local text, ints, doubles, empty = ...\n"
           "    if not text then return end\n"
           "    assert(text == 'odd' and #ints == 3 and ints:get(2) == 7 and ints:get(3) == 0)\n"
           "    assert(#doubles == 2000 and doubles:get(2000) == 0.5 and #empty == 0)\n"
           "    return carray.alive()\n"
           "  end\n"
           "end)");
    lua_getglobal(L, "s");
    const struct receiver_api *api = find_api(L, 1, "_capi_receiver");
    void *r = api->to(L, 1), *w = api->new_writer(0, 0);
    CHECK(api->add_string(w, "odd", 3) == 0);
    int *ints = api->add_array(w, 5, 3);
    CHECK(ints != NULL && (uintptr_t)ints % 16 == 0 && ints[0] == 0);
    ints[1] = 7;
    double *doubles = api->add_array(w, 10, 2000);
    CHECK(doubles != NULL && (uintptr_t)doubles % 16 == 0);
    doubles[1999] = 0.5;
    CHECK(api->add_array(w, 1, 0) != NULL);
    CHECK(api->send(r, w, 1, 0, handle, handled) == 990); /* the writer keeps it */
    CHECK(strstr(handled, "carray: require that inside") != NULL);
    run(L, "s:call()");
    CHECK(api->send(r, w, 0, 0, handle, handled) == 0);
    CHECK(api->send(r, w, 0, 0, handle, handled) == 0);

    /* A writer is a parcel, and can be read as one. */
    CHECK(mtstates_parcel_read(w) == MTSTATES_OK);
    check_string(w, "odd");
    CHECK(mtstates_next(w, &v) == MTSTATES_ARRAY && v.length == 3 && ((int *)v.pointer)[1] == 7);
    CHECK(mtstates_next(w, &v) == MTSTATES_ARRAY && v.length == 2000);
    CHECK(((double *)v.pointer)[1999] == 0.5);
    CHECK(mtstates_next(w, &v) == MTSTATES_ARRAY && v.element == 1 && v.length == 0);
    CHECK(v.pointer == NULL);
    check_next(w, MTSTATES_NONE);
    CHECK(api->add_array(w, 5, 3) == NULL); /* it is being read */
    api->free_writer(w);
    run(L, "s:close()\n"
           "assert(require('carray').alive() == 0)");
    lua_settop(L, 0);
}

/* ---- at random ---- */

/* Functions in any order, with values of any kind: nothing but codes comes of it. */
static void a_random_use_is_harmless(lua_State *L)
{
    enum { PARCELS = 4 };
    uint64_t random = test_seed();
    double end = test_clock() + test_seconds() / 2;
    mtstates_parcel *parcels[PARCELS];
    run(L, "s = mt.newstate('s', function()\n"
           "  require('carray')\n"
           "  local kept\n"
           "  return function(...)\n"
           "    kept = kept or { ..., ... }\n"
           "    return kept, ..., { ... }\n"
           "  end\n"
           "end)");
    mtstates_state *s = find("s");
    lua_getglobal(L, "s");
    const struct receiver_api *api = find_api(L, 1, "_capi_receiver");
    lua_settop(L, 0);
    for (int i = 0; i < PARCELS; i++)
        parcels[i] = mtstates_parcel_new();
    while (test_clock() < end) {
        mtstates_parcel *p = parcels[random_below(&random, PARCELS)];
        struct mtstates_value v;
        switch (random_below(&random, 15)) {
        case 0:
            mtstates_parcel_clear(p);
            break;
        case 1:
        case 2:
            mtstates_table_begin(p);
            break;
        case 3:
        case 4:
        case 5:
            mtstates_table_end(p);
            break;
        case 6:
            mtstates_parcel_read(p);
            break;
        case 7:
            mtstates_call(s, 0, p, parcels[random_below(&random, PARCELS)]);
            break;
        case 8:
            for (int i = 0; i < 100 && mtstates_next(p, &v) != MTSTATES_NONE; i++)
                CHECK(v.type <= MTSTATES_AGAIN);
            break;
        case 9:
            mtstates_add_nil(p);
            break;
        case 10:
            mtstates_add_number(p, random_below(&random, 2) ? NAN : 3.5);
            break;
        case 11:
            mtstates_add_string(p, "some text that is not short and not long either", random % 48);
            break;
        case 12: /* of whose types 0 and 13 are none */
            api->add_array(p, (int)random_below(&random, 14), random_below(&random, 40));
            break;
        default:
            mtstates_add_integer(p, (lua_Integer)random_below(&random, 5));
        }
        if (random_below(&random, 1000) == 0)
            for (int i = 0; i < PARCELS; i++)
                mtstates_parcel_clear(parcels[i]);
    }
    for (int i = 0; i < PARCELS; i++)
        mtstates_parcel_free(parcels[i]);
    mtstates_release(s);
    run(L, "s = nil collectgarbage()");
}

/* ---- the README ---- */

static void the_readme_sends_an_item(lua_State *L)
{
    run(L, "basket = mt.newstate('basket', function(items)\n"
           "  return function(item) items[#items + 1] = item; return items end\n"
           "end, {})");
    mtstates_state *state;
    if (mtstates_find_name("basket", 6, &state) == MTSTATES_OK) {
        mtstates_parcel *item = mtstates_parcel_new();
        mtstates_table_begin(item);
        mtstates_add_string(item, "name", 4);
        mtstates_add_string(item, "ruler", 5);
        mtstates_table_end(item);
        if (mtstates_call(state, 0.5, item, NULL) == MTSTATES_BUSY)
            puts("busy for half a second");
        mtstates_parcel_free(item);
        mtstates_release(state);
    }
    run(L, "assert(basket:call()[1].name == 'ruler')\n"
           "basket:close()");
}

int main(void)
{
    mtstates_state *s;
    CHECK(mtstates_find_id(1, &s) == MTSTATES_UNKNOWN); /* before the module was opened */
    CHECK(mtstates_find_name("a", 1, &s) == MTSTATES_UNKNOWN);
    lua_State *L = open_lua("inside", open_inside);
    preload(L, "carray", luaopen_carray);
    run(L, "mt = require('mtstates')");
    states_are_found(L);
    values_go_in_and_come_out(L);
    deep_tables_and_many_values_cross(L);
    errors_are_told(L);
    misuse_is_told(L);
    threads_without_lua_share_a_state(L);
    states_are_notifiers(L);
    states_are_receivers(L);
    arrays_come_out_of_parcels(L);
    receivers_take_arrays(L);
    a_random_use_is_harmless(L);
    the_readme_sends_an_item(L);
    lua_close(L);
    return 0;
}
