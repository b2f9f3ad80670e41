/*
 * Who is inside a state, who closes it and when its record is freed: ownership.c, park.c and what
 * state.c, closing.c and registry.c have to do with it, as a model for spin. run.sh runs it.
 *
 * THREADS threads share one state and its record. The first makes the state; then each does what it
 * likes as often as it likes, and in the end drops its handle. LOOK_UP lets them find the state in
 * the registry, WAIT lets them wait for it. spin goes through every order of their steps and shows:
 *   no two threads are inside at once, and none is after the interpreter's end;
 *   no thread touches the record, or the waiter of another thread, once its memory is gone;
 *   no thread sleeps or waits for ever;
 *   no state is taken for abandoned while it has an owner, nor found once it is closed;
 *   after all, the state was closed once and its record freed once.
 *
 * Functions are the C functions of the same names. A step is one atomic operation with what follows
 * in the thread's own variables or, under the lock, in what the lock guards. What functions return
 * is in `entry`, `closing` (the caller has to close the state), `ok` and `in_time`. Callers close
 * last of all, so that stands once, in thread(). Time is a choice: a deadline may pass at any
 * moment, and any waiter may have waited long enough to be handed the state.
 *
 * Not in here: memory orders (all see the steps in one order; ownership.h argues the rest), the
 * insides of ck and grace.c (a set changes in one step, a grace period is what it promises), futexes that
 * wake for no reason, more states than one, and the queue of those that one thread has to close.
 *
 * Each WEAK_... leaves something out or does it in the wrong order, and has to be rejected.
 */
#define OWNERSHIP_CLOSED 1
#define OWNERSHIP_WAITED 2
#define OWNERSHIP_ABANDONED 4
#define OWNERSHIP_FLAGS 7
#define NUMBER(thread) (thread << 3)
#define BIT(thread) (1 << thread)

mtype = { ENTRY_ENTERED, ENTRY_NESTED, ENTRY_BUSY, ENTRY_CLOSED }

/* struct ownership */
byte word;
byte lock;                          /* the thread that has it, or 0 */
chan queue = [THREADS] of { byte }; /* the waiters by their threads, longest waiting first */

/* struct waiter of each thread */
bool on_stack[THREADS + 1]; /* it exists */
bool handed[THREADS + 1];
bool signalled[THREADS + 1];
bool asleep[THREADS + 1]; /* in the kernel, until it is signalled */

/* struct record */
byte refs;
bool present;
bool deferred; /* to the end of the grace period */
bool freed;

/* registry.c */
bool findable;
bool adding;  /* the mutex is taken; others take and return it in one step */
byte reading; /* who is in a section: a bit each */
byte grace;   /* who was when the record was deferred, and still is */

/* struct state */
byte owners;
bool open = true; /* the interpreter exists */
byte inside;      /* the thread that is in it, or 0 */

hidden byte wanted; /* these two are never kept from one step to the next */
hidden byte swapped;

/* ---- atomic operations and the lock; each touches the record ---- */

inline load()
{
    atomic { assert(!freed); seen = word }
}

inline store(value)
{
    atomic { assert(!freed); word = value }
}

/* Sets `swapped`; if it is false, `seen` is what the word was. */
inline compare_exchange(value)
{
    atomic {
        assert(!freed);
        swapped = (word == seen);
        if
        :: swapped -> word = value
        :: else -> seen = word
        fi
    }
}

inline mutex_lock()
{
    atomic { lock == 0 -> assert(!freed); lock = self }
}

inline mutex_unlock()
{
    atomic { assert(!freed && lock == self); lock = 0 }
}

/* ---- park.c ---- */

inline park_reset()
{
    signalled[self] = false
}

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

inline park_wake(waiter)
{
    atomic { assert(on_stack[waiter]); signalled[waiter] = true }
    atomic { assert(on_stack[waiter]); asleep[waiter] = false }
}

/* ---- ownership.c ---- */

/* From `waiter` on, to the next that is queued. */
inline find_queued()
{
    do
    :: waiter <= THREADS && !queue??[eval(waiter)] -> waiter++
    :: else -> break
    od
}

inline wake_all()
{
    atomic {
#ifndef WEAK_WAKE_ALL_UNLOCKED
        mutex_lock();
#endif
        waiter = 1;
        find_queued()
    }
    do
    :: waiter <= THREADS ->
        park_wake(waiter);
        atomic { waiter++; find_queued() }
    :: else -> break
    od;
    atomic {
        waiter = 0;
#ifndef WEAK_WAKE_ALL_UNLOCKED
        mutex_unlock()
#endif
    }
}

inline ownership_refusal()
{
    if
    :: seen & OWNERSHIP_CLOSED -> entry = ENTRY_CLOSED
    :: else ->
        if
        :: (seen & ~OWNERSHIP_FLAGS) == NUMBER(self) -> entry = ENTRY_NESTED
        :: else -> entry = (seen & OWNERSHIP_ABANDONED -> ENTRY_CLOSED : ENTRY_BUSY)
        fi
    fi
}

inline ownership_enter()
{
    load();
    atomic {
        swapped = false;
        if
        :: seen == 0 ->
#ifdef WEAK_ENTER_WITHOUT_SWAP
            store(NUMBER(self));
            swapped = true
#else
            compare_exchange(NUMBER(self))
#endif
        :: else
        fi;
        if
        :: swapped -> entry = ENTRY_ENTERED
        :: else -> ownership_refusal()
        fi;
        seen = 0
    }
}

inline take_or_flag()
{
    load();
    do
    :: atomic {
            if
            :: seen & (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED) -> entry = ENTRY_CLOSED; break
            :: else
            fi;
            if
            :: seen & OWNERSHIP_WAITED -> entry = ENTRY_BUSY; break
            :: else
            fi;
            if
            :: seen == 0 -> entry = ENTRY_ENTERED; wanted = NUMBER(self)
#ifdef WEAK_SLEEP_WITHOUT_FLAG
            :: else -> entry = ENTRY_BUSY; wanted = seen
#else
            :: else -> entry = ENTRY_BUSY; wanted = seen | OWNERSHIP_WAITED
#endif
            fi;
            compare_exchange(wanted);
            if
            :: swapped -> break
            :: else
            fi
        }
    od
}

inline pass_on()
{
    if
    :: nempty(queue) -> atomic { assert(!freed); word = word | OWNERSHIP_WAITED }
    :: empty(queue)
    fi
}

inline ownership_enter_wait()
{
    ownership_enter();
    if
    :: entry == ENTRY_BUSY ->
        atomic { mutex_lock(); on_stack[self] = true; in_time = true; queue!self }
        do
#ifdef WEAK_TIME_UP_BEFORE_HANDED
        :: handed[self] && in_time -> entry = ENTRY_ENTERED; break
#else
        :: handed[self] -> entry = ENTRY_ENTERED; break
#endif
        :: else ->
            take_or_flag();
            atomic {
                if
                :: entry != ENTRY_BUSY || !in_time -> break
                :: else
                fi;
                seen = 0;
#ifdef WEAK_RESET_AFTER_UNLOCK
                mutex_unlock()
            }
            park_reset();
#else
                park_reset();
                mutex_unlock()
            }
#endif
            park_wait();
            mutex_lock()
        od;
        atomic {
            if
            :: queue??[eval(self)] -> queue??eval(self)
            :: else
            fi
        }
#ifndef WEAK_NO_PASS_ON
        if
        :: entry == ENTRY_ENTERED -> pass_on()
        :: else
        fi;
#endif
        atomic {
            mutex_unlock();
            seen = 0;
            on_stack[self] = false;
            handed[self] = false;
            signalled[self] = false;
            in_time = false
        }
    :: else
    fi
}

/* Sets `wanted`. */
inline word_after()
{
    if
    :: seen & OWNERSHIP_ABANDONED -> wanted = (seen & ~OWNERSHIP_FLAGS) | OWNERSHIP_CLOSED
    :: else ->
        if
        :: hand_over -> wanted = NUMBER(first)
        :: else -> wanted = 0
        fi
    fi
}

inline ownership_leave_slowly()
{
    atomic {
        mutex_lock();
        if
        :: queue?<first>
        :: queue?<first>; hand_over = true
        :: empty(queue)
        fi;
        seen = NUMBER(self) | OWNERSHIP_WAITED
    }
    do
    :: atomic {
            word_after();
            compare_exchange(wanted);
            if
            :: swapped -> closing = wanted & OWNERSHIP_CLOSED; break
            :: else
            fi
        }
    od;
    if
    :: first != 0 && !closing ->
        atomic {
            if
            :: hand_over -> queue??eval(first); handed[first] = true
            :: else
            fi
        }
        park_wake(first)
    :: else
    fi;
    atomic { mutex_unlock(); seen = 0; first = 0; hand_over = false }
}

inline ownership_leave()
{
    atomic {
        seen = NUMBER(self);
#ifdef WEAK_LEAVE_STORES
        store(0);
        swapped = true;
#else
        compare_exchange(0);
#endif
        if
        :: swapped -> seen = 0
        :: else
        fi
    }
    if
    :: seen != 0 -> ownership_leave_slowly()
    :: else
    fi
}

inline ownership_begin_close()
{
    atomic {
        seen = 0;
        compare_exchange(NUMBER(self) | OWNERSHIP_CLOSED);
        if
        :: swapped -> entry = ENTRY_ENTERED
        :: else ->
            if
            :: seen == OWNERSHIP_CLOSED -> entry = ENTRY_CLOSED
            :: (seen & ~OWNERSHIP_FLAGS) == NUMBER(self) -> entry = ENTRY_NESTED
            :: else -> entry = ENTRY_BUSY
            fi
        fi;
        seen = 0
    }
#ifndef WEAK_CLOSE_WAKES_NOBODY
    if
    :: entry == ENTRY_ENTERED -> wake_all()
    :: else
    fi
#endif
}

inline ownership_give_up()
{
    store(NUMBER(self) | OWNERSHIP_CLOSED);
#ifndef WEAK_GIVE_UP_WAKES_NOBODY
    wake_all()
#endif
}

inline ownership_abandon()
{
    load();
    do
    :: atomic {
            if
            :: seen & OWNERSHIP_CLOSED -> break
#ifndef WEAK_ABANDON_ONLY_FLAGS
            :: seen == 0 -> wanted = NUMBER(self) | OWNERSHIP_CLOSED
#endif
            :: else -> wanted = seen | OWNERSHIP_ABANDONED
            fi;
            compare_exchange(wanted);
            if
            :: swapped -> assert(owners == 0); closing = wanted & OWNERSHIP_CLOSED; break
            :: else
            fi
        }
    od;
#ifndef WEAK_ABANDON_WAKES_NOBODY
    if
    :: seen & OWNERSHIP_CLOSED
    :: else -> wake_all()
    fi;
#endif
    seen = 0
}

inline ownership_end_close()
{
    store(OWNERSHIP_CLOSED)
}

inline ownership_is_closed()
{
    atomic { assert(!freed); ok = (word & (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED)) != 0 }
}

/* ---- registry.c ---- */

/* record_retain_if_referenced and state_own. */
inline increment_unless_zero(count)
{
    atomic { assert(!freed); seen = count }
    do
    :: atomic {
            if
            :: seen == 0 -> ok = false; break
            :: else
            fi;
            assert(!freed);
            if
            :: count == seen -> count++; ok = true; break
            :: else -> seen = count
            fi
        }
    od;
    seen = 0
}

inline record_retain_if_referenced()
{
#ifdef WEAK_RETAIN_FROM_ZERO
    atomic { assert(!freed); refs++; ok = true }
#else
    increment_unless_zero(refs)
#endif
}

inline state_own()
{
#ifdef WEAK_OWN_FROM_ZERO
    atomic { assert(!freed); owners++; ok = true }
#else
    increment_unless_zero(owners)
#endif
}

inline record_release()
{
    if
    :: atomic { refs != 1 -> assert(!freed && refs > 0); refs-- }
    :: atomic { refs == 1 -> assert(!freed); refs-- }
       atomic {
           !adding -> assert(!deferred);
           deferred = true;
#ifndef WEAK_NO_GRACE_PERIOD
           grace = reading
#endif
       }
    fi
}

/* Without memory for the name the record is in the set for a moment all the same. */
inline registry_add()
{
    atomic { findable = true; adding = true }
    if
    :: atomic { refs++; present = true; adding = false; ok = true }
    :: atomic { findable = false; adding = false; ok = false }
    fi
}

inline registry_remove()
{
    if
    :: atomic { !adding && !present -> assert(!freed) }
    :: atomic { !adding && present -> assert(!freed); present = false; findable = false }
       record_release()
    fi
}

/* What it meets may be closed, and is then not found. */
inline registry_find()
{
    reading = reading | BIT(self);
    if
    :: atomic { findable -> ownership_is_closed() }
#ifdef WEAK_FIND_CLOSED
        ok = false;
#endif
        if
        :: !ok -> record_retain_if_referenced()
        :: else -> ok = false
        fi
    :: !findable -> ok = false
    fi;
    atomic { reading = reading & ~BIT(self); grace = grace & ~BIT(self) }
}

/* ---- state.c, closing.c, stay.c ---- */

inline state_disown()
{
    if
    :: atomic { owners != 1 -> assert(!freed && owners > 0); owners-- }
    :: atomic { owners == 1 -> assert(!freed); owners-- }
       ownership_abandon();
       if
       :: closing
       :: else -> registry_remove()
       fi
    fi
}

/* What the callback or a finalizer may do to the state it is in. */
inline run_inside()
{
    atomic { entry = 0; assert(open && inside == 0); inside = self }
    if
    :: true
    :: ownership_enter(); assert(entry == ENTRY_NESTED || entry == ENTRY_CLOSED)
    :: ownership_begin_close(); assert(entry == ENTRY_NESTED)
    :: owns -> owns = false; state_disown(); assert(!closing)
    fi;
    atomic { entry = 0; assert(open && inside == self); inside = 0 }
}

inline interpreter_close()
{
#ifdef WEAK_CLOSED_TOO_EARLY
    ownership_end_close();
    run_inside();
    atomic { assert(open); open = false }
#else
    run_inside();
    atomic { assert(open); open = false }
    ownership_end_close();
#endif
    record_release()
}

inline closing_begin()
{
    closing = false;
    registry_remove();
    interpreter_close()
}

inline state_close()
{
    ownership_begin_close();
    assert(entry != ENTRY_NESTED && !(entry == ENTRY_CLOSED && open));
    closing = (entry == ENTRY_ENTERED);
    entry = 0
}

inline stay_end_failed_setup()
{
    ownership_give_up();
    closing = true
}

/* ---- what threads do ---- */

inline setup_make()
{
    making = false;
    if
    :: registry_add()
    :: ok = false
    fi;
    if
    :: ok -> ok = false; ownership_leave()
    :: else -> stay_end_failed_setup()
    fi
}

/* And tcall. */
inline call()
{
    if
    :: ownership_enter()
#ifdef WAIT
    :: timed = true; ownership_enter_wait()
    :: ownership_enter_wait(); assert(entry != ENTRY_BUSY)
#endif
    fi;
    assert(entry != ENTRY_NESTED);
    if
    :: entry == ENTRY_ENTERED ->
        timed = false;
        run_inside();
        ownership_leave();
#ifdef WEAK_NO_CLOSE_AFTER_LEAVE
        closing = false
#endif
    :: else -> timed = false; entry = 0
    fi
}

/* What is found was open when the look-up began. */
inline module_state()
{
    was_open = !(word & (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED));
    registry_find();
    atomic {
        assert(!ok || was_open);
        held = ok;
        ok = false;
        was_open = false
    }
}

/* As in singleton.c. */
inline find_and_own()
{
    was_open = !(word & (OWNERSHIP_CLOSED | OWNERSHIP_ABANDONED));
    registry_find();
    if
    :: ok ->
        state_own();
        if
        :: ok -> atomic { held = true; owns = true; ok = false; assert(was_open); was_open = false }
        :: else -> was_open = false; record_release()
        fi
    :: else -> was_open = false
    fi
}

#define ready (held && !making && !closing)

proctype thread(byte self; bool held, owns, making)
{
    byte seen, first, waiter;
    mtype entry;
    bool ok, closing, hand_over, timed, in_time, was_open;

    do
    :: making -> setup_make()
    :: closing -> closing_begin()
    :: ready -> call()
    :: ready -> state_close()
    :: ready && owns -> owns = false; state_disown()
    :: ready && !owns -> held = false; record_release()
#ifdef LOOK_UP
    :: !held && !closing -> module_state()
    :: !held && !closing -> find_and_own()
#endif
    :: !held && !closing -> break
    od
}

init
{
    byte t;
    /*
     * Without LOOK_UP the others have handles from the start, but only the first owns: one owner is
     * enough, since it may be the one that sleeps for ever, and then none is left to wake it by
     * dropping the last owning handle.
     */
    atomic {
        word = NUMBER(1);
        refs = 2;
        owners = 1;
        run thread(1, true, true, true);
        for (t : 2 .. THREADS) {
#ifdef LOOK_UP
            run thread(t, false, false, false)
#else
            refs++;
            run thread(t, true, false, false)
#endif
        }
    }
    /* The grace period ends. */
    atomic {
        deferred && grace == 0 ->
        assert(lock == 0 && empty(queue) && !findable);
        freed = true
    }
    _nr_pr == 1;
    assert(!open && word == OWNERSHIP_CLOSED && owners == 0 && refs == 0)
}
