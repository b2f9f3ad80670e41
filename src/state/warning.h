/* Warnings of a state's code (`warn`, errors in `__gc`), which go where those of `lua` go. */
#ifndef MTSTATES_WARNING_H
#define MTSTATES_WARNING_H

#include <lua.h>
#include <stdbool.h>

struct warning {
    bool on;        /* "@on" and "@off" say so; off at first */
    bool continues; /* the next piece belongs to a message that has begun */
};

/* Has the warnings of `target` go through `w`. */
void warning_attach(struct warning *w, lua_State *target);

#endif
