/*
 * Packing: reads values of the sender's, in whatever depth, without recursion of C and without an
 * error. No code of the sender's runs meanwhile, and no object of it is made or freed: so a pointer
 * tells an object, and lua_next goes on where it was.
 */
#include "parcel_inside.h"

#include "arena.h"
#include "class.h"
#include "lua_inside.h"
#include "sync/random.h"
#include "sync/registry.h"

#include <limits.h>
#include <stdlib.h>

/* One run. */
struct packing {
    struct parcel *parcel;
    struct parcel_memory *memory;
    lua_State *from;
    struct refusal *refusal;
    int first;        /* index of the outermost table that is being packed */
    size_t depth;     /* tables that are, one in the other */
    size_t depth_max; /* for so many the stack has slots */
};

/* What became of one value. */
enum put {
    PUT_WHOLE,
    PUT_BEGUN, /* a table, of which a level has been begun */
    PUT_NO_MEMORY,
    PUT_REFUSED
};

/* ---- refusals ---- */

static struct level *levels(const struct packing *p)
{
    return (struct level *)(void *)p->memory->levels.start;
}

static struct level *innermost(const struct packing *p)
{
    return &levels(p)[p->depth - 1];
}

/* Where the packing is. On the stack a table has its key above it; and above that, while the key is
 * packed, the value, and the key again. */
static void refuse_here(struct packing *p)
{
    struct refusal_path path;
    int slot = p->first;
    refusal_path_begin(&path, p->depth);
    for (size_t i = 0; i < p->depth; i++) {
        bool in_key = levels(p)[i].in_key;
        refusal_path_add(&path, slot + 1, in_key);
        slot += in_key ? 3 : 2;
    }
    refusal_begin_at(p->refusal, p->from, &path);
}

static enum put refuse(struct packing *p, const char *why)
{
    refuse_here(p);
    refusal_add(p->refusal, "%s", why);
    return PUT_REFUSED;
}

static enum put refuse_type(struct packing *p, const char *type, const char *advice)
{
    refuse_here(p);
    refusal_add(p->refusal, "value of type '%.40s' not supported: %s", type, advice);
    return PUT_REFUSED;
}

/* ---- objects ---- */

static struct object *objects(const struct packing *p)
{
    return (struct object *)(void *)p->memory->objects.start;
}

static size_t object_count(const struct packing *p)
{
    return p->memory->objects.used / sizeof(struct object);
}

static uint32_t *places(const struct packing *p)
{
    return (uint32_t *)(void *)p->memory->places.start;
}

/* The place of the object, or the free one where it would be. */
static uint32_t find_place(const struct packing *p, const void *pointer)
{
    uint32_t mask = (uint32_t)(p->memory->places.size / sizeof(uint32_t)) - 1;
    uint32_t place = random_hash_address(pointer) & mask;
    for (;; place = (place + 1) & mask) {
        uint32_t i = places(p)[place];
        if (i >= object_count(p) || objects(p)[i].place != place ||
            objects(p)[i].pointer == pointer)
            return place;
    }
}

/* The object that has the place, or NULL: it is free. */
static struct object *find_object(const struct packing *p, uint32_t place)
{
    uint32_t i = places(p)[place];
    return i < object_count(p) && objects(p)[i].place == place ? &objects(p)[i] : NULL;
}

/* More places, for all objects anew. */
static bool grow_places(struct packing *p)
{
    struct room *r = &p->memory->places;
    size_t size = 4 * r->size;
    char *grown = calloc(1, size);
    if (grown == NULL)
        return false;
    if (r->start != r->first)
        free(r->start);
    r->start = grown;
    r->size = size;
    for (size_t i = 0; i < object_count(p); i++)
        objects(p)[i].place = UINT32_MAX; /* no place of theirs is taken yet */
    for (size_t i = 0; i < object_count(p); i++) {
        uint32_t place = find_place(p, objects(p)[i].pointer);
        places(p)[place] = (uint32_t)i;
        objects(p)[i].place = place;
    }
    return true;
}

/* Notes an object that is new, of which the header comes next. */
static bool note_object(struct packing *p, const void *pointer, uint32_t place)
{
    size_t i = object_count(p);
    if (2 * (i + 1) * sizeof(uint32_t) > p->memory->places.size) {
        if (i >= UINT32_MAX / 4 || !grow_places(p))
            return false;
        place = find_place(p, pointer);
    }
    struct object *o = (struct object *)(void *)room_take(&p->memory->objects, sizeof *o);
    if (o == NULL)
        return false;
    *o = (struct object){.pointer = pointer, .header = p->memory->values.used + 1, .place = place};
    places(p)[place] = (uint32_t)i;
    return true;
}

/* An object that is there already: it needs a number. */
static enum put put_again(struct packing *p, const struct object *o)
{
    object_number number;
    char *header = p->memory->values.start + o->header;
    memcpy(&number, header, sizeof number);
    if (number == 0) {
        number = ++p->parcel->numbered;
        memcpy(header, &number, sizeof number);
    }
    return put_bytes(&p->memory->values, TAG_AGAIN, &number, sizeof number) ? PUT_WHOLE
                                                                            : PUT_NO_MEMORY;
}

/* ---- long strings ---- */

static enum put put_long(struct packing *p, int index)
{
    struct room *values = &p->memory->values;
    struct string_header h = {0};
    const void *pointer = lua_topointer(p->from, index);
    uint32_t place = find_place(p, pointer);
    const struct object *before = find_object(p, place);
    if (before != NULL)
        return put_again(p, before);
    const char *bytes = lua_tolstring(p->from, index, &h.length);
    if (!note_object(p, pointer, place) || !put_bytes(values, TAG_LONG, &h, sizeof h))
        return PUT_NO_MEMORY;
    char *to = room_take(values, h.length);
    if (to == NULL)
        return PUT_NO_MEMORY;
    memcpy(to, bytes, h.length);
    return PUT_WHOLE;
}

/* ---- functions ---- */

/* [-0, +0, -] */
static bool is_environment(lua_State *L, int i, const char *name)
{
    if (strcmp(name, "_ENV") == 0)
        return true;
    if (i != 1 || strcmp(name, "(no name)") != 0)
        return false;
    lua_pushglobaltable(L);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
    return same;
}

const char *parcel_find_captured(lua_State *L, int index)
{
    const char *name;
    for (int i = 1; (name = lua_getupvalue(L, index, i)) != NULL; i++) {
        bool stays = is_environment(L, i, name);
        lua_pop(L, 1);
        if (!stays)
            return name;
    }
    return NULL;
}

/* A lua_Writer. */
static int put_code(lua_State *L, const void *bytes, size_t length, void *values)
{
    (void)L;
    if (length == 0) /* the end, as some releases tell it */
        return 0;
    char *to = room_take(values, length);
    if (to != NULL)
        memcpy(to, bytes, length);
    return to == NULL;
}

static enum put put_function(struct packing *p, int index)
{
    struct room *values = &p->memory->values;
    struct function_header h = {0};
    const char *captured;
    if (lua_iscfunction(p->from, index))
        return refuse(p, "C function: use it by its name, or require its module inside");
    if ((captured = parcel_find_captured(p->from, index)) != NULL) {
        refuse_here(p);
        refusal_add(p->refusal,
                    "function uses upvalue '%.40s': send its value as well, or make it inside",
                    captured);
        return PUT_REFUSED;
    }
    if (!put_bytes(values, TAG_FUNCTION, &h, sizeof h))
        return PUT_NO_MEMORY;
    size_t header = values->used - sizeof h, code = values->used;
    lua_pushvalue(p->from, index);
    int failed = lua_dump(p->from, put_code, values, 0);
    lua_pop(p->from, 1);
    if (failed)
        return PUT_NO_MEMORY;
    h.length = values->used - code;
    memcpy(values->start + header, &h, sizeof h);
    return PUT_WHOLE;
}

/* ---- handles and arrays ---- */

/* The __name of the userdata on top of the stack; found without making a string. [-0, +0, -] */
static const char *type_name(lua_State *L)
{
    const char *name = "userdata";
    int top = lua_gettop(L);
    if (!lua_getmetatable(L, top))
        return name;
    for (lua_pushnil(L); lua_next(L, top + 1); lua_pop(L, 1))
        if (lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING &&
            strcmp(lua_tostring(L, -2), "__name") == 0)
            name = lua_tostring(L, -1); /* stays: the metatable has it */
    lua_settop(L, top);
    return name;
}

/* Writes the header of what the parcel has references to from now on, which begins with a
 * held_header. */
static bool put_held(struct packing *p, enum tag tag, void *header, size_t size)
{
    const struct held_header held = {.previous = p->parcel->last_held};
    memcpy(header, &held, sizeof held);
    if (!put_bytes(&p->memory->values, tag, header, size))
        return false;
    p->parcel->last_held = p->memory->values.used - size;
    return true;
}

/*
 * Two handles of one object may be two keys of a table, though whoever receives them has one that
 * does not own. The record's address tells, among the objects', whether there was one before.
 */
static bool note_record(struct packing *p, struct parcel_handle *h)
{
    uint32_t place = find_place(p, h->record);
    h->is_another = find_object(p, place) != NULL;
    return h->is_another || note_object(p, h->record, place);
}

static enum put put_handle(struct packing *p, struct handle_header *h)
{
    if (!h->handle.owns && !note_record(p, &h->handle))
        return PUT_NO_MEMORY;
    if (!put_held(p, TAG_HANDLE, h, sizeof *h))
        return PUT_NO_MEMORY;
    record_retain(h->handle.record);
    if (h->handle.owns)
        record_own(h->handle.record); /* there is one: the handle's */
    return PUT_WHOLE;
}

/* The full userdata on top of the stack, if it is an array. [-0, +0, -] */
static enum crossing put_array(struct packing *p)
{
    struct array_header h;
    enum crossing taken = carray_take(p->from, lua_gettop(p->from), &h.array);
    if (taken == CROSSING_DONE && !put_held(p, TAG_ARRAY, &h, sizeof h)) {
        carray_release(h.array.elements);
        return CROSSING_NEEDS_MEMORY;
    }
    return taken;
}

/* The full userdata on top of the stack. [-0, +0, -] */
static enum put put_userdata(struct packing *p)
{
    struct handle_header h;
    if (parcel_handle_at(p->from, -1, &h.handle))
        return put_handle(p, &h);
    switch (put_array(p)) {
    case CROSSING_DONE:
        return PUT_WHOLE;
    case CROSSING_NEEDS_MEMORY:
        return PUT_NO_MEMORY;
    default:
        return refuse_type(p, type_name(p->from), "make it anew inside");
    }
}

/* ---- tables ---- */

/* A string that is a key and has not been one before in this parcel. */
static enum put __attribute__((noinline))
put_new_key(struct packing *p, int index, const void *pointer, unsigned char *place)
{
    struct parcel_memory *m = p->memory;
    size_t length;
    const char *bytes = lua_tolstring(p->from, index, &length);
    if (length > SHORT_MAX)
        return put_long(p, index);
    if (length > LUA_INSIDE_INTERNED_MAX || p->parcel->keys == KEYS_MAX)
        return put_string(&m->values, bytes, length) ? PUT_WHOLE : PUT_NO_MEMORY;
    char *to = room_take(&m->values, 3 + length);
    if (to == NULL)
        return PUT_NO_MEMORY;
    to[0] = TAG_KEY;
    to[1] = 0;
    to[2] = (char)length;
    memcpy(to + 3, bytes, length);
    *place = (unsigned char)p->parcel->keys++;
    m->keys[*place] = (struct key){pointer, (size_t)(to + 1 - m->values.start)};
    return PUT_WHOLE;
}

/* A string that is a key; interned ones are told by their addresses. */
static inline enum put put_key_string(struct packing *p, int index)
{
    struct parcel_memory *m = p->memory;
    const void *pointer = lua_topointer(p->from, index);
    unsigned char *place = &m->key_places[random_hash_address(pointer) % KEY_PLACES];
    const struct key *key = &m->keys[*place];
    if (*place >= p->parcel->keys || key->pointer != pointer)
        return put_new_key(p, index, pointer, place);
    char *number = m->values.start + key->number;
    if (*number == 0)
        *number = (char)++p->parcel->kept_keys;
    return put_bytes(&m->values, TAG_KEY_AGAIN, &(char){*number}, 1) ? PUT_WHOLE : PUT_NO_MEMORY;
}

/* Pushes the name of the class of the table on top of the stack, if it has a metatable.
 * [-0, +(0|1), -] */
static enum put push_class(struct packing *p)
{
    if (!lua_getmetatable(p->from, -1))
        return PUT_WHOLE;
    class_get_name(p->from);
    if (lua_type(p->from, -1) == LUA_TSTRING)
        return PUT_BEGUN;
    return refuse(p,
                  "table with a metatable: give that a name by mtstates.class, in both Lua states");
}

/* Its header; the name of its class is on top of the stack, if there is one. [-(0|1), +0, -] */
static bool put_header(struct packing *p, bool is_classed)
{
    const struct table_header h = {0};
    if (!put_bytes(&p->memory->values, is_classed ? TAG_CLASSED : TAG_TABLE, &h, sizeof h))
        return false;
    if (is_classed) {
        if (put_key_string(p, -1) != PUT_WHOLE)
            return false;
        lua_pop(p->from, 1);
        p->parcel->classed++;
    }
    return true;
}

enum { SLOTS_PER_TABLE = 3, TABLES_AT_A_TIME = 16 };

/* Slots for one more table, and for what is done with it. */
static enum put take_slots(struct packing *p)
{
    if (lua_checkstack(p->from, SLOTS_PER_TABLE * TABLES_AT_A_TIME + LUA_MINSTACK)) {
        p->depth_max = p->depth + TABLES_AT_A_TIME;
        return PUT_WHOLE;
    }
    if (lua_gettop(p->from) < LUA_INSIDE_MANY_VALUES)
        return PUT_NO_MEMORY;
    return refuse(p, p->depth > 0 ? "nested too deep for Lua's stack"
                                  : "there are too many values for Lua's stack");
}

/* The table on top of the stack, of which a level begins. [-0, +0, -] */
static enum put put_table(struct packing *p)
{
    size_t header = p->memory->values.used + 1;
    enum put class = push_class(p);
    if (class == PUT_REFUSED)
        return class;
    struct level *l = (struct level *)(void *)room_take(&p->memory->levels, sizeof *l);
    if (l == NULL || !put_header(p, class == PUT_BEGUN))
        return PUT_NO_MEMORY;
    *l = (struct level){.header = header};
    if (++p->depth > p->parcel->depth) {
        p->parcel->depth = p->depth;
        p->parcel->deepest = p->refusal->number;
    }
    return PUT_BEGUN;
}

/* The value on top of the stack, which is not plain. [-0, +0, -] */
static enum put __attribute__((noinline)) put_object(struct packing *p, int type)
{
    if (type == LUA_TSTRING)
        return put_long(p, -1);
    if (type == LUA_TTHREAD)
        return refuse_type(p, "thread", "make the coroutine inside");
    const void *pointer = lua_topointer(p->from, -1);
    uint32_t place = find_place(p, pointer);
    const struct object *before = find_object(p, place);
    if (before != NULL)
        return put_again(p, before);
    enum put slots = p->depth < p->depth_max ? PUT_WHOLE : take_slots(p);
    if (slots != PUT_WHOLE)
        return slots;
    if (!note_object(p, pointer, place))
        return PUT_NO_MEMORY;
    switch (type) {
    case LUA_TTABLE:
        return put_table(p);
    case LUA_TFUNCTION:
        return put_function(p, lua_gettop(p->from));
    default:
        return put_userdata(p);
    }
}

/* The same, of any type. [-0, +0, -] */
static inline __attribute__((always_inline)) enum put put(struct packing *p)
{
    int type = lua_type(p->from, -1);
    switch (put_plain(&p->memory->values, p->from, -1, type)) {
    case CROSSING_DONE:
        return PUT_WHOLE;
    case CROSSING_NEEDS_MEMORY:
        return PUT_NO_MEMORY;
    default:
        return put_object(p, type);
    }
}

/*
 * If the number that is the key below the value on top of the stack goes on with the array part,
 * how many nils come before it; else -1. Lua's traversal gives array parts in their order; if it
 * did not, keys would only be written as such. Nils are kept where Lua would have, or has, the key
 * in the array part, too, so that `#` gives the same; if they are few, since it is not known to be
 * there. [-0, +0, -]
 */
static inline lua_Integer nils_before(const struct packing *p, const struct level *l)
{
    enum { FEW = 64 };
    int is_integer;
    lua_Integer key = lua_tointegerx(p->from, -2, &is_integer);
    lua_Integer next = (lua_Integer)l->array + 1;
    if (l->pairs > 0 || !is_integer || key < next || key >= INT_MAX)
        return -1;
    bool is_in_array = key == next || l->present + 1 > (lua_Unsigned)key / 2 ||
                       (key - next <= FEW && (lua_Unsigned)key <= lua_rawlen(p->from, -3));
    return is_in_array ? key - next : -1;
}

static bool put_nils(struct packing *p, struct level *l, lua_Integer count)
{
    char *to = room_take(&p->memory->values, (size_t)count);
    if (to == NULL)
        return false;
    memset(to, TAG_NIL, (size_t)count);
    l->array += (uint32_t)count;
    return true;
}

/* The key below the value on top of the stack, no string. PUT_BEGUN: a copy of it is on top.
 * [-0, +(0|1), -] */
static enum put __attribute__((noinline)) put_key(struct packing *p, struct level *l)
{
    size_t depth = p->depth;
    l->in_key = true;
    lua_pushvalue(p->from, -2);
    enum put result = put(p);
    if (result == PUT_WHOLE) {
        levels(p)[depth - 1].in_key = false;
        lua_pop(p->from, 1);
    }
    return result;
}

/* The entry of the innermost table whose value is on top of the stack, its key below.
 * [-0, +(0|1), -] */
static inline enum put put_entry(struct packing *p, struct level *l)
{
    int type = lua_type(p->from, -2);
    lua_Integer nils = type == LUA_TNUMBER ? nils_before(p, l) : -1;
    enum put result = PUT_WHOLE;
    if (nils < 0) {
        l->pairs++;
        result = type == LUA_TSTRING ? put_key_string(p, -2) : put_key(p, l);
    } else {
        if (__builtin_expect(nils > 0, 0) && !put_nils(p, l, nils))
            return PUT_NO_MEMORY;
        l->array++;
        l->present++;
    }
    return result == PUT_WHOLE ? put(p) : result;
}

/* The innermost table is packed. */
static void end_level(struct packing *p)
{
    struct table_header h;
    const struct level *l = innermost(p);
    char *header = p->memory->values.start + l->header;
    memcpy(&h, header, sizeof h);
    h.array = l->array;
    h.pairs = l->pairs;
    memcpy(header, &h, sizeof h);
    p->memory->levels.used -= sizeof *l;
    p->depth--;
}

/* What is on top of the stack has been packed; it was a table. If it was a key, so is its value.
 * [-(0|1), +0, -] */
static enum put __attribute__((noinline)) put_rest_of_entry(struct packing *p)
{
    struct level *l = innermost(p);
    if (!l->in_key)
        return PUT_WHOLE;
    l->in_key = false;
    lua_pop(p->from, 1);
    return put(p);
}

/* The tables that have been begun; the innermost is on top of the stack. [-0, +0, -] */
static enum put put_entries(struct packing *p)
{
    lua_State *L = p->from;
    enum put result = PUT_BEGUN;
    do {
        struct level *l = innermost(p);
        if (result == PUT_BEGUN)
            lua_pushnil(L);
        else
            lua_pop(L, 1);
        result = PUT_WHOLE;
        while (lua_next(L, -2) && (result = put_entry(p, l)) == PUT_WHOLE)
            lua_pop(L, 1);
        if (result == PUT_WHOLE) {
            end_level(p);
            result = p->depth > 0 ? put_rest_of_entry(p) : PUT_WHOLE;
        }
    } while (p->depth > 0 && (result == PUT_WHOLE || result == PUT_BEGUN));
    return result;
}

/* A value with all that is in it. [-0, +?, -] */
static enum put put_whole(struct packing *p, int index)
{
    int type = lua_type(p->from, index);
    enum crossing crossing = put_plain(&p->memory->values, p->from, index, type);
    if (crossing != CROSSING_REFUSED)
        return crossing == CROSSING_DONE ? PUT_WHOLE : PUT_NO_MEMORY;
    if (type == LUA_TSTRING)
        return put_long(p, index);
    enum put result = p->depth < p->depth_max ? PUT_WHOLE : take_slots(p);
    if (result != PUT_WHOLE)
        return result;
    lua_pushvalue(p->from, index);
    result = put_object(p, type);
    if (result == PUT_BEGUN)
        result = put_entries(p);
    if (result == PUT_WHOLE)
        lua_pop(p->from, 1);
    return result;
}

/* One long function may be there as thousands of closures, each of which takes all its code here;
 * short strings, too, take more than their slots. */
enum { MOST_TIMES_LIMIT = 16 };

static size_t most_bytes(lua_State *from)
{
    void *ud;
    bool is_state = lua_getallocf(from, &ud) == arena_resize;
    size_t limit = is_state ? ((const struct arena *)ud)->limit : ARENA_NO_LIMIT;
    return limit < ROOM_MOST / MOST_TIMES_LIMIT ? MOST_TIMES_LIMIT * limit : ROOM_MOST;
}

static enum put refuse_size(struct packing *p)
{
    refusal_begin(p->refusal);
    refusal_add(p->refusal, "takes more than %d times its state's memory_limit", MOST_TIMES_LIMIT);
    return PUT_REFUSED;
}

enum crossing parcel_pack(struct parcel *p, lua_State *from, int first, int last, struct refusal *r)
{
    int top = lua_gettop(from);
    struct packing packing = {
        .parcel = p, .memory = p->memory, .from = from, .refusal = r, .first = top + 1};
    enum put result = p->memory != NULL ? PUT_WHOLE : PUT_NO_MEMORY;
    if (result == PUT_WHOLE)
        p->memory->values.most = most_bytes(from);
    for (int i = first; i <= last && result == PUT_WHOLE; i++) {
        r->number = ++p->count;
        result = put_whole(&packing, i);
    }
    if (result == PUT_WHOLE)
        return CROSSING_DONE;
    lua_settop(from, top);
    if (result == PUT_NO_MEMORY && p->memory != NULL && p->memory->values.wants_more)
        result = refuse_size(&packing);
    return result == PUT_REFUSED ? CROSSING_REFUSED : CROSSING_NEEDS_MEMORY;
}
