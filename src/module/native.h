/*
 * What the functions of mtstates.h and the interfaces on top of them (capis.c) share.
 */
#ifndef MTSTATES_NATIVE_H
#define MTSTATES_NATIVE_H

#include "mtstates.h"
#include "state/parcel.h"

struct mtstates_parcel {
    struct parcel parcel;
    bool is_read; /* else it is written */
    /* While it is read: */
    size_t at;        /* the next value's place, */
    int left;         /* values that are in no table, */
    size_t *objects;  /* places of those that come again, by number; NULL: none does, */
    size_t keys[256]; /* and the same of keys */
};

/* Empty. False: out of memory. */
bool native_parcel_init(mtstates_parcel *p);

/* Gives up what is in it. */
void native_parcel_end(mtstates_parcel *p);

/* What it has now can be read. An enum mtstates_status. */
int native_parcel_read(mtstates_parcel *p);

/* Adds an array of that many elements of the Carray C API's type, which is made anew in the state
 * that it goes to. Returns the place of the elements, all zero, until something else is added;
 * NULL: no memory, no such type, or as the other functions that add. */
void *native_parcel_add_array(mtstates_parcel *p, int type, size_t count);

/* It can be an argument: nothing is half written. */
bool native_parcel_is_whole(const mtstates_parcel *p);

/* As mtstates_call. `results` is there in any case, and without `wants_results` has messages only.
 */
int native_call(mtstates_state *s, double timeout, const mtstates_parcel *arguments,
                bool wants_results, mtstates_parcel *results);

/* By luaopen_mtstates: from now on there may be states. */
void native_prepare(void);

#endif
