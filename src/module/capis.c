#include "capis.h"

#include "native.h"

#include <math.h>
#include <string.h>

static mtstates_state *to_state(lua_State *L, int index)
{
    mtstates_state *s = mtstates_to_state(L, index);
    mtstates_release(s); /* the handle has one */
    return s;
}

static int result_of(int status)
{
    switch (status) {
    case MTSTATES_OK:
        return 0;
    case MTSTATES_CLOSED:
        return CAPI_CLOSED;
    case MTSTATES_BUSY:
        return CAPI_BUSY;
    case MTSTATES_NO_MEMORY:
        return CAPI_NO_MEMORY;
    case MTSTATES_TOO_DEEP:
        return CAPI_TOO_DEEP;
    default:
        return CAPI_ERROR;
    }
}

static void tell(mtstates_parcel *said, capi_error_handler handler, void *handler_data)
{
    struct mtstates_value v;
    if (handler != NULL && mtstates_next(said, &v) == MTSTATES_STRING)
        handler(handler_data, v.bytes, v.length);
}

/* An enum mtstates_status. */
static int run(mtstates_state *s, double timeout, const mtstates_parcel *arguments,
               capi_error_handler handler, void *handler_data)
{
    mtstates_parcel said;
    if (!native_parcel_init(&said))
        return MTSTATES_NO_MEMORY;
    int status = native_call(s, timeout, arguments, false, &said);
    if (result_of(status) == CAPI_ERROR)
        tell(&said, handler, handler_data);
    native_parcel_end(&said);
    return status;
}

/* ---- Notify ---- */

static int notify(mtstates_state *s, capi_error_handler handler, void *handler_data)
{
    return result_of(run(s, HUGE_VAL, NULL, handler, handler_data));
}

static const struct capi_notify capi_notify = {
    .version_major = 0,
    .version_minor = 0,
    .version_patch = 2,
    .to_notifier = to_state,
    .retain = mtstates_retain,
    .release = mtstates_release,
    .notify = notify,
};

/* ---- Receiver ---- */

static mtstates_parcel *new_writer(size_t initial_capacity, float grow_factor)
{
    (void)initial_capacity;
    (void)grow_factor;
    return mtstates_parcel_new();
}

static void clear_writer(mtstates_parcel *writer)
{
    mtstates_parcel_clear(writer);
}

static int send(mtstates_state *s, mtstates_parcel *writer, int clear, int nonblock,
                capi_error_handler handler, void *handler_data)
{
    int status = run(s, nonblock ? 0 : HUGE_VAL, writer, handler, handler_data);
    bool was_taken = status == MTSTATES_OK || status == MTSTATES_ERROR;
    if (clear && was_taken)
        clear_writer(writer);
    return result_of(status);
}

static int added(int status)
{
    return status == MTSTATES_OK ? 0 : CAPI_NO_MEMORY;
}

static int add_boolean(mtstates_parcel *writer, int value)
{
    return added(mtstates_add_boolean(writer, value));
}

static int add_integer(mtstates_parcel *writer, lua_Integer value)
{
    return added(mtstates_add_integer(writer, value));
}

static int add_number(mtstates_parcel *writer, lua_Number value)
{
    return added(mtstates_add_number(writer, value));
}

static int add_string(mtstates_parcel *writer, const char *bytes, size_t length)
{
    return added(mtstates_add_string(writer, bytes, length));
}

static int add_bytes(mtstates_parcel *writer, const unsigned char *bytes, size_t length)
{
    return add_string(writer, (const char *)bytes, length);
}

static const struct capi_receiver capi_receiver = {
    .version_major = 2,
    .version_minor = 0,
    .version_patch = 0,
    .to_receiver = to_state,
    .retain = mtstates_retain,
    .release = mtstates_release,
    .new_writer = new_writer,
    .free_writer = mtstates_parcel_free,
    .send = send,
    .clear_writer = clear_writer,
    .add_boolean = add_boolean,
    .add_integer = add_integer,
    .add_number = add_number,
    .add_string = add_string,
    .add_bytes = add_bytes,
    .add_array = native_parcel_add_array,
};

/* ---- offering them ---- */

static void offer(lua_State *L, const void *capi, const char *field)
{
    size_t size = strlen(field) + 1;
    char *u = lua_newuserdatauv(L, sizeof capi + size, 0);
    memcpy(u, &capi, sizeof capi);
    memcpy(u + sizeof capi, field, size);
    lua_setfield(L, -2, field);
}

void capis_offer(lua_State *L)
{
    offer(L, &capi_notify, CAPI_NOTIFY_FIELD);
    offer(L, &capi_receiver, CAPI_RECEIVER_FIELD);
}
