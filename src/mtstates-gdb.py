"""
A command for gdb that shows, for each thread of a process or a core, the states that it is inside of, from
the innermost on, each with its Lua stack:

    gdb -p PID -ex 'source mtstates-gdb.py' -ex mtstates

It needs no debugging information: where things are the module tells (mtstates_layout, mtstates_inside.h),
and of Lua it knows the layout of 5.4.0 to 5.4.8 on 64 bits, both byte orders (lstate.h, lobject.h). The line
of a function that runs just now may be that of an instruction a little earlier.
"""
import gdb

BYTE_ORDER = "little" if "little" in gdb.execute("show endian", to_string=True) else "big"
DEEPEST = 200  # functions of one coroutine that are shown


def read(address, size, signed=False):
    memory = gdb.selected_inferior().read_memory(address, size)
    return int.from_bytes(memory.tobytes(), BYTE_ORDER, signed=signed)


def pointer(address):
    return read(address, 8)


def integer(address):
    return read(address, 4, signed=True)


def text(address, length):
    memory = gdb.selected_inferior().read_memory(address, length) if length > 0 else b""
    return bytes(memory).decode("utf-8", "backslashreplace")


# ---- Lua ----

LUA_CI = 32  # in a lua_State
CI_FUNCTION, CI_PREVIOUS, CI_PC = 0, 16, 32
VALUE_TAG = 8
TAG_LUA, TAG_LIGHT_C, TAG_C = 0x46, 0x16, 0x66
CLOSURE_CODE = 24  # the prototype of a function of Lua, the pointer of one of C
PROTO_DEFINED, PROTO_CODE, PROTO_LINES, PROTO_FAR_LINES, PROTO_SOURCE = 44, 64, 88, 96, 112
STRING_TAG, STRING_SHORT_LENGTH, STRING_LONG_LENGTH, STRING_BYTES = 8, 11, 16, 24
TAG_SHORT_STRING = 0x04
FAR = -128  # in the table of lines, for one that stands in another table


def lua_string(address):
    is_short = read(address + STRING_TAG, 1) & 0x3F == TAG_SHORT_STRING
    length = read(address + STRING_SHORT_LENGTH, 1) if is_short else pointer(address + STRING_LONG_LENGTH)
    return text(address + STRING_BYTES, min(length, 200))


def source_of(proto):
    source = pointer(proto + PROTO_SOURCE)
    shown = lua_string(source) if source != 0 else "=?"
    if shown[:1] in ("@", "="):
        return shown[1:]
    return '[string "%s"]' % shown.split("\n")[0]


def line_of(proto, pc):
    lines, far = pointer(proto + PROTO_LINES), pointer(proto + PROTO_FAR_LINES)
    if lines == 0:
        return None
    line, last = integer(proto + PROTO_DEFINED), (pc - pointer(proto + PROTO_CODE)) // 4 - 1
    for i in range(max(last, 0) + 1):
        step = read(lines + i, 1, signed=True)
        if step == FAR:
            line = integer(far + 4)
            far += 8
        else:
            line += step
    return line


def c_function(address):
    symbol = gdb.execute("info symbol %d" % address, to_string=True)
    name = symbol.split(" in section")[0] if " in section" in symbol else hex(address)
    return "[C]: in %s" % name


def function_at(ci):
    value = pointer(ci + CI_FUNCTION)
    tag, content = read(value + VALUE_TAG, 1), pointer(value)
    if tag == TAG_LUA:
        proto = pointer(content + CLOSURE_CODE)
        source, defined = source_of(proto), integer(proto + PROTO_DEFINED)
        line = line_of(proto, pointer(ci + CI_PC))
        what = "main chunk" if defined == 0 else "function <%s:%d>" % (source, defined)
        return "%s:%s: in %s" % (source, "?" if line is None else line, what)
    if tag == TAG_LIGHT_C:
        return c_function(content)
    if tag == TAG_C:
        return c_function(pointer(content + CLOSURE_CODE))
    return None  # the bottom of the coroutine


def show_coroutine(L):
    ci = pointer(L + LUA_CI)
    for _ in range(DEEPEST):
        shown = function_at(ci)
        ci = pointer(ci + CI_PREVIOUS)
        if shown is not None:
            print("      " + shown)
        if ci == 0:
            return
    print("      ...")


# ---- the module ----


class Layout:
    """struct mtstates_layout"""

    FIELDS = (
        "version",
        "thread_next",
        "thread_id",
        "thread_inside",
        "inside_running",
        "inside_resumed",
        "resumed_coroutine",
        "resumed_before",
    )

    def __init__(self):
        try:
            address = int(gdb.parse_and_eval("(unsigned long)&mtstates_layout"))
        except gdb.error:
            raise gdb.GdbError("this process does not use mtstates, or a version without mtstates_layout")
        for i, field in enumerate(self.FIELDS):
            setattr(self, field, integer(address + 4 * i))
        self.first_thread = pointer(address + 4 * len(self.FIELDS))
        if self.version != 1:
            raise gdb.GdbError("this script knows version 1 of mtstates_layout, not %d" % self.version)


INSIDE_ID, INSIDE_NAME, INSIDE_NAME_LENGTH, INSIDE_MAIN, INSIDE_AROUND = 8, 16, 24, 32, 40


def show_state(layout, inside):
    name, length = pointer(inside + INSIDE_NAME), pointer(inside + INSIDE_NAME_LENGTH)
    named = ' "%s"' % text(name, length) if name != 0 else ""
    print("  state%s (id %d)" % (named, read(inside + INSIDE_ID, 8)))
    running = pointer(inside + layout.inside_running)
    resumed = pointer(inside + layout.inside_resumed)
    shown = [running or pointer(inside + INSIDE_MAIN)]
    while resumed != 0:
        shown.append(pointer(resumed + layout.resumed_coroutine))
        resumed = pointer(resumed + layout.resumed_before)
    for L in dict.fromkeys(shown):
        if L != 0:
            print("    coroutine %#x" % L if len(shown) > 1 else "    lua_State %#x" % L)
            show_coroutine(L)


def show_all():
    layout = Layout()
    numbers = {thread.ptid[1]: thread.num for thread in gdb.selected_inferior().threads()}
    entry, count = pointer(layout.first_thread), 0
    while entry != 0:
        number = integer(entry + layout.thread_id)
        inside = pointer(entry + layout.thread_inside)
        if inside != 0 and number in numbers:
            print("Thread %d (LWP %d)" % (numbers[number], number))
            count += 1
        while inside != 0 and number in numbers:
            show_state(layout, inside)
            inside = pointer(inside + INSIDE_AROUND)
        entry = pointer(entry + layout.thread_next)
    if count == 0:
        print("No thread is inside of a state.")


class States(gdb.Command):
    """Show the states that threads are inside of, each with its Lua stack."""

    def __init__(self):
        super().__init__("mtstates", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        try:
            show_all()
        except gdb.MemoryError as error:
            raise gdb.GdbError("memory that cannot be read, or another layout than this script's: %s" % error)


States()
