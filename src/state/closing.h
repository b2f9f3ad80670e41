/*
 * Closing states. The finalizers of one state may drop the last handle of the next, and so on, and
 * would nest on the C stack; so would pools whose plans own each other. So what a thread has to
 * close queues while it closes something. And it queues while its C stack has no room for
 * finalizers, until the thread closes a state or a host where it has, or ends.
 */
#ifndef MTSTATES_CLOSING_H
#define MTSTATES_CLOSING_H

#include "state.h"

/* The word is closing by the calling thread: takes the state out of the registry and closes it, now
 * or later. */
void closing_begin(struct state *s, struct thread *self);

/* Calls run(c), now or later. */
void closing_queue(struct closing *c, void (*run)(struct closing *, struct thread *),
                   struct thread *self);

/* From here on all queues, until release; hold returns what release wants. No Lua runs between. */
bool closing_hold(void);
void closing_release(bool held, struct thread *self);

/* Whether the calling thread is closing something, or has left something for later. */
bool closing_is_pending(void);

/* Closes what the calling thread left for later, if its C stack has room now. */
void closing_continue(struct thread *self);

#endif
