#define _GNU_SOURCE /* dladdr */
#include "carray.h"

#include "lua_inside.h"
#include "sync/random.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAJOR = 1, MINOR = 0 };

/* ---- the interface ---- */

static const char field[] = "_capi_carray";
static const char field_key = 0; /* into a registry: the same as a string of Lua's */

void carray_open(lua_State *L)
{
    lua_pushstring(L, field);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &field_key);
}

/* Of the value on top of the stack. [-0, +0, -] */
static const struct carray_api *offered(lua_State *L)
{
    const struct carray_api *api = NULL;
    const char *u = lua_type(L, -1) == LUA_TUSERDATA ? lua_touserdata(L, -1) : NULL;
    if (u == NULL || lua_rawlen(L, -1) < sizeof api + sizeof field ||
        memcmp(u + sizeof api, field, sizeof field) != 0)
        return NULL;
    memcpy(&api, u, sizeof api);
    while (api != NULL && (api->version_major != MAJOR || api->version_minor < MINOR))
        api = api->next;
    return api;
}

const struct carray_api *carray_api(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index))
        return NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &field_key);
    lua_rawget(L, -2);
    const struct carray_api *api = offered(L);
    lua_pop(L, 2);
    return api;
}

size_t carray_element_size(int type)
{
    static const size_t sizes[] = {0,
                                   sizeof(char),
                                   sizeof(char),
                                   sizeof(short),
                                   sizeof(short),
                                   sizeof(int),
                                   sizeof(int),
                                   sizeof(long),
                                   sizeof(long),
                                   sizeof(float),
                                   sizeof(double),
                                   sizeof(long long),
                                   sizeof(long long)};
    return type >= 0 && (size_t)type < sizeof sizes / sizeof *sizes ? sizes[type] : 0;
}

/*
 * Keeps the array's library in memory for good: its code is needed where an array is freed, when
 * the Lua state that loaded it may be gone. What is no library that could be opened once more is
 * the program itself, and stays. Outside of the mutex, since libraries run code of theirs under the
 * loader's lock.
 */
static void pin_library(const struct carray_api *api)
{
    static _Atomic(const struct carray_api *) pinned; /* relaxed: twice does no harm */
    Dl_info info;
    if (atomic_load_explicit(&pinned, memory_order_relaxed) == api)
        return;
    if (dladdr(api, &info) != 0)
        dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    atomic_store_explicit(&pinned, api, memory_order_relaxed);
}

/* ---- elements that are shared, in a table by their address: under the mutex ---- */

struct carray_elements {
    struct carray_elements *next; /* in the bucket */
    void *start;
    const struct carray_api *api;
    const struct carray *array; /* which keeps them; a reference */
    size_t references;          /* of arrays over them, and of parcels */
};

enum { FIRST_BUCKETS = 64 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct carray_elements *first_buckets[FIRST_BUCKETS];
static struct carray_elements **buckets = first_buckets;
static size_t bucket_count = FIRST_BUCKETS; /* a power of two */
static size_t elements_count;

/* Where they are linked, or would be. */
static struct carray_elements **find(const void *start)
{
    struct carray_elements **link = &buckets[random_hash_address(start) & (bucket_count - 1)];
    while (*link != NULL && (*link)->start != start)
        link = &(*link)->next;
    return link;
}

static void link_elements(struct carray_elements *e)
{
    struct carray_elements **link = find(e->start);
    e->next = NULL;
    *link = e;
}

/* Twice as many buckets; without memory the chains get longer. */
static void grow(void)
{
    struct carray_elements **old = buckets, **grown = calloc(2 * bucket_count, sizeof *grown);
    if (grown == NULL)
        return;
    size_t old_count = bucket_count;
    buckets = grown;
    bucket_count = 2 * old_count;
    for (size_t i = 0; i < old_count; i++)
        for (struct carray_elements *e = old[i], *next; e != NULL; e = next) {
            next = e->next;
            link_elements(e);
        }
    if (old != first_buckets)
        free(old);
}

static void add(struct carray_elements *e)
{
    if (elements_count == bucket_count)
        grow();
    link_elements(e);
    elements_count++;
}

/* The last to go takes a table that has grown along. */
static void take_out(struct carray_elements *e)
{
    *find(e->start) = e->next;
    if (--elements_count > 0 || buckets == first_buckets)
        return;
    free(buckets);
    memset(first_buckets, 0, sizeof first_buckets);
    buckets = first_buckets;
    bucket_count = FIRST_BUCKETS;
}

static void free_elements(struct carray_elements *e)
{
    e->api->release(e->array);
    free(e);
}

static void retain(struct carray_elements *e)
{
    pthread_mutex_lock(&mutex);
    e->references++;
    pthread_mutex_unlock(&mutex);
}

/* A reference to those that are there already, or to `fresh`, which may be NULL. */
static struct carray_elements *find_or_add(void *start, struct carray_elements *fresh)
{
    pthread_mutex_lock(&mutex);
    struct carray_elements *e = *find(start);
    if (e == NULL && fresh != NULL)
        add(e = fresh);
    if (e != NULL)
        e->references++;
    pthread_mutex_unlock(&mutex);
    return e;
}

/* One reference less of `e`, or, if that is NULL, of those at `start`. */
static void release(struct carray_elements *e, const void *start)
{
    pthread_mutex_lock(&mutex);
    if (e == NULL)
        e = *find(start);
    bool is_last = e != NULL && --e->references == 0;
    if (is_last)
        take_out(e);
    pthread_mutex_unlock(&mutex);
    if (is_last)
        free_elements(e);
}

void carray_fork_begin(void)
{
    pthread_mutex_lock(&mutex);
}

void carray_fork_end(void)
{
    pthread_mutex_unlock(&mutex);
}

/* ---- crossing ---- */

void carray_release(struct carray_elements *e)
{
    if (e != NULL)
        release(e, NULL);
}

/* An array that has crossed is freed; its module may have made it shorter. */
static void on_release(void *start, size_t count)
{
    (void)count;
    release(NULL, start);
}

/* Of that array, which the caller keeps meanwhile. NULL: out of memory. */
static struct carray_elements *share(const struct carray_api *api, const struct carray *array,
                                     void *start)
{
    struct carray_elements *known = find_or_add(start, NULL);
    if (known != NULL)
        return known;
    struct carray_elements *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return NULL;
    *fresh = (struct carray_elements){.start = start, .api = api, .array = array};
    api->retain(array);
    known = find_or_add(start, fresh);
    if (known != fresh)
        free_elements(fresh);
    return known;
}

enum crossing carray_take(lua_State *L, int index, struct carray_crossing *c)
{
    struct carray_info info = {0};
    const struct carray_api *api = carray_api(L, index);
    const struct carray *array = api != NULL ? api->to_readable(L, index, &info) : NULL;
    if (array == NULL)
        return CROSSING_REFUSED;
    *c = (struct carray_crossing){
        .api = api, .count = info.count, .type = info.type, .attributes = info.attributes};
    pin_library(api);
    if (c->count == 0)
        return CROSSING_DONE;
    c->start = (void *)(uintptr_t)api->readable_elements(array, 0, c->count);
    if (c->start == NULL)
        return CROSSING_REFUSED;
    c->elements = share(api, array, c->start);
    return c->elements != NULL ? CROSSING_DONE : CROSSING_NEEDS_MEMORY;
}

/* The collector knows a few bytes of each array. */
static void weigh(lua_State *L, const struct carray_crossing *c)
{
    size_t kilobytes = c->count * carray_element_size(c->type) / 1024;
    if (kilobytes > 0 && lua_gc(L, LUA_GCISRUNNING) == 1)
        lua_inside_step(L, kilobytes < INT_MAX / 1024 ? (int)kilobytes : INT_MAX / 1024);
}

bool carray_push(lua_State *L, const struct carray_crossing *c, struct carray_elements **held)
{
    if (c->count == 0) /* there is no address to find them by */
        return c->api->make(L, c->type, c->attributes, 0, NULL) != NULL;
    retain(*held = c->elements);
    if (c->api->make_reference(L, c->type, c->attributes, c->start, c->count, on_release) == NULL)
        return false;
    *held = NULL;
    weigh(L, c);
    return true;
}
