#!/bin/sh
# The static probes are in the module, each with the state's id and name: probes.sh READELF MODULE
set -eu
notes=$("$1" --notes "$2")
for probe in call_enter call_leave call_refused state_make state_close; do
    if ! printf '%s\n' "$notes" | grep -q "Name: $probe\$"; then
        echo "no probe $probe in $2"
        exit 1
    fi
done
