/*
 * Requests to interrupt: interrupt.c, and what stay.h, thread_signal.c and ticker.c have to do with
 * it, as a model for spin. run.sh runs it.
 *
 * One thread enters a state, runs Lua code in it, and leaves, again and again. Another sends
 * requests; the ticker sends signals again. The handler runs in the thread, between any two of its
 * steps. Lua may lose a hook at any moment, and code may put another one in its place. spin goes
 * through every order of the steps and shows:
 *   code never runs with a request pending that nothing is on its way for: neither a hook that will
 *   strike, nor a signal, nor the ticker, nor the sender, who has not done yet;
 *   each request strikes once at most, and code is struck only where there was one.
 *
 * A step is one atomic operation with what follows in the thread's own variables. Not in here:
 * coroutines (one runs), more threads and states than one, INTERRUPT_ALWAYS, which stays pending.
 *
 * Each WEAK_... leaves something out or does it in the wrong order, and has to be rejected.
 */
#define REQUESTS 3
#define LOSSES 2

bool inside;   /* the ownership word names the thread */
bool request;  /* INTERRUPT_ONCE */
bool linked;   /* the stay is in the thread's list */
bool changing;
bool hook;     /* set, and Lua will come by */
bool signal;   /* sent, and not handled yet */
bool ticking;

bool sending;  /* the sender is at work */
bool running;  /* Lua code runs */
byte sent, struck, lost;

/* ---- in the thread ---- */

/* Looks once more if a request came meanwhile, whose handler kept off. */
inline interrupt_settle()
{
    do
    :: changing = true;
       if
       :: request -> hook = true
       :: !request
       fi;
       changing = false;
       if
       :: request && !hook
       :: else -> break
       fi
    od
}

inline interrupt_meet()
{
    if
    :: request ->
       interrupt_settle();
#ifndef WEAK_MEET_TICKS_NOT
       ticking = true
#endif
    :: !request
    fi
}

inline on_hook()
{
    atomic {
        hook = false;
        if
        :: request -> request = false; struck++
        :: else
        fi
    }
}

/* debug.sethook: the code's own hook takes the place of ours. */
inline debug_sethook()
{
    atomic { running = false; changing = true }
    hook = false;
    changing = false;
    if
    :: request -> interrupt_settle()
    :: !request
    fi;
    running = true
}

active proctype thread()
{
    do
    :: true ->
#ifdef WEAK_LOOK_BEFORE_ENTER
       interrupt_meet();
       inside = true;
       linked = true;
#else
       inside = true;
       linked = true;
       interrupt_meet();
#endif
       running = true;
       do
       :: hook -> on_hook()
       :: atomic { hook && lost < LOSSES -> hook = false; lost++ }
       :: debug_sethook()
       :: break
       od;
       running = false;
       linked = false;
       inside = false
    :: atomic { sent == REQUESTS && !inside && !sending -> break }
    od
}

/* Comes between two steps of the thread, but for those in which it is not there. */
active proctype handler()
{
end:
    do
    :: atomic {
            signal -> signal = false;
            if
            :: linked && request && !changing -> hook = true
            :: else
            fi
        }
    od
}

/* ---- in others ---- */

active proctype sender()
{
    do
    :: sent < REQUESTS ->
#ifdef WEAK_SEND_LOOKS_FIRST
        bool seen;
        atomic { sending = true; seen = inside }
        atomic { sent = (request -> sent : sent + 1); request = true }
        if
        :: seen -> signal = true; ticking = true
        :: else
        fi;
#else
        atomic { sending = true; sent = (request -> sent : sent + 1); request = true }
        if
        :: inside -> signal = true; ticking = true
        :: !inside
        fi;
#endif
        sending = false
    :: sent == REQUESTS -> break
    od
}

active proctype ticker()
{
end:
    do
    :: atomic {
            ticking ->
            if
#ifndef WEAK_TICKER_SENDS_NOT
            :: request && inside -> signal = true
#endif
            :: else -> ticking = false
            fi
        }
    od
}

/* At any moment. */
active proctype monitor()
{
    assert(!(running && request && !hook && !signal && !ticking && !sending) && struck <= sent)
}
