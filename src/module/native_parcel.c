/*
 * Parcels that C code writes and reads value by value: mtstates.h. What they consist of says
 * parcel_inside.h.
 */
#include "native.h"

#include "state/parcel_inside.h"
#include "state/state.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

/* A table that is open: being written, or read. In the parcel's room for levels. */
struct open_table {
    size_t header;        /* written: where it is */
    uint64_t count;       /* written: keys and values so far; read: those that follow */
    uint32_t next, array; /* read: the next index of the array part, and the last */
    bool in_entry;        /* read: a key of the array part has been read */
};

static struct open_table *innermost(const mtstates_parcel *p)
{
    const struct room *r = &p->parcel.memory->levels;
    return r->used > 0 ? (void *)(r->start + r->used - sizeof(struct open_table)) : NULL;
}

static struct open_table *push_table(mtstates_parcel *p)
{
    struct open_table *t = (void *)room_take(&p->parcel.memory->levels, sizeof *t);
    if (t != NULL)
        *t = (struct open_table){.next = 1};
    return t;
}

static void pop_table(mtstates_parcel *p)
{
    p->parcel.memory->levels.used -= sizeof(struct open_table);
}

/* ---- writing ---- */

bool native_parcel_init(mtstates_parcel *p)
{
    *p = (mtstates_parcel){.is_read = false};
    parcel_begin(&p->parcel);
    return p->parcel.memory != NULL;
}

void native_parcel_end(mtstates_parcel *p)
{
    parcel_end(&p->parcel);
    free(p->objects);
    p->objects = NULL;
}

bool native_parcel_is_whole(const mtstates_parcel *p)
{
    return p->is_read || innermost(p) == NULL;
}

mtstates_parcel *mtstates_parcel_new(void)
{
    mtstates_parcel *p = malloc(sizeof *p);
    if (p != NULL && !native_parcel_init(p)) {
        free(p);
        p = NULL;
    }
    return p;
}

void mtstates_parcel_free(mtstates_parcel *p)
{
    if (p == NULL)
        return;
    native_parcel_end(p);
    free(p);
}

int mtstates_parcel_clear(mtstates_parcel *p)
{
    if (p == NULL)
        return MTSTATES_MISUSE;
    native_parcel_end(p);
    return native_parcel_init(p) ? MTSTATES_OK : MTSTATES_NO_MEMORY;
}

/* Whether a value may be added; `is_no_key`: but not as a key. */
static bool may_add(const mtstates_parcel *p, bool is_no_key)
{
    if (p == NULL || p->parcel.memory == NULL || p->is_read)
        return false;
    const struct open_table *t = innermost(p);
    return !(is_no_key && t != NULL && t->count % 2 == 0);
}

/* A value was added, or there was no memory. */
static int end_add(mtstates_parcel *p, bool added)
{
    if (!added)
        return MTSTATES_NO_MEMORY;
    struct open_table *t = innermost(p);
    if (t != NULL)
        t->count++;
    else
        p->parcel.count++;
    return MTSTATES_OK;
}

static int add(mtstates_parcel *p, bool is_no_key, enum tag tag, const void *bytes, size_t size)
{
    if (!may_add(p, is_no_key))
        return MTSTATES_MISUSE;
    bool has_room = p->parcel.count < INT_MAX / 4;
    return end_add(p, has_room && put_bytes(&p->parcel.memory->values, tag, bytes, size));
}

int mtstates_add_nil(mtstates_parcel *p)
{
    return add(p, true, TAG_NIL, "", 0);
}

int mtstates_add_boolean(mtstates_parcel *p, int value)
{
    return add(p, false, value ? TAG_TRUE : TAG_FALSE, "", 0);
}

int mtstates_add_integer(mtstates_parcel *p, lua_Integer value)
{
    return add(p, false, TAG_INTEGER, &value, sizeof value);
}

int mtstates_add_number(mtstates_parcel *p, lua_Number value)
{
    return add(p, isnan(value), TAG_NUMBER, &value, sizeof value);
}

int mtstates_add_string(mtstates_parcel *p, const char *bytes, size_t length)
{
    if (!may_add(p, false) || (bytes == NULL && length > 0))
        return MTSTATES_MISUSE;
    bool has_room = p->parcel.count < INT_MAX / 4 && length < SIZE_MAX / 4;
    return end_add(
        p, has_room && put_string(&p->parcel.memory->values, bytes != NULL ? bytes : "", length));
}

void *native_parcel_add_array(mtstates_parcel *p, int type, size_t count)
{
    size_t element = carray_element_size(type);
    if (!may_add(p, false) || element == 0 || count > SIZE_MAX / 4 / element)
        return NULL;
    struct room *values = &p->parcel.memory->values;
    struct elements_header h = {.type = type, .count = count, .size = count * element};
    size_t at = values->used, gap = elements_gap(at + 1 + sizeof h);
    bool has_room = p->parcel.count < INT_MAX / 4 && put_bytes(values, TAG_ELEMENTS, &h, sizeof h);
    char *elements = has_room ? room_take(values, gap + h.size) : NULL;
    if (elements == NULL) {
        values->used = at;
        return NULL;
    }
    memset(elements, 0, gap + h.size);
    end_add(p, true);
    return elements + gap;
}

int mtstates_table_begin(mtstates_parcel *p)
{
    static const struct table_header empty;
    if (!may_add(p, false))
        return MTSTATES_MISUSE;
    struct room *values = &p->parcel.memory->values;
    size_t at = values->used;
    if (p->parcel.count == INT_MAX / 4 || !put_bytes(values, TAG_TABLE, &empty, sizeof empty))
        return MTSTATES_NO_MEMORY;
    struct open_table *t = push_table(p);
    if (t == NULL) {
        values->used = at;
        return MTSTATES_NO_MEMORY;
    }
    t->header = at + 1;
    size_t depth = p->parcel.memory->levels.used / sizeof *t;
    if (depth > p->parcel.depth) {
        p->parcel.depth = depth;
        p->parcel.deepest = p->parcel.count + 1;
    }
    return MTSTATES_OK;
}

int mtstates_table_end(mtstates_parcel *p)
{
    if (!may_add(p, false))
        return MTSTATES_MISUSE;
    const struct open_table *t = innermost(p);
    if (t == NULL || t->count % 2 != 0)
        return MTSTATES_MISUSE;
    if (t->count / 2 > UINT32_MAX)
        return MTSTATES_NO_MEMORY;
    struct table_header h = {.pairs = (uint32_t)(t->count / 2)};
    memcpy(p->parcel.memory->values.start + t->header, &h, sizeof h);
    pop_table(p);
    return end_add(p, true);
}

/* ---- reading ---- */

int native_parcel_read(mtstates_parcel *p)
{
    struct room *levels = &p->parcel.memory->levels;
    levels->used = 0;
    if (room_take(levels, p->parcel.depth * sizeof(struct open_table)) == NULL)
        return MTSTATES_NO_MEMORY; /* reading needs none then */
    levels->used = 0;
    if (p->objects == NULL && p->parcel.numbered > 0) {
        p->objects = calloc((size_t)p->parcel.numbered + 1, sizeof *p->objects);
        if (p->objects == NULL)
            return MTSTATES_NO_MEMORY;
    }
    p->is_read = true;
    p->at = 0;
    p->left = p->parcel.count;
    return MTSTATES_OK;
}

int mtstates_parcel_read(mtstates_parcel *p)
{
    if (p == NULL || p->parcel.memory == NULL || !native_parcel_is_whole(p))
        return MTSTATES_MISUSE;
    return native_parcel_read(p);
}

static const char *take(mtstates_parcel *p, size_t size)
{
    const char *bytes = p->parcel.memory->values.start + p->at;
    p->at += size;
    return bytes;
}

static void take_bytes(mtstates_parcel *p, void *to, size_t size)
{
    memcpy(to, take(p, size), size);
}

static void take_string(mtstates_parcel *p, struct mtstates_value *v, size_t length)
{
    v->length = length;
    v->bytes = take(p, length);
}

/* The header of an object, whose tag has just been read; each begins with the object's number. */
static void take_header(mtstates_parcel *p, struct mtstates_value *v, void *header, size_t size)
{
    object_number number;
    size_t at = p->at - 1;
    take_bytes(p, header, size);
    memcpy(&number, header, sizeof number);
    v->integer = number;
    if (number != 0)
        p->objects[number] = at;
}

static enum mtstates_type next(mtstates_parcel *p, struct mtstates_value *v);

static enum mtstates_type next_key(mtstates_parcel *p, struct mtstates_value *v)
{
    size_t at = p->at;
    unsigned char number = (unsigned char)*take(p, 1);
    if (number != 0)
        p->keys[number] = at;
    take_string(p, v, (unsigned char)*take(p, 1));
    return MTSTATES_STRING;
}

/* A key or long string once more; other objects are not shown twice. */
static enum mtstates_type next_again(mtstates_parcel *p, struct mtstates_value *v, enum tag tag)
{
    object_number number;
    if (tag == TAG_KEY_AGAIN)
        number = (unsigned char)*take(p, 1);
    else
        take_bytes(p, &number, sizeof number);
    size_t first = tag == TAG_KEY_AGAIN ? p->keys[number] : p->objects[number], after = p->at;
    enum mtstates_type type = MTSTATES_AGAIN;
    if (tag == TAG_KEY_AGAIN) {
        p->at = first;
        type = next_key(p, v);
    } else if (p->parcel.memory->values.start[first] == TAG_LONG) {
        p->at = first;
        type = next(p, v);
    }
    v->integer = type == MTSTATES_AGAIN ? number : 0;
    p->at = after;
    return type;
}

static enum mtstates_type next_table(mtstates_parcel *p, struct mtstates_value *v, enum tag tag)
{
    struct table_header h;
    take_header(p, v, &h, sizeof h);
    struct mtstates_value name = {.bytes = NULL};
    if (tag == TAG_CLASSED)
        next(p, &name);
    v->bytes = name.bytes;
    v->length = name.length;
    struct open_table *t = push_table(p); /* for which there is room */
    t->array = h.array;
    t->count = 2 * (uint64_t)h.pairs;
    return MTSTATES_TABLE;
}

static enum mtstates_type next_function(mtstates_parcel *p, struct mtstates_value *v)
{
    struct function_header h;
    take_header(p, v, &h, sizeof h);
    take_string(p, v, h.length);
    return MTSTATES_FUNCTION;
}

static enum mtstates_type next_long(mtstates_parcel *p, struct mtstates_value *v)
{
    struct string_header h;
    take_header(p, v, &h, sizeof h);
    take_string(p, v, h.length);
    v->integer = 0;
    return MTSTATES_STRING;
}

static enum mtstates_type next_handle(mtstates_parcel *p, struct mtstates_value *v)
{
    struct handle_header h;
    take_header(p, v, &h, sizeof h);
    v->state = h.handle.record->kind == &state_kind ? (mtstates_state *)h.handle.record : NULL;
    return MTSTATES_HANDLE;
}

static enum mtstates_type next_array(mtstates_parcel *p, struct mtstates_value *v)
{
    struct array_header h;
    take_header(p, v, &h, sizeof h);
    v->element = h.array.type;
    v->read_only = (h.array.attributes & CARRAY_READ_ONLY) != 0;
    v->length = h.array.count;
    v->pointer = h.array.start;
    return MTSTATES_ARRAY;
}

static enum mtstates_type next_elements(mtstates_parcel *p, struct mtstates_value *v)
{
    struct elements_header h;
    take_bytes(p, &h, sizeof h);
    v->element = h.type;
    v->length = h.count;
    take(p, elements_gap(p->at));
    v->pointer = h.count > 0 ? p->parcel.memory->values.start + p->at : NULL;
    p->at += h.size;
    return MTSTATES_ARRAY;
}

static enum mtstates_type next_small(mtstates_parcel *p, struct mtstates_value *v)
{
    int32_t small;
    take_bytes(p, &small, sizeof small);
    v->integer = small;
    return MTSTATES_INTEGER;
}

/* The next value that is written. */
static enum mtstates_type next(mtstates_parcel *p, struct mtstates_value *v)
{
    enum tag tag = (enum tag) * take(p, 1);
    size_t length;
    switch (tag) {
    case TAG_NIL:
        return MTSTATES_NIL;
    case TAG_FALSE:
    case TAG_TRUE:
        v->boolean = tag == TAG_TRUE;
        return MTSTATES_BOOLEAN;
    case TAG_SMALL:
        return next_small(p, v);
    case TAG_INTEGER:
        take_bytes(p, &v->integer, sizeof v->integer);
        return MTSTATES_INTEGER;
    case TAG_NUMBER:
        take_bytes(p, &v->number, sizeof v->number);
        return MTSTATES_NUMBER;
    case TAG_POINTER:
        take_bytes(p, &v->pointer, sizeof v->pointer);
        return MTSTATES_POINTER;
    case TAG_SHORT:
        take_string(p, v, (unsigned char)*take(p, 1));
        return MTSTATES_STRING;
    case TAG_STRING:
        take_bytes(p, &length, sizeof length);
        take_string(p, v, length);
        return MTSTATES_STRING;
    case TAG_LONG:
        return next_long(p, v);
    case TAG_KEY:
        return next_key(p, v);
    case TAG_KEY_AGAIN:
    case TAG_AGAIN:
        return next_again(p, v, tag);
    case TAG_FUNCTION:
        return next_function(p, v);
    case TAG_HANDLE:
        return next_handle(p, v);
    case TAG_ARRAY:
        return next_array(p, v);
    case TAG_ELEMENTS:
        return next_elements(p, v);
    default:
        return next_table(p, v, tag);
    }
}

/* Of the array part of `t`, whose keys are not written: those without a value are left out. False:
 * it is at its end. */
static bool next_in_array(mtstates_parcel *p, struct open_table *t, struct mtstates_value *v)
{
    while (t->next <= t->array && !t->in_entry &&
           p->parcel.memory->values.start[p->at] == TAG_NIL) {
        p->at++;
        t->next++;
    }
    if (t->next > t->array)
        return false;
    t->in_entry = !t->in_entry;
    if (t->in_entry) {
        v->type = MTSTATES_INTEGER;
        v->integer = t->next;
        return true;
    }
    t->next++;
    v->type = next(p, v);
    return true;
}

enum mtstates_type mtstates_next(mtstates_parcel *p, struct mtstates_value *v)
{
    if (v == NULL)
        return MTSTATES_NONE;
    *v = (struct mtstates_value){.type = MTSTATES_NONE};
    if (p == NULL || p->parcel.memory == NULL || !p->is_read)
        return MTSTATES_NONE;
    struct open_table *t = innermost(p);
    if (t == NULL) {
        if (p->left > 0) {
            p->left--;
            v->type = next(p, v);
        }
    } else if (!next_in_array(p, t, v)) {
        if (t->count > 0) {
            t->count--;
            v->type = next(p, v);
        } else {
            pop_table(p);
            v->type = MTSTATES_TABLE_END;
        }
    }
    return v->type;
}
