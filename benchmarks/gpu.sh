#!/bin/bash
# All that is measured on one GPU, in two parts of 6 minutes, and what is made before:
#
#   benchmarks/gpu.sh prepare FOLDER   on any machine: token files, tasks, wheels
#   benchmarks/gpu.sh first            correctness, training, decoding, a profile
#   benchmarks/gpu.sh second           a GPT-1 pre-trained on novels, and fine-tuned
#
# benchmarks/README.md has the commands of the day. Tables go to RESULTS as they are
# made, at most 8 small files a part, with the device in their names. What fails or takes
# too long says so, in the part's log too, and the rest goes on.
#   PYTHON=python3     with jax, flax, optax, orbax; PyTorch and transformers for peers
#   GPT_JAX_DATA=..    prepare: the folder of data sets (text/novels, tasks, vocab/gpt2)
#   DATA=FOLDER        what prepare made; without it no decoding and no second part
#   RESULTS=..         else benchmarks/results
#   SECONDS_TRAINED=.. second: of pre-training, else 165
#   SEEDS=..           second: of each fine-tuning, else 3
#   TINY=1             a rehearsal with tiny shapes, on a CPU
cd "$(dirname "$0")/.." || exit 1
mode=$1
python=${PYTHON:-python3}
results=${RESULTS:-benchmarks/results}
# In requirements.txt, and not beside jax, flax, PyTorch and transformers in most images;
# with what they need in turn.
wheels='ml_collections grain array-record portpicker'
most_bytes=$((56 << 20)) # of what is carried; the tree itself takes 6 MiB

prepare() {
  local target=$1 data=${GPT_JAX_DATA:?the folder of data sets} task here=$PWD
  mkdir -p "$target/tasks" "$target/gpt2" "$target/wheels" || exit 1
  target=$(cd "$target" && pwd)
  # Tokens know the name of their source, which is to be the same on the other machine.
  # shellcheck disable=SC2086
  (cd "$data/text" && "$python" "$here/launch.py" prepare \
    --config="$here/experiments/gpt1/minutes.py" --config.data.source="$source" \
    --workdir="$target/novels" $tiny_data) || exit 1
  for task in rte cola storycloze; do
    cp -r "$data/tasks/$task" "$target/tasks/" || exit 1
  done
  if [ ! -d "$target/tasks/sst2" ]; then
    "$python" experiments/gpt1/sst2_sentences.py --data="$data/tasks/sst2" \
      --target="$target/tasks/sst2" || exit 1
  fi
  cp "$data"/vocab/gpt2/{vocab.json,merges.txt} "$target/gpt2/" || exit 1
  chmod -R u+w "$target"
  # shellcheck disable=SC2086
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -d "$target/wheels" $wheels || exit 1
  (cd "$target" && du -ab . | awk '{print $1 "\t" $2}' | sort -k2 >contents.txt)
  ls "$target/wheels" | tee "$target/wheels.txt"
  local bytes
  bytes=$(du -sb "$target" | cut -f1)
  echo "$target: $((bytes >> 20)) MiB"
  if [ "$bytes" -gt "$most_bytes" ]; then
    echo "that is more than the $((most_bytes >> 20)) MiB that can be carried"
    exit 1
  fi
}

# Installs the wheels that are carried, where Python lacks what is in them.
install() {
  "$python" -c 'import grain, ml_collections' 2>/dev/null && return
  [ -d "$DATA/wheels" ] || return
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" \
    "$DATA"/wheels/*.whl && export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
}

# part NAME LIMIT COMMAND...: runs it for at most LIMIT seconds into NAME-device.md.
part() {
  local file=$results/$1-$name.md limit=$2 left=$((seconds - SECONDS)) begun=$SECONDS
  shift 2
  [ "$limit" -gt "$left" ] && limit=$left
  echo "== $* (at most $limit s)" | tee -a "$log"
  if [ "$limit" -lt 10 ]; then
    echo "SKIPPED: no time is left" | tee -a "$log"
    return 1
  fi
  timeout -k 15 "$limit" "$@" >"$file" 2>"$scratch/messages"
  local status=$?
  cat "$file"
  tail -n 40 "$scratch/messages" | cut -c1-400 >>"$log"
  [ $status -eq 0 ] || {
    tail -n 15 "$scratch/messages"
    echo "FAILED: status $status (124: out of time)" | tee -a "$log" "$file"
  }
  echo "($((SECONDS - begun)) s)" | tee -a "$log"
  return $status
}

first() {
  seconds=${MOST_SECONDS:-355}
  local compiled='PyTorch, compiled' correct=GPT_JAX_GPU=1 ways='greedy, batch 1'
  ways+=';4 beams, batch 8;greedy, batch 8'
  if [ -n "$TINY" ]; then
    correct=GPT_JAX_GPU_REHEARSAL=1
    part gpu-tests 300 env $correct "$python" -m pytest -q -m gpu tests/test_gpu.py \
      -p no:cacheprovider -k 'forward or limits'
    part train-tiny 120 "$python" -m benchmarks.train --shapes=tiny --rounds=2 \
      --peers='PyTorch, eager'
    part profile-tiny 60 "$python" -m benchmarks.profile --shape=tiny --batch=4 --rows=5
    [ -d "$DATA/gpt2" ] && part decode 300 "$python" -m benchmarks.decode --tiny \
      --gpt2="$DATA/gpt2" --rounds=1 --rows="$ways" --peers='gpt_jax;Hugging Face'
    return
  fi
  # Several at a time, since compiling is most of it: none may take all memory.
  local apart
  "$python" -c 'import xdist' 2>/dev/null && apart='-n 4'
  # shellcheck disable=SC2086
  part gpu-tests 90 env $correct XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" \
    -m pytest -q -m gpu tests/test_gpu.py -p no:cacheprovider $apart
  part train-124M 150 "$python" -m benchmarks.train --device=gpu --shapes=124M \
    --rounds=5 --batch="${BATCH:-32,16,8}" --peers="$compiled"
  part profile-124M 60 "$python" -m benchmarks.profile --shape=124M \
    --batch="${BATCH_PROFILED:-32}"
  if [ -d "$DATA/gpt2" ]; then
    part decode 75 env XLA_PYTHON_CLIENT_PREALLOCATE=false "$python" \
      -m benchmarks.decode --gpt2="$DATA/gpt2" --dtype=bfloat16 --rounds=3 \
      --rows="$ways" --peers='gpt_jax;Hugging Face'
  else
    echo '== no decoding: DATA=FOLDER gives it a vocabulary' | tee -a "$log"
  fi
  # Ours first; PyTorch's if time is left.
  part train-1558M 300 "$python" -m benchmarks.train --device=gpu --shapes=1558M \
    --rounds=3 --batch="${BATCH_1558M:-8,4}" --peers="$compiled"
}

second() {
  seconds=${MOST_SECONDS:-355}
  local runs=$scratch/runs task kind steps trained=${SECONDS_TRAINED:-165}
  if [ ! -d "$DATA/novels" ]; then
    echo "DATA=$DATA has no novels: benchmarks/gpu.sh prepare FOLDER makes them"
    return 1
  fi
  local pretrain=(launch.py train --config=experiments/gpt1/minutes.py
    --config.data.source="$source" --config.data.tokens="$DATA/novels"
    --config.sample_tokens=0 $tiny_data $tiny)
  # A short run compiles, which the next reads from the cache, and tells the speed.
  part probe 90 "$python" "${pretrain[@]}" --workdir="$runs/probe" \
    --config.steps=60 --config.log_every=20 --config.optim.warmup=10
  rm -f "$results/probe-$name.md"
  steps=$("$python" -m benchmarks.gpu_tables steps "$runs/probe" "$trained") ||
    steps=2000
  echo "$steps updates in $trained s" | tee -a "$log"
  part pretraining $((trained + 40)) "$python" "${pretrain[@]}" \
    --workdir="$runs/minutes" --config.steps="$steps" \
    --config.eval_every=$((steps / 8 + 1)) --config.optim.warmup=$((steps / 30 + 1))
  tail -n 40 "$results/pretraining-$name.md" | cut -c1-400 >>"$log"
  "$python" -m benchmarks.gpu_tables pretraining "$runs/minutes" \
    >"$results/pretraining-$name.md" 2>>"$log"
  cat "$results/pretraining-$name.md"
  # All at a time: compiling and reading keep a core each, and the GPU takes turns.
  export XLA_PYTHON_CLIENT_MEM_FRACTION=.11
  local begun=() limit=$((seconds - SECONDS - 15))
  for task in sst2 cola rte storycloze; do
    for kind in '' ,no_pretraining; do
      local examples=0
      [ $task = sst2 ] && examples=8000
      [ -n "$TINY" ] && examples=64
      timeout -k 15 "$limit" "$python" launch.py train \
        --config="experiments/gpt1/finetune.py:$task$kind" \
        --config.init_from="$runs/minutes" --config.task.data="$DATA/tasks/$task" \
        --workdir="$runs/$task$kind" --config.seeds="${SEEDS:-3}" \
        --config.task.together="${SEEDS:-3}" --config.task.examples=$examples \
        --config.optim.lr=5e-4 --config.task.warmup=0.1 \
        --config.model.dtype=bfloat16 --config.model.scan=True $tiny_task \
        >"$scratch/$task$kind.log" 2>&1 &
      begun+=($!)
      [ -n "$TINY" ] && wait $!
    done
  done
  wait "${begun[@]}"
  for task in "$scratch"/*.log; do
    (echo "== $(basename "$task" .log)" && tail -n 12 "$task") | cut -c1-400 >>"$log"
  done
  "$python" -m benchmarks.gpu_tables finetuning "$runs"/{sst2,cola,rte,storycloze}* \
    >"$results/finetuning-$name.md" 2>>"$log"
  cat "$results/finetuning-$name.md"
  # What experiments/table.py makes of each run, to commit.
  "$python" -m benchmarks.gpu_tables results "$runs"/{minutes,sst2,cola,rte,storycloze}* \
    >"$results/experiments-$name.json" 2>>"$log"
}

source=novels tiny='' tiny_data='' tiny_task=''
if [ -n "$TINY" ]; then
  export JAX_PLATFORMS=cpu
  source=tinyshakespeare.txt
  tiny_data='--config.data.split=position --config.data.vocab=512'
  tiny='--config.model.L=1 --config.model.D=32 --config.model.N=2 --config.model.T=64
    --config.batch=4 --config.eval_tokens=500 --config.eval_batch=4'
  tiny_task='--config.task.epochs=1 --config.batch=8'
fi
case $mode in
prepare)
  export JAX_PLATFORMS=cpu
  prepare "${2:?the folder to fill}"
  exit
  ;;
first | second) ;;
*)
  sed -n '2,19p' "$0"
  exit 2
  ;;
esac

mkdir -p "$results"
results=$(cd "$results" && pwd)
[ -n "$DATA" ] && DATA=$(cd "$DATA" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$results/$mode.log
: >"$log"
install
# Programs that two parts share are compiled once.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$scratch/compiled}
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 PYTHONUNBUFFERED=1
[ -n "$TINY" ] || nvidia-smi | tee -a "$log"
name=$("$python" -c '
import jax
print("-".join(jax.devices()[0].device_kind.lower().split()))' 2>>"$log") || {
  tail -n 5 "$log"
  exit 1
}
echo "device: $name" | tee -a "$log"
$mode
echo "done in $SECONDS s" | tee -a "$log"
