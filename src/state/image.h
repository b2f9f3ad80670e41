/*
 * States from an image: a new state's interpreter is a copy of one that was opened before.
 */
#ifndef MTSTATES_IMAGE_H
#define MTSTATES_IMAGE_H

#include "state.h"

/*
 * Opens an interpreter for `s` with all standard libraries or without, in memory from `allocate`,
 * and nothing on its stack. Depends on nothing but its arguments. NULL: out of memory.
 */
typedef lua_State *image_open(lua_Alloc allocate, void *ud, struct state *s, bool libs);

/*
 * Makes the images, of both kinds, if it can; else states are opened one by one. Called before
 * any state is made, by any number of threads at once. False: out of memory.
 */
bool image_prepare(image_open *open);

/*
 * Makes the interpreter of `s` from the image, in its arena, which is as arena_init leaves it.
 * NULL: there is no image, or no memory; nothing has happened.
 */
lua_State *image_copy(struct state *s, bool libs);

/* "image" or "one by one": how states are opened. */
const char *image_info(void);

#endif
