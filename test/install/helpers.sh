# To be sourced by the scripts beside, which run as root in a Debian of their own. POSIX shell.

# fetch PACKAGE... installs these.
fetch() {
    apt-get -qq -y --no-install-recommends install "$@" >/tmp/apt.log 2>&1 || {
        cat /tmp/apt.log >&2
        exit 1
    }
}

# quietly COMMAND... shows what it prints only if it fails.
quietly() {
    "$@" >/tmp/output 2>&1 || {
        cat /tmp/output >&2
        echo "failed: $*" >&2
        exit 1
    }
}

# refused PATTERN COMMAND... has to fail, with a line of that pattern, which is shown.
refused() {
    pattern=$1
    shift
    if "$@" >/tmp/output 2>&1; then
        echo "not refused: $*" >&2
        exit 1
    fi
    grep -- "$pattern" /tmp/output || {
        cat /tmp/output >&2
        echo "no line '$pattern' from $*" >&2
        exit 1
    }
}

# there FILE... have to exist.
there() {
    for file in "$@"; do
        [ -e "$file" ] || {
            echo "missing: $file" >&2
            exit 1
        }
    done
}

# A folder with an old Lua, as far as lua.h tells.
make_old_lua() {
    mkdir /old
    sed '/define LUA_VERSION_RELEASE[[:space:]]/s/".*"/"2"/' /usr/include/lua5.4/lua.h >/old/lua.h
}

# One with the headers of 5.4 and what 5.5 names otherwise, since there is no package of that yet.
make_new_lua() {
    cp -r /usr/include/lua5.4 /new
    sed -i -e '/define LUA_VERSION_MAJOR[[:space:]]/s/.*/#define LUA_VERSION_MAJOR_N 5/' \
        -e '/define LUA_VERSION_MINOR[[:space:]]/s/.*/#define LUA_VERSION_MINOR_N 5/' \
        -e '/define LUA_VERSION_RELEASE[[:space:]]/s/.*/#define LUA_VERSION_RELEASE_N 0/' \
        -e '/define LUA_VERSION_NUM[[:space:]]/s/504/505/' \
        -e '/define LUA_VERSION_RELEASE_NUM/s/+ .*/+ LUA_VERSION_RELEASE_N)/' \
        -e '/define LUA_VERSION[[:space:]]/s/.*/#define LUA_VERSION "Lua 5.5"/' \
        -e '/define LUA_RELEASE[[:space:]]/s/.*/#define LUA_RELEASE "Lua 5.5.0"/' \
        -e '/(lua_newstate)/s/void \*ud)/void *ud, unsigned seed)/' \
        -e '/define LUA_REGISTRYINDEX/s/(.*/(-(INT_MAX\/2 + 1000))/' -e '/(lua_resetthread)/d' \
        -e '/define LUA_GCSETPAUSE/s/.*/#define LUA_GCPARAM 9/' \
        -e '/define LUA_GCSETSTEPMUL/s/.*/#define LUA_GCPPAUSE 3/' \
        -e '/define LUA_GCISRUNNING/s/.*/#define LUA_GCISRUNNING 6\n#define LUA_GCPSTEPMUL 4/' /new/lua.h
    sed -i '/define LUAI_MAXSTACK/d; /if LUAI_IS32INT/,/endif/d' /new/luaconf.h
    sed -i 's/.*(luaL_newstate).*/&\nLUALIB_API unsigned (luaL_makeseed) (lua_State *L);/' /new/lauxlib.h
}
