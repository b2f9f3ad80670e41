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

/* On the way to a value: one table. */
struct refusal_step {
    int key;     /* its index on the stack; 0: some steps are left out here */
    bool in_key; /* on to the key, or to something in it; not to its value */
};

/* Begins to say where, if there are steps. [-0, +0, -] */
void refusal_begin(struct refusal *r, lua_State *L, const struct refusal_step *steps, size_t count);

/* Adds why: formatted as by snprintf. What is too long is cut off. */
void refusal_add(struct refusal *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds "…", as Lua would write it; what is long is cut off. */
void refusal_add_quoted(struct refusal *r, const char *bytes, size_t length);

#endif
