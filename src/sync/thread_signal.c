#if defined(__linux__)
#define _GNU_SOURCE
#endif

#include "thread_signal.h"

#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

/*
 * Written under the list's lock before a signal is sent, read by handlers. `look` has one value
 * only. Of the other two at most one is not NULL: the handler that was there before ours; a handler
 * that reads the one before a change and the other after it calls one of the two, or both.
 */
static void (*_Atomic look_at)(struct thread *);
static void (*_Atomic previous_plain)(int);
static void (*_Atomic previous_informed)(int, siginfo_t *, void *);

/* A handler installed after ours may call ours, which calls it: once round, then the circle ends.
 */
static _Thread_local volatile sig_atomic_t passing_on THREAD_LOCAL_MODEL;

static void pass_on(int number, siginfo_t *info, void *context)
{
    void (*plain)(int) = atomic_load(&previous_plain);
    void (*informed)(int, siginfo_t *, void *) = atomic_load(&previous_informed);
    if (passing_on)
        return;
    passing_on = 1;
    if (informed != NULL)
        informed(number, info, context);
    if (plain != NULL)
        plain(number);
    passing_on = 0;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    int error = errno;
    struct thread *self = &thread_record;
    if (atomic_exchange(&self->signalled, false))
        atomic_load (&look_at)(self);
    else
        pass_on(number, info, context);
    errno = error;
}

/* Under the list's lock: our handler, if it is not there yet or not any more. */
static void install(void)
{
    struct sigaction now, ours = {.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigaction(MTSTATES_SIGNAL, NULL, &now);
    bool informed = now.sa_flags & SA_SIGINFO;
    if (informed && now.sa_sigaction == on_signal)
        return;
    bool plain = !informed && now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN;
    atomic_store(&previous_informed, informed ? now.sa_sigaction : NULL);
    atomic_store(&previous_plain, plain ? now.sa_handler : NULL);
    ours.sa_sigaction = on_signal;
    sigemptyset(&ours.sa_mask);
    sigaction(MTSTATES_SIGNAL, &ours, NULL);
}

void thread_signal_unblock(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, MTSTATES_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

bool thread_signal_send(uint64_t number, void (*look)(struct thread *))
{
    if (thread_self()->number == number) {
        look(thread_self());
        return true;
    }
    struct thread *t = thread_first_locked();
    while (t != NULL && t->number != number)
        t = thread_next(t);
    if (t != NULL) {
        atomic_store(&look_at, look);
        install();
        atomic_store(&t->signalled, true);
        pthread_kill(t->id, MTSTATES_SIGNAL);
    }
    thread_unlock();
    return t != NULL;
}
