#include "parcel_inside.h"

#include "sync/registry.h"

#include <lauxlib.h>
#include <stdlib.h>

/* ---- plain values ---- */

bool parcel_are_plain(lua_State *L, int first, int last)
{
    for (int i = first; i <= last; i++)
        if (lua_type(L, i) > LUA_TSTRING)
            return false;
    return true;
}

struct copy {
    lua_State *from;
    int first, last;
};

/* (the copy) */
static int copy(lua_State *to)
{
    const struct copy *c = lua_touserdata(to, 1);
    int count = c->last - c->first + 1;
    luaL_checkstack(to, count, "too many results");
    for (int i = c->first; i <= c->last; i++) {
        if (parcel_copy_plain(c->from, i, to) == CROSSING_NEEDS_MEMORY) {
            size_t length;
            const char *bytes = lua_tolstring(c->from, i, &length);
            lua_pushlstring(to, bytes, length);
        }
    }
    return count;
}

int parcel_copy_protected(lua_State *from, int first, int last, lua_State *to)
{
    struct copy c = {from, first, last};
    lua_pushcfunction(to, copy);
    lua_pushlightuserdata(to, &c);
    return lua_pcall(to, 1, LUA_MULTRET, 0);
}

/* Strings are what parcels of this kind are for, so they come first, and in one form. */
enum crossing parcel_pack_small(struct parcel_small *p, lua_State *from, int first, int last)
{
    struct room room = {.start = p->bytes, .size = sizeof p->bytes};
    for (int i = first; i <= last; i++) {
        enum crossing crossing;
        int type = lua_type(from, i);
        if (type == LUA_TSTRING) {
            size_t length;
            const char *bytes = lua_tolstring(from, i, &length);
            bool done = put_long_string(&room, bytes, length);
            crossing = done ? CROSSING_DONE : CROSSING_NEEDS_MEMORY;
        } else {
            crossing = put_plain(&room, from, i, type);
        }
        if (crossing != CROSSING_DONE)
            return crossing;
    }
    p->end = room.start + room.used;
    return CROSSING_DONE;
}

void parcel_unpack_small(const struct parcel_small *p, lua_State *to)
{
    for (const char *in = p->bytes; in < p->end;) {
        enum tag tag = (enum tag) * in++;
        if (tag == TAG_STRING)
            get_plain(&in, TAG_STRING, to);
        else
            get_plain(&in, tag, to);
    }
}

/* ---- memory: each thread keeps one, in which small parcels find all the room they need ---- */

static _Thread_local struct kept {
    struct parcel_memory *memory;
    struct thread_end at_end;
} kept THREAD_LOCAL_MODEL;

static void on_end(struct thread_end *e)
{
    (void)e;
    free(kept.memory);
    kept.memory = NULL;
}

static void room_init(struct room *r, void *first, size_t size)
{
    *r = (struct room){.start = first, .size = size, .first = first, .most = ROOM_MOST};
}

static void room_clear(struct room *r, size_t first_size)
{
    if (r->start == r->first)
        return;
    free(r->start);
    room_init(r, r->first, first_size);
}

bool room_grow(struct room *r, size_t bytes)
{
    if (r->used > r->most || bytes > r->most - r->used) {
        r->wants_more = true;
        return false;
    }
    size_t least = r->used + bytes, size = 2 * r->size < r->most ? 2 * r->size : r->most;
    if (size < least)
        size = least;
    char *grown = realloc(r->start == r->first ? NULL : r->start, size);
    if (grown == NULL)
        return false;
    if (r->start == r->first)
        memcpy(grown, r->first, r->used);
    r->start = grown;
    r->size = size;
    return true;
}

/* Cleared, for the places: whoever reads them should find something. */
static struct parcel_memory *memory_new(void)
{
    struct parcel_memory *m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    room_init(&m->values, m->first_values, sizeof m->first_values);
    room_init(&m->objects, m->first_objects, sizeof m->first_objects);
    room_init(&m->levels, m->first_levels, sizeof m->first_levels);
    room_init(&m->places, m->first_places, sizeof m->first_places);
    return m;
}

/* Back to what it was when it was new. */
static void memory_clear(struct parcel_memory *m)
{
    room_clear(&m->values, sizeof m->first_values);
    room_clear(&m->objects, sizeof m->first_objects);
    room_clear(&m->levels, sizeof m->first_levels);
    room_clear(&m->places, sizeof m->first_places);
    m->values.used = m->objects.used = m->levels.used = 0;
    m->values.most = ROOM_MOST;
    m->values.wants_more = false;
}

/* The thread keeps it if it has none, and if its end will be seen. */
static void memory_give_back(struct parcel_memory *m)
{
    memory_clear(m);
    kept.at_end.run = on_end;
    if (kept.memory == NULL && (kept.at_end.listed || thread_at_end(thread_self(), &kept.at_end)))
        kept.memory = m;
    else
        free(m);
}

void parcel_begin(struct parcel *p)
{
    *p = (struct parcel){.memory = kept.memory};
    if (__builtin_expect(p->memory != NULL, 1))
        kept.memory = NULL;
    else
        p->memory = memory_new();
}

static void drop_handle(const char *header)
{
    struct handle_header h;
    memcpy(&h, header, sizeof h);
    if (h.handle.owns)
        record_disown(h.handle.record, thread_self());
    record_release(h.handle.record);
}

static void drop_array(const char *header)
{
    struct array_header h;
    memcpy(&h, header, sizeof h);
    carray_release(h.array.elements);
}

static void drop_held(struct parcel *p)
{
    struct held_header h;
    for (size_t place = p->last_held; place != 0; place = h.previous) {
        const char *header = p->memory->values.start + place;
        memcpy(&h, header, sizeof h);
        if (header[-1] == TAG_HANDLE)
            drop_handle(header);
        else
            drop_array(header);
    }
    p->last_held = 0;
}

void parcel_end(struct parcel *p)
{
    if (p->memory == NULL)
        return;
    if (p->last_held != 0)
        drop_held(p);
    memory_give_back(p->memory);
    p->memory = NULL;
}
