#!/usr/bin/env bash
# Works off a queue of experiments on a machine with GPUs, PyTorch, nvcc, Node and node_modules (npm is not needed):
#   scripts/gpu-experiments.sh [build] ITEM...
#   build              the addon and its CUDA half (scripts/gpu-check.sh build)
#   NAME[:MINUTES]     an experiment of `memformer experiment --list` for at most MINUTES; without, for all that are left
# Flags of the command may follow in the item: 'wiki:20 --data FOLDER --seeds 0,1'. Without an item the queue is $QUEUE, an item a line;
# what stands behind # is left out.
# Rows, reports and figures go to $OUT/NAME as they come; rows of earlier calls are taken from $ROWS/NAME/rows.jsonl. What is there is not
# made again; a run that is cut off goes on from its checkpoint in $WORK where that is still there. What is left at the end is printed, and
# is in $OUT/queue-left.txt, to be the next call's $QUEUE. The exit code is 1 if an experiment failed; the queue goes on after it.
# Where there are several GPUs, the runs of an experiment are made on all of them side by side.
# Environment: OUT (default out/gpu-experiments), WORK (out/experiments), ROWS (.experiments), QUEUE, MINUTES (of the whole queue; default: no
# end), BUDGET (minutes), SEEDS (0), DEVICE (all GPUs: cuda:0,cuda:1,…), NODE, MEMFORMER_PYTHON.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

out=${OUT:-out/gpu-experiments} work=${WORK:-out/experiments} rows=${ROWS:-.experiments} node=${NODE:-node}
began=$SECONDS
mkdir -p "$out" "$work"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
devices=${DEVICE:-$(seq -s, -f 'cuda:%g' 0 $((gpus > 0 ? gpus - 1 : 0)))}
if [[ $devices != cpu* ]]; then
  export MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-python} MEMFORMER_PYTHON=${MEMFORMER_PYTHON:-python3} PYTHONUNBUFFERED=1
fi

items=()
for argument in "$@"; do
  if [ "$argument" = build ]; then
    if ! OUT=$out bash scripts/gpu-check.sh build >"$out/build.log" 2>&1; then
      tail -5 "$out/build.log"
      exit 1
    fi
    echo "== build: $((SECONDS - began)) s"
  else
    items+=("$argument")
  fi
done
if [ ${#items[@]} -eq 0 ] && [ -n "${QUEUE:-}" ]; then
  mapfile -t items < <(sed 's/#.*//; s/^[[:space:]]*//; s/[[:space:]]*$//' "$QUEUE" | grep -v '^$')
fi

# Refused before the first run: a name that is none, minutes that are no number.
known=" $("$node" dist/cli/main.js experiment --list | sed -n 's/^\([a-z0-9-]*\): .*/\1/p' | tr '\n' ' ')"
for item in "${items[@]}"; do
  read -r head _ <<<"$item"
  if [[ $known != *" ${head%%:*} "* ]] || ! [[ $head =~ ^[a-z0-9-]+(:[0-9]+)?$ ]]; then
    echo "\"$item\" is no item of a queue: NAME or NAME:MINUTES, and flags; experiments:$known" >&2
    exit 2
  fi
done

# NAME: what there is of it so far, without its checkpoints.
bring() {
  mkdir -p "$out/$1"
  for part in rows.jsonl report.html figures; do
    [ ! -e "$work/$1/$part" ] || cp -r "$work/$1/$part" "$out/$1/"
  done
}

# ITEM: returns 0 where nothing of it is left, 1 where it failed, 2 where runs are left, 3 where there was no time for it.
experiment() {
  local head flags name minutes left code=0 log
  read -r head flags <<<"$1"
  name=${head%%:*} minutes=${head#*:}
  [ "$minutes" != "$head" ] || minutes=100000
  if [ -n "${MINUTES:-}" ]; then
    left=$((MINUTES * 60 - (SECONDS - began)))
    [ $left -ge 1 ] || return 3
    [ $((minutes * 60)) -le $left ] || minutes=$(awk "BEGIN { print $left / 60 }")
  fi
  mkdir -p "$work/$name" "$out/$name"
  [ -f "$work/$name/rows.jsonl" ] || cp "$rows/$name/rows.jsonl" "$work/$name/" 2>/dev/null || true
  log=$out/$name/log.txt
  while sleep 10; do bring "$name"; done >/dev/null 2>&1 &
  local bringing=$!
  # A run that begins may take longer than was thought: the signal stops it at its checkpoint.
  # shellcheck disable=SC2086 # flags are words
  timeout --signal=INT --kill-after=60 "$(awk "BEGIN { print int($minutes * 60) + 1 }")" \
    "$node" dist/cli/main.js experiment "$name" --budget "${BUDGET:-minutes}" --seeds "${SEEDS:-0}" --devices "$devices" \
    --minutes "$minutes" --out "$work/$name" $flags >"$log" 2>&1 || code=$?
  kill $bringing
  wait $bringing 2>/dev/null
  bring "$name"
  grep -m1 'runs made; budget' "$log" || tail -3 "$log"
  case $code in
  0) ! grep -q 'runs are left' "$log" || return 2 ;;
  124 | 130 | 137) return 2 ;; # cut off at its checkpoint
  *) return 1 ;;
  esac
}

failed=0
: >"$out/queue-left.txt"
for item in "${items[@]}"; do
  from=$SECONDS code=0
  experiment "$item" || code=$?
  [ $code -eq 0 ] || echo "$item" >>"$out/queue-left.txt"
  [ $code -ne 1 ] || failed=1
  echo "== $item: $((SECONDS - from)) s$([ $code -ne 1 ] || echo ', failed')"
done
if [ -s "$out/queue-left.txt" ]; then
  echo "left, in $out/queue-left.txt:"
  cat "$out/queue-left.txt"
else
  echo "nothing is left"
fi
exit $failed
