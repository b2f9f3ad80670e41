/*
 * Signals and interrupts. A host's own handler of SIGURG gets the host's signals and nothing else,
 * whoever came first; what a host does with the signal, its masks and stacks does not keep an
 * interrupt from striking; and what a thread does inside of a state is not disturbed by one.
 */
#define _GNU_SOURCE /* pthread_sigqueue */
#include "open_lua.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>

#if defined(__SANITIZE_THREAD__)
#define BREATHE "os.time() " /* where the thread sanitizer delivers a signal */
#define PATIENCE 60
#else
#define BREATHE ""
#define PATIENCE 10 /* seconds */
#endif

/* ---- what states call ---- */

static _Atomic bool has_arrived; /* the thread is where it is to be interrupted */

static int arrive(lua_State *L)
{
    atomic_store(&has_arrived, true);
    (void)L;
    return 0;
}

static int raise_urgent(lua_State *L)
{
    CHECK(raise(SIGURG) == 0);
    (void)L;
    return 0;
}

/* As a C library may that takes EINTR for an error. */
static int read_byte(lua_State *L)
{
    char byte = 0;
    atomic_store(&has_arrived, true);
    ssize_t count = read((int)luaL_checkinteger(L, 1), &byte, 1);
    CHECK(count == 1 && byte == 'x');
    return 0;
}

/* Takes 50 ms of an interrupt that waits for it to return. */
static int keep_errno(lua_State *L)
{
    double deadline = test_clock() + 0.05;
    errno = INT_MAX;
    while (test_clock() < deadline)
        CHECK(errno == INT_MAX);
    (void)L;
    return 0;
}

static int open_signals(lua_State *L)
{
    static const luaL_Reg functions[] = {{"arrive", arrive},
                                         {"raise", raise_urgent},
                                         {"read", read_byte},
                                         {"errno", keep_errno},
                                         {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}

/* ---- interrupting ---- */

static void run(lua_State *L, const char *code)
{
    check_lua(L, luaL_dostring(L, code));
}

static lua_State *owner; /* of the state "busy", whose callback runs code */

static void make_busy(void)
{
    run(owner, "mt = require('mtstates')\n"
               "busy = mt.newstate('busy', function()\n"
               "  signals = require('signals')\n"
               "  return function(code) return load(code)() end\n"
               "end)");
}

struct caller {
    pthread_t thread;
    const char *code;
    void (*prepare)(void); /* runs in the thread before it first uses the module, unless NULL */
    void (*check)(void);   /* and afterwards */
    _Atomic bool has_ended;
};

static void *call_busy(void *argument)
{
    struct caller *caller = argument;
    if (caller->prepare)
        caller->prepare();
    lua_State *L = open_lua("signals", open_signals);
    lua_pushstring(L, caller->code);
    lua_setglobal(L, "code");
    run(L, "local mt = require('mtstates')\n"
           "local state = mt.state('busy')\n"
           "local _, message = pcall(state.tcall, state, math.huge, code)\n"
           "assert(tostring(message):match(mt.error.interrupted), message)\n"
           "for i = 1, 100 do assert(state:call('return 5') == 5) end");
    if (caller->check)
        caller->check();
    lua_close(L);
    atomic_store(&caller->has_ended, true);
    return NULL;
}

static void wait_until(_Atomic bool *condition)
{
    double deadline = test_clock() + PATIENCE;
    while (!atomic_load(condition)) {
        CHECK(test_clock() < deadline);
        usleep(1000);
    }
}

/* Calls the state "busy" with that code, in a thread of its own. Returns when it has arrived. */
static void start(struct caller *caller)
{
    atomic_store(&has_arrived, false);
    atomic_init(&caller->has_ended, false);
    CHECK(pthread_create(&caller->thread, NULL, call_busy, caller) == 0);
    wait_until(&has_arrived);
}

static void end(struct caller *caller)
{
    wait_until(&caller->has_ended);
    pthread_join(caller->thread, NULL);
}

static void interrupt_strikes_in(const char *code, void (*prepare)(void), void (*check)(void))
{
    struct caller caller = {.code = code, .prepare = prepare, .check = check};
    start(&caller);
    run(owner, "busy:interrupt()");
    end(&caller);
}

static void interrupts_strike(void)
{
    for (int i = 0; i < 3; i++)
        interrupt_strikes_in("signals.arrive() while true do " BREATHE "end", NULL, NULL);
}

/* ---- the host's handlers ---- */

static _Atomic int first_count, second_count, plain_count, sent_value;

static void first(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    atomic_store(&sent_value, info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
    atomic_fetch_add(&first_count, 1);
}

static struct sigaction found_by_second;

/* A good citizen that passes on to whom it found there. */
static void second(int signal, siginfo_t *info, void *context)
{
    atomic_fetch_add(&second_count, 1);
    if (found_by_second.sa_flags & SA_SIGINFO)
        found_by_second.sa_sigaction(signal, info, context);
}

static void plain(int signal)
{
    CHECK(signal == SIGURG);
    atomic_fetch_add(&plain_count, 1);
}

static void install_action(void (*action)(int, siginfo_t *, void *), struct sigaction *before)
{
    struct sigaction new = {.sa_sigaction = action,
                            .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    CHECK(sigaction(SIGURG, &new, before) == 0);
}

static void install_handler(void (*handler)(int))
{
    struct sigaction new = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGURG, &new, NULL) == 0);
}

/* valgrind delivers some a moment later. */
static void comes_to(_Atomic int *count, int expected)
{
    double deadline = test_clock() + PATIENCE;
    while (atomic_load(count) < expected && test_clock() < deadline)
        usleep(100);
    CHECK(atomic_load(count) == expected);
}

/* Every way in which a program sends itself a signal, outside of states and in one. */
static void a_handler_gets_the_hosts_signals_and_no_others(_Atomic int *count)
{
    int before = atomic_load(count);
    interrupts_strike();
    CHECK(atomic_load(count) == before);
    CHECK(raise(SIGURG) == 0);
    comes_to(count, before + 1);
    CHECK(pthread_kill(pthread_self(), SIGURG) == 0);
    comes_to(count, before + 2);
    CHECK(pthread_sigqueue(pthread_self(), SIGURG, (union sigval){.sival_int = 5}) == 0);
    comes_to(count, before + 3);
    run(owner, "busy:call('signals.raise() return 1')"); /* is no interrupt either */
    comes_to(count, before + 4);
    interrupt_strikes_in("signals.arrive() while true do signals.raise() end", NULL, NULL);
    int after = atomic_load(count);
    CHECK(after >= before + 4); /* it may strike before the first */
    interrupts_strike();
    CHECK(atomic_load(count) == after);
}

static void a_handler_from_before_gets_its_own_signals(void)
{
    install_action(first, NULL);
    owner = open_lua("signals", open_signals); /* the first to load the module */
    make_busy();
    a_handler_gets_the_hosts_signals_and_no_others(&first_count);
    int before = atomic_load(&first_count);
    CHECK(pthread_sigqueue(pthread_self(), SIGURG, (union sigval){.sival_int = 17}) == 0);
    comes_to(&first_count, before + 1);
    CHECK(atomic_load(&sent_value) == 17);
}

static void a_handler_that_comes_later_and_passes_on_gets_its_own_signals(void)
{
    install_action(second, &found_by_second);
    interrupts_strike();
    a_handler_gets_the_hosts_signals_and_no_others(&second_count);
    for (int i = 0; i < 3; i++) { /* in turn with ours */
        install_action(second, NULL);
        a_handler_gets_the_hosts_signals_and_no_others(&second_count);
    }
}

static void a_handler_without_information_gets_its_own_signals(void)
{
    install_handler(plain);
    a_handler_gets_the_hosts_signals_and_no_others(&plain_count);
}

static void signals_that_the_host_ignores_do_no_harm(void)
{
    void (*const dispositions[])(int) = {SIG_IGN, SIG_DFL};
    for (int i = 0; i < 2; i++) {
        install_handler(dispositions[i]);
        interrupts_strike();
        CHECK(raise(SIGURG) == 0);
        run(owner, "busy:call('signals.raise()')");
        interrupt_strikes_in("signals.arrive() while true do signals.raise() end", NULL, NULL);
    }
}

/* ---- masks and stacks ---- */

static void block_all(void)
{
    sigset_t all;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
}

static void others_are_still_blocked(void)
{
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    for (int signal = 1; signal < NSIG; signal++)
        CHECK(signal == SIGURG || signal == SIGKILL || signal == SIGSTOP ||
              (signal >= __SIGRTMIN && signal < SIGRTMIN) || sigismember(&mask, signal));
}

static void a_thread_that_blocks_all_signals_is_interrupted(void)
{
    interrupt_strikes_in("signals.arrive() while true do " BREATHE "end", block_all,
                         others_are_still_blocked);
}

/* It is looked for where the thread enters a state or a coroutine. */
static void a_time_limit_strikes_where_the_signal_is_blocked(void)
{
    sigset_t urgent, before;
    sigemptyset(&urgent);
    sigaddset(&urgent, SIGURG);
    CHECK(pthread_sigmask(SIG_BLOCK, &urgent, &before) == 0);
    run(owner, "local limited = mt.newstate({ time_limit = 0.05 }, function()\n"
               "  local inner = require('mtstates').newstate('return function() end')\n"
               "  return function(how)\n"
               "    while how == 'coroutines' do coroutine.wrap(function() end)() end\n"
               "    while how == 'states' do inner:call() end\n"
               "  end\n"
               "end)\n"
               "for _, how in ipairs({ 'coroutines', 'states' }) do\n"
               "  local ok, message = pcall(limited.call, limited, how)\n"
               "  assert(not ok and message:find(mt.error.time_limit, 1, true), message)\n"
               "end\n"
               "limited:call()\n"
               "limited:close()");
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

#define ALTERNATE_SIZE ((size_t)64 * 1024)
static _Thread_local char *alternate;
static _Atomic bool was_on_alternate;

static void where(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    (void)context;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    if (alternate && here - (uintptr_t)alternate < ALTERNATE_SIZE)
        atomic_store(&was_on_alternate, true);
}

static void use_alternate(void)
{
    alternate = malloc(ALTERNATE_SIZE);
    CHECK(alternate != NULL);
    stack_t stack = {.ss_sp = alternate, .ss_size = ALTERNATE_SIZE};
    CHECK(sigaltstack(&stack, NULL) == 0);
}

static void drop_alternate(void)
{
    stack_t none = {.ss_flags = SS_DISABLE};
    CHECK(sigaltstack(&none, NULL) == 0);
    free(alternate);
}

static void an_alternate_stack_is_used(void)
{
    install_action(where, NULL);
    interrupt_strikes_in("signals.arrive() while true do " BREATHE "end", use_alternate,
                         drop_alternate);
    interrupt_strikes_in("signals.raise() signals.arrive() while true do " BREATHE "end",
                         use_alternate, drop_alternate);
    CHECK(atomic_load(&was_on_alternate));
    install_handler(SIG_DFL);
}

/* ---- what a thread does inside ---- */

static void a_thread_that_reads_is_not_disturbed(void)
{
    int fds[2];
    char code[64];
    CHECK(pipe(fds) == 0);
    snprintf(code, sizeof code, "signals.read(%d) while true do " BREATHE "end", fds[0]);
    struct caller caller = {.code = code};
    start(&caller);
    run(owner, "busy:interrupt()");
    usleep(100000);
    CHECK(!atomic_load(&caller.has_ended));
    CHECK(write(fds[1], "x", 1) == 1);
    end(&caller);
    close(fds[0]);
    close(fds[1]);
}

static void errno_is_not_disturbed(void)
{
    interrupt_strikes_in("signals.arrive() signals.errno() while true do " BREATHE "end", NULL,
                         NULL);
    interrupt_strikes_in("signals.arrive() while true do signals.errno() end", NULL, NULL);
}

/* ---- threads that come and go, and processes ---- */

static _Atomic bool enough;

static void *come_and_go(void *argument)
{
    lua_State *L = open_lua("signals", open_signals);
    run(L, "local mt = require('mtstates')\n"
           "local state = mt.state('busy')\n"
           "for i = 1, 3 do\n"
           "  local ok, message = pcall(state.tcall, state, 1,\n"
           "    'for i = 1, 100 do math.abs(i) end return 5')\n"
           "  assert(ok or message:match(mt.error.interrupted), message)\n"
           "end");
    lua_close(L);
    return argument;
}

static void *send_all_the_time(void *argument)
{
    lua_State *L = open_lua("signals", open_signals);
    run(L, "busy = require('mtstates').state('busy')");
    while (!atomic_load(&enough))
        run(L, "busy:interrupt()");
    lua_close(L);
    return argument;
}

static void threads_may_end_while_they_are_interrupted(void)
{
    pthread_t sender;
    double deadline = test_clock() + test_seconds() / 3;
    CHECK(pthread_create(&sender, NULL, send_all_the_time, NULL) == 0);
    while (test_clock() < deadline) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, come_and_go, NULL) == 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    }
    atomic_store(&enough, true);
    pthread_join(sender, NULL);
    run(owner, "busy:interrupt(false) assert(busy:call('return 5') == 5)");
}

static void a_child_of_fork_interrupts_too(void)
{
#if !defined(__SANITIZE_THREAD__) /* cannot start threads in such a child */
    int status;
    interrupts_strike(); /* so that whatever helps with it is there */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(PATIENCE);
        run(owner, "busy:close()");
        make_busy();
        interrupts_strike();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
#endif
}

int main(void)
{
    a_handler_from_before_gets_its_own_signals();
    a_handler_that_comes_later_and_passes_on_gets_its_own_signals();
    a_handler_without_information_gets_its_own_signals();
    signals_that_the_host_ignores_do_no_harm();
    a_thread_that_blocks_all_signals_is_interrupted();
    a_time_limit_strikes_where_the_signal_is_blocked();
    an_alternate_stack_is_used();
    a_thread_that_reads_is_not_disturbed();
    errno_is_not_disturbed();
    threads_may_end_while_they_are_interrupted();
    a_child_of_fork_interrupts_too();
    lua_close(owner);
    return 0;
}
