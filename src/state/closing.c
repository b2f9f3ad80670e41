#include "closing.h"

#include "interpreter.h"
#include "pool.h"
#include "stay.h"

static _Thread_local struct closings {
    bool active;
    struct closing *first;
    struct thread_end at_end;
} closings;

static void close_all(struct thread *self)
{
    struct closing *c;
    closings.active = true;
    while ((c = closings.first) != NULL) {
        closings.first = c->next;
        c->run(c, self);
    }
    closings.active = false;
}

/* Of a thread that left some, or that died in a finalizer: only that state is lost. */
static void on_end(struct thread_end *e)
{
    (void)e;
    close_all(thread_self());
}

void closing_continue(struct thread *self)
{
    if (closings.first == NULL || closings.active)
        return;
    /* Without memory to see the thread's end, they are closed where there is room, or never. */
    closings.at_end.run = on_end;
    thread_at_end(self, &closings.at_end);
    if (!thread_has_stack(self))
        return;
    close_all(self);
    thread_not_at_end(self, &closings.at_end);
}

bool closing_hold(void)
{
    bool held = closings.active;
    closings.active = true;
    return held;
}

void closing_release(bool held, struct thread *self)
{
    closings.active = held;
    closing_continue(self);
}

bool closing_is_pending(void)
{
    return closings.active || closings.first != NULL;
}

void closing_queue(struct closing *c, void (*run)(struct closing *, struct thread *),
                   struct thread *self)
{
    c->run = run;
    c->next = closings.first;
    closings.first = c;
    closing_continue(self);
}

static void close_state(struct closing *c, struct thread *self)
{
    struct state *s = (void *)((char *)c - offsetof(struct state, closing));
    struct stay stay;
    s->queued_to_close = false;
    stay_begin_closing(&stay, s, self);
    interpreter_close(s);
    stay_end_closing(&stay);
    ownership_end_close(&s->ownership);
    counters_unlist_state(s);
    if (s->member != NULL)
        pool_note_gone(s->member->pool);
    record_release(&s->record);
}

void closing_begin(struct state *s, struct thread *self)
{
    registry_remove(&s->record);
    s->queued_to_close = true;
    closing_queue(&s->closing, close_state, self);
}
