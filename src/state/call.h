/*
 * Running code inside a state on behalf of a host, the Lua state that calls, and bringing its
 * values or its error back.
 */
#ifndef MTSTATES_CALL_H
#define MTSTATES_CALL_H

#include "parcel.h"
#include "stay.h"

/* What messages say of a state. */
struct call_subject {
    const struct record *record;
    size_t memory_limit, used_at_limit;
};

struct call {
    lua_State *host;
    int first, last;    /* the arguments' indices on the host's stack */
    const char *method; /* for argument errors */
    struct stay stay;   /* the caller begins it */
    lua_State *target;  /* where the callback runs, */
    int base;           /* and its place there; the message handler is below */
    int most;           /* values that were on its stack at a time */
    /* A member of a pool may be gone when its caller has left; so this is noted before. */
    bool is_noted;
    struct call_subject subject;
    struct record member;
};

/* A call by `host` with the arguments from index `first` up to the top. */
static inline void call_prepare(struct call *c, lua_State *host, int first, const char *method)
{
    c->host = host;
    c->first = first;
    c->last = lua_gettop(host);
    c->method = method;
    c->is_noted = false;
}

/*
 * Calls the callback of the state whose stay has begun, and ends the stay. Returns how many results
 * it left on top of the host's stack; the arguments may be gone. [-?, +n, e]
 */
int call_entered(struct call *c);

/* The same for a stay that is nested. [-?, +n, e] */
int call_nested(struct call *c);

/* Either of them, by how the stay has begun. [-?, +n, e] */
static inline int call_begun(struct call *c, enum entry entry)
{
    return entry == ENTRY_ENTERED ? call_entered(c) : call_nested(c);
}

enum call_outcome {
    CALL_DONE,
    CALL_ERROR,     /* the callback, or a value on its way to it, raised one */
    CALL_ARGUMENT,  /* one cannot cross */
    CALL_RESULT,    /* the same */
    CALL_NO_MEMORY, /* in the state, or for what comes back */
};

/*
 * The same for a caller without Lua. `arguments`: NULL: none. `results`, an empty parcel, has the
 * results then, or the error's message; without `wants_results` only that. It is to be ended in any
 * case. `r` says why a value cannot cross.
 */
enum call_outcome call_packed(struct call *c, enum entry entry, const struct parcel *arguments,
                              bool wants_results, struct parcel *results, struct refusal *r);

/* Raises why no stay has begun, of a state or pool that is not busy. [-0, +0, v] */
int call_raise_refusal(lua_State *host, const struct record *r, enum entry entry);

/* The message handler of calls: a C function in the target that makes a string with a traceback. */
int call_on_error(lua_State *target);

/* Of a state that somebody keeps. */
struct call_subject call_subject(struct state *s);

/* Raises the failure `status` of a protected call in the target: the caller has left the state. The
 * message is on top of the host's stack, unless status is LUA_ERRMEM. [-1, +0, v] */
int call_raise(lua_State *host, struct call_subject subject, int status);

#endif
