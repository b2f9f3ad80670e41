/*
 * Unpacking: makes the values anew in the receiver, in a protected call of it. Tables are as large
 * from the beginning as they get. Their metatables come last, when all are whole: so no finalizer
 * sees one that is not, and a weak table loses nothing on the way.
 */
#include "parcel_inside.h"

#include "class.h"
#include "lua_inside.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>

/* A table that is being filled. Its slot is on the stack, and above it its key, where one waits for
 * its value. */
struct filling {
    int next;  /* index of the array part, from 1 */
    int array; /* the last one */
    uint32_t pairs;
    bool has_key;
};

enum { FEW_FILLINGS = 16 };

/* On the stack: the unpacking; and above it, by their number, the keys that come again. */
enum { SLOT_UNPACKING = 1, SLOT_KEYS = SLOT_UNPACKING };

/* One run. */
struct unpacking {
    const struct parcel *parcel;
    struct refusal *refusal;
    const char *in;
    struct filling *fillings; /* as many as tables are in tables, and one */
    lua_State *to;
    struct carray_elements *held; /* to be released after an error */
    int values;                   /* index below the first value */
    int objects;                  /* index of the list of objects that have a number; none: 0 */
    int classed;                  /* of the one of tables and their metatables in turn */
    lua_Integer tables;           /* in that one */
    int status;                   /* of an error of this file: LUA_ERRRUN, or LUA_ERRMEM */
};

/* ---- errors ---- */

static int raise(struct unpacking *u, int status)
{
    u->status = status;
    lua_settop(u->to, 0);
    lua_pushnil(u->to);
    return lua_error(u->to);
}

/*
 * Where the unpacking is: the table that the last of so many fillings is for comes next. On the
 * stack each has its key above it, where one waits for its value; keys of array parts are pushed on
 * top. [-0, +?, -]
 */
static void find_path(struct unpacking *u, size_t fillings, struct refusal_path *path)
{
    int slot = u->values + u->refusal->number;
    refusal_path_begin(path, fillings);
    for (size_t i = 0; i < fillings; i++) {
        const struct filling *f = &u->fillings[1 + i];
        bool in_array = f->next <= f->array;
        if (in_array && (i < REFUSAL_ENDS || i >= fillings - REFUSAL_ENDS))
            lua_pushinteger(u->to, f->next);
        refusal_path_add(path, in_array ? lua_gettop(u->to) : slot + 1, !in_array && !f->has_key);
        slot += f->has_key ? 2 : 1;
    }
}

/* The receiver does not know the class whose name is on top of the stack, of the table below. */
static int raise_class(struct unpacking *u, size_t fillings)
{
    struct refusal_path path;
    size_t length;
    const char *name = lua_tolstring(u->to, -1, &length);
    find_path(u, fillings, &path);
    refusal_begin_at(u->refusal, u->to, &path);
    refusal_add(u->refusal, "the receiver has no class ");
    refusal_add_quoted(u->refusal, name, length);
    refusal_add(u->refusal, ": give a metatable that name there, by mtstates.class");
    return raise(u, LUA_ERRRUN);
}

/* A value is refused, wherever it is in the one that has the refusal's number. */
static int raise_refusal(struct unpacking *u, const char *why)
{
    refusal_begin(u->refusal);
    refusal_add(u->refusal, "%s", why);
    return raise(u, LUA_ERRRUN);
}

/* The slots that all of it takes, and those for what is done on top. [-0, +0, v] */
static void take_slots(struct unpacking *u)
{
    enum { LISTS = 2, ON_TOP = 14 };
    const struct parcel *p = u->parcel;
    size_t slots = p->kept_keys + 2 * p->depth + (size_t)p->count + LISTS;
    if (slots + ON_TOP < LUA_MINSTACK)
        return;
    if (slots < INT_MAX / 2 && lua_checkstack(u->to, (int)slots + ON_TOP))
        return;
    if (slots < LUA_INSIDE_MANY_VALUES)
        raise(u, LUA_ERRMEM);
    bool is_deep = 2 * p->depth > (size_t)p->count;
    u->refusal->number = is_deep ? p->deepest : p->count;
    raise_refusal(
        u, is_deep ? "nested too deep for the stack of the Lua state that it goes to"
                   : "there are too many values for the stack of the Lua state that they go to");
}

/* ---- objects ---- */

/* The object on top of the stack may come again. [-0, +0, m] */
static void number_object(struct unpacking *u, object_number number)
{
    if (number == 0)
        return;
    lua_pushvalue(u->to, -1);
    lua_rawseti(u->to, u->objects, number);
}

static void push_again(struct unpacking *u)
{
    object_number number;
    get_bytes(&u->in, &number, sizeof number);
    lua_rawgeti(u->to, u->objects, number);
}

static void push_function(struct unpacking *u)
{
    struct function_header h;
    get_bytes(&u->in, &h, sizeof h);
    int status = luaL_loadbufferx(u->to, u->in, h.length, "=function", "b");
    if (status == LUA_ERRMEM)
        raise(u, LUA_ERRMEM);
    if (status != LUA_OK)
        lua_error(u->to);
    u->in += h.length;
    number_object(u, h.number);
}

static void push_handle(struct unpacking *u)
{
    struct handle_header h;
    get_bytes(&u->in, &h, sizeof h);
    parcel_push_handle(u->to, &h.handle);
    number_object(u, h.held.number);
}

static void push_array(struct unpacking *u)
{
    struct array_header h;
    get_bytes(&u->in, &h, sizeof h);
    if (!carray_push(u->to, &h.array, &u->held))
        raise_refusal(u, "its module does not make this array anew");
    number_object(u, h.held.number);
}

/* The interface of the receiver's module carray, if that has been required. [-0, +0, m] */
static const struct carray_api *find_carray(lua_State *L)
{
    const struct carray_api *api = NULL;
    int top = lua_gettop(L);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushliteral(L, "carray");
    if (lua_istable(L, -2)) {
        lua_rawget(L, -2);
        api = carray_api(L, -1);
    }
    lua_settop(L, top);
    return api;
}

static void push_elements(struct unpacking *u)
{
    struct elements_header h;
    void *to = NULL;
    get_bytes(&u->in, &h, sizeof h);
    u->in += elements_gap((size_t)(u->in - u->parcel->memory->values.start));
    const struct carray_api *api = find_carray(u->to);
    if (api == NULL)
        raise_refusal(u, "an array takes the module carray: require that inside");
    if (api->make(u->to, h.type, 0, h.count, &to) == NULL)
        raise_refusal(u, "the module carray does not make this array");
    if (h.size > 0)
        memcpy(to, u->in, h.size);
    u->in += h.size;
}

static void push_long(struct unpacking *u)
{
    struct string_header h;
    get_bytes(&u->in, &h, sizeof h);
    get_string(&u->in, h.length, u->to);
    number_object(u, h.number);
}

static void push_key(struct unpacking *u)
{
    int number = (unsigned char)u->in[0];
    size_t length = (unsigned char)u->in[1];
    u->in += 2;
    get_string(&u->in, length, u->to);
    if (number != 0)
        lua_copy(u->to, -1, SLOT_KEYS + number);
}

static void push_key_again(struct unpacking *u)
{
    lua_pushvalue(u->to, SLOT_KEYS + (unsigned char)*u->in++);
}

static void push_string(struct unpacking *u);

/* The table on top of the stack, which `f` is to fill, is to have the metatable of the class that
 * is read next. [-0, +0, m] */
static void note_class(struct unpacking *u, const struct filling *f)
{
    lua_pushvalue(u->to, -1);
    lua_rawseti(u->to, u->classed, ++u->tables);
    push_string(u);
    lua_pushvalue(u->to, -1);
    class_get_metatable(u->to);
    if (lua_isnil(u->to, -1)) {
        lua_pop(u->to, 1);
        raise_class(u, (size_t)(f - u->fillings) - 1);
    }
    lua_rawseti(u->to, u->classed, ++u->tables);
    lua_pop(u->to, 1);
}

/* An empty table, which `f` is to fill. [-0, +1, m] */
static void push_table(struct unpacking *u, enum tag tag, struct filling *f)
{
    struct table_header h;
    get_bytes(&u->in, &h, sizeof h);
    lua_createtable(u->to, (int)h.array, h.pairs < INT_MAX ? (int)h.pairs : INT_MAX);
    number_object(u, h.number);
    if (tag == TAG_CLASSED)
        note_class(u, f);
    *f = (struct filling){.next = 1, .array = (int)h.array, .pairs = h.pairs};
}

/* ---- values ---- */

/* Pushes the next value. True: it is a table that `f` is to fill. [-0, +1, m] */
static inline __attribute__((always_inline)) bool push(struct unpacking *u, struct filling *f)
{
    enum tag tag = (enum tag) * u->in++;
    if (get_plain(&u->in, tag, u->to))
        return false;
    switch (tag) {
    case TAG_KEY:
        push_key(u);
        return false;
    case TAG_KEY_AGAIN:
        push_key_again(u);
        return false;
    case TAG_LONG:
        push_long(u);
        return false;
    case TAG_AGAIN:
        push_again(u);
        return false;
    case TAG_FUNCTION:
        push_function(u);
        return false;
    case TAG_HANDLE:
        push_handle(u);
        return false;
    case TAG_ARRAY:
        push_array(u);
        return false;
    case TAG_ELEMENTS:
        push_elements(u);
        return false;
    default:
        push_table(u, tag, f);
        return true;
    }
}

/* The value on top of the stack is whole, and goes where the table below has got to.
 * [-(0|1|2), +0, m] */
static inline void store(struct unpacking *u, struct filling *f)
{
    if (f->next <= f->array) {
        lua_rawseti(u->to, -2, f->next++);
    } else if (!f->has_key) {
        f->has_key = true;
    } else {
        f->has_key = false;
        f->pairs--;
        lua_rawset(u->to, -3);
    }
}

/* The next value is a string. [-0, +1, m] */
static void push_string(struct unpacking *u)
{
    push(u, NULL);
}

/* Goes on filling the table on top of the stack, or below its key, until it is whole; or until
 * there is one in it: true, and that is on top. [-(0|1), +(0|1), m] */
static bool fill(struct unpacking *u, struct filling *f)
{
    while (f->next <= f->array) {
        if (push(u, f + 1))
            return true;
        lua_rawseti(u->to, -2, f->next++);
    }
    while (f->pairs > 0) {
        if (!f->has_key && push(u, f + 1))
            return true;
        f->has_key = true;
        if (push(u, f + 1))
            return true;
        f->has_key = false;
        f->pairs--;
        lua_rawset(u->to, -3);
    }
    return false;
}

/* Pushes the next value with all that is in it. [-0, +1, m] */
static void push_whole(struct unpacking *u)
{
    struct filling *f = u->fillings; /* none yet; the first is the one after */
    if (!push(u, ++f))
        return;
    for (;;) {
        if (fill(u, f))
            f++;
        else if (--f == u->fillings)
            return;
        else
            store(u, f);
    }
}

/* A list that so many go into, if there are any; returns its index. [-0, +(0|1), m] */
static int push_list(struct unpacking *u, uint32_t count)
{
    if (count == 0)
        return 0;
    lua_createtable(u->to, (int)count, 0);
    return lua_gettop(u->to);
}

/* [-0, +0, -] */
static void set_metatables(struct unpacking *u)
{
    for (lua_Integer i = 1; i <= u->tables; i += 2) {
        lua_rawgeti(u->to, u->classed, i);
        lua_rawgeti(u->to, u->classed, i + 1);
        lua_setmetatable(u->to, -2);
        lua_pop(u->to, 1);
    }
}

/* (the unpacking) */
static int unpack(lua_State *to)
{
    struct unpacking *u = lua_touserdata(to, SLOT_UNPACKING);
    take_slots(u);
    if (u->parcel->kept_keys > 0)
        lua_settop(to, SLOT_KEYS + (int)u->parcel->kept_keys);
    u->objects = push_list(u, u->parcel->numbered);
    u->classed = push_list(u, 2 * u->parcel->classed);
    u->values = lua_gettop(to);
    for (int i = 1; i <= u->parcel->count; i++) {
        u->refusal->number = i;
        push_whole(u);
    }
    set_metatables(u);
    return u->parcel->count;
}

enum crossing parcel_unpack(const struct parcel *p, lua_State *to, int handler, struct refusal *r)
{
    struct filling few[FEW_FILLINGS];
    struct unpacking u = {
        .parcel = p, .refusal = r, .in = p->memory->values.start, .fillings = few, .to = to};
    if (p->depth + 2 > FEW_FILLINGS &&
        (u.fillings = malloc((p->depth + 2) * sizeof *u.fillings)) == NULL)
        return CROSSING_NEEDS_MEMORY;
    lua_pushcfunction(to, unpack);
    lua_pushlightuserdata(to, &u);
    int status = lua_pcall(to, 1, LUA_MULTRET, handler);
    if (u.fillings != few)
        free(u.fillings);
    carray_release(u.held);
    if (status == LUA_OK)
        return CROSSING_DONE;
    if (u.status == LUA_OK && status != LUA_ERRMEM)
        return CROSSING_ERROR;
    lua_pop(to, 1);
    return u.status == LUA_ERRRUN ? CROSSING_REFUSED : CROSSING_NEEDS_MEMORY;
}
