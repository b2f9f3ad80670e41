/*
 * Making a state: open libraries, bring the setup function over, run it, keep its callback.
 */
#ifndef MTSTATES_MAKE_H
#define MTSTATES_MAKE_H

#include "handle.h"

struct recipe {
    const char *function; /* what the user called, for messages */
    const char *name;     /* NULL: none; else name_length bytes on the host's stack */
    size_t name_length;
    bool libs;          /* open all standard libraries, or only base and package */
    bool inherit;       /* package.path, package.cpath and C functions of package.preload */
    int setup;          /* the host's stack index; setup's arguments follow up to the top */
    int setup_argument; /* its position as the user counts */
};

/* Raises an argument error unless setup and its arguments can be brought over. [-0, +0, v] */
void make_check(lua_State *host, const struct recipe *recipe);

/*
 * Makes the state of a checked recipe and lets others find it. Returns how many further results of
 * setup there are; they take the place of setup and its arguments on the host's stack. `handle` is
 * empty, owns, and is on the host's stack; it gets the state as soon as there is one, and when
 * making fails, which raises an error, it has a closed one. [-?, +n, e]
 */
int make_state(lua_State *host, const struct recipe *recipe, struct handle *handle);

#endif
