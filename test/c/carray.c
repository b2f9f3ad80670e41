/*
 * A module as `carray` is, for tests where that is not installed: arrays of C numbers that offer
 * the Carray C API 1.0.0, as another module would write it.
 *
 *   carray.new(type, count)   of zeros; type: a number of the interface's
 *   carray.read_only(a)       another array, a copy of it that refuses to be written
 *   carray.alive()            so many arrays there are, in all Lua states
 *   carray.refuse(yes)        from now on arrays are made over no elements of others
 *   #a, a:get(i), a:set(i, number), a:shorten(count), a:close()
 *   a == b                    they have the same elements
 */
#include <lauxlib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "carray.h"

typedef void (*release_function)(void *elements, size_t count);

struct array {
    atomic_size_t references;
    int type, attributes;
    size_t count;
    void *elements;
    release_function release; /* NULL: the elements are its own */
};

struct info {
    int type, attributes;
    size_t element_size, count, capacity;
};

static const char type_name[] = "carray";
static atomic_long alive;
static atomic_bool refuses;

static size_t size_of(int type)
{
    static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 8, 8};
    return type >= 1 && type <= 12 ? sizes[type - 1] : 0;
}

static void push_metatable(lua_State *L);

/* ---- the interface ---- */

static void retain(const struct array *a)
{
    ((struct array *)a)->references++;
}

static void release(const struct array *array)
{
    struct array *a = (struct array *)array;
    if (--a->references > 0)
        return;
    if (a->release != NULL)
        a->release(a->elements, a->count);
    else
        free(a->elements);
    free(a);
    alive--;
}

static struct array *make(lua_State *L, int type, int attributes, size_t count, void *elements,
                          release_function on_release)
{
    size_t size = size_of(type);
    if (size == 0)
        return NULL;
    struct array **u = lua_newuserdatauv(L, sizeof *u, 0);
    *u = NULL;
    push_metatable(L);
    lua_setmetatable(L, -2);
    struct array *a = calloc(1, sizeof *a);
    if (a != NULL && on_release == NULL)
        elements = calloc(count + 1, size);
    if (a == NULL || elements == NULL) {
        free(a);
        luaL_error(L, "not enough memory for an array");
    }
    *a = (struct array){1, type, attributes, count, elements, on_release};
    alive++;
    *u = a;
    return a;
}

static struct array *new_array(lua_State *L, int type, int attributes, size_t count,
                               void **elements)
{
    struct array *a = make(L, type, attributes, count, NULL, NULL);
    if (a != NULL && elements != NULL)
        *elements = a->elements;
    return a;
}

static struct array *new_reference(lua_State *L, int type, int attributes, void *elements,
                                   size_t count, release_function on_release)
{
    return refuses ? NULL : make(L, type, attributes, count, elements, on_release);
}

static const struct array *to_readable(lua_State *L, int index, struct info *info)
{
    struct array **u = luaL_testudata(L, index, type_name);
    if (u == NULL || *u == NULL)
        return NULL;
    const struct array *a = *u;
    *info = (struct info){a->type, a->attributes, size_of(a->type), a->count, a->count};
    return a;
}

static struct array *to_writable(lua_State *L, int index, struct info *info)
{
    const struct array *a = to_readable(L, index, info);
    return a != NULL && a->attributes == 0 ? (struct array *)a : NULL;
}

static const void *readable_elements(const struct array *a, size_t offset, size_t count)
{
    if (count == 0 || offset + count > a->count)
        return NULL;
    return (char *)a->elements + offset * size_of(a->type);
}

static void *writable_elements(struct array *a, size_t offset, size_t count)
{
    return a->attributes == 0 ? (void *)readable_elements(a, offset, count) : NULL;
}

static const struct {
    int major, minor, patch;
    void *next;
    struct array *(*new)(lua_State *, int, int, size_t, void **);
    struct array *(*new_reference)(lua_State *, int, int, void *, size_t, release_function);
    const struct array *(*to_readable)(lua_State *, int, struct info *);
    struct array *(*to_writable)(lua_State *, int, struct info *);
    void (*retain)(const struct array *);
    void (*release)(const struct array *);
    void *(*writable_elements)(struct array *, size_t, size_t);
    const void *(*readable_elements)(const struct array *, size_t, size_t);
} api = {1,           0,           0,      NULL,    new_array,         new_reference,
         to_readable, to_writable, retain, release, writable_elements, readable_elements};

/* ---- for Lua ---- */

static struct array *check(lua_State *L)
{
    struct array **u = luaL_checkudata(L, 1, type_name);
    luaL_argcheck(L, *u != NULL, 1, "closed");
    return *u;
}

static char *check_element(lua_State *L, const struct array *a)
{
    lua_Integer i = luaL_checkinteger(L, 2);
    luaL_argcheck(L, i >= 1 && (lua_Unsigned)i <= a->count, 2, "no such element");
    return (char *)a->elements + (size_t)(i - 1) * size_of(a->type);
}

static int array_new(lua_State *L)
{
    size_t count = (size_t)luaL_checkinteger(L, 2);
    if (new_array(L, (int)luaL_checkinteger(L, 1), 0, count, NULL) == NULL)
        return luaL_argerror(L, 1, "no such type");
    return 1;
}

static int array_read_only(lua_State *L)
{
    const struct array *a = check(L);
    struct array *copy = make(L, a->type, 1, a->count, NULL, NULL);
    memcpy(copy->elements, a->elements, a->count * size_of(a->type));
    return 1;
}

/* Of all types only int (5) and double (10). */
static int array_get(lua_State *L)
{
    const struct array *a = check(L);
    const char *element = check_element(L, a);
    if (a->type == 5)
        lua_pushinteger(L, *(const int *)(const void *)element);
    else
        lua_pushnumber(L, *(const double *)(const void *)element);
    return 1;
}

static int array_set(lua_State *L)
{
    struct array *a = check(L);
    char *element = check_element(L, a);
    luaL_argcheck(L, a->attributes == 0, 1, "read-only");
    if (a->type == 5)
        *(int *)(void *)element = (int)luaL_checkinteger(L, 3);
    else
        *(double *)(void *)element = luaL_checknumber(L, 3);
    return 0;
}

static int array_count(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check(L)->count);
    return 1;
}

/* Does not move what is there, but tells whoever has lent it of fewer. */
static int array_shorten(lua_State *L)
{
    struct array *a = check(L);
    size_t count = (size_t)luaL_checkinteger(L, 2);
    luaL_argcheck(L, count <= a->count, 2, "longer");
    a->count = count;
    return 0;
}

static int array_equals(lua_State *L)
{
    struct array **other = luaL_checkudata(L, 2, type_name);
    const struct array *a = check(L), *b = *other;
    bool same = b != NULL && (a->count > 0 ? a->elements == b->elements : b->count == 0);
    lua_pushboolean(L, same);
    return 1;
}

static int array_text(lua_State *L)
{
    const struct array *a = check(L);
    lua_pushfstring(L, "carray: %p", a->count > 0 ? a->elements : NULL);
    return 1;
}

static int array_close(lua_State *L)
{
    struct array **u = luaL_checkudata(L, 1, type_name);
    if (*u != NULL)
        release(*u);
    *u = NULL;
    return 0;
}

static int arrays_alive(lua_State *L)
{
    lua_pushinteger(L, alive);
    return 1;
}

static int arrays_refuse(lua_State *L)
{
    refuses = lua_toboolean(L, 1);
    return 0;
}

/* The metatable on top of the stack, and the module, both offer the interface. */
static void offer(lua_State *L)
{
    static const char id[] = "_capi_carray";
    const void *pointer = &api;
    char *u = lua_newuserdatauv(L, sizeof pointer + sizeof id, 0);
    memcpy(u, &pointer, sizeof pointer);
    memcpy(u + sizeof pointer, id, sizeof id);
    lua_setfield(L, -2, id);
}

static void push_metatable(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"get", array_get},         {"shorten", array_shorten}, {"set", array_set},
        {"close", array_close},     {"__len", array_count},     {"__eq", array_equals},
        {"__tostring", array_text}, {"__gc", array_close},      {NULL, NULL}};
    if (!luaL_newmetatable(L, type_name))
        return;
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    offer(L);
}

int luaopen_carray(lua_State *L)
{
    static const luaL_Reg functions[] = {{"new", array_new},
                                         {"read_only", array_read_only},
                                         {"alive", arrays_alive},
                                         {"refuse", arrays_refuse},
                                         {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_createtable(L, 0, 1);
    offer(L);
    lua_setmetatable(L, -2);
    return 1;
}
