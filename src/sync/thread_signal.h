/*
 * The signal by which one thread makes another stop for a moment and look at what it is inside of:
 * the handler runs in that thread, so what it touches needs no lock and no memory order. Go stops
 * its goroutines in this way, with the same signal and for the same reasons: SIGURG is ignored by
 * default, debuggers let it pass, and hardly a program uses it.
 *
 * A handler that was installed before is called for signals that are not ours. A system call that
 * waits is restarted where the system restarts any.
 */
#ifndef MTSTATES_THREAD_SIGNAL_H
#define MTSTATES_THREAD_SIGNAL_H

#include <stdbool.h>
#include <stdint.h>

struct state;
struct thread_entry;

/* Another signal may be chosen when building. */
#if !defined(MTSTATES_SIGNAL)
#define MTSTATES_SIGNAL SIGURG
#endif

struct mtstates_inside;

/* Lets the signal through to the calling thread: servers block signals in their threads. */
void thread_signal_unblock(void);

/*
 * `look(innermost)` is what the handler calls, in the thread that a signal was sent to, with the
 * innermost state that the thread is inside of, or NULL; it may do only what a signal handler may.
 * Before the first signal; always the same.
 */
void thread_signal_prepare(void (*look)(const struct mtstates_inside *innermost));

/* Sends the signal to the thread of that number. False: no such thread is listed. Waits for nothing
 * but the list's lock. Any thread. */
bool thread_signal_send(uint64_t number);

/* The same, under the list's lock; false: there was no such thread, and the entry is gone. */
bool thread_signal_send_locked(struct thread_entry *e);

#endif
