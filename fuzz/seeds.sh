#!/bin/sh
# Rewrites fuzz/seeds with the encoders of this checkout. Run this script after a message has changed.
set -eu
cd "$(dirname "$0")/.."
rm -rf fuzz/seeds
AGENTD_FUZZ_SEEDS="$PWD/fuzz/seeds" cargo test --workspace --lib seeds
