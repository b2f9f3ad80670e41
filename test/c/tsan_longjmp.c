/*
 * For the thread sanitizer. Debian's Lua raises errors by glibc's checked longjmp, which TSan does
 * not know: it would not see that the functions in between have ended, and after some ten thousand
 * errors its stack of them overflows. This turns the checked one into the plain one.
 */
#include <setjmp.h>

_Noreturn __attribute__((visibility("default"))) void __longjmp_chk(jmp_buf env, int value);

void __longjmp_chk(jmp_buf env, int value)
{
    longjmp(env, value);
}
