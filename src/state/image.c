/*
 * Opening the libraries is two thirds of what making a state costs, and gives the same each time:
 * so it is done once, and a new state begins as a copy of the result.
 *
 * Why a copy is right. An interpreter is its memory, and all of it comes from one allocator, here
 * from one segment of an arena. In this memory there are numbers, pointers into the memory itself,
 * pointers to the state that it was opened for (our functions' upvalues, the allocator's), and
 * pointers to what is the same for all interpreters of the process (functions, constants, files).
 * A copy in which the pointers of the second and third kind are moved is what opening would have
 * made there.
 *
 * How they are found. The interpreter is opened twice, the twins, in two segments. What is opened
 * is the same, so words of the twins are equal, but for pointers into the segment, which differ by
 * the distance of the segments. If any word differs in another way there is no image. Two more
 * things are the same for both twins by intention: the state that they are opened for, to which a
 * pointer is known by its value; and the address of their first block, the main coroutine with the
 * global state, since Lua makes the seed of its string hashes of it, of the time (when it moves on
 * between the twins, there is another try), and of addresses of Lua's code and C stack. Pointers
 * into that block, too, are known by value.
 *
 * What it assumes of Lua beyond that: the first block that lua_newstate asks for is the one whose
 * address makes the seed; a pointer is a whole word at an aligned address; no table is ordered by
 * the addresses of objects inside (it would show as a difference). Freed and unused memory is
 * zeroed while twins are made, since bytes that nobody wrote, as behind a value's tag, would differ
 * or hold old pointers.
 *
 * How it finds out when that is not so: by a difference between the twins, by a word that looks
 * like a pointer without being one of these, or by the trial: a first copy, of which the
 * interpreter has to count its memory to the byte, and to pass whole collections in both modes, and
 * a program that walks through all that can be reached and has to find as much as in the original.
 * The Lua that runs has to be the one that this was compiled for, and that one of those that it was
 * tested with.
 *
 * What copies share is the seed of string hashes, which one state thus has in common with the
 * others of its process, and LUA_PATH and LUA_CPATH as they were when the image was made.
 */
#include "image.h"

#include "interpreter.h"
#include "lua_inside.h"

#include <lauxlib.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Copies are made by adding to words at these places. */
struct image {
    struct arena arena;  /* the model's, with its addresses */
    size_t words;        /* of the segment */
    size_t main;         /* where the main coroutine is in it, in bytes */
    size_t inner, outer; /* so many places of pointers into the segment, and then into the state */
    uint64_t content[];  /* such pointers are distances from the beginning of either; and after */
};                       /* the content come the places, as uint16_t */

/* Written by image_prepare before there is any state; read only from then on. */
static struct image *images[2];

static uint16_t *places_of(struct image *i)
{
    return (uint16_t *)(i->content + i->words);
}

/* ---- copies ---- */

static lua_State *copy(struct image *i, struct state *s)
{
    uint64_t *segment = arena_copy(&s->arena, &i->arena, i->content, i->words * sizeof *segment);
    if (segment == NULL)
        return NULL;
    const uint16_t *place = places_of(i), *inner_end = place + i->inner;
    for (; place < inner_end; place++)
        segment[*place] += (uintptr_t)segment;
    for (const uint16_t *end = inner_end + i->outer; place < end; place++)
        segment[*place] += (uintptr_t)s;
    return (lua_State *)((char *)segment + i->main);
}

lua_State *image_copy(struct state *s, bool libs)
{
    return images[libs] != NULL ? copy(images[libs], s) : NULL;
}

const char *image_info(void)
{
    return images[false] != NULL && images[true] != NULL ? "image" : "one by one";
}

#if MTSTATES_IMAGE

/* ---- twins ---- */

/* A segment that has to hold an interpreter as it is opened, and its first block. */
enum { TWIN_SIZE = 64 * 1024, FIRST_MAX = 8 * 1024 };

_Static_assert(TWIN_SIZE / sizeof(uint64_t) <= UINT16_MAX + 1, "places are of 16 bits");

/* What twins have in common, and what is known of the one that was made last. */
struct original {
    struct state *state; /* they are opened for this one */
    char *first;         /* the first block, while they are opened, */
    size_t first_size;   /* its size, 0 before Lua asks for it, */
    char *place;         /* and where in the segment it belongs */
    char *next;          /* what the segment has left */
    size_t left;
    lua_State *main;
};

static void *cut(struct original *o, size_t size)
{
    size = arena_grains(size);
    if (size > o->left)
        return NULL;
    o->next += size;
    o->left -= size;
    return o->next - size;
}

static void *take_large(struct original *o, size_t size)
{
    void *block = cut(o, size);
    if (block != NULL)
        o->state->arena.used += size;
    return block;
}

static void *take_first(struct original *o, size_t size)
{
    o->first_size = size;
    o->place = size <= FIRST_MAX ? take_large(o, size) : NULL;
    return o->place != NULL ? memset(o->first, 0, size) : NULL;
}

static void *take_small(struct original *o, size_t size)
{
    enum { ROOM = 512 };
    struct arena *a = &o->state->arena;
    if (!arena_has_room(a, size)) {
        void *room = cut(o, ROOM);
        if (room == NULL)
            return NULL;
        arena_add_room(a, room, ROOM);
    }
    return memset(arena_resize(a, NULL, 0, size), 0, size);
}

static void *take(struct original *o, size_t size)
{
    return size > ARENA_SMALL_MAX ? take_large(o, size) : take_small(o, size);
}

static void give(struct original *o, void *block, size_t size)
{
    if (block == o->first)
        block = o->place;
    memset(block, 0, size);
    arena_resize(&o->state->arena, block, size, 0);
}

/* A lua_Alloc. No block keeps what was in it, neither for the next one nor for the image. */
static void *twin_resize(void *ud, void *block, size_t old_size, size_t new_size)
{
    struct original *o = ud;
    void *taken = NULL;
    if (o->first_size == 0)
        return take_first(o, new_size);
    if (new_size > 0 && (taken = take(o, new_size)) == NULL)
        return NULL;
    if (block != NULL && taken != NULL)
        memcpy(taken, block, old_size < new_size ? old_size : new_size);
    if (block != NULL)
        give(o, block, old_size);
    return taken;
}

/* Not inlined: both twins are opened at the same place of the C stack. False: it has no room. */
static __attribute__((noinline)) bool open_twin(struct original *o, void *segment, image_open *open,
                                                bool libs)
{
    o->first_size = 0;
    memset(segment, 0, TWIN_SIZE);
    arena_init_model(&o->state->arena, segment, TWIN_SIZE);
    o->next = (char *)segment + ARENA_SEGMENT_HEADER;
    o->left = TWIN_SIZE - ARENA_SEGMENT_HEADER;
    o->main = open(twin_resize, o, o->state, libs);
    if (o->main == NULL)
        return false;
    lua_gc(o->main, LUA_GCCOLLECT);
    lua_setallocf(o->main, arena_resize, &o->state->arena);
    arena_add_room(&o->state->arena, NULL, 0);
    memcpy(o->place, o->first, o->first_size);
    return true;
}

/* ---- comparing ---- */

static bool is_within(uint64_t word, const void *from, size_t size)
{
    return word - (uintptr_t)from <= size; /* a table keeps a pointer to the end of its nodes */
}

static void add_place(struct image *i, size_t *count, size_t place)
{
    places_of(i)[i->inner + i->outer] = (uint16_t)place;
    ++*count;
}

/*
 * A word of the twins becomes what the image has. False: it is neither the same in both nor a
 * pointer of a kind that is known.
 */
static bool note_word(struct image *i, const struct original *o, size_t place, const uint64_t *one,
                      const uint64_t *other)
{
    size_t size = i->words * sizeof *one;
    uint64_t a = one[place], b = other[place];
    i->content[place] = a;
    if (is_within(a, one, size) && a - (uintptr_t)one == b - (uintptr_t)other)
        i->content[place] = a - (uintptr_t)one;
    else if (a != b || is_within(a, one, size) || is_within(a, other, size))
        return false;
    else if (is_within(a, o->first, o->first_size))
        i->content[place] = a - (uintptr_t)o->first + (uintptr_t)(o->place - (char *)other);
    else
        return true;
    add_place(i, &i->inner, place);
    return true;
}

/* Pointers to the state; their places come after the others. */
static void note_outer(struct image *i, const struct original *o)
{
    for (size_t place = 0; place < i->words; place++) {
        if (is_within(i->content[place], o->state, sizeof *o->state)) {
            i->content[place] -= (uintptr_t)o->state;
            add_place(i, &i->outer, place);
        }
    }
}

/* Twins that differ have no image. NULL: that, or out of memory, which `enough` tells. */
static struct image *compare(const struct original *o, const uint64_t *one, const uint64_t *other,
                             bool *enough)
{
    size_t size = (size_t)(o->next - (char *)other);
    struct image *i = calloc(1, sizeof *i + size + size / sizeof *one * sizeof(uint16_t));
    *enough = i != NULL;
    if (i == NULL)
        return NULL;
    i->words = size / sizeof *one;
    i->arena = o->state->arena;
    i->main = (size_t)((char *)o->main - o->first + o->place - (char *)other);
    for (size_t place = 0; place < TWIN_SIZE / sizeof *one; place++) {
        bool is_known = place < i->words ? note_word(i, o, place, one, other)
                                         : one[place] == 0 && other[place] == 0;
        if (!is_known) {
            free(i);
            return NULL;
        }
    }
    note_outer(i, o);
    return i;
}

/* ---- the trial ---- */

/* Does some work, and counts what can be reached. */
static const char program[] =
    "local count, seen = 0, {}\n"
    "local function visit(v)\n"
    "  count = count + 1\n"
    "  if type(v) ~= 'table' or seen[v] then return end\n"
    "  seen[v] = true\n"
    "  for k, w in next, v do visit(k) visit(w) end\n"
    "  visit(getmetatable(v))\n"
    "end\n"
    "visit(_G) visit(getmetatable(''))\n"
    "local grown = {}\n"
    "for i = 1, 99 do grown[i] = { tostring(i), [i .. 'th'] = function() return i end } end\n"
    "for i = 1, 99 do if grown[i][i .. 'th']() ~= i then return end end\n"
    "for i = 1, 99 do _G['name ' .. i] = i end\n"
    "for i = 1, 99 do _G['name ' .. i] = nil end\n"
    "local ok, message = pcall(error, 'raised', 0)\n"
    "return not ok and message == 'raised' and count\n";

/* Leaves what the program returns. */
static int run_program(lua_State *L)
{
    lua_gc(L, LUA_GCRESTART);
    lua_gc(L, LUA_GCCOLLECT);
    if (luaL_loadbufferx(L, program, sizeof program - 1, "=trial", "t") != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 1);
    lua_gc(L, LUA_GCGEN, 0, 0);
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCINC, 0, 0, 0);
    lua_gc(L, LUA_GCCOLLECT);
    return 1;
}

/* What the program counts in the interpreter of `s`, which is closed after that; 0: it failed.
 * False: out of memory. */
static bool try_interpreter(struct state *s, lua_Integer *count)
{
    if (s->main == NULL) {
        arena_clear(&s->arena);
        return false;
    }
    lua_pushcfunction(s->main, run_program);
    int status = lua_pcall(s->main, 0, 1, 0);
    int kilobytes = lua_gc(s->main, LUA_GCCOUNT), bytes = lua_gc(s->main, LUA_GCCOUNTB);
    bool counts_well = (size_t)kilobytes * 1024 + (size_t)bytes == arena_used(&s->arena);
    *count = status == LUA_OK && counts_well ? lua_tointeger(s->main, -1) : 0;
    interpreter_close(s);
    return status != LUA_ERRMEM;
}

/* A copy has to do as an interpreter that is opened. */
static bool passes_trial(struct image *i, struct state *s, image_open *open, bool libs,
                         bool *enough)
{
    lua_Integer opened = 0, copied = 0;
    arena_init(&s->arena, ARENA_NO_LIMIT);
    s->main = open(arena_resize, &s->arena, s, libs);
    *enough = try_interpreter(s, &opened);
    if (*enough) {
        arena_init(&s->arena, ARENA_NO_LIMIT);
        s->main = copy(i, s);
        *enough = try_interpreter(s, &copied);
    }
    return opened > 0 && copied == opened;
}

/* ---- making ---- */

/* NULL: there is no image, or no memory, which `enough` tells. */
static struct image *try_to_make(struct original *o, char *one, image_open *open, bool libs,
                                 bool *enough)
{
    char *other = one + TWIN_SIZE;
    struct image *i = NULL;
    if (open_twin(o, one, open, libs) && open_twin(o, other, open, libs))
        i = compare(o, (void *)one, (void *)other, enough);
    if (i != NULL && !passes_trial(i, o->state, open, libs, enough)) {
        free(i);
        return NULL;
    }
    return i;
}

/* Again where the clock may have moved on between the twins. */
static struct image *make(image_open *open, bool libs, bool *enough)
{
    enum { TRIES = 3 };
    char *segments = malloc((size_t)2 * TWIN_SIZE + FIRST_MAX);
    struct original o = {.state = calloc(1, sizeof *o.state)};
    struct image *i = NULL;
    *enough = segments != NULL && o.state != NULL;
    if (*enough)
        o.first = segments + (size_t)2 * TWIN_SIZE;
    for (int n = 0; *enough && i == NULL && n < TRIES; n++)
        i = try_to_make(&o, segments, open, libs, enough);
    free(o.state);
    free(segments);
    return i;
}

bool image_prepare(image_open *open)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    bool enough = true;
    if (!lua_inside_is_tested())
        return true;
    pthread_mutex_lock(&mutex);
    for (int libs = 0; enough && libs < 2; libs++)
        if (images[libs] == NULL)
            images[libs] = make(open, libs, &enough);
    pthread_mutex_unlock(&mutex);
    return enough;
}

#else

bool image_prepare(image_open *open)
{
    (void)open;
    return true;
}

#endif
