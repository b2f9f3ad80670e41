#!/bin/sh
# The static probes are in the module, each with the arguments that it is to have; and so are those that
# the README's script names. And who looks from outside finds where threads are: probes.sh READELF MODULE
set -eu
notes=$("$1" --notes "$2")
for symbol in 'TLS .* mtstates_current' 'OBJECT .* mtstates_layout'; do
    if ! "$1" --wide --dyn-syms "$2" | grep -q "$symbol\$"; then
        echo "${symbol##* } is not to be seen in $2"
        exit 1
    fi
done

# check PROBE ARGUMENTS
check() {
    if ! printf '%s\n' "$notes" | awk -v probe="$1" -v arguments="$2" '
        $1 == "Name:" { name = $2 }
        $1 == "Arguments:" && name == probe { found = 1; if (NF - 1 != arguments) wrong = 1 }
        END { exit !found || wrong }'; then
        echo "no probe $1 with $2 arguments"
        exit 1
    fi
}

for probe in call_enter call_leave; do
    check $probe 4
done
for probe in state_make state_close call_refused wait_begin wait_end error interrupt time_limit memory_limit; do
    check $probe 2
done
for probe in $(sed -n 's/^usdt:.*:mtstates:\([a-z_]*\).*/\1/p' README.md); do
    if ! printf '%s\n' "$notes" | grep -q "Name: $probe\$"; then
        echo "README.md names probe $probe, which is not in $2"
        exit 1
    fi
done
