"""What `gpu.sh second` makes of its runs: small tables, and results to commit.

  python -m benchmarks.gpu_tables steps WORKDIR SECONDS
  python -m benchmarks.gpu_tables pretraining WORKDIR
  python -m benchmarks.gpu_tables finetuning WORKDIR...
  python -m benchmarks.gpu_tables results WORKDIR... > FILE
  python -m benchmarks.gpu_tables keep FILE

`steps` prints how many updates of a short run's speed fit into so many seconds. The
last writes the results that the one before printed into experiments/results/, for
experiments/table.py. Runs that have nothing yet say so in their place.
"""

import dataclasses
import json
import pathlib
import statistics
import sys

from gpt_jax.cli.messages import shown
from gpt_jax.config import UserError
from gpt_jax.files import read_json
from gpt_jax.reports import committed, experiments_table
from gpt_jax.runs import finetune_results
from gpt_jax.runs.workdir import read_run, seconds_of_training, updates_done
from gpt_jax.tasks.labelled_table import task_of
from gpt_jax.training.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent / 'experiments'
# Of the time left for evaluations, checkpoints and the start.
_SPARE = 0.06


def steps(workdir: str, seconds: str) -> str:
  """Returns the updates that fit into so many seconds."""
  run = read_run(workdir)
  speeds = [n['tokens_per_s'] for n in read_metrics(workdir) if 'tokens_per_s' in n]
  if not speeds:
    raise UserError(f'{workdir} has no speed in its metrics; train it a little first')
  # The first window has the compilation in it.
  speed = statistics.median(speeds[1:] or speeds)
  updates = (1 - _SPARE) * float(seconds) * speed / (run.batch * run.model.T)
  return str(max(10, round(updates)))


def pretraining(workdir: str) -> str:
  """Returns a table of the held-out loss of a pre-training."""
  run, lines = read_run(workdir), read_metrics(workdir)
  speeds = [n['tokens_per_s'] for n in lines if 'tokens_per_s' in n]
  used = [n['mfu'] for n in lines if 'mfu' in n]
  text = f'{run.steps:,} updates of {run.batch * run.model.T:,} tokens'
  text += f', {updates_done(workdir):,} done in {seconds_of_training(workdir):.0f} s'
  if speeds:
    text += f'; {statistics.median(speeds):,.0f} tokens/s'
  if used:
    text += f', utilisation {statistics.median(used):.1%}'
  table = ['', '| update | tokens | bits/byte | nats/token |', '|---|---|---|---|']
  for line in lines:
    if 'valid_bpb' in line:
      tokens = line['step'] * run.batch * run.model.T
      table.append(
        f'| {line["step"]:,} | {tokens:,} | {line["valid_bpb"]:.4f} | '
        f'{line["valid_nll"]:.4f} |'
      )
  return '\n'.join([text, *table])


def finetuning(*workdirs: str) -> str:
  """Returns a table of fine-tunings: mean and spread over seeds of the best epochs."""
  table = [
    '| run | metric | mean [95 %] | standard deviation | each seed | updates |',
    '|---|---|---|---|---|---|',
  ]
  for workdir in workdirs:
    name = pathlib.Path(workdir).name
    try:
      run, found = read_run(workdir), finetune_results.results(pathlib.Path(workdir))
    except (UserError, OSError, KeyError, ValueError) as e:
      table.append(f'| {name} | nothing yet: {str(e)[:80]} | | | | |')
      continue
    metric = task_of(run).metrics[0]
    over, done = found['over_seeds'][metric], updates_done(workdir)
    each = ', '.join(f'{seed[metric]:.4f}' for seed in found['seeds'].values())
    table.append(
      f'| {name} | {metric} | {over["mean"]:.4f} [{over["low"]:.4f}, '
      f'{over["high"]:.4f}] | {over["std"]:.4f} | {each} | {done:,} of {run.steps:,} |'
    )
  return '\n'.join(table)


def results(*workdirs: str) -> str:
  """Returns the result files of finished runs, by name, as JSON."""
  found = {}
  for workdir in workdirs:
    name = f'gpt1/minutes.{pathlib.Path(workdir).name.replace(",", ".")}'
    name = name.removesuffix('.minutes')
    try:
      _, result = experiments_table.result([workdir], ROOT, name)
    except UserError as e:
      print(f'{workdir}: {e}', file=sys.stderr)
      continue
    found[name] = dataclasses.asdict(result)
  return json.dumps(found, indent=1, ensure_ascii=False)


def keep(path: str) -> str:
  """Writes result files, and returns their paths."""
  written = []
  for name, fields in read_json(
    pathlib.Path(path), remedy='run `results` again'
  ).items():
    target = ROOT / f'results/{name}.json'
    result = committed.Result(**fields)
    numbers = [committed.Measured(*each) for each in result.measured]
    committed.write(target, dataclasses.replace(result, measured=numbers))
    written.append(str(target))
  return '\n'.join(written)


JOBS = {f.__name__: f for f in (steps, pretraining, finetuning, results, keep)}


def main() -> None:
  name, *arguments = sys.argv[1:] or ['']
  if name not in JOBS or not arguments:
    raise UserError(f'say what to make, one of {", ".join(JOBS)}, and of which folders')
  print(JOBS[name](*arguments))


if __name__ == '__main__':
  with shown():
    main()
