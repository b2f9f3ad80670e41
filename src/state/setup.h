/*
 * Setup: making a state. Open libraries, bring the setup function over, run it, keep its callback.
 */
#ifndef MTSTATES_SETUP_H
#define MTSTATES_SETUP_H

#include "parcel.h"
#include "state.h"

/* What is to be made; by index on the stack of the host, the Lua state that asks for it. */
struct recipe {
    const char *function;         /* what the user called, for messages */
    struct state_options options; /* the name is on the host's stack */
    bool gives_results;           /* the caller wants what setup returns after the callback */
    bool inherit; /* package.path, package.cpath, and of package.preload what can live elsewhere */
    int setup;    /* the index of the setup function or its code, */
    int last;     /* and of its last argument */
};

enum setup_failure {
    SETUP_WELL,
    SETUP_NO_MEMORY,   /* to make it */
    SETUP_ARGUMENT,    /* one cannot cross */
    SETUP_SYNTAX,      /* the code; the message is on the host's stack */
    SETUP_NO_CALLBACK, /* what came first is of another type */
    SETUP_RESULT,      /* a result cannot cross */
    SETUP_ERROR, /* of the setup function, or memory ran out; the message is as for call_raise */
    SETUP_HOST_ERROR /* of the host, as it took the results; its error object is on its stack */
};

/* One making. */
struct setup {
    lua_State *host;             /* NULL: nobody hears of results and errors */
    const struct recipe *recipe; /* NULL: a member of a pool is made, from what was packed before */
    struct parcel *packed;       /* ends as soon as it is unpacked; NULL: the pool's, which stays */
    int inherited;       /* the index on the host of what the state inherits, a table; or of nil */
    int kilobytes;       /* what it took */
    bool is_large;       /* it had much on its stack */
    struct state *state; /* what became of it: living, or closed; NULL: none came to be */
    enum setup_failure failure;
    int status;             /* SETUP_ERROR: of the protected call */
    struct refusal refusal; /* SETUP_ARGUMENT, SETUP_RESULT */
    const char *type;       /* SETUP_NO_CALLBACK: of the value */
};

/* Raises an argument error unless the setup function can be brought over. [-0, +0, v] */
void setup_check(lua_State *host, const struct recipe *recipe);

/* Gets the host ready for a checked recipe. [-0, +1, e] */
void setup_prepare(struct setup *s, lua_State *host, const struct recipe *recipe);

/*
 * Makes the state, with setup run in the calling thread, and lets others find it. s->state has a
 * reference and an owner, the caller's, in any case. Leaves the further results of setup, and
 * returns how many; or a message. No error flies. [-0, +n, -]
 */
int setup_make(struct setup *s);

/* The two halves of that, for members of pools. Packs what a checked and prepared recipe needs into
 * an empty parcel; false: what failed. */
bool setup_pack(struct setup *s, struct parcel *p);

/* Makes a state of a pool, if that does not fail; the thread stays inside. Of a host it has results
 * only in case of an error. */
void setup_make_from(struct setup *s, struct thread *self, const struct state_options *o,
                     const struct parcel *p);

/* Raises what failed. [-0, +0, v] */
int setup_raise(struct setup *s);

#endif
