/*
 * Waiting for one of several states: the protocol of ownership.h for WORDS words that have one
 * queue and one lock, as a model for spin. run.sh runs it.
 *
 * Each of THREADS threads ROUNDS times tries to enter an idle word at once, or waits for a certain
 * word or for any, without a limit or with one; whoever is inside leaves. spin goes through every
 * order of their steps and shows:
 *   no two threads are inside one word at once;
 *   no thread touches the waiter of another thread once its memory is gone;
 *   no thread sleeps or waits for ever, so whoever waits without a limit gets in;
 *   `is_full`, for which callers are refused without a look, is true only while all words are busy;
 *   nobody is overlooked: of each word that a sleeper may take, somebody knows that he has to look
 *   at it, or to see to the queue when he leaves it (BLIND does not look at this, so that weakened
 *   copies show that a thread sleeps for ever).
 *
 * A step is one atomic operation on a word or a signal with what follows in the thread's own
 * variables or, under the lock, in what the lock guards. A swap that is tried until it succeeds is
 * one step, the one that succeeds. So is one that is tried once, with the look before it: if it
 * fails, nothing has changed.
 *
 * Time is a choice: a deadline may pass at any moment, and any waiter may have waited long enough
 * to be handed a word. All threads are alike, hence they begin in the order of their numbers: with
 * other numbers every run is such a run.
 *
 * Not in here: what ownership.pml shows of one word alone (closing, abandoning, nested entries),
 * and memory orders.
 *
 * Each WEAK_... leaves something out or does it in the wrong order, and has to be rejected.
 */
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define WAITED 1
#define NAMES(thread) (thread << 1)
#define MAY_TAKE(thread, w) (only[thread] == 0 || only[thread] == w)

/* Words are numbered from 1 on; 0 is none. */
byte word[WORDS + 1];
byte inside[WORDS + 1];             /* the thread that takes itself to be in it, or 0 */
byte lock;                          /* the thread that has it, or 0 */
chan queue = [THREADS] of { byte }; /* the waiters by their threads, longest waiting first */
byte begun;                         /* how many threads have begun */
bool is_full;                       /* all words were flagged, and none was left since */

/* The waiter of each thread. */
bool on_stack[THREADS + 1]; /* it exists */
byte only[THREADS + 1];     /* the word it waits for; 0: any */
byte handed[THREADS + 1];   /* the word that names the thread already */
byte woken[THREADS + 1];    /* the word it was woken for, until it sleeps again */
bool signalled[THREADS + 1];
bool asleep[THREADS + 1]; /* in the kernel, until it is signalled */

/* These are never kept from one step to the next. */
hidden byte rest, waiter, other, each, taken, known;

/* In the first step of every round that others can see. */
inline begin_in_order()
{
    begun >= self - 1;
    begun = (begun > self -> begun : self)
}

/* ---- the lock and the queue ---- */

/*
 * Whoever leaves the word will see to `waiter`, or someone who was woken for the word or handed it
 * has yet to leave the queue or to look at it.
 */
inline somebody_knows(w)
{
    known = (word[w] & WAITED);
    other = THREADS;
    do
    :: other > 0 -> known = known || woken[other] == w || handed[other] == w; other--
    :: else -> break
    od
}

inline nobody_overlooked()
{
    rest = len(queue);
    do
    :: rest > 0 ->
        queue?waiter;
        queue!waiter;
        rest--;
        each = WORDS;
        do
        :: each > 0 ->
            if
            :: woken[waiter] == 0 && MAY_TAKE(waiter, each) -> somebody_knows(each); assert(known)
            :: else
            fi;
            each--
        :: else -> break
        od
    :: else -> break
    od
}

inline mutex_lock()
{
    atomic { lock == 0 -> lock = self }
}

inline mutex_unlock()
{
    d_step {
        assert(lock == self);
#ifndef BLIND
        nobody_overlooked();
#endif
        lock = 0
    }
}

/* Sets `next` to the first in the queue that may take the word, or 0. */
inline find_first(w, unwoken)
{
    d_step {
        next = 0;
        rest = len(queue);
        do
        :: rest > 0 ->
            queue?waiter;
            queue!waiter;
            rest--;
            if
            :: next == 0 && MAY_TAKE(waiter, w) && !(unwoken && woken[waiter] != 0) ->
                next = waiter
            :: else
            fi
        :: else -> break
        od;
        waiter = 0
    }
}

/* ---- park.c ---- */

/* The kernel compares and falls asleep in one step. */
inline word_wait()
{
#ifdef WEAK_SLEEP_WITHOUT_COMPARE
    asleep[self] = true;
#else
    asleep[self] = !signalled[self];
#endif
    atomic { !asleep[self] || timed -> asleep[self] = false }
}

inline park_wait()
{
    do
    :: signalled[self] -> break
    :: atomic { !signalled[self] && timed -> in_time = false; break }
    :: !signalled[self] -> word_wait()
    od
}

inline park_wake()
{
    atomic { assert(on_stack[next]); signalled[next] = true }
    atomic { assert(on_stack[next]); asleep[next] = false; next = 0 }
}

/* ---- ownership.c ---- */

inline begin_inside()
{
    assert(inside[x] == 0);
    inside[x] = self
}

/* At once, or not at all. */
inline enter()
{
    atomic {
        begin_in_order();
        select(x : 1 .. WORDS);
        x = (word[x] == 0 -> x : 0);
#ifdef WEAK_ENTER_WITHOUT_SWAP
    }
    atomic {
#endif
        if
        :: x != 0 -> word[x] = NAMES(self); begin_inside()
        :: else
        fi
    }
}

/* Under the lock: takes an idle word, or sets WAITED on a busy one. */
inline take_or_flag()
{
    if
    :: word[x] == 0 -> word[x] = NAMES(self); taken = true
#ifdef WEAK_LOOK_WITHOUT_FLAG
    :: else -> taken = false
#else
    :: else -> word[x] = word[x] | WAITED; taken = false
#endif
    fi
}

/* Its words in order. Sets `x` to the one it took, or 0. */
inline take_or_flag_each()
{
    x = (only[self] == 0 -> 1 : only[self]);
    do
    :: atomic {
            take_or_flag();
            if
            :: taken -> break
            :: !taken && (only[self] != 0 || x == WORDS) -> x = 0; break
            :: else -> x++
            fi
        }
    od
}

/* Under the lock, by who has entered `x` and leaves the queue: sees to the next in it. */
inline pass_on()
{
#ifndef WEAK_NO_PASS_ON
    if
    :: nempty(queue) -> word[x] = word[x] | WAITED
    :: empty(queue)
    fi;
#endif
    if
#ifndef WEAK_NO_TELL
    /* It will not look at the word it was woken to take: somebody else has to. */
    :: woken[self] != 0 && woken[self] != x ->
        find_first(woken[self], true);
        if
        :: next != 0 -> woken[next] = woken[self]
        :: else
        fi
#endif
    :: else
    fi
}

inline enter_wait()
{
    atomic { begin_in_order(); mutex_lock(); on_stack[self] = true; in_time = true; queue!self }
    do
    :: x != 0 -> break
    :: else ->
#ifdef WEAK_NO_LAST_TRY
        if
        :: !in_time -> break
        :: else
        fi;
#endif
        take_or_flag_each();
        if
        :: x == 0 && only[self] == 0 -> is_full = true
        :: else
        fi;
        if
        :: x != 0 || !in_time -> break
        :: else
        fi;
        atomic { signalled[self] = false; woken[self] = 0; mutex_unlock() }
        park_wait();
        atomic { mutex_lock(); x = handed[self] }
    od;
    atomic {
        if
        :: handed[self] == 0 -> queue??eval(self)
        :: else
        fi;
        if
        :: x != 0 -> pass_on()
        :: else
        fi
    }
    if
    :: next != 0 -> park_wake()
    :: else
    fi;
    atomic {
        on_stack[self] = false;
        only[self] = 0;
        handed[self] = 0;
        woken[self] = 0;
        signalled[self] = false;
        in_time = false;
        timed = false;
        mutex_unlock();
        if
        :: x != 0 -> begin_inside()
        :: else
        fi
    }
}

inline set_idle()
{
    assert(!is_full);
    word[x] = 0
}

/* Sets `next` to the waiter it has to signal, or 0. */
inline hand_over()
{
    find_first(x, false);
    if
    :: next != 0 -> queue??eval(next); handed[next] = x; word[x] = NAMES(next)
    :: else -> set_idle()
    fi
}

inline make_idle()
{
    set_idle();
#ifdef WEAK_WAKE_THE_WOKEN
    find_first(x, false);
#else
    find_first(x, true);
#endif
    if
    :: next != 0 -> woken[next] = x
    :: else
    fi
}

inline leave_slowly()
{
    atomic {
        mutex_lock();
#ifndef WEAK_STAYS_FULL
        is_full = false;
#endif
        if
        :: hand_over()
        :: make_idle()
        fi;
        x = 0
    }
#ifdef WEAK_SIGNAL_AFTER_UNLOCK
    mutex_unlock();
#endif
    if
    :: next != 0 -> park_wake()
    :: else
    fi;
#ifndef WEAK_SIGNAL_AFTER_UNLOCK
    mutex_unlock()
#endif
}

inline leave()
{
    atomic {
        assert(inside[x] == self);
        inside[x] = 0;
        if
        :: word[x] == NAMES(self) -> set_idle(); x = 0
        :: else
        fi
    }
    if
    :: x != 0 -> leave_slowly()
    :: else
    fi
}

proctype thread(byte self)
{
    byte x, next, rounds;
    bool timed, in_time;

    do
    :: rounds < ROUNDS ->
        rounds++;
        if
        :: enter()
        :: atomic { timed = true; select(each : 0 .. WORDS); only[self] = each }
           enter_wait()
        :: atomic { select(each : 0 .. WORDS); only[self] = each }
           enter_wait()
        fi;
        if
        :: x != 0 -> leave()
        :: else
        fi
    :: else -> break
    od
}

init
{
    atomic {
        byte t;
        for (t : 1 .. THREADS) {
            run thread(t)
        }
    }
    _nr_pr == 1
}
