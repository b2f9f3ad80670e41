/*
 * What a parcel is made of; for those who pack and unpack.
 *
 * Values are written one after the other, each a tag and what belongs to it:
 *
 *   NIL FALSE TRUE
 *   SMALL                    an integer in 4 bytes
 *   INTEGER NUMBER POINTER   8 bytes
 *   SHORT                    length in one byte, bytes
 *   STRING                   length, bytes; where the room does not grow
 *   LONG                     struct string_header, bytes: elsewhere, an object like those below
 *   KEY                      a short string that is a key: number, length, bytes; one byte each
 *   KEY_AGAIN                number of such a string, in one byte
 *   TABLE                    struct table_header, `array` values, `pairs` times a key and a value
 *   CLASSED                  the same, with the class's name, a string, after the header
 *   FUNCTION                 struct function_header, the code
 *   HANDLE                   struct handle_header
 *   ARRAY                    struct array_header
 *   ELEMENTS                 struct elements_header, a gap, the elements: an array to be made anew
 *   AGAIN                    number of an object that has come already
 *
 * So a long string takes its bytes once, however often it occurs. Objects and keys that occur more
 * than once have a number, from 1; it is written where they first came when they come again, and is
 * 0 until then. So whoever unpacks keeps those, and Lua has to intern such a key once. `array`
 * values are those of the keys 1, 2, 3 ..., nils among them where there are few.
 */
#ifndef MTSTATES_PARCEL_INSIDE_H
#define MTSTATES_PARCEL_INSIDE_H

#include "carray.h"
#include "parcel.h"

#include <string.h>

enum tag {
    TAG_NIL,
    TAG_FALSE,
    TAG_TRUE,
    TAG_SMALL,
    TAG_INTEGER,
    TAG_NUMBER,
    TAG_POINTER,
    TAG_SHORT,
    TAG_STRING,
    TAG_LONG,
    TAG_KEY,
    TAG_KEY_AGAIN,
    TAG_TABLE,
    TAG_CLASSED,
    TAG_FUNCTION,
    TAG_HANDLE,
    TAG_ARRAY,
    TAG_ELEMENTS,
    TAG_AGAIN
};

/* Each header begins with one. */
typedef uint32_t object_number;

struct string_header {
    object_number number;
    size_t length;
};

struct table_header {
    object_number number;
    uint32_t array, pairs;
};

struct function_header {
    object_number number;
    size_t length; /* of its code */
};

/* Of what the parcel has references to. */
struct held_header {
    object_number number;
    size_t previous; /* where the held one before is; 0: there is none */
};

struct handle_header {
    struct held_header held;
    struct parcel_handle handle;
};

struct array_header {
    struct held_header held;
    struct carray_crossing array;
};

struct elements_header {
    int type;
    size_t count, size; /* size: bytes of all */
};

/* Elements begin where any C number may, in memory for any object. */
static inline size_t elements_gap(size_t used)
{
    enum { ALIGNMENT = _Alignof(max_align_t) };
    return (ALIGNMENT - used % ALIGNMENT) % ALIGNMENT;
}

/* ---- memory ---- */

/* Items in a row. `first` belongs to the memory's own block; what outgrows it is malloc'd. */
struct room {
    char *start;
    size_t used, size; /* bytes */
    char *first;       /* NULL: it does not grow */
    size_t most;       /* bytes that it grows to */
    bool wants_more;   /* than that */
};

#define ROOM_MOST (SIZE_MAX / 4)

/* So many bytes more, in a room that grows; false: out of memory, nothing changed. */
bool room_grow(struct room *r, size_t bytes);

/* The place for so many bytes more, or NULL: out of memory. */
static inline __attribute__((always_inline)) char *room_take(struct room *r, size_t bytes)
{
    bool is_full = r->size - r->used < bytes;
    if (__builtin_expect(is_full, 0) && (r->first == NULL || !room_grow(r, bytes)))
        return NULL;
    char *place = r->start + r->used;
    r->used += bytes;
    return place;
}

enum { SHORT_MAX = 255, KEYS_MAX = 255, KEY_PLACES = 256, FIRST_PLACES = 256 };

/* A string of the sender's that is a key. */
struct key {
    const void *pointer; /* Lua's */
    size_t number;       /* where it is */
};

/* An object of the sender's. */
struct object {
    const void *pointer; /* Lua's, which tells it from others */
    size_t header;       /* where it is */
    uint32_t place;
};

/* A table that is being packed. */
struct level {
    size_t header;    /* where it is */
    bool in_key;      /* the packing is in its key, or in something in that */
    uint32_t array;   /* values of the array part so far */
    uint32_t present; /* of these, not nil */
    uint32_t pairs;
};

/*
 * Packing needs to know which objects and which keys have come already. Both are found by their
 * pointer's hash: a place has an index; it is in use if the entry of that index exists and points
 * back. So places need no clearing: entries are forgotten by setting their count to 0.
 */
struct parcel_memory {
    struct room values;
    struct room key_bytes; /* for each key its length, in a byte, and its bytes */
    struct room objects;   /* struct object */
    struct room levels;    /* struct level */
    struct room places;    /* of objects: uint32_t, a power of two of them */
    struct key keys[KEYS_MAX];
    unsigned char key_places[KEY_PLACES];

    /* The first bytes of each room. */
    struct object first_objects[FIRST_PLACES / 2];
    struct level first_levels[16];
    uint32_t first_places[FIRST_PLACES];
    _Alignas(max_align_t) char first_values[16 * 1024];
};

/* ---- plain values ---- */

/* Writes a tag and a value's bytes. False: no room. */
static inline __attribute__((always_inline)) bool put_bytes(struct room *r, enum tag tag,
                                                            const void *bytes, size_t size)
{
    char *to = room_take(r, 1 + size);
    if (to == NULL)
        return false;
    *to = (char)tag;
    memcpy(to + 1, bytes, size);
    return true;
}

static inline __attribute__((always_inline)) bool put_long_string(struct room *r, const char *bytes,
                                                                  size_t length)
{
    char *to = room_take(r, 1 + sizeof length + length);
    if (to == NULL)
        return false;
    *to = TAG_STRING;
    memcpy(to + 1, &length, sizeof length);
    memcpy(to + 1 + sizeof length, bytes, length);
    return true;
}

static inline __attribute__((always_inline)) bool put_string(struct room *r, const char *bytes,
                                                             size_t length)
{
    if (length > SHORT_MAX)
        return put_long_string(r, bytes, length);
    char *to = room_take(r, 2 + length);
    if (to == NULL)
        return false;
    to[0] = TAG_SHORT;
    to[1] = (char)length;
    memcpy(to + 2, bytes, length);
    return true;
}

static inline __attribute__((always_inline)) bool put_number(struct room *r, lua_State *L,
                                                             int index)
{
    if (lua_isinteger(L, index)) {
        lua_Integer integer = lua_tointeger(L, index);
        int32_t small = (int32_t)integer;
        if (small == integer)
            return put_bytes(r, TAG_SMALL, &small, sizeof small);
        return put_bytes(r, TAG_INTEGER, &integer, sizeof integer);
    }
    lua_Number number = lua_tonumber(L, index);
    return put_bytes(r, TAG_NUMBER, &number, sizeof number);
}

/* Writes the plain value at `index`, of Lua's type `type`. CROSSING_REFUSED: it is none, or a long
 * string in a room that grows. [-0, +0, -] */
static inline __attribute__((always_inline)) enum crossing put_plain(struct room *r, lua_State *L,
                                                                     int index, int type)
{
    bool done;
    size_t length;
    const char *bytes;
    const void *pointer;
    switch (type) {
    case LUA_TNIL:
        done = put_bytes(r, TAG_NIL, "", 0);
        break;
    case LUA_TBOOLEAN:
        done = put_bytes(r, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE, "", 0);
        break;
    case LUA_TNUMBER:
        done = put_number(r, L, index);
        break;
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &length);
        if (length > SHORT_MAX && r->first != NULL)
            return CROSSING_REFUSED;
        done = put_string(r, bytes, length);
        break;
    case LUA_TLIGHTUSERDATA:
        pointer = lua_touserdata(L, index);
        done = put_bytes(r, TAG_POINTER, &pointer, sizeof pointer);
        break;
    default:
        return CROSSING_REFUSED;
    }
    return done ? CROSSING_DONE : CROSSING_NEEDS_MEMORY;
}

/* Reads `size` bytes. */
static inline void get_bytes(const char **in, void *bytes, size_t size)
{
    memcpy(bytes, *in, size);
    *in += size;
}

/* Pushes a string of that length. [-0, +1, m] */
static inline void get_string(const char **in, size_t length, lua_State *to)
{
    lua_pushlstring(to, *in, length);
    *in += length;
}

/* Pushes the plain value of which the tag has just been read. False: it is none. [-0, +(0|1), m] */
static inline bool get_plain(const char **in, enum tag tag, lua_State *to)
{
    int32_t small;
    lua_Integer integer;
    lua_Number number;
    void *pointer;
    size_t length;
    switch (tag) {
    case TAG_SMALL:
        get_bytes(in, &small, sizeof small);
        lua_pushinteger(to, small);
        return true;
    case TAG_NIL:
        lua_pushnil(to);
        return true;
    case TAG_FALSE:
    case TAG_TRUE:
        lua_pushboolean(to, tag == TAG_TRUE);
        return true;
    case TAG_INTEGER:
        get_bytes(in, &integer, sizeof integer);
        lua_pushinteger(to, integer);
        return true;
    case TAG_NUMBER:
        get_bytes(in, &number, sizeof number);
        lua_pushnumber(to, number);
        return true;
    case TAG_POINTER:
        get_bytes(in, &pointer, sizeof pointer);
        lua_pushlightuserdata(to, pointer);
        return true;
    case TAG_SHORT:
        length = (unsigned char)*(*in)++;
        get_string(in, length, to);
        return true;
    case TAG_STRING:
        get_bytes(in, &length, sizeof length);
        get_string(in, length, to);
        return true;
    default:
        return false;
    }
}

#endif
