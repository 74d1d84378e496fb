#!/bin/bash
# All that is measured on a GPU, in one run of less than 9 minutes:
#
#   benchmarks/gpu.sh [PYTHON]
#
# Tables go to benchmarks/results/ with the device in their names. A part that fails or
# takes too long says so, and the rest goes on.
#   GPT2=FOLDER  with vocab.json and merges.txt: measures decoding too
#   TINY=1       a rehearsal with tiny shapes, on a CPU
cd "$(dirname "$0")/.." || exit 1
python=${1:-.venv/bin/python}
results=${RESULTS:-benchmarks/results}
seconds=530 # all parts together
mkdir -p "$results"
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92

device=cpu
if [ -z "$TINY" ]; then
  device=gpu
  nvidia-smi
fi
name=$("$python" -c '
import jax
print("-".join(jax.devices()[0].device_kind.lower().split()))') || exit 1
echo "device: $name"

# part NAME LIMIT COMMAND...: runs it for at most LIMIT seconds into NAME-device.md.
part() {
  local file=$results/$1-$name.md limit=$2 left=$((seconds - SECONDS))
  shift 2
  [ "$limit" -gt "$left" ] && limit=$left
  echo "== $* (at most $limit s)"
  if [ "$limit" -lt 10 ]; then
    echo "SKIPPED: no time is left"
    return
  fi
  timeout "$limit" "$python" -m "$@" >"$file" 2>"$file.log"
  local status=$?
  cat "$file"
  if [ $status -eq 0 ]; then
    rm "$file.log"
  else
    tail -n 15 "$file.log"
    echo "FAILED: status $status (124: out of time); its messages are in $file.log"
  fi
}

compiled='PyTorch, compiled'
if [ -n "$TINY" ]; then
  part train 120 benchmarks.train --shapes=tiny --rounds=2 --peers='PyTorch, eager'
else
  part train-124M 240 benchmarks.train --device=gpu --shapes=124M --rounds=5 \
    --batch="${BATCH:-64,32,16,8}" --peers="$compiled;gpt_jax, plain attention"
  part train-1558M 230 benchmarks.train --device=gpu --shapes=1558M --rounds=3 \
    --batch="${BATCH_1558M:-8,4}" --peers="$compiled"
fi
part attention 60 benchmarks.attention
if [ -n "$GPT2" ]; then
  part decode 150 benchmarks.decode --gpt2="$GPT2"
else
  echo '== no decoding: GPT2=FOLDER gives it a vocabulary'
fi
echo "done in $SECONDS s"
