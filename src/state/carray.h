/*
 * Arrays of C numbers, which cross by reference: objects of modules that offer the Carray C API
 * 1.0.0 (https://github.com/lua-capis), as `carray` does. The layouts and names of numbers are
 * theirs. On the other side there is another array over the same elements.
 *
 * What the module that made the other array tells when that is freed is where the elements are. So
 * all arrays over the same elements that have crossed share one record, found by that address,
 * which keeps the array that was there first, and with it the elements.
 *
 * Whose elements have crossed, that array must get neither another length nor another capacity as
 * long as others are there, garbage among them: its module may move the elements then, and offers
 * no way to prevent it. Elements are plain memory: who writes and reads them from several threads
 * has to order that. An array that comes into a Lua state which is being closed, by a finalizer's
 * call, is never freed: Lua gives such no finalizer.
 */
#ifndef MTSTATES_CARRAY_H
#define MTSTATES_CARRAY_H

#include "parcel.h"

struct carray;

/* Of attributes. */
enum { CARRAY_READ_ONLY = 1 };

struct carray_info {
    int type, attributes;
    size_t element_size, count, capacity;
};

/* Of these functions only those that make arrays may raise errors, and have then made none:
 * `release` is not called. */
struct carray_api {
    int version_major, version_minor, version_patch;
    const struct carray_api *next; /* another version, or NULL */
    struct carray *(*make)(lua_State *L, int type, int attributes, size_t count, void **elements);
    struct carray *(*make_reference)(lua_State *L, int type, int attributes, void *elements,
                                     size_t count, void (*release)(void *elements, size_t count));
    const struct carray *(*to_readable)(lua_State *L, int index, struct carray_info *info);
    struct carray *(*to_writable)(lua_State *L, int index, struct carray_info *info);
    void (*retain)(const struct carray *);
    void (*release)(const struct carray *);
    void *(*writable_elements)(struct carray *, size_t offset, size_t count);
    const void *(*readable_elements)(const struct carray *, size_t offset, size_t count);
    /* and more, which change the length */
};

/* Elements of arrays that have crossed. */
struct carray_elements;

/* An array that crosses. */
struct carray_crossing {
    const struct carray_api *api;
    struct carray_elements *elements; /* with a reference; NULL: it is empty */
    void *start;                      /* of these; NULL: it is empty */
    size_t count;
    int type, attributes;
};

/* Before others: packing looks for arrays by a name that it could not make then. [-0, +0, m] */
void carray_open(lua_State *L);

/* The interface that the value at `index` offers, or NULL. [-0, +0, -] */
const struct carray_api *carray_api(lua_State *L, int index);

/* Fills in `c` if the full userdata at `index` is an array. CROSSING_REFUSED: it is none, or
 * closed. [-0, +0, -] */
enum crossing carray_take(lua_State *L, int index, struct carray_crossing *c);

/* Pushes an array over the same elements; the collector takes their size into account. False: its
 * module wants no such array. Then, or after an error, `*held` is to be released; it is NULL else.
 * [-0, +(0|1), e] */
bool carray_push(lua_State *L, const struct carray_crossing *c, struct carray_elements **held);

/* One reference less. NULL: does nothing. */
void carray_release(struct carray_elements *e);

/* Bytes of an element of that type; 0: there is none. */
size_t carray_element_size(int type);

/* Around a fork; nothing is locked inside. */
void carray_fork_begin(void);
void carray_fork_end(void);

#endif
