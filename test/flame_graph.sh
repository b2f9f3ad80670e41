#!/bin/sh
# Draws the flame graph that the README shows: where the word count spends its time, as speedscope (from
# npm) shows it in Chromium.
#     sh test/flame_graph.sh bench/pictures/words.png
# Not part of the tests: it needs the network and a few hundred megabytes.
set -eu
picture=$(realpath "$1")
cd "$(dirname "$0")/.."
. cmake/prepare.sh
need chromium
command -v npm >/dev/null || need npm
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --prefix "$folder" speedscope
sh test/examples/wordcount/run --profile "$folder/words.txt" >/dev/null
sed -i "s|$PWD/||g" "$folder/words.txt"

# A page like the one that its command line opens.
viewer=$folder/node_modules/speedscope/dist/release/index.html
printf 'speedscope.loadFileFromBase64("word count", "%s")' "$(base64 -w 0 "$folder/words.txt")" >"$folder/load.js"
chromium --headless --no-sandbox --disable-gpu-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader \
    --allow-file-access-from-files --hide-scrollbars --window-size=1200,230 --virtual-time-budget=20000 \
    --screenshot="$picture" "file://$viewer#localProfilePath=$folder/load.js&view=left-heavy" 2>"$folder/log" ||
    { cat "$folder/log"; exit 1; }
