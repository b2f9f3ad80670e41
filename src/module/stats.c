#include "stats.h"

void stats_set(lua_State *L, const char *name, uint64_t count)
{
    lua_pushinteger(L, (lua_Integer)count);
    lua_setfield(L, -2, name);
}

void stats_set_seconds(lua_State *L, const char *name, uint64_t nanoseconds)
{
    lua_pushnumber(L, (lua_Number)nanoseconds * 1e-9);
    lua_setfield(L, -2, name);
}

static void set_histogram(lua_State *L, const char *name, const uint64_t *counts)
{
    lua_createtable(L, HISTOGRAM_COUNTS, 0);
    for (int i = 0; i < HISTOGRAM_COUNTS; i++) {
        lua_pushinteger(L, (lua_Integer)counts[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

void stats_push(lua_State *L, const struct stats *s)
{
    lua_createtable(L, 0, 20);
    stats_set(L, "calls", s->counts.calls);
    stats_set(L, "errors", s->counts.errors);
    stats_set(L, "refused", s->counts.refused);
    stats_set(L, "waited", s->counts.waited);
    stats_set(L, "timed_out", s->counts.timed_out);
    stats_set(L, "interrupted", s->counts.interrupted);
    stats_set(L, "bytes", s->bytes);
    stats_set(L, "peak_bytes", s->peak_bytes);
    stats_set_seconds(L, "wait_seconds", s->counts.wait_nanoseconds);
    if (!s->is_timed)
        return;
    stats_set_seconds(L, "inside_seconds", s->inside_nanoseconds);
    set_histogram(L, "inside_histogram", s->stays);
    set_histogram(L, "wait_histogram", s->waits);
}
