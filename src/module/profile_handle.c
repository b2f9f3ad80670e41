#include "profile_handle.h"

#include "handle.h"
#include "options.h"
#include "push_text.h"
#include "state/error.h"
#include "state/lua_inside.h"
#include "stats.h"
#include "watch/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TYPE_PROFILE "mtstates.profile"

/* ---- start ---- */

static double check_interval(lua_State *L)
{
    option_check_type(L, "interval", LUA_TNUMBER, "start");
    double interval = lua_tonumber(L, -1);
    if (!(interval >= 0.001 && interval <= 1))
        error_argument(L, 1, "start",
                       "option 'interval': a number from 0.001 to 1 expected, got %s",
                       luaL_tolstring(L, -1, NULL));
    return interval;
}

/* The handle on top of the stack, of a state or a pool; NULL: it is none. */
static const struct handle *to_handle(lua_State *L, const struct record_kind *kind)
{
    const struct handle *h = lua_touserdata(L, -1);
    return handle_has_seal(L, -1, h, handle_seal(h, kind)) && h->record != NULL ? h : NULL;
}

/* The list of handles on top of the stack; how many there are. */
static lua_Integer check_subjects(lua_State *L)
{
    option_check_type(L, "states", LUA_TTABLE, "start");
    lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
    if (count == 0)
        error_argument(L, 1, "start", "option 'states': the list is empty: leave it out for all");
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, i);
        if (to_handle(L, &state_kind) == NULL && to_handle(L, &pool_kind) == NULL)
            error_argument(L, 1, "start", "option 'states': [%I] is no handle of a state or a pool",
                           (LUAI_UACINT)i);
        lua_pop(L, 1);
    }
    return count;
}

/* From the list at `index`, which was checked. [-0, +0, -] */
static int64_t *subjects_from(lua_State *L, int index, size_t count)
{
    int64_t *subjects = malloc(count * sizeof *subjects);
    for (size_t i = 0; subjects != NULL && i < count; i++) {
        lua_rawgeti(L, index, (lua_Integer)i + 1);
        const struct handle *state = to_handle(L, &state_kind), *pool = to_handle(L, &pool_kind);
        subjects[i] = (state != NULL ? state : pool)->record->id;
        lua_pop(L, 1);
    }
    return subjects;
}

static int raise_no_memory(lua_State *L)
{
    return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory for 'start'");
}

/* The list of subjects, if there is one, is at index 2 afterwards. */
static struct profile_options check_options(lua_State *L, size_t *count)
{
    struct profile_options o = {.interval = 0.01, .depth = 64};
    lua_settop(L, 1);
    lua_pushnil(L);
    if (lua_isnil(L, 1))
        return o;
    if (lua_type(L, 1) != LUA_TTABLE)
        error_argument_type(L, 1, "start", "table or nil");
    for (lua_pushnil(L); lua_next(L, 1) != 0; lua_pop(L, 1)) {
        if (option_is(L, "interval")) {
            o.interval = check_interval(L);
        } else if (option_is(L, "depth")) {
            o.depth = (int)option_check_count(L, "depth", SAMPLE_DEPTH_MAX, "start");
        } else if (option_is(L, "states")) {
            *count = (size_t)check_subjects(L);
            lua_pushvalue(L, -1);
            lua_replace(L, 2);
        } else {
            option_raise_unknown(L, "start");
        }
    }
    return o;
}

static int profile_start(lua_State *L)
{
    size_t count = 0;
    struct profile_options o = check_options(L, &count);
    if (count > 0) {
        o.subjects = subjects_from(L, 2, count);
        o.subject_count = count;
        if (o.subjects == NULL)
            return raise_no_memory(L);
    }
    switch (profile_begin(&o)) {
    case PROFILE_BEGUN:
        return 0;
    case PROFILE_RUNS:
        return luaL_error(L, "a profile is being taken already: end it by mtstates.profile.stop()");
    default:
        return raise_no_memory(L);
    }
}

/* ---- the profile ---- */

static struct profile *check_profile(lua_State *L, const char *method)
{
    struct profile **p = luaL_testudata(L, 1, TYPE_PROFILE);
    if (p == NULL)
        error_argument_type(L, 1, method, TYPE_PROFILE);
    else if (*p == NULL)
        luaL_error(L, "the profile is finalized");
    return *p;
}

static int profile_gc(lua_State *L)
{
    struct profile **p = luaL_testudata(L, 1, TYPE_PROFILE);
    if (p == NULL)
        return 0;
    profile_free(*p);
    *p = NULL;
    return 0;
}

typedef char *profile_text(const struct profile *, size_t *);

static int push_profile(lua_State *L, const char *method, profile_text *format)
{
    struct profile *p = check_profile(L, method);
    size_t length;
    push_text_begin(L);
    char *text = format(p, &length);
    return push_text_end(L, text, length, method);
}

static int method_folded(lua_State *L)
{
    return push_profile(L, "folded", profile_folded);
}

static int method_speedscope(lua_State *L)
{
    return push_profile(L, "speedscope", profile_speedscope);
}

static int method_pprof(lua_State *L)
{
    return push_profile(L, "pprof", profile_pprof);
}

static int method_top(lua_State *L)
{
    enum { ROWS = 20 };
    struct profile *p = check_profile(L, "top");
    lua_Integer count = ROWS;
    int is_integer = 1;
    if (!lua_isnoneornil(L, 2))
        count = lua_tointegerx(L, 2, &is_integer);
    if (!is_integer || count < 1)
        error_argument(L, 2, "top", "a number of functions expected, from 1 on");
    size_t length;
    push_text_begin(L);
    char *text = profile_top(p, (size_t)count, &length);
    return push_text_end(L, text, length, "top");
}

/* By the path's extension; NULL: it is none that is known. */
static profile_text *format_of(const char *path)
{
    static const struct {
        const char *extension;
        profile_text *text;
    } formats[] = {
        {".folded", profile_folded},
        {".txt", profile_folded},
        {".json", profile_speedscope},
        {".pb", profile_pprof},
    };
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t most = strlen(formats[i].extension);
        if (length > most && strcmp(path + length - most, formats[i].extension) == 0)
            return formats[i].text;
    }
    return NULL;
}

/* False: errno says why. */
static bool write_file(const char *path, const char *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        return false;
    bool written = fwrite(bytes, 1, length, f) == length;
    int error = errno;
    if (fclose(f) == 0 && written)
        return true;
    errno = written ? errno : error;
    return false;
}

static int method_write(lua_State *L)
{
    struct profile *p = check_profile(L, "write");
    if (lua_type(L, 2) != LUA_TSTRING)
        error_argument_type(L, 2, "write", "string");
    const char *path = lua_tostring(L, 2);
    profile_text *format = format_of(path);
    if (format == NULL)
        error_argument(L, 2, "write",
                       "%s: the name has to end with .folded or .txt, .json (speedscope), or .pb "
                       "(pprof)",
                       path);
    size_t length;
    char *text = format(p, &length);
    if (text == NULL)
        return error_raise(L, ERROR_OUT_OF_MEMORY, "no memory for 'write'");
    bool written = write_file(path, text, length);
    int error = errno;
    free(text);
    return written ? 0 : luaL_error(L, "cannot write %s: %s", path, strerror(error));
}

static int method_stats(lua_State *L)
{
    const struct profile *p = check_profile(L, "stats");
    lua_createtable(L, 0, 6);
    stats_set(L, "samples", p->samples);
    stats_set(L, "lost", p->lost);
    stats_set(L, "threads", p->threads.count);
    stats_set(L, "depth", (uint64_t)p->options.depth);
    stats_set_seconds(L, "interval", (uint64_t)(p->options.interval * 1e9 + 0.5));
    stats_set_seconds(L, "seconds", p->nanoseconds);
    return 1;
}

/* ---- stop ---- */

/* Filled in each time: memory may have failed in between. [-0, +0, m] */
static void set_metatable(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"folded", method_folded},
        {"speedscope", method_speedscope},
        {"pprof", method_pprof},
        {"top", method_top},
        {"write", method_write},
        {"stats", method_stats},
        {NULL, NULL},
    };
    luaL_newmetatable(L, TYPE_PROFILE);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, profile_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}

static int profile_stop(lua_State *L)
{
    if (lua_inside_finalizes(L)) /* perhaps the Lua state closes, and nothing would free it */
        return luaL_error(L, "a profile cannot be ended in a finalizer");
    struct profile **p = lua_newuserdatauv(L, sizeof(struct profile *), 0);
    *p = NULL;
    set_metatable(L);
    *p = profile_end();
    if (*p == NULL)
        return luaL_error(L, "no profile is being taken: begin one by mtstates.profile.start()");
    return 1;
}

void profile_push_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"start", profile_start}, {"stop", profile_stop}, {NULL, NULL}};
    luaL_newlib(L, functions);
}
