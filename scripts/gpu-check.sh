#!/usr/bin/env bash
# Everything that needs a GPU, on any machine that has one, with PyTorch, nvcc, Node and node_modules (npm itself is not needed):
#   scripts/gpu-check.sh [build] [test] [sanitize] [bench] [binding] [-- flags of the bench]        default: all five
#   build     the addon and its CUDA half, against PyTorch's own LibTorch, into out/cuda/
#   test      test/cuda.*.spec.ts and test/device.spec.ts
#   sanitize  compute-sanitizer over our kernels (memcheck, racecheck, initcheck) in the operators' tests, memcheck over training steps
#   bench     npm run bench -- cuda, without npm
#   binding   npm run bench -- binding: what driving from JavaScript costs, which may be 3 % at most
# Output goes to $OUT, else out/gpu-check/, a file a stage. A stage that fails does not stop later ones; the exit code says whether
# any did. Environment: MEMFORMER_PYTHON (default python3), MEMFORMER_LIBTORCH (default python), NODE (default node),
# SANITIZE_SECONDS (limit of one tool, default 150), SANITIZE_GREP (which tests it runs).
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${OUT:-out/gpu-check}
node=${NODE:-node}
export MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-python} MEMFORMER_PYTHON=${MEMFORMER_PYTHON:-python3} PYTHONUNBUFFERED=1
mkdir -p "$out"

stages=()
flags=()
while [ $# -gt 0 ]; do
  case $1 in
    build | test | sanitize | bench | binding) stages+=("$1") ;;
    --) shift; flags=("$@"); break ;;
    *) echo "there is no stage \"$1\"; stages: build, test, sanitize, bench, binding" >&2; exit 2 ;;
  esac
  shift
done
[ ${#stages[@]} -gt 0 ] || stages=(build test sanitize bench binding)

# TypeScript through tsx where it is; a Node from 24 on runs the sources as they are.
typescript=()
[ -d node_modules/tsx ] && typescript=(--import tsx)
run_node() { "$node" --expose-gc "${typescript[@]}" "$@"; }
# Without a configuration mocha stays in this process, which the sanitizer needs, and starts no second Node.
mocha() { run_node node_modules/mocha/bin/mocha.js --no-config --reporter scripts/mocha-reporter.mjs --timeout 300000 --slow 20000 "$@"; }

build() {
  if [ -d node_modules/typescript ]; then
    "$node" node_modules/typescript/bin/tsc -p tsconfig.build.json || return 1
  elif [ ! -f dist/native/build.js ]; then
    echo "neither node_modules/typescript nor dist/ is here: compile lib/ first (npm run build:ts) and bring dist/ along" >&2
    return 1
  fi
  "$node" scripts/provide.mjs && ls -l out/cuda/Release/*.node out/cuda/Release/*.so
}

test_stage() {
  local specs=(test/cuda.*.spec.ts test/device.spec.ts)
  # The operators' file declares their tests on the CPU too; these have been run elsewhere.
  mocha --grep 'GPU|device|recorded' "${specs[@]}"
}

# --kernel-regex in newer releases, --kernel-name or --filter in older ones: only kernels of our namespace are instrumented.
kernel_filter() {
  local help option
  help=$(compute-sanitizer --help 2>&1)
  for option in --kernel-regex --kernel-name --filter; do
    if grep -q -e "$option" <<<"$help"; then echo "$option kns=memformer"; return; fi
  done
}

# TOOL arguments of mocha: fails for a report on one of our kernels or a failed test. A run out of time is none, but it is said.
sanitized() {
  local tool=$1 code=0 log
  shift
  log=$(mktemp)
  local command=(compute-sanitizer --tool "$tool" --target-processes application-only --error-exitcode 86 --print-limit 20)
  # initcheck has to see who else writes, and so every kernel.
  # shellcheck disable=SC2207
  [ "$tool" = initcheck ] || command+=($(kernel_filter))
  [ "$tool" != memcheck ] || command+=(--report-api-errors no)
  command+=("$node" --expose-gc "${typescript[@]}" node_modules/mocha/bin/mocha.js --no-config --timeout 600000)
  command+=(--reporter scripts/mocha-reporter.mjs)
  timeout --signal=INT --kill-after=20 "${SANITIZE_SECONDS:-150}" "${command[@]}" "$@" >"$log" 2>&1 || code=$?
  local ours failures
  ours=$(grep -A3 -E '^=+ +(Invalid|Uninitialized|Error: Race|Warning: Race|Error|Barrier)' "$log" | grep -c memformer)
  failures=$(grep -o -E '[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
  echo "$tool: exit $code, $ours reports on our kernels, $(grep -E 'SUMMARY' "$log" | tail -1 | tr -d '=') ${failures:-did not end}"
  { echo "== $tool"; tail -c 3000000 "$log"; } >>"$out/sanitize-reports.log"
  rm -f "$log"
  [ "$ours" = 0 ] || return 1
  case $code in
    0 | 124 | 137) ;;                                    # 124, 137: out of time; what ran before counts
    86) echo "$tool: its reports are on kernels of others" ;;
    *) return 1 ;;
  esac
  case $failures in "" | *", 0 failed") ;; *) return 1 ;; esac
}

sanitize() {
  local failed=0 which=${SANITIZE_GREP:-on the GPU.*(of odd sizes|without rows|in groups|of many rows|that start anew|of heads that a GPU|of such heads|of few queries over many keys|of such, of odd sizes).*(exactly|exact) as composed}
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH" >&2; return 1; }
  : >"$out/sanitize-reports.log"
  export CUDA_MODULE_LOADING=LAZY
  # Every tensor an allocation of its own, so that what lies past its end is nobody's.
  for tool in memcheck racecheck initcheck; do
    local tests=$which
    if [ "$tool" = racecheck ]; then
      echo "skipped: racecheck of feed_forward, whose kernels share out their registers by hand, which that tool cannot instrument"
      tests="^(?!.*feed_forward).*$which"
    fi
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitized "$tool" --grep "$tests" test/cuda.operators.spec.ts || failed=1
  done
  sanitized memcheck --grep 'for encoder-decoder, slot-attention, rotary in float32' test/cuda.mrbp.spec.ts || failed=1
  return $failed
}

bench() {
  local code=0
  run_node bench/main.ts cuda "${flags[@]}" || code=$?
  [ ! -f bench/results/cuda.json ] || cp bench/results/cuda.json "$out/"
  return $code
}

binding() {
  local code=0
  run_node bench/main.ts binding || code=$?
  [ ! -f bench/results/binding-gpu.json ] || cp bench/results/binding-gpu.json "$out/"
  return $code
}

table=()
failed=0
for stage in "${stages[@]}"; do
  began=$SECONDS
  echo "== $stage"
  call=$stage
  [ "$stage" = test ] && call=test_stage
  if "$call" 2>&1 | tee "$out/$stage.log"; then result=passed; else result=FAILED; failed=1; fi
  last=$(grep -E 'passed, .*failed|reports on|Built|Compiled' "$out/$stage.log" | tail -1)
  table+=("$(printf '%-9s %-7s %5d s  %s' "$stage" "$result" $((SECONDS - began)) "$last")")
done

echo
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
printf '%s\n' "${table[@]}"
exit $failed
