/*
 * The interpreter of a state, from birth to end: its libraries, with some functions of the module's
 * own among them; what stands at the bottom of its stack; and leaving lua_close early.
 *
 * Why functions of our own: `coroutine.resume`, `wrap` and `close` tell what runs, `xpcall` and
 * `debug.sethook` leave code no way round an interrupt (interrupt.c); `os.exit` leaves a closing
 * state (below); `math.random` starts at a place of the state's own, where Lua's seed is the time
 * and an address that may come again.
 *
 * Once the finalizers have run, Lua would free object by object what goes with the arena at once.
 * So the last finalizer, of an object that was there first, jumps out of lua_close: over frames of
 * Lua that hold nothing but memory of the arena.
 */
#ifndef MTSTATES_INTERPRETER_H
#define MTSTATES_INTERPRETER_H

#include "state.h"

/* The bottom of an idle state's main coroutine, and all that is there. */
enum { STATE_SLOT_HANDLER = 1, STATE_SLOT_CALLBACK, STATE_SLOTS = STATE_SLOT_CALLBACK };

/* Opens one; an image_open (image.h). */
lua_State *interpreter_open(lua_Alloc allocate, void *ud, struct state *s, bool libs);

/*
 * Makes the interpreter of a new state: all standard libraries are open, or base and package, with
 * the others in package.preload. Its collector sleeps. The state's arena is initialised. False: out
 * of memory.
 */
bool interpreter_new(struct state *s, bool libs);

/* Gives the new interpreter random numbers of its own, and lets its collector work. [-0, +0, m] */
void interpreter_start(lua_State *target);

/* Makes the function on top of the stack the callback. [-1, +0, m] */
void interpreter_set_callback(lua_State *target);

/* Pushes the callback on any coroutine of the state, or nil before it has one. [-0, +1, -] */
void interpreter_push_callback(lua_State *L);

/* More values than a main coroutine's stack should keep room for. */
enum { INTERPRETER_LARGE = 250 };

/* Puts handler and callback on the main coroutine's stack, and nothing else; before that, gives
 * back a stack that was large. Nothing runs there. [-?, +STATE_SLOTS, -] */
void interpreter_rest(struct state *s, lua_CFunction handler, bool was_large);

/* Runs the finalizers and frees the interpreter's memory. */
void interpreter_close(struct state *s);

/* The state that `L` belongs to, if the module made it, else NULL. [-0, +0, -] */
struct state *interpreter_state(lua_State *L);

/* Push what interrupts and time limits raise on any coroutine of a state; take no memory.
 * [-0, +1, -] */
void interpreter_push_interrupted(lua_State *L);
void interpreter_push_time_limit(lua_State *L);

#endif
