#if defined(__linux__)
#define _GNU_SOURCE
#endif

#include "thread_signal.h"

#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

/* Written before a signal is sent, read by handlers; one value only. */
static void (*_Atomic look_at)(const struct mtstates_inside *);

/*
 * A handler that was there before ours. One of the two is not NULL, if there is one. Written under
 * the list's lock, read by handlers: who reads one before a change and the other after it calls
 * one of the two handlers, or both.
 */
struct previous {
    void (*_Atomic plain)(int);
    void (*_Atomic informed)(int, siginfo_t *, void *);
};

/* The one before ours was first installed, and the one before it last was. */
static struct previous first_previous, last_previous;
static bool was_installed;

/*
 * A handler installed after ours may call ours, which comes after it again: then the one that was
 * there first is next, and the circle ends.
 */
static _Thread_local volatile sig_atomic_t passing_on THREAD_LOCAL_MODEL;

static void pass_on(int number, siginfo_t *info, void *context)
{
    struct previous *p = passing_on ? &first_previous : &last_previous;
    void (*plain)(int) = atomic_load(&p->plain);
    void (*informed)(int, siginfo_t *, void *) = atomic_load(&p->informed);
    if (passing_on == 2)
        return;
    passing_on++;
    if (informed != NULL)
        informed(number, info, context);
    if (plain != NULL)
        plain(number);
    passing_on--;
}

/*
 * Whether the signal is one of ours. Linux lets it carry a value, by which it is known; elsewhere
 * who sent it has left a note, and a signal of the host's that comes in between is taken for it,
 * and ours then for the host's.
 */
static bool is_ours(struct thread_entry *here, const siginfo_t *info)
{
#if defined(__linux__)
    return here != NULL && info->si_code == SI_QUEUE && info->si_value.sival_ptr == &look_at;
#else
    (void)info;
    return here != NULL && atomic_exchange(&here->signalled, false);
#endif
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    int error = errno;
    struct thread_entry *here = thread_entry_here();
    if (is_ours(here, info))
        atomic_load (&look_at)(here->place.inside.innermost);
    else
        pass_on(number, info, context);
    errno = error;
}

/* True: there is a handler. */
static bool note_previous(struct previous *p, const struct sigaction *s)
{
    bool informed = s->sa_flags & SA_SIGINFO;
    bool plain = !informed && s->sa_handler != SIG_DFL && s->sa_handler != SIG_IGN;
    atomic_store(&p->informed, informed ? s->sa_sigaction : NULL);
    atomic_store(&p->plain, plain ? s->sa_handler : NULL);
    return informed || plain;
}

/*
 * Under the list's lock: our handler, if it is not there yet or not any more. It keeps to what the
 * one before it asked for: which signals wait meanwhile, and whether system calls are restarted.
 */
static void install(void)
{
    struct sigaction now, ours = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(MTSTATES_SIGNAL, NULL, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_signal)
        return;
    bool has_handler = note_previous(&last_previous, &now);
    if (!was_installed)
        note_previous(&first_previous, &now);
    was_installed = true;
    ours.sa_sigaction = on_signal;
    ours.sa_mask = now.sa_mask;
    ours.sa_flags |= has_handler ? now.sa_flags & SA_RESTART : SA_RESTART;
    sigaction(MTSTATES_SIGNAL, &ours, NULL);
}

void thread_signal_unblock(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, MTSTATES_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* False: there is no such thread. */
static bool signal_thread(struct thread_entry *e)
{
#if defined(__linux__)
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = &look_at;
    return syscall(SYS_rt_tgsigqueueinfo, getpid(), e->id, MTSTATES_SIGNAL, &info) == 0 ||
           errno != ESRCH;
#else
    atomic_store(&e->signalled, true);
    return pthread_kill(e->id, MTSTATES_SIGNAL) != ESRCH;
#endif
}

void thread_signal_prepare(void (*look)(const struct mtstates_inside *))
{
    atomic_store(&look_at, look);
}

bool thread_signal_send_locked(struct thread_entry *e)
{
    install();
    bool sent = signal_thread(e);
    if (!sent)
        thread_drop(e);
    return sent;
}

bool thread_signal_send(uint64_t number)
{
    struct thread_entry *e = thread_first_locked();
    while (e != NULL && e->number != number)
        e = e->next;
    bool sent = e != NULL && thread_signal_send_locked(e);
    thread_unlock();
    return sent;
}
