#!/usr/bin/env bash
# The CUDA half without a GPU: compiles every kernel and bridge, links them, loads the result, and asks it for a device.
#   scripts/check-cuda.sh [--fetch] [folder]      of what is downloaded, kept for the next time; default: in the user's
# cache. --fetch: downloads, and nothing else.
# Needs nvcc, CMake, Ninja, and a pip that has the CUDA build of PyTorch. What cannot be done is printed as skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=2.14.1
only_fetch=false
if [ "${1:-}" = --fetch ]; then
  only_fetch=true
  shift
fi
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/memformer/check-cuda/$version}
if ! command -v nvcc >/dev/null; then
  echo "skipped: no nvcc here"
  exit 0
fi

# PyTorch's wheel and those of the libraries it is linked with, as its metadata names them.
fetch() {
  rm -rf "$cache" && mkdir -p "$cache/wheels" "$cache/site"
  local pip=(python3 -m pip download -q --disable-pip-version-check --retries 0 -d "$cache/wheels")
  "${pip[@]}" --no-deps "torch==$version" >"$cache/pip.log" 2>&1 || return 1
  unzip -q "$cache"/wheels/torch-*.whl -d "$cache/site"
  local needs
  mapfile -t needs < <(sed -n 's/^Requires-Dist: *\(\(cuda-toolkit\|nvidia\)[^;]*\);.*/\1/p' "$cache"/site/torch-*.dist-info/METADATA | tr -d ' ')
  "${pip[@]}" "${needs[@]}" >>"$cache/pip.log" 2>&1 || return 1
  rm "$cache"/wheels/torch-*.whl
  local wheel
  for wheel in "$cache"/wheels/*.whl; do unzip -qo "$wheel" -d "$cache/site"; done
  rm -rf "$cache/wheels" && touch "$cache/complete"
}

if [ ! -f "$cache/complete" ] && ! fetch; then
  if $only_fetch; then exit 1; fi
  echo "skipped: bridges, link and load, for pip has no torch $version or not all it needs: $(tail -1 "$cache/pip.log")"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  while IFS= read -r kernel; do
    echo "nvcc $kernel"
    nvcc -std=c++17 -arch=sm_90 -Inative -Xcompiler -fPIC -c "$kernel" -o "$scratch/kernel.o"
  done < <(find native -name '*.cu' | sort)
  exit 0
fi

if $only_fetch; then exit 0; fi

out=out/check-cuda
mkdir -p "$out"
cmake -S . -B "$out" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEMFORMER_LIBTORCH="$cache/site/torch" -DMEMFORMER_CUDA=ON >"$out/cmake.log" 2>&1 ||
  {
    cat "$out/cmake.log" >&2
    exit 1
  }
cmake --build "$out" --target memformer_cuda >"$out/build.log" 2>&1 || {
  grep -E 'error|FAILED' "$out/build.log" | head -40 >&2
  exit 1
}
nvcc -std=c++20 -arch=sm_90a -Inative -c bench/kernels/decode_chain.cu -o "$out/decode_chain.o"
echo "compiled $(find native -name '*.cu' | wc -l) kernel files and $(find native -name '*_cuda.cpp' | wc -l) bridges against LibTorch $version"
python3 scripts/load-cuda-half.py "$cache/site/torch/lib" "$out/libmemformer_cuda.so"
