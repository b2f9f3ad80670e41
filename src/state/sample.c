#include "sample.h"

#include "interpreter.h"
#include "pool.h"

#include <string.h>

/* Under PENDING_SAMPLE; NULL: it is not wanted any more. */
static struct sample_slot *begin(enum sample_stage next)
{
    struct thread *self = &thread_record;
    int wanted = SAMPLE_WANTED;
    if (!(atomic_load_explicit(&self->place->pending, memory_order_relaxed) & PENDING_SAMPLE))
        return NULL;
    atomic_fetch_and_explicit(&self->place->pending, ~PENDING_SAMPLE, memory_order_acquire);
    struct sample_slot *slot = atomic_load_explicit(&self->entry->sample, memory_order_relaxed);
    return atomic_compare_exchange_strong(&slot->stage, &wanted, next) ? slot : NULL;
}

static struct sample_frame *add(struct sample_slot *slot, enum sample_kind kind)
{
    struct sample_frame *f = &slot->frames[slot->count++];
    *f = (struct sample_frame){.kind = (char)kind};
    return f;
}

static void copy_text(char *to, const char *from, size_t length)
{
    size_t most = length < SAMPLE_TEXT ? length : SAMPLE_TEXT - 1;
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

/* Those that fit, of one coroutine. False: there are more. */
static bool add_functions(struct sample_slot *slot, lua_State *L, int *left)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (*left == 0)
            return false;
        --*left;
        add_function(slot, L, &ar);
        struct sample_frame *f = &slot->frames[slot->count - 1];
        if (level > 0 && f->kind == SAMPLE_C_FUNCTION && is_nameless(f - 1)) {
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
                           int *left)
{
    bool all = running == NULL || add_functions(slot, running, left);
    if (!has_resumed(i, running))
        for (const struct interrupt_resumed *r = i->resumed; r != NULL && all; r = r->before)
            all = r->L == NULL || add_functions(slot, r->L, left);
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

void sample_take(lua_State *L)
{
    struct sample_slot *slot = begin(SAMPLE_TAKING);
    if (slot == NULL)
        return;
    slot->weight = atomic_load_explicit(&slot->nanoseconds, memory_order_relaxed);
    slot->count = 0;
    int left = slot->depth;
    for (struct state *s = interpreter_state(L); s != NULL; s = state_around(s)) {
        add_coroutines(slot, &s->interrupt, L != NULL ? L : interrupt_running(&s->interrupt),
                       &left);
        add_state(slot, s);
        L = NULL;
    }
    atomic_store_explicit(&slot->stage, SAMPLE_TAKEN, memory_order_release);
}

void sample_refuse(void)
{
    begin(SAMPLE_EMPTY);
}
