/*
 * Why a value does not cross, and where it is in what it came in, as one would write it:
 * `in field 'a.b[3]'`. In a buffer of C's, since it is written where no Lua error may fly.
 */
#ifndef MTSTATES_REFUSAL_H
#define MTSTATES_REFUSAL_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

struct refusal {
    int number; /* the value's in the parcel, from 1 */
    size_t length;
    char why[512];
};

/*
 * The way to a value that is refused: through which tables, from the outermost on. Of many only the
 * first and the last are shown.
 */
enum { REFUSAL_ENDS = 4, REFUSAL_STEPS = 2 * REFUSAL_ENDS + 1 };

struct refusal_path {
    size_t length; /* all steps */
    size_t added;  /* so far */
    int count;     /* of those that are shown */
    struct {
        int key;     /* its index on the stack; 0: some steps are left out here */
        bool in_key; /* on to the key, or to something in it; not to its value */
    } steps[REFUSAL_STEPS];
};

void refusal_path_begin(struct refusal_path *path, size_t length);

/* The next step: by the key at that index on the stack; in_key: into the key itself. */
void refusal_path_add(struct refusal_path *path, int key, bool in_key);

/* Begins to say where. [-0, +0, -] */
void refusal_begin_at(struct refusal *r, lua_State *L, const struct refusal_path *path);

/* Begins to say why, of something that is in no table. */
static inline void refusal_begin(struct refusal *r)
{
    r->length = 0;
    r->why[0] = 0;
}

/* Adds why: formatted as by snprintf. What is too long is cut off. */
void refusal_add(struct refusal *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds "…", as Lua would write it; what is long is cut off. */
void refusal_add_quoted(struct refusal *r, const char *bytes, size_t length);

#endif
