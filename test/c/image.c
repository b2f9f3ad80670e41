/*
 * States from an image: an interpreter that is not the same each time it is opened has no image,
 * and neither has one whose copy does not behave as it does. Copies work as what is opened, share
 * nothing, and leave nothing behind.
 */
#include "state/image.h"
#include "check.h"
#include "state/interpreter.h"

#include <lauxlib.h>
#include <string.h>

static const char *kind_if_made(void)
{
    return MTSTATES_IMAGE ? "image" : "one by one";
}

/* ---- ways to open ---- */

/* Called for each opening, with a number that grows. */
static void (*disturb)(lua_State *L, int opening);
static int openings;

static int call_disturb(lua_State *L)
{
    disturb(L, ++openings);
    return 0;
}

static lua_State *open(lua_Alloc allocate, void *ud, struct state *s, bool libs)
{
    lua_State *L = interpreter_open(allocate, ud, s, libs);
    CHECK(L != NULL);
    if (disturb == NULL)
        return L;
    lua_pushcfunction(L, call_disturb);
    if (lua_pcall(L, 0, 0, 0) == LUA_OK)
        return L;
    lua_close(L);
    return NULL;
}

static void set_another_number(lua_State *L, int opening)
{
    lua_pushinteger(L, opening);
    lua_setglobal(L, "opening");
}

static void hide_an_address(lua_State *L, int opening)
{
    (void)opening;
    lua_newtable(L);
    lua_pushinteger(L, ~(lua_Integer)(uintptr_t)lua_topointer(L, -1));
    lua_setglobal(L, "address");
    lua_setglobal(L, "object");
}

static void point_into_the_heap(lua_State *L, int opening)
{
    static char *blocks[1000];
    CHECK(opening < 1000);
    blocks[opening] = malloc(1 + (size_t)opening);
    lua_pushlightuserdata(L, blocks[opening]);
    lua_setglobal(L, "block");
}

static void fill_the_segment(lua_State *L, int opening)
{
    (void)opening;
    lua_newuserdatauv(L, 100000, 0);
    lua_setglobal(L, "large");
}

/* Twins are openings 1 and 2 of three, the one that a copy is compared with is the third. */
static void make_the_third_one_larger(lua_State *L, int opening)
{
    if (opening % 3 == 0) {
        lua_pushinteger(L, 3);
        lua_setglobal(L, "third");
    }
}

static void without_likeness_there_is_no_image(void (*how)(lua_State *L, int opening))
{
    disturb = how;
    openings = 0;
    CHECK(image_prepare(open));
    CHECK(strcmp(image_info(), "one by one") == 0);
    CHECK(!MTSTATES_IMAGE || openings >= 3);
    disturb = NULL;
}

/* ---- copies ---- */

static const char work[] =
    "local list = {}\n"
    "for i = 1, 2000 do list[i] = { tostring(i), key = i } end\n"
    "for i = 1, 300 do _G['name ' .. i] = ('x'):rep(i) end\n"
    "local function deep(n) return n == 0 and 0 or 1 + deep(n - 1) end\n"
    "assert(deep(5000) == 5000 and #list == 2000 and list[7].key == 7)\n"
    "assert(coroutine.wrap(function() coroutine.yield(deep(100)) end)() == 100)\n"
    "assert(select('#', table.unpack(list, 1, 1500)) == 1500)\n"
    "setmetatable({}, { __gc = function() finalized = true end })\n"
    "collectgarbage() collectgarbage('generational') collectgarbage() "
    "collectgarbage('incremental')\n"
    "assert(finalized and io.stdout:write('') and string.format('%5.1f', math.pi) == '  3.1')\n"
    "assert(require('string') == string and not pcall(require, 'no such module'))\n"
    "mark = (mark or 0) + 1\n"
    "return mark\n";

static struct state *make_state(bool libs)
{
    struct state *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    arena_init(&s->arena, ARENA_NO_LIMIT);
    s->main = image_copy(s, libs);
    CHECK((s->main != NULL) == MTSTATES_IMAGE);
    if (s->main == NULL)
        s->main = open(arena_resize, &s->arena, s, libs);
    lua_gc(s->main, LUA_GCRESTART);
    return s;
}

static void close_state(struct state *s)
{
    interpreter_close(s);
    free(s);
}

static size_t counted(lua_State *L)
{
    return (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB);
}

static void copies_share_nothing(void)
{
    enum { STATES = 5 };
    struct state *s[STATES];
    for (int i = 0; i < STATES; i++)
        s[i] = make_state(true);
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < STATES; i++) {
            lua_State *L = s[i]->main;
            if (luaL_dostring(L, work) != LUA_OK)
                fprintf(stderr, "%s\n", lua_tostring(L, -1));
            CHECK(lua_tointeger(L, -1) == round);
            lua_settop(L, 0);
            CHECK(counted(L) == s[i]->arena.used);
        }
    }
    CHECK(s[0]->main != s[1]->main);
    for (int i = 0; i < STATES; i++)
        close_state(s[i]);
}

/* Of a state that is closed without the jump out of lua_close. */
static void lua_close_frees_all_of_a_copy(bool libs)
{
    struct state *s = make_state(libs);
    lua_close(s->main);
    CHECK(s->arena.used == 0);
    arena_clear(&s->arena);
    free(s);
}

static void a_copy_is_as_large_as_what_is_opened(bool libs)
{
    struct state *copied = make_state(libs), opened = {.main = NULL};
    arena_init(&opened.arena, ARENA_NO_LIMIT);
    opened.main = open(arena_resize, &opened.arena, &opened, libs);
    for (int i = 0; i < 2; i++) { /* the first leaves 64 bytes to the second */
        lua_gc(opened.main, LUA_GCCOLLECT);
        lua_gc(copied->main, LUA_GCCOLLECT);
    }
    printf("%zu bytes, %zu when opened\n", copied->arena.used, opened.arena.used);
    CHECK(copied->arena.used == opened.arena.used);
    interpreter_close(&opened);
    close_state(copied);
}

int main(void)
{
    CHECK(registry_init());
    without_likeness_there_is_no_image(set_another_number);
    without_likeness_there_is_no_image(hide_an_address);
    without_likeness_there_is_no_image(point_into_the_heap);
    without_likeness_there_is_no_image(fill_the_segment);
    without_likeness_there_is_no_image(make_the_third_one_larger);
    CHECK(image_prepare(open));
    CHECK(strcmp(image_info(), kind_if_made()) == 0);
    copies_share_nothing();
    for (int libs = 0; libs < 2; libs++) {
        lua_close_frees_all_of_a_copy(libs);
        a_copy_is_as_large_as_what_is_opened(libs);
    }
    return 0;
}
