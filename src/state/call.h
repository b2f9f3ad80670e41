/*
 * Running code inside a state on behalf of a host, the Lua state that calls, and bringing its
 * values or its error back.
 */
#ifndef MTSTATES_CALL_H
#define MTSTATES_CALL_H

#include "stay.h"

struct call {
    lua_State *host;
    int first, last;    /* the arguments' indices on the host's stack */
    const char *method; /* for argument errors */
    struct stay stay;   /* the caller begins it */
    lua_State *target;  /* where the callback runs, */
    int base;           /* and its place there; the message handler is below */
    int most;           /* values that were on its stack at a time */
};

/* A call by `host` with the arguments from index `first` up to the top. */
static inline void call_prepare(struct call *c, lua_State *host, int first, const char *method)
{
    c->host = host;
    c->first = first;
    c->last = lua_gettop(host);
    c->method = method;
}

/*
 * Calls the callback of the state whose stay has begun, and ends the stay. Returns how many results
 * it left on top of the host's stack; the arguments may be gone. [-?, +n, e]
 */
int call_entered(struct call *c);

/* The same for a stay that is nested. [-?, +n, e] */
int call_nested(struct call *c);

/* The message handler of calls: a C function in the target that makes a string with a traceback. */
int call_on_error(lua_State *target);

/* Raises the failure `status` of a protected call in the target: the caller has left the state. The
 * message is on top of the host's stack, unless status is LUA_ERRMEM. [-1, +0, v] */
int call_raise(lua_State *host, struct state *s, int status);

#endif
