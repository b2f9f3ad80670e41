/*
 * States for callers without Lua: mtstates.h. A mtstates_state is the record of a state.
 */
#include "native.h"

#include "handle.h"
#include "state/call.h"
#include "sync/clock.h"

#include <math.h>

/* Set with release when the registries are there; before that nothing is in them. */
static atomic_bool is_prepared;

void native_prepare(void)
{
    atomic_store_explicit(&is_prepared, true, memory_order_release);
}

static struct record *record_of(mtstates_state *s)
{
    return (struct record *)s;
}

/* ---- look-up ---- */

static int status_of(enum registry_result result)
{
    switch (result) {
    case REGISTRY_FOUND:
        return MTSTATES_OK;
    case REGISTRY_AMBIGUOUS:
        return MTSTATES_AMBIGUOUS;
    default:
        return MTSTATES_UNKNOWN;
    }
}

int mtstates_find_id(int64_t id, mtstates_state **found)
{
    struct record *r = NULL;
    if (found == NULL)
        return MTSTATES_MISUSE;
    enum registry_result result = REGISTRY_UNKNOWN;
    if (atomic_load_explicit(&is_prepared, memory_order_acquire))
        result = registry_find_id(&registry_states, id, &r);
    *found = result == REGISTRY_FOUND ? (mtstates_state *)r : NULL;
    return status_of(result);
}

int mtstates_find_name(const char *name, size_t length, mtstates_state **found)
{
    struct record *r = NULL;
    if (found == NULL || (name == NULL && length > 0))
        return MTSTATES_MISUSE;
    enum registry_result result = REGISTRY_UNKNOWN;
    if (atomic_load_explicit(&is_prepared, memory_order_acquire))
        result = registry_find_name(&registry_states, name != NULL ? name : "", length, &r);
    *found = result == REGISTRY_FOUND ? (mtstates_state *)r : NULL;
    return status_of(result);
}

mtstates_state *mtstates_to_state(lua_State *L, int index)
{
    struct parcel_handle h;
    if (L == NULL || lua_type(L, index) != LUA_TUSERDATA || !parcel_handle_at(L, index, &h) ||
        h.record->kind != &state_kind)
        return NULL;
    record_retain(h.record);
    return (mtstates_state *)h.record;
}

void mtstates_retain(mtstates_state *s)
{
    if (s != NULL)
        record_retain(record_of(s));
}

void mtstates_release(mtstates_state *s)
{
    if (s != NULL)
        record_release(record_of(s));
}

/* ---- calls ---- */

static int status_of_refusal(enum entry entry)
{
    switch (entry) {
    case ENTRY_CLOSED:
        return MTSTATES_CLOSED;
    case ENTRY_TOO_DEEP:
        return MTSTATES_TOO_DEEP;
    case ENTRY_NO_MEMORY:
        return MTSTATES_NO_MEMORY;
    default:
        return MTSTATES_BUSY;
    }
}

static enum entry begin(struct stay *stay, struct state *s, double timeout)
{
    struct timespec t;
    if (timeout > 0)
        return stay_begin_wait(stay, s, thread_self(), handle_deadline(timeout, &t));
    return stay_begin(stay, s, thread_self());
}

/* The text takes the place of what is in the parcel. */
static int say(mtstates_parcel *p, int status, const struct refusal *r)
{
    int cleared = mtstates_parcel_clear(p);
    int added = cleared == MTSTATES_OK ? mtstates_add_string(p, r->why, r->length) : cleared;
    return added == MTSTATES_OK ? status : added;
}

/* Whatever came of the call can be read. */
static int end(mtstates_parcel *results, enum call_outcome outcome, const struct refusal *r)
{
    int status = MTSTATES_OK;
    if (outcome == CALL_ERROR)
        status = MTSTATES_ERROR;
    else if (outcome == CALL_ARGUMENT)
        status = say(results, MTSTATES_ARGUMENT, r);
    else if (outcome == CALL_RESULT)
        status = say(results, MTSTATES_RESULT, r);
    else if (outcome == CALL_NO_MEMORY)
        status = say(results, MTSTATES_NO_MEMORY, r);
    bool is_there = results->parcel.memory != NULL;
    return is_there && native_parcel_read(results) == MTSTATES_OK ? status : MTSTATES_NO_MEMORY;
}

int native_call(mtstates_state *s, double timeout, const mtstates_parcel *arguments,
                bool wants_results, mtstates_parcel *results)
{
    struct call c;
    struct refusal r;
    refusal_begin(&r);
    enum entry entry = begin(&c.stay, state_of_record(record_of(s)), timeout);
    if (!stay_has_begun(entry))
        return status_of_refusal(entry);
    const struct parcel *packed = arguments != NULL ? &arguments->parcel : NULL;
    return end(results, call_packed(&c, entry, packed, wants_results, &results->parcel, &r), &r);
}

int mtstates_call(mtstates_state *s, double timeout, const mtstates_parcel *arguments,
                  mtstates_parcel *results)
{
    mtstates_parcel own;
    if (s == NULL || isnan(timeout) || (arguments != NULL && arguments == results) ||
        (arguments != NULL &&
         (arguments->parcel.memory == NULL || !native_parcel_is_whole(arguments))))
        return MTSTATES_MISUSE;
    if (results != NULL) {
        int cleared = mtstates_parcel_clear(results);
        return cleared == MTSTATES_OK ? native_call(s, timeout, arguments, true, results) : cleared;
    }
    if (!native_parcel_init(&own))
        return MTSTATES_NO_MEMORY;
    int status = native_call(s, timeout, arguments, false, &own);
    native_parcel_end(&own);
    return status;
}

int mtstates_close(mtstates_state *s)
{
    if (s == NULL)
        return MTSTATES_MISUSE;
    switch (state_close(state_of_record(record_of(s)), thread_self())) {
    case ENTRY_ENTERED:
        return MTSTATES_OK;
    case ENTRY_CLOSED:
        return MTSTATES_CLOSED;
    default:
        return MTSTATES_BUSY;
    }
}
