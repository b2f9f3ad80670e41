/*
 * The names that errors of this module begin with, and how errors are raised. Everything here runs
 * on the caller's Lua state and may raise out of memory instead.
 */
#ifndef MTSTATES_ERROR_H
#define MTSTATES_ERROR_H

#include <lua.h>
#include <stddef.h>

#define ERROR_NAME(name) "mtstates.error." name
#define ERROR_AMBIGUOUS_NAME ERROR_NAME("ambiguous_name")
#define ERROR_CONCURRENT_ACCESS ERROR_NAME("concurrent_access")
#define ERROR_INTERRUPTED ERROR_NAME("interrupted")
#define ERROR_INVOKING_STATE ERROR_NAME("invoking_state")
#define ERROR_OBJECT_CLOSED ERROR_NAME("object_closed")
#define ERROR_OUT_OF_MEMORY ERROR_NAME("out_of_memory")
#define ERROR_STATE_RESULT ERROR_NAME("state_result")
#define ERROR_TIME_LIMIT ERROR_NAME("time_limit")
#define ERROR_UNKNOWN_OBJECT ERROR_NAME("unknown_object")

struct record;

/* Pushes the table that users know as mtstates.error. [-0, +1, m] */
void error_push_names(lua_State *L);

/* Pushes `"…"`, with control bytes, quotes and backslashes escaped as in Lua. [-0, +1, m] */
void error_push_quoted(lua_State *L, const char *text, size_t length);

/* Pushes `(name="…",id=…)`, as errors and tostring show a state. [-0, +1, m] */
void error_push_record(lua_State *L, const struct record *r);

/* Raises `name: detail`; the detail is formatted as by lua_pushfstring. No position. [-0, +0, v] */
int error_raise(lua_State *L, const char *name, const char *format, ...);

/* Raises `name: state (…) detail`, or `pool` where it is one. [-0, +0, v] */
int error_raise_for(lua_State *L, const char *name, const struct record *r, const char *detail);

/*
 * Raises `bad argument #n to 'function' (message)` with the caller's position, about the value at
 * stack index `index` of the running C function. This is the only place that knows how users count:
 * as the stack does, but without the object in o:f(...), in o(...) and where a metamethod was
 * called for it. [-0, +0, v]
 */
int error_argument(lua_State *L, int index, const char *function, const char *format, ...);

/* The same for an argument that is not of type `expected`. [-0, +0, v] */
int error_argument_type(lua_State *L, int index, const char *function, const char *expected);

#endif
