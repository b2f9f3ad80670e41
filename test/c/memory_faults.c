/*
 * Memory that fails at any single allocation. A scenario runs again and again; in run n the n-th
 * allocation fails, until a run needs no n-th. Lua collects garbage and tries once more after a
 * failure, so there are several kinds of runs: one allocation fails, two in a row, all from the
 * n-th on, or all large ones. Each run ends in success or in a Lua error that tells of memory.
 * Afterwards the states that were there before are idle and answer, and in the end every block has
 * been given back.
 *
 * Three memories fail apart:
 *   the host's    what its Lua asks of its lua_Alloc;
 *   the states'   what Lua asks of the arena, every single request, which here goes to the system;
 *   the module's  what the module asks of libc for itself, which includes the arena's segments.
 *
 * The linker's --wrap sends all of these here.
 */
#include "carray.h"
#include "open_lua.h"
#include "state/image.h"
#include "state/interpreter.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/wait.h>

enum memory { HOST, STATES, MODULE, MEMORIES };

static const char *const memory_names[MEMORIES] = {"host", "states", "module"};

/* ---- failing ---- */

static _Thread_local struct {
    enum memory memory;
    long countdown; /* allocations until the first that fails; 0: none does */
    long window;    /* so many fail in a row */
    size_t least;   /* smaller ones do not count */
    bool happened;
} fault;

static bool fails(enum memory memory, size_t size)
{
    if (fault.countdown == 0 || memory != fault.memory || size < fault.least ||
        --fault.countdown > 0)
        return false;
    fault.happened = true;
    fault.countdown = --fault.window > 0 ? 1 : 0;
    return true;
}

/* ---- the three memories, with a count of the blocks that are out ---- */

static atomic_long live[MEMORIES];
static bool arena_left_out; /* as long as not the module's memory is to fail */

void *__real_malloc(size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__real_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __real_munmap(void *address, size_t size);
void *__real_mremap(void *address, size_t old_size, size_t new_size, int flags, ...);
int __real_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __real_pthread_setspecific(pthread_key_t key, const void *value);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);
int __real_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
void *__real_arena_resize(void *ud, void *block, size_t old_size, size_t new_size);
bool __real_arena_reserve_slowly(struct arena *a, size_t size);
void __real_arena_clear(struct arena *a);
bool __real_image_prepare(image_open *open);
lua_State *__real_image_copy(struct state *s, bool libs);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *address, size_t size);
void *__wrap_mremap(void *address, size_t old_size, size_t new_size, int flags, ...);
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);
int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
void *__wrap_arena_resize(void *ud, void *block, size_t old_size, size_t new_size);
bool __wrap_arena_reserve_slowly(struct arena *a, size_t size);
void __wrap_arena_clear(struct arena *a);
bool __wrap_image_prepare(image_open *open);
lua_State *__wrap_image_copy(struct state *s, bool libs);

void *__wrap_malloc(size_t size)
{
    return __wrap_realloc(NULL, size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    void *block = __wrap_malloc(count * size);
    return block != NULL ? memset(block, 0, count * size) : NULL;
}

void *__wrap_realloc(void *block, size_t size)
{
    if (fails(MODULE, size))
        return NULL;
    live[MODULE] += block == NULL;
    return __real_realloc(block, size);
}

void __wrap_free(void *block)
{
    live[MODULE] -= block != NULL;
    __real_free(block);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    if (fails(MODULE, size))
        return MAP_FAILED;
    live[MODULE]++;
    return __real_mmap(address, size, protection, flags, file, offset);
}

int __wrap_munmap(void *address, size_t size)
{
    live[MODULE]--;
    return __real_munmap(address, size);
}

void *__wrap_mremap(void *address, size_t old_size, size_t new_size, int flags, ...)
{
    if (fails(MODULE, new_size))
        return MAP_FAILED;
    return __real_mremap(address, old_size, new_size, flags);
}

int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
    return fails(MODULE, 0) ? EAGAIN : __real_pthread_key_create(key, end);
}

int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
    return value != NULL && fails(MODULE, 0) ? ENOMEM : __real_pthread_setspecific(key, value);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument)
{
    return fails(MODULE, 0) ? EAGAIN : __real_pthread_create(thread, attributes, start, argument);
}

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    return fails(MODULE, 0) ? ENOMEM : __real_pthread_mutex_init(mutex, attributes);
}

static void *host_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
    (void)ud;
    if (new_size == 0) {
        live[HOST] -= block != NULL;
        __real_free(block);
        return NULL;
    }
    bool grows = block == NULL || new_size > old_size; /* Lua relies on shrinking */
    if (grows && fails(HOST, new_size))
        return NULL;
    live[HOST] += block == NULL;
    return __real_realloc(block, new_size);
}

/* A block of a state whose arena is left out; closing drops those that are left. */
struct state_block {
    LIST_ENTRY(state_block) link;
    struct arena *arena;
    max_align_t bytes[];
};

static LIST_HEAD(, state_block) state_blocks;
static pthread_mutex_t state_blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static void state_block_unlink(struct state_block *b)
{
    pthread_mutex_lock(&state_blocks_lock);
    LIST_REMOVE(b, link);
    pthread_mutex_unlock(&state_blocks_lock);
}

static void state_block_link(struct state_block *b)
{
    pthread_mutex_lock(&state_blocks_lock);
    LIST_INSERT_HEAD(&state_blocks, b, link);
    pthread_mutex_unlock(&state_blocks_lock);
}

static void *state_block_resize(struct arena *a, bool may_fail, void *bytes, size_t old_size,
                                size_t new_size)
{
    struct state_block *b = bytes != NULL ? (struct state_block *)bytes - 1 : NULL;
    bool grows = b == NULL || new_size > old_size;
    if (may_fail && grows && fails(STATES, new_size))
        return NULL;
    if (b != NULL)
        state_block_unlink(b);
    if (new_size == 0) {
        live[STATES] -= b != NULL;
        __real_free(b);
        return NULL;
    }
    live[STATES] += b == NULL;
    b = __real_realloc(b, sizeof *b + new_size);
    CHECK(b != NULL);
    b->arena = a;
    state_block_link(b);
    return b->bytes;
}

void __wrap_arena_clear(struct arena *a)
{
    struct state_block *next;
    pthread_mutex_lock(&state_blocks_lock);
    for (struct state_block *b = LIST_FIRST(&state_blocks); b != NULL; b = next) {
        next = LIST_NEXT(b, link);
        if (b->arena != a)
            continue;
        LIST_REMOVE(b, link);
        live[STATES]--;
        __real_free(b);
    }
    pthread_mutex_unlock(&state_blocks_lock);
    __real_arena_clear(a);
}

/* What arena_reserve has promised: the next new block up to this size does not fail. */
static _Thread_local struct {
    struct arena *arena;
    size_t size;
} reserved;

void *__wrap_arena_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    if (!arena_left_out)
        return __real_arena_resize(ud, block, old_size, new_size);
    bool is_new = block == NULL && new_size > 0;
    bool promised = is_new && reserved.arena == ud && new_size <= reserved.size;
    if (promised)
        reserved.size = 0;
    return state_block_resize(ud, !promised, block, old_size, new_size);
}

/* An arena that is left out is empty, so each reservation comes here. */
bool __wrap_arena_reserve_slowly(struct arena *a, size_t size)
{
    if (!arena_left_out)
        return __real_arena_reserve_slowly(a, size);
    if (fails(STATES, size))
        return false;
    reserved.arena = a;
    reserved.size = size;
    return true;
}

/* An image is made in an arena, and a state that has none is opened block by block. */
bool __wrap_image_prepare(image_open *open)
{
    bool left_out = arena_left_out;
    arena_left_out = false;
    bool enough = __real_image_prepare(open);
    arena_left_out = left_out;
    return enough;
}

lua_State *__wrap_image_copy(struct state *s, bool libs)
{
    return arena_left_out ? NULL : __real_image_copy(s, libs);
}

/* ---- a second thread inside the state `echo` ---- */

enum hold { HOLD_NOT, HOLD_UNTIL_LET_GO, HOLD_UNTIL_WAITED };

static _Atomic enum hold holding;
static atomic_bool held;

static int hold(lua_State *L)
{
    struct state *s = interpreter_state(L);
    held = true;
    while (holding == HOLD_UNTIL_LET_GO ||
           (holding == HOLD_UNTIL_WAITED && !(s->ownership.word & OWNERSHIP_WAITED)))
        usleep(20);
    return 0;
}

static int open_hold(lua_State *L)
{
    lua_pushcfunction(L, hold);
    return 1;
}

static void *hold_state(void *unused)
{
    lua_State *L = open_lua("hold", open_hold);
    CHECK(luaL_dostring(L, "require('mtstates').state('echo'):call('hold')") == LUA_OK);
    lua_close(L);
    return unused;
}

static void hold_begin(pthread_t *thread, enum hold how)
{
    holding = how;
    held = false;
    CHECK(pthread_create(thread, NULL, hold_state, NULL) == 0);
    while (!held)
        usleep(20);
}

static void hold_end(pthread_t thread)
{
    holding = HOLD_NOT;
    pthread_join(thread, NULL);
}

/* ---- scenarios; the states that they make are called 'made' ---- */

static const char prepare[] =
    "a, b, echo, s, t = nil collectgarbage()\n"
    "mt = require('mtstates')\n"
    "local function other(name)\n"
    "  local mt = require('mtstates')\n"
    "  return function(depth, ...)\n"
    "    if depth == 0 then return ... end\n"
    "    return mt.state(name):call(depth - 1, ...)\n"
    "  end\n"
    "end\n"
    "a = mt.newstate('a', false, other, 'b')\n"
    "b = mt.newstate('b', false, other, 'a')\n"
    "echo = mt.newstate('echo', false, function()\n"
    "  local hold = require('hold')\n"
    "  return function(...) if ... == 'hold' then hold() end return ... end\n"
    "end)\n"
    "long = ('long'):rep(5000)\n"
    "function expect(text, ok, message)\n" /* an error that tells of `text` */
    "  assert(not ok)\n"
    "  if not message:find(text, 1, true) then error(message, 0) end\n"
    "end\n";

static const char calls_itself[] = "s = mt.newstate('made', false, function()\n"
                                   "  local mt = require('mtstates')\n"
                                   "  return function(n, ...)\n"
                                   "    if n == 0 then return ... end\n"
                                   "    return mt.state('made'):call(n - 1, ...)\n"
                                   "  end\n"
                                   "end)";

/* The registry alone, from no records to many and back: both sets grow, and are rebuilt. */
static int call_from_c(lua_State *L);
static int fill_registry(lua_State *L);

struct scenario {
    const char *name;
    const char *before; /* runs without faults */
    const char *code;
    lua_CFunction function; /* instead of code */
    enum hold held;         /* meanwhile a second thread is inside the state `echo` */
    bool unprepared;
    bool forked;         /* needs a process that has not come so far yet */
    long kept;           /* blocks that the thread may keep for good */
    long step[MEMORIES]; /* where there are many allocations alike: not each of them; 0 is 1 */
};

static const struct scenario scenarios[] = {
    {.name = "first use",
     .unprepared = true,
     .forked = true,
     .step = {[HOST] = 31, [STATES] = 37},
     /* Lua's buffers stay without `__close` if memory fails when they first need their metatable.
      */
     .before = "local _ = ('x'):rep(5000)",
     .code = prepare},
    {.name = "a registry that grows",
     .unprepared = true,
     .forked = true,
     .function = fill_registry},
    {.name = "states that outgrow the first tables",
     .forked = true,
     .step = {[HOST] = 17, [STATES] = 307, [MODULE] = 7},
     .code =
         "local t = {}\n"
         "for i = 1, 40 do t[i] = mt.newstate('made ' .. i, false, 'return function() end') end\n"
         "for i = 1, 40 do t[i]:close() end\n"},
    {.name = "make from a function, with name and results",
     .code = "local s, x, y = mt.newstate('made', function(a)\n"
             "  return function() return a end, 'extra', a\n"
             "end, long)\n"
             "assert(s:call() == long and x == 'extra' and y == long)\n"
             "assert(mt.state('made') == s and s:name() == 'made')"},
    {.name = "make from code, with options",
     .code = "local s <close> = mt.newstate({ name = 'made', libs = false, inherit = false },\n"
             "  'return function() return 1 end')\n"
             "assert(s:call() == 1)"},
    {.name = "make without a name",
     .code = "assert(mt.newstate(false, 'return function() end'):name() == nil)"},
    {.name = "setup that raises an error",
     .code = "expect('wrong', pcall(mt.newstate, 'made', false, function() error('wrong') end))"},
    {.name = "setup without a callback",
     .code = "expect('gave no callback', pcall(mt.newstate, 'made', false, 'return 1'))"},
    {.name = "setup with a result that does not cross",
     .code = "expect('C function', pcall(mt.newstate, 'made', false,\n"
             "  'return function() end, { print }'))"},
    {.name = "setup with a syntax error",
     .code = "expect('syntax error', pcall(mt.newstate, 'made', false, 'x x'))"},
    {.name = "setup that is refused",
     .code = "expect('upvalue', pcall(mt.newstate, 'made', false, (function(x)\n"
             "  return function() return x end end)(1)))"},
    {.name = "call with plain values",
     .code = "assert(select('#', echo:call(1, 2.5, nil, true)) == 4)"},
    {.name = "call with short strings",
     .code = "local t = {} for i = 1, 20 do t[i] = 'value ' .. i end\n"
             "assert(select(20, echo:call(table.unpack(t))) == 'value 20')"},
    {.name = "call with long strings",
     .code = "local x, y, z = echo:call(long, 1, long)\n"
             "assert(x == long and y == 1 and z == long)"},
    {.name = "call with strings of any length that are kept",
     .before = "s = mt.newstate('made', false, 'local t, n = {}, 0 for i = 1, 200 do\\n'\n"
               "  .. 't[i] = false end return function(s) n = n + 1 t[n] = s return #s end')",
     .code = "for i = 1, 30 do assert(s:call(('k'):rep(i)) == i) end\n"
             "for i = 180, 280 do assert(s:call(('s'):rep(i)) == i) end"},
    {.name = "call with many values",
     .code = "local t = {} for i = 1, 300 do t[i] = i end\n"
             "assert(select('#', echo:call(table.unpack(t))) == 300)"},
    {.name = "call with tables",
     .code = "local t = { 1, 2.5, 'three', { x = 'short', y = long }, [long] = true }\n"
             "t.self = t\n"
             "local copy, again = echo:call(t, t)\n"
             "assert(copy.self == copy and again == copy and copy[4].y == long and copy[long])"},
    {.name = "call with many tables, deep ones, and many keys",
     .before = "t = {} for i = 1, 300 do t[i] = { ['key ' .. i] = i, t } end\n"
               "for i = 1, 40 do t = { next = t } end",
     .step = {[HOST] = 7, [STATES] = 7},
     .code = "local copy = echo:call(t)\n"
             "for i = 1, 40 do copy = copy.next end\n"
             "assert(#copy == 300 and copy[300]['key 300'] == 300 and copy[7][1] == copy)"},
    {.name = "call with functions, and one with much code",
     .before = "long_code = assert(load(('x = 1 '):rep(3000)))\n",
     .code = "local f, g = echo:call(function(x) return x + 1 end, { long_code })\n"
             "assert(f(1) == 2 and string.dump(g[1]) == string.dump(long_code))"},
    {.name = "call with handles",
     .before =
         "s = mt.newstate('made', false, 'return function(h, ...) if h then kept = h end\\n'\n"
         "  .. 'return h or kept, ... end')",
     .code = "local own, other, again = s:call(echo, mt.state('echo'), { echo })\n"
             "assert(own == echo and own:isowner() and not other:isowner() and again[1] == own)\n"
             "assert(s:call() == echo)"},
    {.name = "call with classes",
     .before = "Point = {} mt.class('Point', Point)\n"
               "s = mt.newstate('made', false, function()\n"
               "  require('mtstates').class('Point', {})\n"
               "  return function(...) return ... end\n"
               "end)",
     .code = "local p = s:call({ setmetatable({ x = 1 }, Point) })\n"
             "assert(getmetatable(p[1]) == Point and p[1].x == 1)\n"
             "expect('no class', pcall(echo.call, echo, setmetatable({}, Point)))"},
    {.name = "name a class", .code = "mt.class('Point', {}) mt.class('Point', {})"},
    {.name = "make with tables",
     .code = "local s, t = mt.newstate('made', function(t)\n"
             "  return function(u) t.u = u return t end, t\n"
             "end, { long, { x = long } })\n"
             "assert(t[2].x == long and s:call({ long }).u[1] == long)"},
    {.name = "a state that calls itself with tables",
     .before = calls_itself,
     .code = "assert(s:call(2, { { long } })[1][1] == long)\n"
             "expect('C function', pcall(s.call, s, 1, { print }))"},
    {.name = "error with traceback",
     .before =
         "s = mt.newstate('made', function()\n"
         "  local function deep(n) if n == 0 then error('wrong') end return 1 + deep(n - 1) end\n"
         "  return function(object)\n"
         "    if object == 'zero' then error('zero\\0') end\n"
         "    if object then error(setmetatable({}, { __tostring = function() return 'object' end\n"
         "    })) end\n"
         "    return deep(5)\n"
         "  end\n"
         "end)",
     .code = "expect('wrong', pcall(s.call, s))\n"
             "expect('zero', pcall(s.call, s, 'zero'))\n"
             "expect('object', pcall(s.call, s, true))"},
    {.name = "values that do not cross",
     .before = "s = mt.newstate('made', false, 'return function() return \"x\", { print } end')",
     .code = "expect('bad argument', pcall(echo.call, echo, 'short', long, { print }))\n"
             "expect('C function', pcall(s.call, s))"},
    {.name = "refused call and close",
     .held = HOLD_UNTIL_LET_GO,
     .code = "for i = 1, 2 do expect('is busy', pcall(echo.call, echo, 'x', long)) end\n"
             "expect('is busy', pcall(echo.close, echo))\n"
             "assert(echo:tcall(0) == false and echo:tcall(0.0001, long) == false)"},
    {.name = "tcall that waits",
     .held = HOLD_UNTIL_WAITED,
     .code = "local ok, x, y = echo:tcall(100, long, 'short')\n"
             "assert(ok and x == long and y == 'short')"},
    {.name = "look up",
     .code = "assert(mt.state('echo') == mt.state(echo:id()) and mt.state('echo') == echo)\n"
             "assert(tostring(mt.state('echo')):find('echo'))\n"
             "expect('unknown_object', pcall(mt.state, 'nobody'))\n"
             "expect('unknown_object', pcall(mt.state, 1))"},
    {.name = "look up an ambiguous name",
     .before = "s = mt.newstate('made', false, 'return function() end')\n"
               "t = mt.newstate('made', false, 'return function() end')",
     .code = "expect('ambiguous_name', pcall(mt.state, 'made'))\n"
             "expect('ambiguous_name', pcall(mt.singleton, 'made', false, 'return 1'))\n"
             "s:close()\n"
             "assert(mt.state('made') == t)"},
    {.name = "singleton",
     .code = "local s = mt.singleton('made', false, 'return function() return 1 end')\n"
             "assert(s == mt.singleton('made', 'not run') and s:tcall(1))\n"
             "s:close()"},
    {.name = "singleton whose setup fails",
     .code = "expect('gave no callback', pcall(mt.singleton, 'made', false, 'return 1'))"},
    {.name = "interrupt",
     .code = "echo:interrupt()\n"
             "expect('interrupted', pcall(echo.call, echo))\n"
             "echo:interrupt(true)\n"
             "local ok, message = pcall(echo.call, echo, 'x')\n"
             "echo:interrupt(false)\n"
             "expect('interrupted', ok, message)"},
    {.name = "make and call with limits",
     .forked = true, /* the first that needs the ticker, */
     .kept = 1,      /* and the list of limited stays */
     .step = {[STATES] = 37},
     .code =
         "local s <close> = mt.newstate({ name = 'made', memory_limit = 1e6, time_limit = 60 },\n"
         "  'return function(n, count)\\n'\n"
         "  .. 'local t = {} for i = 1, count or 0 do t[i] = i end\\n'\n" /* mremap */
         "  .. 'return count and #t or #string.rep(\"x\", n) end')\n"
         "assert(s:call(300000) == 300000 and s:call(0, 20000) == 20000)\n"
         "pcall(s.call, s, 1000000)\n" /* fails where the arena is in use */
         "assert(s:call(10) == 10 and s:memory() < 2e6)"},
    {.name = "close, with finalizers and a coroutine",
     .before = "s = mt.newstate('made', function()\n"
               "  keep = setmetatable({}, { __gc = function() local t = {} t[1] = {} end })\n"
               "  return function(...) return coroutine.wrap(function(x) return x end)(...) end\n"
               "end)",
     .code = "assert(s:call(long) == long)\n"
             "s:close()\n"
             "s:close()\n"
             "expect('is closed', pcall(s.call, s))\n"
             "assert(tostring(s):find('made'))"},
    {.name = "close from inside",
     .before = "s = mt.newstate('made', false, function()\n"
               "  local mt = require('mtstates')\n"
               "  return function() local s = mt.state(mt.id()) return pcall(s.close, s) end\n"
               "end)",
     .code = "expect('from inside itself', s:call())"},
    {.name = "drop, with finalizers",
     .before = "s = mt.newstate('made', false, function()\n"
               "  local mt = require('mtstates')\n"
               "  local inner = mt.newstate('made', false, 'return function() return 1 end')\n"
               "  keep = setmetatable({}, { __gc = function() keep = { inner:call() } end })\n"
               "  return function() end\n"
               "end)",
     .code = "s:call()\n"
             "s = nil\n"
             "collectgarbage()\n"
             "expect('unknown_object', pcall(mt.state, 'made'))"},
    {.name = "calls from a to b to a",
     .code = "local x, y = a:call(4, 'through', long)\n"
             "assert(x == 'through' and y == long)\n"
             "expect('bad argument', pcall(a.call, a, 2, { print }))\n"
             "expect('perform arithmetic', pcall(b.call, b, 'x'))"},
    {.name = "a state that calls itself",
     .before = calls_itself,
     .code = "assert(s:call(3, long) == long)\n"
             "expect('perform arithmetic', pcall(s.call, s, 'x'))"},
    {.name = "a pool",
     .code =
         "local p <close> = mt.newpool({ name = 'made', size = 2, min = 1, libs = false,\n"
         "  recycle = { calls = 3 } }, 'local t = ... return function(x) return x, t[1] end', { "
         "long })\n"
         "local x, y = p:call('short')\n"
         /* Kept, since Lua drops a finalizer for which it gets no memory. */
         "local known = mt.pool('made')\n"
         "assert(x == 'short' and y == long and known == p and mt.pool(p:id()) == p)\n"
         "assert(p:tcall(0, long) and select(2, p(1)) == long and p:call(2) == 2)\n"
         "p:reload()\n"
         "p:reload('return function(x) return x end')\n"
         "assert(p:call(long) == long and p:broadcast(0, 1) + 0 >= 1 and p:state(1):call(3) == 3)\n"
         "p:interrupt(true)\n"
         /* None is there where the next could not be made. */
         "if p:stats().members > 0 then expect('interrupted', pcall(p.call, p)) end\n"
         "assert(p:close() == true)\n"
         "expect('is closed', pcall(p.call, p))"},
    {.name = "a pool whose setup fails",
     .code = "expect('no luck', pcall(mt.newpool, { size = 3 }, 'error \"no luck\"'))\n"
             "local p <close> = mt.newpool({ size = 1, libs = false }, 'return function() end')\n"
             "expect('no luck', pcall(p.reload, p, 'error \"no luck\"'))\n"
             "p:call()"},
    {.name = "watch",
     .before = "s = mt.newstate('made', false, 'return function() end')\n"
               "t = mt.newpool({ name = 'made', size = 2, libs = false }, 'return function() end')",
     .code = "assert(s:stats().calls == 0 and t:stats().members == 2 and mt.stats().states >= 3)\n"
             "assert(#mt.states() >= 3 and #mt.pools() == 1)\n"
             "assert(mt.metrics():find('# EOF') and mt.metrics({ names = true }):find('made'))"},
    {.name = "a call from C", .function = call_from_c},
    {.name = "arrays of numbers",
     .before = "s = mt.newstate('made', false, 'return function(...) return ... end')\n"
               "t = { require('carray').new(5, 10), require('carray').new(5, 0) }\n"
               "for i = 3, 20 do t[i] = require('carray').new(5, i) end\n"
               "s:call(t)",
     .code = "local same, a = s:call(t, t[1])\n"
             "a:set(3, 7)\n"
             "assert(same[1] == a and #same[2] == 0 and same[20]:get(20) == 0)\n"
             "assert(t[1]:get(3) == 7)"},
    {.name = "profile",
     .before = "s = mt.newstate('made', false, function()\n"
               "  return function() local x = 0 for i = 1, 100000 do x = x + i end end\n"
               "end)\n"
               "local stop = os.clock() + 5\n" /* until the ticker got a processor */
               "repeat\n"
               "  mt.profile.start({ interval = 0.001 })\n"
               "  for i = 1, 50 do s:call() end\n"
               "  t = mt.profile.stop()\n"
               "until t:stats().samples > 0 or os.clock() > stop\n"
               "assert(t:stats().samples > 0)",
     .code = "mt.profile.start({ interval = 1, states = { s } })\n"
             "s:call()\n"
             "assert(mt.profile.stop():stats().lost == 0)\n"
             "assert(t:folded():find('made') and t:speedscope():find('made'))\n"
             "assert(t:pprof():find('made') and t:top():find('made'))\n"
             "expect('cannot write', pcall(t.write, t, '/dev/null/x.json'))",
     .forked = true,
     .kept = 1 /* the thread's slot for samples */},
    {.name = "a burst of memory",
     .before = "s = mt.newstate('made', false, function()\n"
               "  return function()\n"
               "    collectgarbage('stop')\n" /* a test build's would take long */
               "    local t = {} for i = 1, 12000 do t[i] = { i } end\n"
               "    t = nil collectgarbage() collectgarbage('restart')\n"
               "    return 1\n"
               "  end\n"
               "end)",
     .step = {[STATES] = 1009},
     .code = "assert(s:call() == 1)"},
};

enum { RECORDS = 300 };

static struct record records[RECORDS];
static char record_names[RECORDS][8];

static void ignore(struct record *r)
{
    (void)r;
}

static bool is_open(struct record *r)
{
    (void)r;
    return false;
}

static const struct record_kind ignored = {
    .registry = &registry_states, .destroy = ignore, .is_closed = is_open};

static void check_found(struct record *r, bool is_there)
{
    struct record *found;
    enum registry_result expected = is_there ? REGISTRY_FOUND : REGISTRY_UNKNOWN;
    enum registry_result result = registry_find_id(&registry_states, r->id, &found);
    CHECK(result == expected && (!is_there || found == r));
    if (is_there)
        record_release(r);
    if (r->name == NULL)
        return;
    CHECK(registry_find_name(&registry_states, r->name, r->name_length, &found) == expected);
    CHECK(!is_there || found == r);
    if (is_there)
        record_release(r);
}

static int fill_registry(lua_State *L)
{
    bool added[RECORDS];
    int failed = 0;
    for (int i = 0; i < RECORDS; i++) {
        snprintf(record_names[i], sizeof record_names[i], "n%d", i);
        bool named = i % 4 != 0;
        record_init(&records[i], named ? record_names[i] : NULL, strlen(record_names[i]), &ignored);
        added[i] = registry_add(&records[i]);
        check_found(&records[i], added[i]);
        failed += !added[i];
    }
    for (int i = 0; i < RECORDS; i++)
        check_found(&records[i], added[i]);
    for (int i = 0; i < RECORDS; i++) {
        registry_remove(&records[i]);
        check_found(&records[i], false);
        record_release(&records[i]);
    }
    return failed > 0 ? luaL_error(L, "no memory for %d records", failed) : 0;
}

static int send_and_receive(mtstates_parcel *in, mtstates_parcel *out)
{
    static const char text[2000];
    struct mtstates_value v;
    mtstates_state *s;
    int status = mtstates_find_name("echo", 4, &s);
    for (int i = 0; i < 200 && status == MTSTATES_OK; i++)
        status = i % 2 == 0 ? mtstates_table_begin(in) : mtstates_add_integer(in, i);
    if (status == MTSTATES_OK)
        status = mtstates_add_boolean(in, 1);
    for (int i = 0; i < 100 && status == MTSTATES_OK; i++)
        status = mtstates_table_end(in);
    for (int i = 0; i < 20 && status == MTSTATES_OK; i++)
        status = mtstates_add_string(in, text, sizeof text);
    if (status == MTSTATES_OK)
        status = mtstates_call(s, 0, in, out);
    for (int i = 0; i < 20 && status == MTSTATES_OK; i++)
        CHECK(mtstates_next(out, &v) != MTSTATES_NONE);
    mtstates_release(s);
    return status;
}

static int call_from_c(lua_State *L)
{
    mtstates_parcel *in = mtstates_parcel_new(), *out = mtstates_parcel_new();
    int status = MTSTATES_NO_MEMORY;
    if (in != NULL && out != NULL)
        status = send_and_receive(in, out);
    mtstates_parcel_free(in);
    mtstates_parcel_free(out);
    CHECK(status == MTSTATES_OK || status == MTSTATES_NO_MEMORY);
    return status == MTSTATES_OK ? 0 : luaL_error(L, "no memory");
}

/* ---- runs ---- */

static const struct fault_kind {
    const char *name;
    long window;
    size_t least;
} fault_kinds[] = {
    {"one allocation", 1, 0},
    {"two allocations", 2, 0},
    {"all allocations", LONG_MAX, 0},
    {"all large allocations", LONG_MAX, 512},
};

static struct {
    const struct scenario *scenario;
    enum memory memory;
    long n;
    const struct fault_kind *kind;
} current;

static void tell_current(void)
{
    if (current.scenario == NULL)
        return;
    fprintf(stderr, "'%s', memory of the %s, %s to fail from number %ld on\n",
            current.scenario->name, memory_names[current.memory], current.kind->name, current.n);
}

static void on_abort(int signal_number)
{
    (void)signal_number;
    tell_current();
}

static void fail(lua_State *L, const char *when)
{
    fprintf(stderr, "%s: %s\n", when, luaL_tolstring(L, -1, NULL));
    exit(1);
}

static void run_code(lua_State *L, const char *code, const char *when)
{
    if (luaL_dostring(L, code) != LUA_OK)
        fail(L, when);
}

static void check_idle(const char *name)
{
    struct record *r;
    CHECK(registry_find_name(&registry_states, name, strlen(name), &r) == REGISTRY_FOUND);
    struct state *s = state_of_record(r);
    CHECK(s->ownership.word == 0 && s->ownership.queue->first == NULL);
    CHECK(lua_gettop(s->main) == STATE_SLOTS);
    CHECK(s->interrupt.running == s->main);
    record_release(r);
}

static void check_survivors(lua_State *L)
{
    run_code(L,
             "pcall(mt.profile.stop)\n"
             "s, t = nil\n"
             "echo:interrupt(false)", /* a request stays until it is met */
             "after a fault");
    lua_gc(L, LUA_GCCOLLECT);
    CHECK(thread_self()->depth == 0);
    check_idle("a");
    check_idle("b");
    check_idle("echo");
    run_code(L,
             "assert(echo:call('alive') == 'alive')\n"
             "assert(echo:call(long) == long)\n"
             "assert(a:call(3, 'well', long) == 'well')\n"
             "assert(mt.state('echo') == echo and mt.state(echo:id()) == echo)\n"
             "assert(not pcall(mt.state, 'made') and not pcall(mt.state, 'made 1'))\n"
             "assert(mt.singleton('echo', 'not run') == echo)\n"
             "local fresh <close> = mt.newstate('fresh', false, 'return function() return 1 end')\n"
             "assert(fresh:call() == 1)",
             "after a fault");
    lua_gc(L, LUA_GCCOLLECT);
}

static void destroy_nudge(struct record *r)
{
    __real_free(r);
}

static const struct record_kind nudge = {
    .registry = &registry_states, .destroy = destroy_nudge, .is_closed = is_open};

static bool is_settled(long blocks, long kept)
{
    return live[MODULE] >= blocks && live[MODULE] <= blocks + kept;
}

/* Frees what waits for a grace period: each write of the registry goes one step. */
static void settle(long blocks, long kept)
{
    for (int i = 0; i < 10 && !is_settled(blocks, kept); i++) {
        struct record *r = __real_malloc(sizeof *r);
        record_init(r, NULL, 0, &nudge);
        record_release(r);
    }
    if (!is_settled(blocks, kept)) {
        fprintf(stderr, "%ld blocks of the module's are out, not %ld\n", live[MODULE], blocks);
        exit(1);
    }
}

/* Lua calls a stack that cannot grow for lack of memory too large. */
static bool tells_of_memory(lua_State *L)
{
    const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    return strstr(message, "memory") != NULL || strstr(message, "too many results to unpack");
}

static int run_scenario(lua_State *L, const struct scenario *s)
{
    if (s->function != NULL)
        lua_pushcfunction(L, s->function);
    else
        CHECK(luaL_loadstring(L, s->code) == LUA_OK);
    pthread_t thread;
    if (s->held != HOLD_NOT)
        hold_begin(&thread, s->held);
    fault.memory = current.memory;
    fault.happened = false;
    fault.window = current.kind->window;
    fault.least = current.kind->least;
    fault.countdown = current.n;
    int status = lua_pcall(L, 0, 0, 0);
    fault.countdown = 0;
    if (s->held != HOLD_NOT)
        hold_end(thread);
    return status;
}

/* A block of each hash set of the registries'; this thread's entry, and its memory for parcels; and
 * the images. */
static long kept(void)
{
    return strcmp(image_info(), "image") == 0 ? 8 : 6;
}

/* True: the scenario came so far that an allocation failed. */
static bool run(void)
{
    const struct scenario *s = current.scenario;
    arena_left_out = current.memory != MODULE;
    reserved.size = 0;
    lua_State *L = lua_newstate(host_alloc, NULL);
    CHECK(L != NULL);
    open_libraries(L, "hold", open_hold);
    preload(L, "carray", luaopen_carray);
    if (!s->unprepared)
        run_code(L, prepare, "before");
    else if (s->function != NULL)
        CHECK(registry_init());
    long blocks = live[MODULE];
    if (s->before != NULL)
        run_code(L, s->before, "before");

    int status = run_scenario(L, s);
    if (status != LUA_OK && !(fault.happened && tells_of_memory(L)))
        fail(L, fault.happened ? "a fault" : "no fault");
    lua_settop(L, 0);
    if (s->unprepared)
        run_code(L, prepare, "once more");
    check_survivors(L);
    if (!s->unprepared && arena_left_out)
        settle(blocks, s->kept);
    lua_close(L);
    settle(kept(), s->kept);
    if (live[STATES] != 0 || live[HOST] != 0) {
        fprintf(stderr, "%ld blocks of the states and %ld of the host are out\n", live[STATES],
                live[HOST]);
        exit(1);
    }
    return fault.happened;
}

static bool run_in_child(void)
{
    enum { NO_FAULT = 10, FAULT = 11 };
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(run() ? FAULT : NO_FAULT); /* run has looked for leaks itself */
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != FAULT && WEXITSTATUS(status) != NO_FAULT))
        exit(1);
    return WEXITSTATUS(status) == FAULT;
}

/* How many faults there were. */
static long run_all(const struct scenario *s, enum memory memory)
{
    long step = s->step[memory] ? s->step[memory] : 1, faults = 0;
    current.scenario = s;
    current.memory = memory;
    for (size_t i = 0; i < sizeof fault_kinds / sizeof *fault_kinds; i++) {
        current.kind = &fault_kinds[i];
        current.n = 1;
        while (s->forked ? run_in_child() : run()) {
            current.n += step;
            faults++;
        }
    }
    return faults;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGABRT, on_abort);
    atexit(tell_current);
    printf("faults in memory of the   host  states  module\n");
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        long faults[MEMORIES];
        for (int memory = 0; memory < MEMORIES; memory++)
            faults[memory] = run_all(&scenarios[i], memory);
        printf("%30ld  %6ld  %6ld  %s\n", faults[HOST], faults[STATES], faults[MODULE],
               scenarios[i].name);
    }
    current.scenario = NULL;
    return 0;
}
