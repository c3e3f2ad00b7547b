#!/usr/bin/env bash
# Tests of the engine on a 64-bit ARM processor, emulated by QEMU: that NEON computes what it should, and the same bits as elsewhere.
#
#     tools/check_arm.sh            what matters, a minute or two after compiling
#     tools/check_arm.sh all        all tests of the engine, and the same bits at any number of threads: some ten minutes
#
# Needs QEMU's user emulation and a C compiler for the target (Debian: qemu-user-static gcc-aarch64-linux-gnu), and Rust's standard
# library for it (rustup target add aarch64-unknown-linux-gnu).
set -euo pipefail
cd "$(dirname "$0")/.."

# NVIDIA's libraries here are for this processor.
unset DDPM_TEST_NVRTC DDPM_TEST_CUDNN DDPM_TEST_CUDA
export CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64-static -L /usr/aarch64-linux-gnu'

if [ "${1:-}" = all ]; then
    cargo test --locked -p ddpm-engine --lib --tests
    cargo test --locked -p ddpm-models --test same_bits
else
    cargo test --locked -p ddpm-engine --lib
    cargo test --locked -p ddpm-engine --test ops_parity --test finite_differences
    cargo test --locked -p ddpm-models --test same_bits on_every_processor
fi
