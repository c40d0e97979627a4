#!/usr/bin/env bash
# What the kernels of a decoding step take, without LibTorch (bench/kernels/decode_chain.cu):
#   scripts/decode-chain.sh [ROWS ...]      default: 1 8 16 32 64 128 256
#   scripts/decode-chain.sh --build FILE    builds the program into FILE alone, to run elsewhere
# Needs nvcc, and to run a GPU of compute capability 9.0. ARCH (sm_90a) is what it is built for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v nvcc >/dev/null || {
  echo "skipped: no nvcc here"
  exit 0
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
program=$work/decode_chain
only_build=false
if [ "${1:-}" = --build ]; then
  program=${2:?--build needs a file} only_build=true
fi
objects=()
jobs=()
for source in native/ops/decode_linear/*.cu native/ops/decode_attention/*.cu bench/kernels/decode_chain.cu; do
  object=$work/$(basename "$source").o
  nvcc -O3 --use_fast_math -std=c++20 -arch="${ARCH:-sm_90a}" -lineinfo -Inative -c "$source" -o "$object" &
  jobs+=($!)
  objects+=("$object")
done
for job in "${jobs[@]}"; do wait "$job"; done
nvcc -arch="${ARCH:-sm_90a}" "${objects[@]}" -o "$program"
$only_build || "$program" "$@"
