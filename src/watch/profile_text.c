#include "profile.h"
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct profile_frame *frame_of(const struct profile *p, uint32_t number)
{
    return intern_get(&p->frames, number);
}

static const struct profile_stack *stack_of(const struct profile *p, uint32_t number)
{
    return intern_get(&p->stacks, number);
}

static const struct profile_time *time_of(const struct profile *p, uint32_t number)
{
    return intern_get(&p->times, number);
}

/* ---- frames ---- */

/* Of a frame's two texts with something round each. */
enum { NAME_MAX_LENGTH = 2 * SAMPLE_TEXT + 40 };

static bool has_source(const struct profile_frame *f)
{
    return f->kind == SAMPLE_FUNCTION || f->kind == SAMPLE_MAIN;
}

/* A function's name alone, if it has one; else as below. */
static void short_name(const struct profile_frame *f, char *name)
{
    const char *text = f->text;
    switch ((enum sample_kind)f->kind) {
    case SAMPLE_FUNCTION:
        if (f->name[0] != '\0')
            snprintf(name, NAME_MAX_LENGTH, "%s", f->name);
        else
            snprintf(name, NAME_MAX_LENGTH, "function <%s:%d>", text, f->defined);
        break;
    case SAMPLE_MAIN:
        snprintf(name, NAME_MAX_LENGTH, "main chunk (%s)", text);
        break;
    case SAMPLE_C_FUNCTION:
        snprintf(name, NAME_MAX_LENGTH, "%s [C]", text[0] != '\0' ? text : "?");
        break;
    case SAMPLE_DEEPER:
        snprintf(name, NAME_MAX_LENGTH, "...");
        break;
    case SAMPLE_STATE:
        snprintf(name, NAME_MAX_LENGTH, "state%s%s", text[0] != '\0' ? " " : "", text);
        break;
    case SAMPLE_POOL:
        snprintf(name, NAME_MAX_LENGTH, "pool%s%s", text[0] != '\0' ? " " : "", text);
        break;
    }
}

static void full_name(const struct profile_frame *f, char *name)
{
    if (f->kind == SAMPLE_FUNCTION && f->name[0] != '\0')
        snprintf(name, NAME_MAX_LENGTH, "%s (%s:%d)", f->name, f->text, f->defined);
    else
        short_name(f, name);
}

/* ---- folded ---- */

static void write_folded_frame(struct text *t, const struct profile_frame *f)
{
    char name[NAME_MAX_LENGTH];
    full_name(f, name);
    for (char *c = name; *c != '\0'; c++)
        if (*c == ';')
            *c = ',';
    text_add_clean(t, name, strlen(name));
}

/* The frames of a stack, innermost first; their number. Of one sample's length at most. */
static int frames_of(const struct profile *p, uint32_t stack, uint32_t *frames)
{
    int count = 0;
    for (; stack != INTERN_NONE; stack = stack_of(p, stack)->around)
        frames[count++] = stack_of(p, stack)->frame;
    return count;
}

enum { FRAMES_MAX = sizeof((struct sample_slot *)0)->frames / sizeof(struct sample_frame) };

char *profile_folded(const struct profile *p, size_t *length)
{
    uint32_t frames[FRAMES_MAX];
    struct text t = {.bytes = NULL};
    uint64_t *sums = calloc((size_t)p->stacks.count + 1, sizeof *sums);
    t.failed = sums == NULL;
    for (uint32_t i = 0; i < p->times.count && !t.failed; i++)
        sums[time_of(p, i)->stack] += time_of(p, i)->nanoseconds;
    for (uint32_t i = 0; i < p->stacks.count && !t.failed; i++) {
        if (sums[i] == 0)
            continue;
        for (int k = frames_of(p, i, frames) - 1; k >= 0; k--) {
            write_folded_frame(&t, frame_of(p, frames[k]));
            text_add(&t, k > 0 ? ";" : " ", 1);
        }
        text_print(&t, "%" PRIu64 "\n", (sums[i] + 500) / 1000);
    }
    free(sums);
    return text_end(&t, length);
}

/* ---- speedscope ---- */

static void write_quoted(struct text *t, const char *text)
{
    text_add_quoted(t, text, strlen(text));
}

static void write_shared_frames(struct text *t, const struct profile *p)
{
    for (uint32_t i = 0; i < p->frames.count; i++) {
        const struct profile_frame *f = frame_of(p, i);
        char name[NAME_MAX_LENGTH];
        short_name(f, name);
        text_print(t, "%s{\"name\":", i > 0 ? ",\n" : "");
        write_quoted(t, name);
        if (has_source(f)) {
            text_print(t, ",\"file\":");
            write_quoted(t, f->text);
            text_print(t, ",\"line\":%d", f->defined);
        }
        text_print(t, "}");
    }
}

static void write_thread(struct text *t, const struct profile *p, uint32_t thread)
{
    const struct profile_thread *known = intern_get(&p->threads, thread);
    uint32_t frames[FRAMES_MAX];
    uint64_t sum = 0;
    const char *comma = "";
    text_print(t,
               "{\"type\":\"sampled\",\"name\":\"thread %" PRIu64 "\",\"unit\":\"nanoseconds\","
               "\"samples\":[",
               known->id);
    for (uint32_t i = 0; i < p->times.count; i++) {
        if (time_of(p, i)->thread != thread)
            continue;
        text_print(t, "%s[", comma);
        for (int k = frames_of(p, time_of(p, i)->stack, frames) - 1; k >= 0; k--)
            text_print(t, "%" PRIu32 "%s", frames[k], k > 0 ? "," : "");
        text_print(t, "]");
        comma = ",";
    }
    text_print(t, "],\"weights\":[");
    comma = "";
    for (uint32_t i = 0; i < p->times.count; i++) {
        if (time_of(p, i)->thread != thread)
            continue;
        text_print(t, "%s%" PRIu64, comma, time_of(p, i)->nanoseconds);
        sum += time_of(p, i)->nanoseconds;
        comma = ",";
    }
    text_print(t, "],\"startValue\":0,\"endValue\":%" PRIu64 "}", sum);
}

char *profile_speedscope(const struct profile *p, size_t *length)
{
    struct text t = {.bytes = NULL};
    text_print(&t, "{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\n"
                   "\"exporter\":\"mtstates\",\"name\":\"mtstates\",\"shared\":{\"frames\":[\n");
    write_shared_frames(&t, p);
    text_print(&t, "]},\n\"profiles\":[\n");
    for (uint32_t i = 0; i < p->threads.count; i++) {
        text_print(&t, "%s", i > 0 ? ",\n" : "");
        write_thread(&t, p, i);
    }
    text_print(&t, "]}\n");
    return text_end(&t, length);
}

/* ---- pprof ---- */

/* Numbers of fields in its messages. */
enum {
    PROFILE_SAMPLE_TYPE = 1,
    PROFILE_SAMPLE = 2,
    PROFILE_LOCATION = 4,
    PROFILE_FUNCTION = 5,
    PROFILE_STRING = 6,
    PROFILE_DURATION = 10,
    PROFILE_PERIOD_TYPE = 11,
    PROFILE_PERIOD = 12,
    VALUE_TYPE = 1,
    VALUE_UNIT = 2,
    SAMPLE_LOCATION = 1,
    SAMPLE_VALUE = 2,
    SAMPLE_LABEL = 3,
    LABEL_KEY = 1,
    LABEL_NUMBER = 3,
    LOCATION_ID = 1,
    LOCATION_LINE = 4,
    LINE_FUNCTION = 1,
    LINE_NUMBER = 2,
    FUNCTION_ID = 1,
    FUNCTION_NAME = 2,
    FUNCTION_FILE = 4,
    FUNCTION_LINE = 5
};

/* Numbers of strings; of each frame two follow. */
enum { TEXT_NONE, TEXT_SAMPLES, TEXT_COUNT, TEXT_TIME, TEXT_NANOSECONDS, TEXT_THREAD, TEXTS };

static void write_varint(struct text *t, uint64_t value)
{
    unsigned char byte;
    for (; value >= 0x80; value >>= 7) {
        byte = (unsigned char)(value | 0x80);
        text_add(t, &byte, 1);
    }
    byte = (unsigned char)value;
    text_add(t, &byte, 1);
}

static void write_number(struct text *t, unsigned field, uint64_t value)
{
    write_varint(t, field << 3);
    write_varint(t, value);
}

static void write_bytes(struct text *t, unsigned field, const char *bytes, size_t length)
{
    write_varint(t, field << 3 | 2);
    write_varint(t, length);
    text_add(t, bytes, length);
}

/* As a field of `t`; it is empty afterwards. */
static void write_message(struct text *t, unsigned field, struct text *message)
{
    t->failed = t->failed || message->failed;
    write_bytes(t, field, message->bytes, message->length);
    message->length = 0;
}

static void write_value_type(struct text *t, unsigned field, struct text *message, unsigned type,
                             unsigned unit)
{
    write_number(message, VALUE_TYPE, type);
    write_number(message, VALUE_UNIT, unit);
    write_message(t, field, message);
}

/* Places in functions are numbered: the first line of each function, then the line of each time. */
static void write_location(struct text *t, struct text *message, uint64_t id, uint32_t frame,
                           int32_t line)
{
    struct text inner = {.bytes = NULL};
    write_number(&inner, LINE_FUNCTION, frame + 1);
    write_number(&inner, LINE_NUMBER, (uint64_t)(line > 0 ? line : 0));
    write_number(message, LOCATION_ID, id);
    write_message(message, LOCATION_LINE, &inner);
    write_message(t, PROFILE_LOCATION, message);
    free(inner.bytes);
}

static void write_frame(struct text *t, struct text *message, const struct profile *p, uint32_t i)
{
    const struct profile_frame *f = frame_of(p, i);
    write_number(message, FUNCTION_ID, i + 1);
    write_number(message, FUNCTION_NAME, TEXTS + 2 * (uint64_t)i);
    write_number(message, FUNCTION_FILE, TEXTS + 2 * (uint64_t)i + 1);
    write_number(message, FUNCTION_LINE, (uint64_t)(f->defined > 0 ? f->defined : 0));
    write_message(t, PROFILE_FUNCTION, message);
    write_location(t, message, i + 1, i, f->defined);
}

static void write_time(struct text *t, struct text *message, const struct profile *p, uint32_t i)
{
    const struct profile_time *time = time_of(p, i);
    const struct profile_thread *thread = intern_get(&p->threads, time->thread);
    uint32_t frames[FRAMES_MAX];
    struct text inner = {.bytes = NULL};
    int count = frames_of(p, time->stack, frames);
    uint64_t innermost = (uint64_t)p->frames.count + i + 1;
    for (int k = 0; k < count; k++)
        write_number(message, SAMPLE_LOCATION, k == 0 ? innermost : frames[k] + 1);
    write_number(message, SAMPLE_VALUE, time->samples);
    write_number(message, SAMPLE_VALUE, time->nanoseconds);
    write_number(&inner, LABEL_KEY, TEXT_THREAD);
    write_number(&inner, LABEL_NUMBER, thread->id);
    write_message(message, SAMPLE_LABEL, &inner);
    write_message(t, PROFILE_SAMPLE, message);
    write_location(t, message, innermost, frames[0], time->line);
    free(inner.bytes);
}

static void write_text(struct text *t, struct text *message, const char *text)
{
    text_add_clean(message, text, strlen(text));
    write_message(t, PROFILE_STRING, message);
}

static void write_strings(struct text *t, struct text *message, const struct profile *p)
{
    static const char *const texts[TEXTS] = {"",     "samples",     "count",
                                             "time", "nanoseconds", "thread"};
    for (int i = 0; i < TEXTS; i++)
        write_bytes(t, PROFILE_STRING, texts[i], strlen(texts[i]));
    for (uint32_t i = 0; i < p->frames.count; i++) {
        const struct profile_frame *f = frame_of(p, i);
        const char *file = has_source(f) ? f->text : "";
        char name[NAME_MAX_LENGTH];
        short_name(f, name);
        write_text(t, message, name);
        write_text(t, message, file);
    }
}

char *profile_pprof(const struct profile *p, size_t *length)
{
    struct text t = {.bytes = NULL}, message = {.bytes = NULL};
    write_value_type(&t, PROFILE_SAMPLE_TYPE, &message, TEXT_SAMPLES, TEXT_COUNT);
    write_value_type(&t, PROFILE_SAMPLE_TYPE, &message, TEXT_TIME, TEXT_NANOSECONDS);
    for (uint32_t i = 0; i < p->frames.count; i++)
        write_frame(&t, &message, p, i);
    for (uint32_t i = 0; i < p->times.count; i++)
        write_time(&t, &message, p, i);
    write_strings(&t, &message, p);
    write_number(&t, PROFILE_DURATION, p->nanoseconds);
    write_value_type(&t, PROFILE_PERIOD_TYPE, &message, TEXT_TIME, TEXT_NANOSECONDS);
    write_number(&t, PROFILE_PERIOD, (uint64_t)(p->options.interval * 1e9));
    free(message.bytes);
    return text_end(&t, length);
}

/* ---- top ---- */

struct row {
    uint32_t frame;
    uint64_t self, total; /* nanoseconds, of its own, and with what it calls */
    uint32_t last;        /* stack that was added, plus one: recursion counts once */
    int32_t line;         /* where most of its own is, */
    uint64_t at_line;     /* which is so much */
};

/* How long an own function was seen at a line. */
struct line {
    uint32_t frame;
    int32_t line;
    uint64_t nanoseconds; /* not in the key */
};

static bool add_line(struct intern *lines, const struct profile_time *time, struct row *r)
{
    struct line l = {.frame = r->frame, .line = time->line};
    uint32_t number = intern_add(lines, &l);
    if (number == INTERN_NONE)
        return false;
    struct line *known = intern_get(lines, number);
    known->nanoseconds += time->nanoseconds;
    if (known->nanoseconds > r->at_line) {
        r->line = known->line;
        r->at_line = known->nanoseconds;
    }
    return true;
}

/* Rows by frame; the sum. */
static uint64_t add_up(const struct profile *p, struct row *rows, struct intern *lines,
                       bool *failed)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->frames.count; i++)
        rows[i].frame = i;
    for (uint32_t i = 0; i < p->times.count && !*failed; i++) {
        const struct profile_time *time = time_of(p, i);
        struct row *innermost = &rows[stack_of(p, time->stack)->frame];
        sum += time->nanoseconds;
        innermost->self += time->nanoseconds;
        *failed = !add_line(lines, time, innermost);
        for (uint32_t s = time->stack; s != INTERN_NONE; s = stack_of(p, s)->around) {
            struct row *r = &rows[stack_of(p, s)->frame];
            if (r->last != i + 1)
                r->total += time->nanoseconds;
            r->last = i + 1;
        }
    }
    return sum;
}

static int compare_rows(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    if (x->self != y->self)
        return x->self < y->self ? 1 : -1;
    return x->total != y->total ? (x->total < y->total ? 1 : -1) : (x->frame > y->frame) * 2 - 1;
}

static void write_row(struct text *t, const struct profile *p, const struct row *r, double sum)
{
    const struct profile_frame *f = frame_of(p, r->frame);
    char name[NAME_MAX_LENGTH];
    full_name(f, name);
    text_print(t, "%6.1f%% %6.1f%%  ", 100 * (double)r->self / sum, 100 * (double)r->total / sum);
    text_add_clean(t, name, strlen(name));
    if (has_source(f) && r->line > 0 && r->line != f->defined)
        text_print(t, ", most at line %d", r->line);
    text_print(t, "\n");
}

char *profile_top(const struct profile *p, size_t count, size_t *length)
{
    struct text t = {.bytes = NULL};
    struct intern lines = intern_of(sizeof(struct line), offsetof(struct line, nanoseconds));
    struct row *rows = calloc((size_t)p->frames.count + 1, sizeof *rows);
    t.failed = rows == NULL;
    uint64_t sum = t.failed ? 0 : add_up(p, rows, &lines, &t.failed);
    if (!t.failed)
        qsort(rows, p->frames.count, sizeof *rows, compare_rows);
    text_print(&t, "%" PRIu64 " samples, %.3f s in states, by %" PRIu32 " threads in %.3f s\n",
               p->samples, (double)sum * 1e-9, p->threads.count, (double)p->nanoseconds * 1e-9);
    if (p->lost > 0)
        text_print(&t, "%" PRIu64 " more were lost: no memory\n", p->lost);
    text_print(&t, "   self   total  function\n");
    for (uint32_t i = 0; i < p->frames.count && i < count && !t.failed; i++)
        if (rows[i].total > 0)
            write_row(&t, p, &rows[i], (double)sum);
    free(rows);
    intern_free(&lines);
    return text_end(&t, length);
}
