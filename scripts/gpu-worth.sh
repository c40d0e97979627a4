#!/usr/bin/env bash
# What the memory is worth, on a machine with a GPU, PyTorch, nvcc, Python's tokenizers, Node and node_modules (npm is not needed):
#   scripts/gpu-worth.sh STAGE...
#   build             the addon and its CUDA half (scripts/gpu-check.sh build); at the same time
#   data              token files of a byte-level BPE from $TEXTS/wiki15.train.txt.xz and wiki15.valid.txt.xz, into $TOKENS
#   screen-32:MIN     levers at T 32 for at most MIN minutes      screen-128:MIN, screen-decoder:MIN     the same at T 128, for the decoder
#   confirm-32:MIN    $VARIANTS over three rates and two seeds    confirm-128:MIN, confirm-decoder:MIN   the same
# Rows go to $OUT/worth-rows.jsonl as they come, a table and a picture a stage beside it; rows of earlier calls are taken from $ROWS.
# What is there is not made again, so a stage that had too little time goes on where the same stage is called once more.
# Where there are several GPUs, runs are made on all of them side by side.
# Environment: OUT (default out/gpu-worth), TEXTS (.worth), TOKENS (.worth/tokens), ROWS (.worth/worth-rows.jsonl), JOBS (processes at a
# time, one for each GPU: docs/gpu.md, "Unspecified launch failure"), LANES, TOKENS_A_RUN, RATES, SCREEN_SEEDS and SCREEN_VARIANTS (a screening's: 32,768 tokens a step, 20e6, 2e-3, 0, recipe,recipe+sharp),
# CONFIRM_TOKENS (95e6), CONFIRM_RATES (2e-3,4e-3,8e-3), SEEDS (0,1), VARIANTS (of confirm; "recipe"), DEVICE (all GPUs: cuda:0,cuda:1,…), NODE, MEMFORMER_PYTHON.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

out=${OUT:-out/gpu-worth} node=${NODE:-node} texts=${TEXTS:-.worth} tokens=${TOKENS:-.worth/tokens}
export MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-python} MEMFORMER_PYTHON=${MEMFORMER_PYTHON:-python3} PYTHONUNBUFFERED=1
mkdir -p "$out"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
gpus=$((gpus > 0 ? gpus : 1)) jobs=$gpus
devices=${DEVICE:-$(seq -s, -f 'cuda:%g' 0 $((gpus - 1)))}
rows=$out/worth-rows.jsonl
[ -f "$rows" ] || cp "${ROWS:-.worth/worth-rows.jsonl}" "$rows" 2>/dev/null || true

build() { OUT=$out bash scripts/gpu-check.sh build >"$out/build.log" 2>&1 || {
  tail -5 "$out/build.log"
  return 1
}; }
data() { [ -f "$tokens/valid.tokens" ] || "$MEMFORMER_PYTHON" bench/worth-data.py "$texts/wiki15.train.txt.xz" "$texts/wiki15.valid.txt.xz" "$tokens"; }

# NAME MINUTES flags: one table.
worth() {
  local name=$1 minutes=$2
  shift 2
  "$node" --expose-gc --import tsx bench/main.ts worth --data "$tokens/train.tokens,$tokens/valid.tokens" --device "$devices" --precision bfloat16 \
    --jobs "${JOBS:-$jobs}" --minutes "$minutes" --rows "$rows" --name "worth-$name" --plot "$out/worth-$name.svg" "$@" 2>&1 | tee "$out/worth-$name.txt"
}

# Twins are shared where they compute the same, so a lever of the memory alone costs one run. The first variants matter most.
screen() {
  local shape=$1 minutes=$2
  worth "screen-$shape" "$minutes" --shape "$shape" --variants "${SCREEN_VARIANTS:-recipe,recipe+sharp}" --rates "${RATES:-2e-3}" --tokens "${TOKENS_A_RUN:-20e6}" \
    --seeds "${SCREEN_SEEDS:-0}" ${LANES:+--lanes "$LANES"} --depth 6144
}

confirm() {
  worth "confirm-$1" "$2" --shape "$1" --variants "${VARIANTS:-recipe}" --rates "${CONFIRM_RATES:-2e-3,4e-3,8e-3}" --seeds "${SEEDS:-0,1}" \
    --tokens "${CONFIRM_TOKENS:-95e6}"
}

failed=0
for stage in "$@"; do
  name=${stage%%:*} minutes=${stage#*:} began=$SECONDS
  shape=base-${name#*-}
  [ "$shape" != base-decoder ] || shape=base-decoder-64
  case $name in
  build)
    data >"$out/data.log" 2>&1 &
    making=$!
    build || failed=1
    wait "$making" || failed=1
    tail -2 "$out/data.log"
    ;;
  data) data || failed=1 ;;
  screen-*) screen "$shape" "$minutes" || failed=1 ;;
  confirm-*) confirm "$shape" "$minutes" || failed=1 ;;
  *)
    echo "there is no stage \"$stage\"" >&2
    exit 2
    ;;
  esac
  echo "== $stage: $((SECONDS - began)) s"
done
exit $failed
