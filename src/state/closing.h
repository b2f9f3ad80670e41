/*
 * Closing states. The finalizers of one state may drop the last handle of the next, and so on, and
 * would nest on the C stack. So states that a thread has to close queue while it closes one. And
 * they queue while its C stack has no room for finalizers, until it closes a state or a host where
 * it has, or ends.
 */
#ifndef MTSTATES_CLOSING_H
#define MTSTATES_CLOSING_H

#include "state.h"

/* The word is closing by the calling thread: takes the state out of the registry and closes it, now
 * or later. */
void closing_begin(struct state *s, struct thread *self);

/* Closes what the calling thread left for later, if its C stack has room now. */
void closing_continue(struct thread *self);

#endif
