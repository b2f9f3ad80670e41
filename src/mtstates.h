/*
 * The C interface of the module: to open it in a Lua state, and to call states from C, without a
 * Lua state of one's own. Programs that load the module as Lua does find these functions by dlsym.
 */
#ifndef MTSTATES_H
#define MTSTATES_H

#include "mtstates_inside.h"

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

#define MTSTATES_API __attribute__((visibility("default")))

/*
 * A lua_CFunction: pushes the module table, as require("mtstates") does. Any number of Lua states
 * may open the module, each from any thread. Raises out_of_memory, an error when another copy of
 * the module serves the Lua state already, or when this Lua is not one that the module knows. Put
 * it into package.preload for states to inherit it.
 *
 * Threads that use the module let SIGURG through, by which they are interrupted, and the process
 * has a handler for it from the first interrupt on. The extra space of states' coroutines
 * (lua_getextraspace) is the program's.
 */
MTSTATES_API int luaopen_mtstates(lua_State *L);

/* ---- what functions return ---- */

enum mtstates_status {
    MTSTATES_OK,
    MTSTATES_UNKNOWN,   /* no living state of that id or name */
    MTSTATES_AMBIGUOUS, /* two living states of that name */
    MTSTATES_CLOSED,    /* the state is closed */
    MTSTATES_BUSY,      /* another thread is inside; or the time was up */
    MTSTATES_ERROR,     /* the callback raised an error */
    MTSTATES_ARGUMENT,  /* an argument cannot be brought into the state */
    MTSTATES_RESULT,    /* a result cannot be brought out of it */
    MTSTATES_NO_MEMORY,
    MTSTATES_TOO_DEEP, /* the thread is inside of too many states, or its C stack is used up */
    MTSTATES_MISUSE    /* NULL where there has to be something, or parcel functions out of order */
};

/* ---- parcels: values on their way into a state, or out of it ---- */

/*
 * A list of values. It is written value by value, or by a call; then read from the first on. One
 * thread at a time may use it, any thread; none of the functions blocks, raises a Lua error, or
 * needs a Lua state.
 */
typedef struct mtstates_parcel mtstates_parcel;

/* An empty one; NULL: out of memory. Takes about 30 KB. */
MTSTATES_API mtstates_parcel *mtstates_parcel_new(void);

/* NULL: does nothing. Handles in it are given up, which may close states in this thread. */
MTSTATES_API void mtstates_parcel_free(mtstates_parcel *p);

/* Makes it empty, to be written. The same of handles. */
MTSTATES_API int mtstates_parcel_clear(mtstates_parcel *p);

/*
 * Add a value at the end, or to the table that is open. MTSTATES_OK, MTSTATES_NO_MEMORY: nothing is
 * added; MTSTATES_MISUSE: `p` is NULL, or is being read, or a key would be nil or NaN. Strings are
 * copied; `bytes` may be NULL if `length` is 0.
 */
MTSTATES_API int mtstates_add_nil(mtstates_parcel *p);
MTSTATES_API int mtstates_add_boolean(mtstates_parcel *p, int value);
MTSTATES_API int mtstates_add_integer(mtstates_parcel *p, lua_Integer value);
MTSTATES_API int mtstates_add_number(mtstates_parcel *p, lua_Number value);
MTSTATES_API int mtstates_add_string(mtstates_parcel *p, const char *bytes, size_t length);

/* Opens a table: until its end, each two values that are added are a key and what it has. A table
 * may itself be either. As above; MTSTATES_MISUSE as well: no table is open, or a key has no value
 * yet. */
MTSTATES_API int mtstates_table_begin(mtstates_parcel *p);
MTSTATES_API int mtstates_table_end(mtstates_parcel *p);

enum mtstates_type {
    MTSTATES_NONE, /* there are no more */
    MTSTATES_NIL,
    MTSTATES_BOOLEAN,
    MTSTATES_INTEGER,
    MTSTATES_NUMBER,
    MTSTATES_STRING,
    MTSTATES_POINTER,   /* light userdata */
    MTSTATES_TABLE,     /* keys and values in turn follow, none of which is nil, */
    MTSTATES_TABLE_END, /* until this */
    MTSTATES_FUNCTION,  /* of Lua */
    MTSTATES_HANDLE,    /* of a state or a pool */
    MTSTATES_ARRAY,     /* of C numbers, of the module carray */
    MTSTATES_AGAIN      /* a table, function, handle or array that has come already */
};

struct mtstates_state;

struct mtstates_value {
    enum mtstates_type type;
    int boolean;
    lua_Integer integer; /* INTEGER; of TABLE, FUNCTION, HANDLE, ARRAY and AGAIN their number, by
                            which AGAIN tells what it is; 0: it does not come again */
    lua_Number number;
    const char *bytes; /* STRING; TABLE: the name of its class, or NULL; FUNCTION: its code. Until
                          the parcel is written, cleared or freed; no zero at the end */
    size_t length;     /* of that; ARRAY: so many elements */
    void *pointer;     /* POINTER; ARRAY: the elements, shared with the state, until the parcel is
                          written, cleared or freed; NULL: it has none */
    int element;       /* ARRAY: their type, as the Carray C API numbers it; */
    int read_only;     /* true: they must not be written */
    struct mtstates_state *state; /* HANDLE: the parcel's reference; NULL: it is of a pool */
};

/*
 * Begins to read, or begins anew. MTSTATES_OK, MTSTATES_NO_MEMORY, MTSTATES_MISUSE: `p` is NULL, or
 * a table is open. What a call has written can be read at once.
 */
MTSTATES_API int mtstates_parcel_read(mtstates_parcel *p);

/* Fills in the next value and returns its type. MTSTATES_NONE: no more, or not being read. */
MTSTATES_API enum mtstates_type mtstates_next(mtstates_parcel *p, struct mtstates_value *v);

/* ---- states ---- */

/*
 * A reference to a state. It does not keep the state from being closed, as handles that own it do
 * in Lua: then functions say MTSTATES_CLOSED. Any thread may use it, several at once.
 */
typedef struct mtstates_state mtstates_state;

/*
 * Look a state up. `*found` is a reference for the caller to release, or NULL. MTSTATES_OK,
 * MTSTATES_UNKNOWN, MTSTATES_AMBIGUOUS (names), MTSTATES_MISUSE. Do not block, but for a moment
 * where two states have the name.
 */
MTSTATES_API int mtstates_find_id(int64_t id, mtstates_state **found);
MTSTATES_API int mtstates_find_name(const char *name, size_t length, mtstates_state **found);

/* The state of a handle on a Lua stack, a reference for the caller to release; NULL: that is none.
 * Raises no error. [-0, +0, -] */
MTSTATES_API mtstates_state *mtstates_to_state(lua_State *L, int index);

/* One reference more, or less. NULL: do nothing. */
MTSTATES_API void mtstates_retain(mtstates_state *s);
MTSTATES_API void mtstates_release(mtstates_state *s);

/*
 * Calls the state's callback in this thread, as s:tcall(timeout, ...) does in Lua.
 *
 * timeout    seconds to wait for a busy state: 0 or less: not at all; HUGE_VAL: for ever
 * arguments  NULL: none. They stay as they are, and may be used again
 * results    NULL: not wanted; else another parcel, which is cleared and has the results, ready to
 *            be read. After MTSTATES_ERROR, MTSTATES_ARGUMENT and MTSTATES_RESULT it has one
 *            string, which says why; for an error with the traceback
 *
 * From a thread that is inside of the state it nests. Blocks while it waits, and while the callback
 * runs. MTSTATES_OK, or any of the others but MTSTATES_UNKNOWN and MTSTATES_AMBIGUOUS.
 * Two threads that are each inside of a state and wait for the other's wait for ever, if they were
 * told to.
 */
MTSTATES_API int mtstates_call(mtstates_state *s, double timeout, const mtstates_parcel *arguments,
                               mtstates_parcel *results);

/* Closes the state; its finalizers run in this thread. MTSTATES_OK; MTSTATES_CLOSED: it was closed
 * before; MTSTATES_BUSY: a thread is inside, perhaps this one; MTSTATES_MISUSE. */
MTSTATES_API int mtstates_close(mtstates_state *s);

#if defined(__cplusplus)
}
#endif

#endif
