#include "closing.h"

#include "interpreter.h"
#include "pool.h"
#include "stay.h"

static _Thread_local struct closings {
    bool active;
    struct state *first;
    struct thread_end at_end;
} closings;

static void close_state(struct state *s, struct thread *self)
{
    struct stay stay;
    stay_begin_closing(&stay, s, self);
    interpreter_close(s);
    stay_end_closing(&stay);
    ownership_end_close(&s->ownership);
    if (s->member != NULL)
        pool_note_gone(s->member->pool);
    record_release(&s->record);
}

static void close_all(struct thread *self)
{
    struct state *s;
    closings.active = true;
    while ((s = closings.first) != NULL) {
        closings.first = s->next_closing;
        s->queued_to_close = false;
        close_state(s, self);
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

void closing_begin(struct state *s, struct thread *self)
{
    registry_remove(&s->record);
    s->queued_to_close = true;
    s->next_closing = closings.first;
    closings.first = s;
    closing_continue(self);
}
