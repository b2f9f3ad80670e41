/*
 * Running code inside a state on behalf of a host, and bringing its values or its error back.
 *
 * Two Lua states take part, and an error of one must not jump over the other's frames. So all that
 * can fail in the target runs in a protected call of the target, and of what can fail in the host
 * nothing runs while the target is in use, unless in a protected call of the host.
 */
#ifndef MTSTATES_CALL_H
#define MTSTATES_CALL_H

#include "state.h"

struct call {
    lua_State *host;
    struct state *state;
    struct thread *self;
    int first, last;    /* the arguments' indices on the host's stack */
    const char *method; /* for argument errors, */
    int uncounted;      /* whose number is the stack index less this */
};

/*
 * Calls the callback of a state that the calling thread has entered, and leaves it. Returns how
 * many results it left on top of the host's stack; the arguments may be gone. [-?, +n, e]
 */
int call_entered(struct call *c);

/* The same for a state that the calling thread was inside already. [-?, +n, e] */
int call_nested(struct call *c);

/* The message handler of calls: a C function in the target that makes a string with a traceback. */
int call_on_error(lua_State *target);

/*
 * Results on the target's stack from index `first` up, to be pushed on the host. LUA_OK, and
 * `*count` of them pushed; else what went wrong in the host, with its error object pushed. The
 * target keeps its stack. The host's stack may not be the target's. [-0, +(count|1), -] on the host
 */
int call_copy_results(lua_State *host, lua_State *target, int first, int *count);

/* Raises the failure `status` of a protected call in the target: the caller has left the state.
 * The message is on top of the host's stack, unless status is LUA_ERRMEM. [-1, +0, v] */
int call_raise(lua_State *host, struct state *s, int status);

/* Copies the error message on top of the target's stack to the host, as call_copy_results does. */
int call_copy_message(lua_State *host, lua_State *target);

#endif
