#define _GNU_SOURCE /* dladdr */
#include "carray.h"

#include "lua_inside.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAJOR = 1, MINOR = 0 };

/* ---- the interface ---- */

const struct carray_api *carray_api(lua_State *L)
{
    const struct carray_api *api = NULL;
    const char *u = lua_type(L, -1) == LUA_TUSERDATA ? lua_touserdata(L, -1) : NULL;
    if (u == NULL || lua_rawlen(L, -1) < sizeof api + sizeof CARRAY_FIELD ||
        memcmp(u + sizeof api, CARRAY_FIELD, sizeof CARRAY_FIELD) != 0)
        return NULL;
    memcpy(&api, u, sizeof api);
    while (api != NULL && (api->version_major != MAJOR || api->version_minor < MINOR))
        api = api->next;
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

/* ---- elements that are shared: under the mutex ---- */

struct carray_elements {
    struct carray_elements *next; /* in the bucket */
    void *start;
    size_t count;
    const struct carray_api *api;
    const struct carray *array; /* which keeps them; a reference */
    size_t references;          /* of arrays over them, and of parcels */
};

enum { BUCKETS = 256 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct carray_elements *buckets[BUCKETS];

/* Where they are linked, or would be. */
static struct carray_elements **find(const void *start, size_t count)
{
    struct carray_elements **link = &buckets[lua_inside_hash(start) % BUCKETS];
    while (*link != NULL && ((*link)->start != start || (*link)->count != count))
        link = &(*link)->next;
    return link;
}

/* A reference to those that are there already, or to `fresh`, which may be NULL. */
static struct carray_elements *retain(void *start, size_t count, struct carray_elements *fresh)
{
    pthread_mutex_lock(&mutex);
    struct carray_elements **link = find(start, count);
    if (*link == NULL)
        *link = fresh;
    struct carray_elements *e = *link;
    if (e != NULL)
        e->references++;
    pthread_mutex_unlock(&mutex);
    return e;
}

static void free_elements(struct carray_elements *e)
{
    e->api->release(e->array);
    free(e);
}

void carray_release(struct carray_elements *e)
{
    if (e == NULL)
        return;
    pthread_mutex_lock(&mutex);
    bool is_last = --e->references == 0;
    if (is_last)
        *find(e->start, e->count) = e->next;
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

void *carray_elements(const struct carray_elements *e, size_t *count)
{
    *count = e != NULL ? e->count : 0;
    return e != NULL ? e->start : NULL;
}

/* Of that array, which the caller keeps meanwhile. NULL: out of memory. */
static struct carray_elements *share(const struct carray_api *api, const struct carray *array,
                                     void *start, size_t count)
{
    struct carray_elements *known = retain(start, count, NULL);
    if (known != NULL)
        return known;
    struct carray_elements *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return NULL;
    *fresh = (struct carray_elements){.start = start, .count = count, .api = api, .array = array};
    api->retain(array);
    known = retain(start, count, fresh);
    if (known != fresh)
        free_elements(fresh);
    return known;
}

enum crossing carray_take(lua_State *L, int index, const struct carray_api *api,
                          struct carray_crossing *c)
{
    struct carray_info info = {0};
    const struct carray *array = api->to_readable(L, index, &info);
    if (array == NULL)
        return CROSSING_REFUSED;
    *c = (struct carray_crossing){.api = api, .type = info.type, .attributes = info.attributes};
    pin_library(api);
    if (info.count == 0)
        return CROSSING_DONE;
    const void *start = api->readable_elements(array, 0, info.count);
    if (start == NULL)
        return CROSSING_REFUSED;
    c->elements = share(api, array, (void *)(uintptr_t)start, info.count);
    return c->elements != NULL ? CROSSING_DONE : CROSSING_NEEDS_MEMORY;
}

/* An array that has crossed is freed. */
static void on_release(void *start, size_t count)
{
    pthread_mutex_lock(&mutex);
    struct carray_elements *e = *find(start, count);
    pthread_mutex_unlock(&mutex);
    carray_release(e);
}

bool carray_push(lua_State *L, const struct carray_crossing *c, struct carray_elements **held)
{
    if (c->elements == NULL) /* no address could be found again */
        return c->api->make(L, c->type, c->attributes, 0, NULL) != NULL;
    *held = retain(c->elements->start, c->elements->count, NULL);
    if (c->api->make_reference(L, c->type, c->attributes, c->elements->start, c->elements->count,
                               on_release) == NULL)
        return false;
    *held = NULL;
    return true;
}
