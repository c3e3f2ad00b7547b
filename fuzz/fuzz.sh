#!/usr/bin/env bash
# Runs fuzz targets, each for some seconds, from the seeds on: fuzz.sh SECONDS [TARGET…]
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
python3 ../tools/fuzz_seeds.py >/dev/null
# libFuzzer's instrumentation is part of the stable compiler, but not declared stable.
export RUSTC_BOOTSTRAP=1
for target in ${@:-$(cargo fuzz list)}; do
    printf '\n== %s\n' "$target"
    cargo fuzz run --sanitizer none "$target" "corpus/$target" -- -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=20 -print_final_stats=1
done
