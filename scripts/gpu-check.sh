#!/usr/bin/env bash
# Everything that needs a GPU, on any machine that has one, with PyTorch, nvcc, Node and node_modules (npm itself is not needed):
#   scripts/gpu-check.sh [build] [test] [job] [parallel] [sanitize] [bench] [binding] [-- flags of the bench]        default: all seven
#   build     the addon and its CUDA half, against PyTorch's own LibTorch, into out/cuda/
#   test      test/cuda.*.spec.ts, test/device.*spec.ts, and what the operators' own specs have for a GPU
#   job       every command of the package with a small corpus, on JOB_DEVICE (default cuda:0; cpu for a machine without a GPU)
#   parallel  ranks over NCCL, where there are several GPUs: test/cuda.distributed.spec.ts, then npm run bench -- parallel with `wiki` at
#             1, 16 and 64 lanes a GPU on 1 GPU and on all of them, without and with --shard-optimizer
#   sanitize  compute-sanitizer over our kernels (memcheck, racecheck, initcheck) in the operators' tests, memcheck over training steps
#   bench     npm run bench -- cuda, without npm
#   binding   npm run bench -- binding: what driving from JavaScript costs, which may be 3 % at most
# Output goes to $OUT, else out/gpu-check/, a file a stage. A stage that fails does not stop later ones; the exit code says whether
# any did. Environment: MEMFORMER_PYTHON (default python3), MEMFORMER_LIBTORCH (default python), NODE (default node),
# SANITIZE_SECONDS (limit of one tool on one operator, default 150), SANITIZE_JOBS (how many at a time, default 6), SANITIZE_TOOLS,
# SANITIZE_GREP (which tests they run; default: those of cases with the tag `sanitize`).
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

out=${OUT:-out/gpu-check}
node=${NODE:-node}
[ "${JOB_DEVICE:-}" = cpu ] || MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-python} # the CPU's is found as by the package itself
export MEMFORMER_LIBTORCH=${MEMFORMER_LIBTORCH:-} MEMFORMER_PYTHON=${MEMFORMER_PYTHON:-python3} PYTHONUNBUFFERED=1
mkdir -p "$out"

stages=()
flags=()
while [ $# -gt 0 ]; do
  case $1 in
  build | test | job | parallel | sanitize | bench | binding) stages+=("$1") ;;
  --)
    shift
    flags=("$@")
    break
    ;;
  *)
    echo "there is no stage \"$1\"; stages: build, test, job, parallel, sanitize, bench, binding" >&2
    exit 2
    ;;
  esac
  shift
done
[ ${#stages[@]} -gt 0 ] || stages=(build test job parallel sanitize bench binding)

# TypeScript through tsx where it is; a Node from 24 on runs the sources as they are.
typescript=()
[ -d node_modules/tsx ] && typescript=(--import tsx)
run_node() { "$node" --expose-gc "${typescript[@]}" "$@"; }
# Without a configuration mocha stays in this process, which the sanitizer needs, and starts no second Node.
mocha() { run_node node_modules/mocha/bin/mocha.js --no-config --reporter scripts/mocha-reporter.mjs --timeout 300000 --slow 20000 "$@"; }

build() {
  if [ -d node_modules/typescript ]; then
    "$node" node_modules/typescript/bin/tsc -p tsconfig.build.json || return 1
  elif [ ! -f dist/toolchain/build.js ]; then
    echo "neither node_modules/typescript nor dist/ is here: compile lib/ first (npm run build:ts) and bring dist/ along" >&2
    return 1
  fi
  "$node" scripts/provide.mjs && ls -l out/cuda/Release/*.node out/cuda/Release/*.so
}

test_stage() {
  local specs spec
  mapfile -t specs < <(
    for spec in test/cuda.*.spec.ts test/device.*spec.ts; do
      [ "$spec" = test/cuda.distributed.spec.ts ] || echo "$spec" # that one is of parallel
    done
    grep -l describeOnGpu native/ops/*/*.spec.ts
  )
  # The operators' file declares their tests on the CPU too; these have been run elsewhere.
  mocha --grep 'GPU|device|recorded' "${specs[@]}"
}

parallel() {
  local code=0 gpus ranks
  gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
  if [ "$gpus" -lt 2 ]; then
    echo "skipped: $gpus GPUs here, and ranks need 2"
    return 0
  fi
  mocha test/cuda.distributed.spec.ts || code=$?
  ranks=1,2
  [ "$gpus" -eq 2 ] || ranks+=,$gpus
  local -a command=(bench/main.ts parallel --device cuda --configuration wiki --ranks "$ranks" --lanes "1,16,64" --steps "${PARALLEL_STEPS:-20}")
  run_node "${command[@]}" || code=$?
  run_node "${command[@]}" --shard-optimizer || code=$?
  cp bench/results/parallel-wiki-cuda*.json "$out/" || code=$?
  return "$code"
}

job() { run_node scripts/gpu-job.mjs; }

# --kernel-regex in newer releases, --kernel-name or --filter in older ones: only kernels of our namespace are instrumented.
kernel_filter() {
  local help option
  help=$(compute-sanitizer --help 2>&1)
  for option in --kernel-regex --kernel-name --filter; do
    if grep -q -e "$option" <<<"$help"; then
      echo "$option kns=memformer"
      return
    fi
  done
}

# TOOL NAME arguments of mocha: a line that says how it went. Fails for a report on one of our kernels or a failed test. A run out of time,
# and one in which the tool itself broke, are neither, but they are said.
sanitized() {
  local tool=$1 name=$2 code=0 log ours ended
  shift 2
  log=$(mktemp)
  local command=(compute-sanitizer --tool "$tool" --target-processes application-only --error-exitcode 86 --print-limit 100000)
  # initcheck has to see who else writes, and so every kernel.
  # shellcheck disable=SC2207
  if [ "$tool" = initcheck ]; then command+=(--show-backtrace no); else command+=($(kernel_filter)); fi
  [ "$tool" != memcheck ] || command+=(--report-api-errors no)
  command+=("$node" --expose-gc "${typescript[@]}" node_modules/mocha/bin/mocha.js --no-config --timeout 600000)
  command+=(--reporter scripts/mocha-reporter.mjs)
  timeout --signal=INT --kill-after=20 "${SANITIZE_SECONDS:-150}" "${command[@]}" "$@" >"$log" 2>&1 || code=$?
  # Results that come to the host unwritten are ours, whoever should have written them.
  ours=$(grep -A3 -E '^=+ +(Invalid|Uninitialized|Error: Race|Warning: Race|Error|Barrier)' "$log" | grep -c memformer)
  ours=$((ours + $(grep -c 'Host API memory access error' "$log")))
  ended=$(grep -o -E '[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
  local words="$ours reports on our kernels"
  [ "$code" != 86 ] || [ "$ours" != 0 ] || words+=" (others' have some)"
  if grep -q 'Internal Sanitizer Error' "$log"; then
    words+=", THE TOOL ITSELF BROKE after $(grep -c '✔' "$log") tests"
  elif [ "$code" = 124 ] || [ "$code" = 137 ]; then
    words+=", OUT OF TIME after $(grep -c '✔' "$log") tests"
  else
    words+=", ${ended:-DID NOT END, exit $code}"
  fi
  echo "$tool, $name: $words" | tee "$reports/$tool.$name.line"
  {
    echo "== $tool, $name"
    tail -c 1000000 "$log"
  } >"$reports/$tool.$name.log"
  rm -f "$log"
  [ "$ours" = 0 ] || return 1
  case $words in *", 0 passed"*) return 1 ;; *"TOOL ITSELF BROKE"* | *"OUT OF TIME"* | *", 0 failed") ;; *) return 1 ;; esac
}

# Each operator in a process of its own, some at a time: what breaks one tool on one operator hides no other.
sanitize() {
  command -v compute-sanitizer >/dev/null || {
    echo "compute-sanitizer is not on the PATH" >&2
    return 1
  }
  local which=${SANITIZE_GREP:-'on the GPU.*\[sanitize\].*as accurate as composed'}
  local operators operator tool reports failed=0
  operators=$(mocha --dry-run --grep "$which" test/cuda.operators.spec.ts | grep -o -E '^ +memformer::[a-z_]+ on the GPU' | sed -E 's/.*::([a-z_]+) on.*/\1/' | sort -u)
  [ -n "$operators" ] || {
    echo "there is no GPU, or no test by that name" >&2
    return 1
  }
  reports=$(mktemp -d)
  export CUDA_MODULE_LOADING=LAZY
  one() { # TOOL NAME arguments of mocha
    while [ "$(jobs -rp | wc -l)" -ge "${SANITIZE_JOBS:-6}" ]; do wait -n; done
    { sanitized "$@" || touch "$reports/failed"; } &
  }
  for tool in ${SANITIZE_TOOLS:-memcheck racecheck initcheck}; do
    # Every tensor an allocation of its own, so that what lies past its end is nobody's, and none is what another has written.
    if [ "$tool" = racecheck ]; then unset PYTORCH_NO_CUDA_MEMORY_CACHING; else export PYTORCH_NO_CUDA_MEMORY_CACHING=1; fi
    for operator in $operators; do
      local file=test/cuda.operators.spec.ts tests="^memformer::$operator $which"
      case $tool.$operator in
      racecheck.feed_forward)
        echo "racecheck, feed_forward: skipped: its kernels share out their registers by hand, which breaks that tool"
        continue
        ;;
      racecheck.slot_attention)
        echo "racecheck, slot_attention: skipped but for our kernel with shared memory: kernels of LibTorch beside it break that tool"
        file=test/cuda.slot-attention.spec.ts tests='after any forward pass \[sanitize\]'
        ;;
      initcheck.feed_forward)
        echo "initcheck, feed_forward: skipped but for float32: that tool does not see what Hopper's copy engine writes"
        tests+=' ATen in float32'
        ;;
      initcheck.attention)
        echo "initcheck, attention: skipped where cuDNN goes forward: that tool does not see what Hopper's copy engine writes"
        tests="^(?!.*\[cudnn\]).*${tests#^}"
        ;;
      esac
      one "$tool" "$operator" --grep "$tests" "$file"
    done
    one "$tool" adamw --grep '^memformer::adamw_step.* on the GPU \[sanitize\]' test/cuda.operators.spec.ts
    unset PYTORCH_NO_CUDA_MEMORY_CACHING # the graphs of recorded steps need it
    [ "$tool" = initcheck ] || one "$tool" mrbp --grep '\[sanitize\]' test/cuda.mrbp.spec.ts
  done
  wait
  cat "$reports"/*.log >"$out/sanitize-reports.log"
  [ ! -e "$reports/failed" ] || failed=1
  echo "sanitized: $(cat "$reports"/*.line | wc -l) runs, $(cat "$reports"/*.line | grep -c '0 reports on our kernels.* 0 failed') to their end and" \
    "without a report; not so: $(grep -hv '0 reports on our kernels.* 0 failed' "$reports"/*.line | cut -d: -f1 | paste -sd';')"
  rm -r "$reports"
  return "$failed"
}

bench() {
  local code=0
  run_node bench/main.ts cuda "${flags[@]}" || code=$?
  [ ! -f bench/results/cuda.json ] || cp bench/results/cuda.json "$out/"
  return "$code"
}

binding() {
  local code=0
  run_node bench/main.ts binding || code=$?
  [ ! -f bench/results/binding-gpu.json ] || cp bench/results/binding-gpu.json "$out/"
  return "$code"
}

table=()
failed=0
for stage in "${stages[@]}"; do
  began=$SECONDS
  echo "== $stage"
  call=$stage
  [ "$stage" = test ] && call=test_stage
  if ! "$call" 2>&1 | tee "$out/$stage.log"; then
    result=FAILED
    failed=1
  elif grep -q '^skipped: ' "$out/$stage.log"; then
    result=skipped # all of it: what a stage leaves out stands behind a name
  else
    result=passed
  fi
  last=$(grep -E 'passed, .*failed|sanitized:|Built|Compiled' "$out/$stage.log" | tail -1)
  table+=("$(printf '%-9s %-7s %5d s  %s' "$stage" "$result" $((SECONDS - began)) "$last")")
done

echo
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
printf '%s\n' "${table[@]}"
exit $failed
