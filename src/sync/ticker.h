/*
 * The ticker: a thread of the module's own that looks again and again at what somebody waits for.
 * It exists only while there is something to look at, and a second after; it blocks all signals,
 * runs no Lua, and starts anew after a fork.
 */
#ifndef MTSTATES_TICKER_H
#define MTSTATES_TICKER_H

#include <stdatomic.h>
#include <stdbool.h>

#define TICKER_MS 10
#define TICKER_SECONDS (TICKER_MS / 1e3)

/*
 * Whether a look, the n-th since there is something to send a signal for, should send it: at each
 * of the first ones, and then less and less often. What has had no effect by then waits in C code,
 * which signals would only disturb.
 */
static inline bool tick_is_turn(unsigned n)
{
    enum { OFTEN = 4 };
    return n <= OFTEN || (n & (n - 1)) == 0;
}

/* Something to look at; embedded in what it belongs to. All fields are the ticker's; nobody else
 * writes them but to make all of them 0 at first. */
struct tick {
    struct tick *next, *previous;
    bool (*look)(struct tick *);
    double seconds;     /* from look to look, at most */
    unsigned looks;     /* since it was last added, this one counted */
    atomic_bool listed; /* written under the ticker's lock */
};

/*
 * Has `look(t)` called in the ticker every TICKER_MS until it returns false, or at least every
 * `seconds` if that is less. Any thread; blocks for
 * other looks only. False: without memory for a thread nobody looks before the next call.
 */
bool ticker_add(struct tick *t, bool (*look)(struct tick *), double seconds);

/* When this returns, `t` is not looked at, and will not be. */
void ticker_remove(struct tick *t);

/* Round a fork. */
void ticker_fork_begin(void);
void ticker_fork_end(bool is_child);

#endif
