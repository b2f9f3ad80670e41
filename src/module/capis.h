/*
 * Two interfaces by which C modules of another family of Lua modules call each other, offered by
 * handles of states: Notify C API 0.0.2 and Receiver C API 2.0.0
 * (https://github.com/lua-capis). What they promise stands at the structs; the layouts are theirs.
 *
 * An object offers one by a field of its metatable, a full userdata: a pointer to the struct, and
 * right behind it the field's name with its zero.
 */
#ifndef MTSTATES_CAPIS_H
#define MTSTATES_CAPIS_H

#include "mtstates.h"

#define CAPI_NOTIFY_FIELD "_capi_notify"
#define CAPI_RECEIVER_FIELD "_capi_receiver"

/* What functions return besides 0, done. */
enum capi_result {
    CAPI_CLOSED = 1, /* the caller gives up its reference then */
    CAPI_BUSY = 3,
    CAPI_NO_MEMORY = 6,
    CAPI_ERROR = 990, /* of the callback: the handler has the message */
    CAPI_TOO_DEEP = 999
};

/* Called with the message after the state was left, in the calling thread. */
typedef void (*capi_error_handler)(void *handler_data, const char *message, size_t length);

/*
 * `notify` runs the callback without arguments, in the calling thread; waits for a busy state,
 * nests from inside. Each call runs it once. Two states that notify each other from two threads can
 * wait for each other for ever. References keep no state from being closed.
 */
struct capi_notify {
    int version_major, version_minor, version_patch;
    void *next_capi;
    mtstates_state *(*to_notifier)(lua_State *L, int index); /* no reference; NULL: it is none */
    void (*retain)(mtstates_state *);
    void (*release)(mtstates_state *);
    int (*notify)(mtstates_state *, capi_error_handler handler, void *handler_data);
};

/*
 * `send` runs the callback with the values of the writer. `clear`: the writer is emptied when they
 * were taken. `nonblock`: a busy state is CAPI_BUSY, and not waited for. The rest is as for notify.
 * The functions that add return 0 or CAPI_NO_MEMORY; `add_array` the place of the elements, all
 * zero, to be filled before the next function, or NULL. Such an array is made by the module carray
 * of the state that it goes to, which has to have required that; else it is CAPI_ERROR.
 */
struct capi_receiver {
    int version_major, version_minor, version_patch;
    void *next_capi;
    mtstates_state *(*to_receiver)(lua_State *L, int index); /* no reference; NULL: it is none */
    void (*retain)(mtstates_state *);
    void (*release)(mtstates_state *);
    mtstates_parcel *(*new_writer)(size_t initial_capacity, float grow_factor);
    void (*free_writer)(mtstates_parcel *);
    int (*send)(mtstates_state *, mtstates_parcel *, int clear, int nonblock,
                capi_error_handler handler, void *handler_data);
    void (*clear_writer)(mtstates_parcel *);
    int (*add_boolean)(mtstates_parcel *, int);
    int (*add_integer)(mtstates_parcel *, lua_Integer);
    int (*add_number)(mtstates_parcel *, lua_Number);
    int (*add_string)(mtstates_parcel *, const char *, size_t);
    int (*add_bytes)(mtstates_parcel *, const unsigned char *, size_t);
    void *(*add_array)(mtstates_parcel *, int type, size_t count);
};

/* Sets the fields of the metatable on top of the stack, of handles of states. [-0, +0, m] */
void capis_offer(lua_State *L);

#endif
