#include "sample.h"

#include "interpreter.h"
#include "pool.h"

#include <string.h>

/* What only the thread and its handler write. */
static void set_pending(const struct thread *self, bool pending)
{
    if (pending)
        atomic_fetch_or_explicit(&self->place->pending, PENDING_SAMPLE, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&self->place->pending, ~PENDING_SAMPLE, memory_order_relaxed);
}

static struct sample_slot *slot_of(const struct thread *self)
{
    return self->entry != NULL ? atomic_load_explicit(&self->entry->sample, memory_order_acquire)
                               : NULL;
}

static bool move(struct sample_slot *slot, enum sample_stage from, enum sample_stage to)
{
    int expected = from;
    return atomic_compare_exchange_strong(&slot->stage, &expected, to);
}

static struct sample_frame *add(struct sample_slot *slot, enum sample_kind kind)
{
    struct sample_frame *f = &slot->frames[slot->count++];
    *f = (struct sample_frame){.kind = (char)kind};
    return f;
}

/* What is too long is cut, but not within a character of UTF-8. */
static void copy_text(char *to, const char *from, size_t length)
{
    size_t most = length < SAMPLE_TEXT ? length : SAMPLE_TEXT - 1;
    while (most < length && most > 0 && (from[most] & 0xc0) == 0x80)
        most--;
    if (from != NULL)
        memcpy(to, from, most);
}

static void add_function(struct sample_slot *slot, lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "Sln", ar);
    enum sample_kind kind = *ar->what == 'C'   ? SAMPLE_C_FUNCTION
                            : *ar->what == 'm' ? SAMPLE_MAIN
                                               : SAMPLE_FUNCTION;
    struct sample_frame *f = add(slot, kind);
    if (ar->name != NULL)
        copy_text(f->name, ar->name, strlen(ar->name));
    f->is_local = *ar->namewhat == 'l';
    if (kind == SAMPLE_C_FUNCTION)
        return;
    copy_text(f->source, ar->short_src, strlen(ar->short_src));
    f->defined = ar->linedefined;
    f->line = ar->currentline;
}

/* A function of C's that one of C's has called has no name in Lua: it is part of that one. */
static bool is_nameless(const struct sample_frame *f)
{
    return f->kind == SAMPLE_C_FUNCTION && f->name[0] == '\0';
}

/* Those that fit, of one coroutine from a level on. False: there are more. */
static bool add_functions(struct sample_slot *slot, lua_State *L, int level, int *left)
{
    lua_Debug ar;
    for (int first = level; lua_getstack(L, level, &ar); level++) {
        if (*left == 0)
            return false;
        --*left;
        add_function(slot, L, &ar);
        struct sample_frame *f = &slot->frames[slot->count - 1];
        if (level > first && f->kind == SAMPLE_C_FUNCTION && is_nameless(f - 1)) {
            f[-1] = *f;
            slot->count--;
        }
    }
    return true;
}

static bool has_resumed(const struct interrupt *i, const lua_State *L)
{
    const struct interrupt_resumed *r = i->resumed;
    while (r != NULL && r->L != L)
        r = r->before;
    return r != NULL;
}

/*
 * Of the coroutine that runs and of those that have resumed it. A coroutine that is called back
 * while another one, which it has resumed, waits for that: the functions of the latter are left
 * out.
 */
static void add_coroutines(struct sample_slot *slot, const struct interrupt *i, lua_State *running,
                           int level, int *left)
{
    bool all = running == NULL || add_functions(slot, running, level, left);
    if (!has_resumed(i, running))
        for (const struct interrupt_resumed *r = i->resumed; r != NULL && all; r = r->before)
            all = r->L == NULL || add_functions(slot, r->L, 0, left);
    if (!all)
        add(slot, SAMPLE_DEEPER);
}

static void add_state(struct sample_slot *slot, const struct state *s)
{
    const struct record *r = s->member != NULL ? &s->member->pool->record : &s->record;
    struct sample_frame *f = add(slot, s->member != NULL ? SAMPLE_POOL : SAMPLE_STATE);
    f->state = s->record.id;
    f->pool = s->member != NULL ? r->id : 0;
    copy_text(f->name, r->name, r->name_length);
}

static void add_whole_state(struct sample_slot *slot, struct state *s, int *left)
{
    add_coroutines(slot, &s->interrupt, interrupt_running(&s->interrupt), 0, left);
    add_state(slot, s);
}

/*
 * `L` runs, in state `first`; or both are NULL: then that runs which the innermost state says. A
 * state that is called back from others that it has called shows all its functions inside of these.
 */
static void add_all(struct sample_slot *slot, const struct mtstates_inside *innermost,
                    struct state *first, lua_State *L, int level)
{
    int left = slot->depth;
    slot->count = 0;
    if (first != NULL)
        add_coroutines(slot, &first->interrupt, L, level, &left);
    for (; innermost != NULL; innermost = innermost->around) {
        struct state *s = state_of_inside(innermost);
        if (s == first)
            add_state(slot, s);
        else
            add_whole_state(slot, s, &left);
    }
}

static bool is_inside(const struct mtstates_inside *innermost, const struct mtstates_inside *of)
{
    while (innermost != NULL && innermost != of)
        innermost = innermost->around;
    return innermost != NULL;
}

/* The sample that is held, to be written to; NULL: there is none. */
static struct sample_slot *begin_to_give(struct thread *self)
{
    struct sample_slot *slot = slot_of(self);
    set_pending(self, false);
    if (slot == NULL || !move(slot, SAMPLE_HELD, SAMPLE_TAKING))
        return NULL;
    slot->weight = atomic_load_explicit(&slot->nanoseconds, memory_order_relaxed);
    return slot;
}

static void end_giving(struct sample_slot *slot)
{
    enum sample_stage stage = slot->count > 0 ? SAMPLE_TAKEN : SAMPLE_EMPTY;
    atomic_store_explicit(&slot->stage, stage, memory_order_release);
}

void sample_hold(const struct mtstates_inside *innermost)
{
    struct thread *self = &thread_record;
    struct sample_slot *slot = slot_of(self);
    if (slot == NULL || !move(slot, SAMPLE_WANTED, SAMPLE_TAKING))
        return;
    slot->held = innermost;
    slot->count = 0;
    for (; innermost != NULL; innermost = innermost->around)
        add_state(slot, state_of_inside(innermost));
    slot->weight = atomic_load_explicit(&slot->nanoseconds, memory_order_relaxed);
    atomic_store_explicit(&slot->stage, SAMPLE_HELD, memory_order_release);
    set_pending(self, true);
}

void sample_take(struct interrupt *i, lua_State *L, int level)
{
    struct thread *self = &thread_record;
    struct state *s = (void *)((char *)i - offsetof(struct state, interrupt));
    struct sample_slot *slot = sample_is_pending() ? begin_to_give(self) : NULL;
    if (slot == NULL)
        return;
    if (is_inside(self->place->inside.innermost, slot->held))
        add_all(slot, self->place->inside.innermost, s, L, level);
    end_giving(slot);
}

/* Where the thread has left what it was inside of, the sample stays as it is. */
void sample_leave(struct state *entered)
{
    struct sample_slot *slot = sample_is_pending() ? begin_to_give(&thread_record) : NULL;
    if (slot == NULL)
        return;
    if (slot->held == NULL && slot->seen == &entered->inside)
        add_state(slot, entered);
    else if (is_inside(entered->inside.around, slot->held))
        add_all(slot, entered->inside.around, NULL, NULL, 0);
    end_giving(slot);
}
