#!/usr/bin/env bash
# Trains for minutes with what a short test does not reach, and names the kernel if one faults:
#   scripts/gpu-soak.sh MINUTES [JOBS]      JOBS processes (default 4), spread over the GPUs there are
# Needs the addon (scripts/gpu-check.sh build) and token files (scripts/gpu-worth.sh data). Each process trains models of the size `base` on
# real documents by the recipe of docs/recipe.md. A kernel that faults leaves a core file, of which cuda-gdb prints the kernel and the
# instruction into $OUT/soak.txt. The exit code is 1 if a process failed. Environment: OUT (default out/gpu-soak), TOKENS (.worth/tokens),
# VARIANT, SHAPES (base-128 base-32 base-decoder-64), NODE, MEMFORMER_PYTHON.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
[ $# -ge 1 ] || {
  sed -n '2,4p' "$0" | cut -c3- >&2
  exit 2
}

minutes=$1 jobs=${2:-4} out=${OUT:-out/gpu-soak} node=${NODE:-node} tokens=${TOKENS:-.worth/tokens}
variant=${VARIANT:-zero+slow+normed+wqk+limited+qk+muon}
read -ra shapes <<<"${SHAPES:-base-128 base-32 base-decoder-64}"
mkdir -p "$out"
work=$(mktemp -d)
export MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-python} MEMFORMER_PYTHON=${MEMFORMER_PYTHON:-python3}
export CUDA_ENABLE_COREDUMP_ON_EXCEPTION=1 CUDA_COREDUMP_FILE=$work/core.%p
export CUDA_COREDUMP_GENERATION_FLAGS=skip_nonrelocated_elf_images,skip_global_memory,skip_local_memory
gpus=$(nvidia-smi --list-gpus | wc -l)

soak() { # NUMBER
  local shape=${shapes[$1 % ${#shapes[@]}]} code=0
  CUDA_VISIBLE_DEVICES=$(($1 % gpus)) "$node" --expose-gc --import tsx bench/main.ts worth --data "$tokens/train.tokens,$tokens/valid.tokens" \
    --device cuda --precision bfloat16 --jobs 1 --minutes "$minutes" --shape "$shape" --variants "$variant" --rates 4e-3 --tokens 95e6 --lanes 32 \
    --seeds "$((100 + $1))" --rows "$work/$1.jsonl" --name "soak-$1" --plot "$work/$1.svg" >"$work/$1.log" 2>&1 || code=$?
  if grep -q ' failed: ' "$work/$1.log"; then
    echo "process $1, $shape: failed"
    grep -m 3 -E 'failed: |CUDA error|what\(\)' "$work/$1.log"
    return 1
  fi
  echo "process $1, $shape: no failure (exit $code)"
}

running=()
for ((i = 0; i < jobs; i++)); do
  soak "$i" >"$work/$i.said" &
  running+=($!)
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=1; done
{
  cat "$work"/*.said
  for core in "$work"/core.*; do
    [ -f "$core" ] || continue
    echo "== $(basename "$core")"
    # shellcheck disable=SC2016 # $pc is the debugger's
    timeout 60 cuda-gdb -batch -ex "target cudacore $core" -ex 'info cuda kernels' -ex 'info cuda exception' -ex 'x/3i $pc' 2>&1 | grep -v '^$' | tail -20
  done
} | tee "$out/soak.txt"
rm -rf "$work"
exit $failed
