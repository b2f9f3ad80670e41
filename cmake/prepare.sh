# To be sourced by the scripts that do everything from a fresh Debian 12 on. POSIX shell.

# as_root COMMAND... runs that as root or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "Run this as root, or install sudo." >&2
        exit 1
    fi
}

# need PACKAGE... installs those that are missing, and says so.
need() {
    missing=
    for package in "$@"; do
        if ! dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$'; then
            missing="$missing $package"
        fi
    done
    [ -n "$missing" ] || return 0
    echo "Installing:$missing"
    as_root apt-get -qq update
    # shellcheck disable=SC2086 # a list
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        install $missing >/dev/null
}

# need_to_develop PACKAGE... installs what the presets with tests and benchmarks need, and these.
need_to_develop() {
    need gcc g++ clang cmake ninja-build pkg-config libc6-dev systemtap-sdt-dev binutils valgrind \
        spin clang-format lua5.4 liblua5.4-dev libck-dev libbenchmark-dev lua-busted lua-check \
        lua-cjson "$@"
}

# build PRESET configures and builds.
build() {
    cmake --preset "$1" --log-level=WARNING >/dev/null
    cmake --build --preset "$1" -- --quiet
}
