#!/bin/bash
# All there is to do on a machine with an NVIDIA GPU, which may lack Rust and the network: the tests, then times beside PyTorch's, then a
# short training that is stopped and goes on.
#
#   tools/cuda_check.sh pack DIR            with Rust: builds, and copies the programs to DIR
#   tools/cuda_check.sh run DIR [OPTIONS]   with the GPU: runs them; stops at the first failure and shows the end of its log
#
# Options of run:
#   --out FOLDER     where logs, times and the training's run go [cuda-check]
#   --only STEPS     of device,tests,times,train [all]
#   --data SPEC      images of 32x32, as data.source has them [shapes32]
#   --seconds N      of training [120]
#   --precision P    of training: bf16, tf32 or f32 [bf16]
#   --python EXE     one with PyTorch and diffusers, for times to compare with [python3]
#
# NVIDIA's libraries are found by their names, in the folders of DDPM_CUDA_LIBRARIES, or beside that Python's PyTorch.
set -euo pipefail

usage() {
    sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}

# Cargo's messages name what it has built.
built() {
    cargo "$@" --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["target"]["name"], message["executable"])'
}

pack() {
    mkdir -p "$1"
    { built test --no-run -p ddpm-engine --lib --test cuda_against_cpu --test ops_parity
      built test --no-run -p ddpm-models --test diffusers_parity
      built build --release -p ddpm-models --example step_time
      built build --release -p ddpm; } | while read -r name path; do
        case $name in ddpm | step_time) to=$1/$name ;; *) to=$1/test-$name ;; esac
        strip -o "$to" "$path"
    done
    ls -l "$1"
    echo "needs at least: $(for program in "$1"/*; do objdump -T "$program"; done | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)"
}

# name, seconds, command: runs it; all it says goes to a log.
step() {
    local name=$1 seconds=$2 status=0
    shift 2
    echo "== $name: $*"
    timeout -k 10 "$seconds" "$@" > "$out/$name.log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 40 "$out/$name.log"
        echo "== $name failed with status $status; see $out/$name.log"
        exit 1
    fi
}

device() {
    nvidia-smi || echo "nvidia-smi does not work"
    step libraries 60 "$programs/step_time" forward 1 1 0 cifar10 --device cuda
    tail -n 2 "$out/libraries.log"
}

tests() {
    export DDPM_TEST_CUDA=1
    local test
    for test in engine cuda_against_cpu ops_parity diffusers_parity; do
        # They read fixtures beside their sources.
        case $test in diffusers_parity) folder=crates/models ;; *) folder=crates/engine ;; esac
        step "test-$test" 600 env -C "$folder" CARGO_MANIFEST_DIR="$PWD/$folder" "$programs/test-$test" --nocapture
        grep -E '^test result|SKIPPED' "$out/test-$test.log" | sort | uniq -c
    done
    unset DDPM_TEST_CUDA
}

times() {
    "$python" tools/bench_cuda.py --ours "$programs/step_time" --fastest --json "$out/times.json" --log "$out/times.log" \
        --precisions bf16 tf32 || echo "== the times cannot be taken; see $out/times.log"
    local case
    for case in "train 128" "forward 256"; do
        # shellcheck disable=SC2086
        step "profile-${case// /-}" 300 "$programs/step_time" $case 5 0 cifar10 profile --device cuda --precision bf16
        cat "$out/profile-${case// /-}.log"
    done
}

train() {
    local run=$out/run call
    call=("$programs/ddpm" train cifar10 --set "data.source=$data" --device cuda --precision "$precision" --set log.every=20)
    # The same bits, whether stopped or not.
    rm -rf "$out/straight" "$out/stopped"
    step straight 300 "${call[@]}" --out "$out/straight" --set train.steps=30 --set log.sample_every=0
    step stopped 300 "${call[@]}" --out "$out/stopped" --set train.steps=15 --set log.sample_every=0
    step went-on 300 "${call[@]}" --out "$out/stopped" --resume --set train.steps=30 --set log.sample_every=0
    local weights
    weights=$(cd "$out/straight/checkpoints" && find . -path './step-00000030/*' -name '*.safetensors')
    [ -n "$weights" ] || { echo "== no weights to compare"; exit 1; }
    for file in $weights; do
        cmp "$out/straight/checkpoints/$file" "$out/stopped/checkpoints/$file" || { echo "== resuming changed bits"; exit 1; }
    done
    echo "== a run that was stopped has the same bits as one that was not"
    local resume=()
    [ -d "$run/checkpoints" ] && resume=(--resume)
    # It saves when it is told to stop, and says so with status 130. In the foreground: else the signal comes twice, and a second
    # one ends it at once.
    echo "== training for $seconds s"
    timeout --foreground -s INT "$seconds" "${call[@]}" --out "$run" "${resume[@]}" 2>&1 | tr '\r' '\n' > "$out/train.log" || true
    tail -n 5 "$out/train.log"
    tail -n 1 "$run/metrics.jsonl"
    step sample 600 "$programs/ddpm" sample "$run" --n 64 --batch 64 --sampler ddim --steps 50 --out "$out/samples-$(date +%s)" \
        --device cuda --precision "$precision"
    tail -n 2 "$out/sample.log"
}

[ $# -ge 2 ] || usage
mode=$1 programs=$(mkdir -p "$2" && cd "$2" && pwd)
shift 2
cd "$(dirname "$0")/.."
case $mode in pack) pack "$programs"; exit ;; run) ;; *) usage ;; esac

out=cuda-check only=device,tests,times,train data=shapes32 seconds=120 precision=bf16 python=python3
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --out) out=$2 ;; --only) only=$2 ;; --data) data=$2 ;; --seconds) seconds=$2 ;; --precision) precision=$2 ;;
        --python) python=$2 ;; *) usage ;;
    esac
    shift 2
done
mkdir -p "$out" && out=$(cd "$out" && pwd)
wheels=$("$python" -c '
import pathlib
try:
    import nvidia
    print(":".join(str(folder) for root in nvidia.__path__ for folder in pathlib.Path(root).glob("*/lib")))
except ImportError:
    pass' 2>/dev/null || true)
export DDPM_CUDA_LIBRARIES=${DDPM_CUDA_LIBRARIES:-$wheels}
for part in ${only//,/ }; do
    case $part in device | tests | times | train) "$part" ;; *) usage ;; esac
done
echo "== all done; logs are in $out"
