#!/bin/sh
# Fuzzes every target for some seconds, from its seeds in fuzz/seeds. Needs cargo-fuzz; `--sanitizer none` needs no nightly compiler.
# Usage: fuzz/run.sh [SECONDS [TARGET...]]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-5}
[ $# -eq 0 ] || shift
export CARGO_TARGET_DIR=$PWD/target/fuzz
cargo fuzz build --sanitizer none --debug-assertions
[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target in "$@"; do
    mkdir -p target/fuzz/corpus/"$target" target/fuzz/artifacts/"$target"
    echo "$target:"
    target/fuzz/x86_64-unknown-linux-gnu/release/"$target" target/fuzz/corpus/"$target" fuzz/seeds/"$target" \
        -artifact_prefix=target/fuzz/artifacts/"$target"/ -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
        2>target/fuzz/"$target".log || { tail -n 40 target/fuzz/"$target".log; exit 1; }
    tail -n 1 target/fuzz/"$target".log
done
