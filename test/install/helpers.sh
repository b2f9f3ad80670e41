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
