/*
 * After a fork the child has the forking thread only, with every lock as it was. So locks of the
 * module are taken before and returned after, on both sides, and the child forgets threads that it
 * does not have. It can make, call and close states of its own; a state that another thread was
 * inside of stays busy.
 */
#ifndef MTSTATES_FORK_H
#define MTSTATES_FORK_H

#include <stdbool.h>

/* Sees to all forks from now on; the second time it does nothing. False: out of memory. */
bool fork_watch(void);

#endif
