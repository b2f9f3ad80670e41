#include "warning.h"

#include <stdio.h>
#include <string.h>

/* A lua_WarnFunction; `to_be_continued`: more pieces of the message follow. */
static void warn(void *ud, const char *message, int to_be_continued)
{
    struct warning *w = ud;
    bool is_control = !w->continues && !to_be_continued && message[0] == '@';
    if (is_control) {
        if (strcmp(message, "@on") == 0)
            w->on = true;
        else if (strcmp(message, "@off") == 0)
            w->on = false;
        return;
    }
    if (w->on)
        fprintf(stderr, "%s%s%s", w->continues ? "" : "Lua warning: ", message,
                to_be_continued ? "" : "\n");
    w->continues = to_be_continued;
}

void warning_attach(struct warning *w, lua_State *target)
{
    *w = (struct warning){.on = false};
    lua_setwarnf(target, warn, w);
}
