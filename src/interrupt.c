#if defined(__linux__)
#define _GNU_SOURCE /* syscall */
#endif

#include "interrupt.h"

#include "arena.h"
#include "error.h"

#include <sched.h>
#include <string.h>

#if defined(__linux__)
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/*
 * Every running thread of the process has passed a full fence when this returns; at least it is
 * very likely, where the system has no call for it.
 */
static void fence_all_threads(void)
{
#if defined(__linux__)
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
        return;
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 &&
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
        return;
#endif
    sched_yield();
    atomic_thread_fence(memory_order_seq_cst);
}

/*
 * Lua copies the extra space of the main coroutine to each new one, and it is for whoever made the
 * state, which is us: a way from any coroutine to its interrupt without a look-up.
 */
struct interrupt *interrupt_of(lua_State *L)
{
    struct interrupt *i;
    memcpy(&i, lua_getextraspace(L), sizeof i);
    return i;
}

void interrupt_attach(struct interrupt *i, lua_State *target, struct arena *arena)
{
    memcpy(lua_getextraspace(target), &i, sizeof i);
    atomic_init(&i->request, INTERRUPT_NONE);
    atomic_init(&i->running, target);
    i->arena = arena;
    i->displaced.owner = NULL;
}

void interrupt_detach(struct interrupt *i)
{
    arena_hold(i->arena);
    atomic_store(&i->running, NULL);
    atomic_store(&i->request, INTERRUPT_NONE);
    arena_release(i->arena);
}

static void on_hook(lua_State *L, lua_Debug *ar);

/* Under `walk`. */
static void hook_set(struct interrupt *i, lua_State *L)
{
    lua_Hook hook = lua_gethook(L);
    if (hook != NULL && hook != on_hook) {
        i->displaced.owner = L;
        i->displaced.hook = hook;
        i->displaced.mask = lua_gethookmask(L);
        i->displaced.count = lua_gethookcount(L);
    }
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

/* Unless another request has come meanwhile, whose hook this is then. */
static void hook_clear(struct interrupt *i, lua_State *L)
{
    arena_hold(i->arena);
    if (interrupt_is_pending(i)) {
        arena_release(i->arena);
        return;
    }
    if (i->displaced.owner == L) {
        lua_sethook(L, i->displaced.hook, i->displaced.mask, i->displaced.count);
        i->displaced.owner = NULL;
    } else {
        lua_sethook(L, NULL, 0, 0);
    }
    arena_release(i->arena);
}

static void raise_interrupted(lua_State *L)
{
    lua_pushliteral(L, ERROR_INTERRUPTED);
    lua_error(L);
}

/* In the state, before an operation of coroutine `L` that was hooked. */
static void on_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    struct interrupt *i = interrupt_of(L);
    int request = INTERRUPT_ONCE;
    if (!atomic_compare_exchange_strong(&i->request, &request, INTERRUPT_NONE) &&
        request == INTERRUPT_ALWAYS)
        raise_interrupted(L);
    hook_clear(i, L);
    if (request == INTERRUPT_ONCE)
        raise_interrupted(L);
}

void interrupt_arm(struct interrupt *i, lua_State *L)
{
    arena_hold(i->arena);
    hook_set(i, L);
    arena_release(i->arena);
}

lua_State *interrupt_switch(struct interrupt *i, lua_State *L)
{
    lua_State *before = atomic_load_explicit(&i->running, memory_order_relaxed);
    if (before == NULL)
        return NULL; /* detached: a finalizer runs as the interpreter closes */
    atomic_store(&i->running, L);
    if (atomic_load(&i->request) != INTERRUPT_NONE)
        interrupt_arm(i, L);
    return before;
}

bool interrupt_send(struct interrupt *i, enum interrupt_request request)
{
    arena_hold(i->arena);
    bool attached = atomic_load(&i->running) != NULL;
    if (attached) {
        int none = INTERRUPT_NONE;
        if (request == INTERRUPT_ONCE) /* does not weaken INTERRUPT_ALWAYS */
            atomic_compare_exchange_strong(&i->request, &none, INTERRUPT_ONCE);
        else
            atomic_store(&i->request, request);
    }
    if (attached && request != INTERRUPT_NONE) {
        /*
         * Twice: a function that is just being called may have missed the new hook mask, and its
         * call record the first walk. After the fence one of the two is past.
         */
        hook_set(i, atomic_load(&i->running));
        fence_all_threads();
        hook_set(i, atomic_load(&i->running));
    }
    arena_release(i->arena);
    return attached;
}
