/* What one sees from outside of the states that a thread is inside of. */
#include "mtstates_inside.h"
#include "open_lua.h"

#include <pthread.h>
#include <string.h>

/* inside(): for each state that the thread is inside of, from the innermost on, its id and name. */
static int inside(lua_State *L)
{
    int count = 0;
    if (mtstates_current == NULL)
        return 0;
    for (const struct mtstates_inside *i = mtstates_current->innermost; i != NULL; i = i->around) {
        CHECK(i->version == MTSTATES_INSIDE_VERSION);
        CHECK(i->main != NULL && (i != mtstates_current->innermost || i->main == L));
        CHECK(i->name == NULL || i->name[i->name_length] == '\0');
        lua_pushinteger(L, (lua_Integer)i->id);
        lua_pushlstring(L, i->name != NULL ? i->name : "", i->name_length);
        count += 2;
    }
    return count;
}

static int open_inside(lua_State *L)
{
    lua_pushcfunction(L, inside);
    return 1;
}

static void run(lua_State *L, const char *code)
{
    check_lua(L, luaL_dostring(L, code));
}

static void a_thread_shows_the_states_that_it_is_inside_of(void)
{
    lua_State *L = open_lua("inside", open_inside);
    run(L, "local mt, inside = require('mtstates'), require('inside')\n"
           "assert(select('#', inside()) == 0)\n"
           "local function setup(...)\n"
           "  local mt, inside = require('mtstates'), require('inside')\n"
           "  local in_setup = { inside() }\n"
           "  assert(in_setup[1] == mt.id())\n"
           "  return function(other, ...)\n"
           "    if other then return other:call(...) end\n"
           "    return inside()\n"
           "  end\n"
           "end\n"
           "local a, b = mt.newstate('a', setup), mt.newstate('b\\0b', setup)\n"
           "local p = mt.newpool({ size = 1 }, setup)\n"
           "local function check(expected, ...)\n"
           "  local got = { ... }\n"
           "  assert(#expected == #got)\n"
           "  for i = 1, #got do assert(expected[i] == got[i]) end\n"
           "end\n"
           "check({ a:id(), 'a' }, a:call())\n"
           "check({ b:id(), 'b\\0b', a:id(), 'a' }, a:call(mt.state(b:id())))\n"
           "check({ p:state(1):id(), '', b:id(), 'b\\0b' }, b:call(mt.pool(p:id())))\n"
           "pcall(a.call, a, {})\n" /* which raises */
           "check({}, inside())\n");
    CHECK(mtstates_current->innermost == NULL);
    lua_close(L);
}

static void *look(void *unused)
{
    CHECK(mtstates_current == NULL);
    return unused;
}

static void one_that_never_used_the_module_shows_none(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, look, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

int main(void)
{
    a_thread_shows_the_states_that_it_is_inside_of();
    one_that_never_used_the_module_shows_none();
    return 0;
}
