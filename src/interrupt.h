/*
 * Stopping Lua code of a state from any thread.
 *
 * A request is a flag plus a debug hook on the coroutine that runs. Code that nobody interrupts
 * pays for neither: the flag is looked at when a call enters the state and when a coroutine is
 * resumed or left, and no hook is set. An endless loop passes no such place, so the interrupter
 * sets the hook from its own thread, as many programs do with lua_sethook; struct arena keeps what
 * it walks over in place.
 *
 * The flag. Written by interrupters and, from INTERRUPT_ONCE to INTERRUPT_NONE or when the state
 * closes, by the thread inside; read by both. `running`, the coroutine to hook, is written by the
 * thread inside and under `walk` when the state closes (NULL); read by interrupters under `walk`.
 * Both are sequentially consistent: an interrupter sets the flag, then reads `running`; resume sets
 * `running`, then reads the flag. So either the interrupter hooks the new coroutine or resume sees
 * the flag and hooks it itself.
 *
 * What stays open, since Lua gives no better way in: lua_sethook writes plain fields (hook,
 * hookmask, hookcount, and `trap` in each call record) that the running thread reads and writes
 * without atomics.
 *
 * Such a write can get lost. A call record keeps `trap` when a hook has ended, and gets it when the
 * stack has moved; at its next instruction Lua (luaG_traceexec) reads hookmask, finds no hook and
 * clears `trap`. A thread that is held up just between this load and this store, seven
 * instructions, for as long as an interrupter takes, clears the interrupter's `trap`: the hook
 * stands, but a loop without calls does not look. The next interrupt, call or resume makes up for
 * it. Nothing on this side of Lua's interface closes the gap: the store is Lua's own, and nobody
 * can tell when the held up thread has made it.
 *
 * A walker that is held up between two instructions while the call record it looks at goes from a
 * Lua function to a pcall of the same coroutine would write into a field of that pcall. On the main
 * coroutine Lua does not use the field.
 */
#ifndef MTSTATES_INTERRUPT_H
#define MTSTATES_INTERRUPT_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>

struct arena;

enum interrupt_request {
    INTERRUPT_NONE,
    INTERRUPT_ONCE,  /* at the next operation */
    INTERRUPT_ALWAYS /* at every operation until INTERRUPT_NONE */
};

struct interrupt {
    _Atomic int request; /* enum interrupt_request */
    _Atomic(lua_State *) running;
    struct arena *arena; /* whose blocks `running` and its call records are */
    struct { /* the last debug hook of the state's own code that gave way; under `walk` */
        lua_State *owner;
        lua_Hook hook;
        int mask;
        int count;
    } displaced;
};

/* Makes `target`, the main coroutine of a new state, and all coroutines made in it interruptible.
 */
void interrupt_attach(struct interrupt *i, lua_State *target, struct arena *arena);

/* From now on nobody touches the interpreter, and what runs in it yet is not interrupted. Has to
 * come before its memory goes. */
void interrupt_detach(struct interrupt *i);

/*
 * Places a request, from any thread, as long as `i` itself lives. False: the state is detached.
 * Blocks only for another interrupter of the same state.
 */
bool interrupt_send(struct interrupt *i, enum interrupt_request request);

static inline bool interrupt_is_pending(struct interrupt *i)
{
    return atomic_load_explicit(&i->request, memory_order_relaxed) != INTERRUPT_NONE;
}

/* The thread inside: hooks `L`, which is about to run, because a request is pending. */
void interrupt_arm(struct interrupt *i, lua_State *L);

/*
 * The thread inside: `L` runs from here on. Returns what ran before, to be given back in the same
 * way. Hooks `L` if a request is pending.
 */
lua_State *interrupt_switch(struct interrupt *i, lua_State *L);

/* What interrupt_attach was given for the state that `L` belongs to. */
struct interrupt *interrupt_of(lua_State *L);

#endif
