/*
 * What debuggers read: mtstates_inside.h.
 */
#include "mtstates_inside.h"
#include "state/state.h"

#define FROM_INSIDE(field)                                                                         \
    ((int32_t)offsetof(struct state, field) - (int32_t)offsetof(struct state, inside))

const struct mtstates_layout mtstates_layout = {
    .version = MTSTATES_INSIDE_VERSION,
    .thread_next = offsetof(struct thread_entry, next),
    .thread_id = offsetof(struct thread_entry, id),
    .thread_inside = offsetof(struct thread_entry, place.inside),
    .inside_running = FROM_INSIDE(interrupt.running),
    .inside_resumed = FROM_INSIDE(interrupt.resumed),
    .resumed_coroutine = offsetof(struct interrupt_resumed, L),
    .resumed_before = offsetof(struct interrupt_resumed, before),
    .first_thread = (const void *const *)&thread_first,
};
