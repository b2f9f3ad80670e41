#!/bin/sh
# The README's first command, on a folder of text.
set -eu
cd "$(dirname "$0")/../.."
. test/install/helpers.sh
quietly sh test/examples/wordcount/run src
grep ' words, ' /tmp/output
grep -q '^Installing: .*gcc' /tmp/output
grep -q '^the same as a plain count' /tmp/output
