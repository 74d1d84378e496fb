"""How far the runs of a sweep are, read from their folders; and sweep.csv."""

import csv
import dataclasses
import fcntl
import io
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.files import write_whole
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost
from gpt_jax.runs.finetune_job import FILLED
from gpt_jax.runs.shape import TAKEN
from gpt_jax.runs.workdir import (
  TRAINING,
  best_line,
  check_same_run,
  logged_folders,
  read_about,
  read_run,
  seconds_of_training,
  sessions,
  text_lost,
  updates_done,
)
from gpt_jax.sweep.plan import Entry, Sweep
from gpt_jax.tasks.labelled_table import Task, task_of
from gpt_jax.training import manifest
from gpt_jax.training.metrics_log import read_metrics

MEASURED = {  # columns of sweep.csv behind those of the overrides
  'final_nats_per_token': 'final_nll',
  'best_nats_per_token': 'best_nll',
  'final_bits_per_byte': 'final_bpb',
  'best_bits_per_byte': 'best_bpb',
  'text_changed': 'lost',
  'best_dev_metric': 'best_metric',
  'updates': 'step',
  'tokens': 'tokens',
  'flops': 'flops',
  'seconds': 'seconds',
  'commit': 'commit',
}


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run's folder says of it; None where it does not.

  Attributes:
    state: 'finished', 'unfinished' or 'waiting'; a pool of workers knows more states.
    steps: updates of the whole run.
    loss: of the last batch that was recorded [nats/token].
    final_nll: held-out loss that was measured last [nats/token].
    best_nll: the lowest [nats/token].
    final_bpb: bits per byte beside `final_nll`.
    best_bpb: bits per byte beside `best_nll`.
    best_metric: of a fine-tuning: the task's first metric on dev, the mean over seeds
      of the best. Its losses are means over seeds too, in nats/example.
    tokens: trained on; 0 of a fine-tuning, whose examples have many lengths.
    seconds: of training; what a kill undid is not in it.
    left: seconds to the end at the last speed.
    curve: (updates, held-out loss [nats/token]).
    tokenizer: digest of the one that made its tokens, '' if that is not recorded.
    lost: how that changes the held-out text, '' if it does not.
  """

  state: str
  step: int
  steps: int
  loss: float | None = None
  final_nll: float | None = None
  best_nll: float | None = None
  final_bpb: float | None = None
  best_bpb: float | None = None
  best_metric: float | None = None
  tokens: int = 0
  flops: float = 0.0
  seconds: float = 0.0
  left: float | None = None
  commit: str = ''
  curve: tuple[tuple[int, float], ...] = ()
  tokenizer: str = ''
  lost: str = ''


def steps_of(entry: Entry) -> int:
  """Returns the updates of the whole run; 0: they follow from data not read yet."""
  run = entry.run
  if run.steps or not (entry.workdir / 'run.json').exists():
    return run.steps
  before = read_run(entry.workdir)
  same = (before.tokens, before.epochs) == (run.tokens, run.epochs)
  return before.steps if same else 0


def finished(entry: Entry) -> bool:
  """Returns whether the run's last checkpoint is on disk, of a fine-tuning all seeds'.

  A fine-tuning then also has its results.
  """
  if entry.run.is_finetuning and not (entry.workdir / 'results.json').exists():
    return False
  steps = steps_of(entry)
  return steps > 0 and updates_done(entry.workdir) >= steps


def lines(entry: Entry) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics; of a fine-tuning, means over its seeds.

  The loss on dev is its held-out loss, which it has once all seeds have it.

  Raises:
    UserError: they can't be read.
  """
  each = []
  for folder in logged_folders(entry.workdir):
    try:
      each.append(read_metrics(folder))
    except UserError as error:
      raise UserError(
        f'{error}, or move {entry.workdir} away, and the run is done again'
      ) from error
  return _over_seeds(each, entry.run.seeds) if entry.run.is_finetuning else each[0]


def _over_seeds(each: list[list[dict[str, Any]]], seeds: int) -> list[dict[str, Any]]:
  """Returns the lines of several seeds as those of one run."""
  alike: dict[tuple, list[dict[str, Any]]] = {}
  for line in itertools.chain(*each):
    alike.setdefault((line['step'], 'dev_nll' in line), []).append(line)
  found = []
  for (step, held_out), own in sorted(alike.items()):
    if held_out and len(own) < seeds:
      continue
    names = [name for name in own[0] if all(name in line for line in own)]
    mean = {name: float(np.mean([line[name] for line in own])) for name in names}
    if held_out:
      mean['valid_nll'] = mean.pop('dev_nll')
    found.append(mean | {'step': step})
  return found


def check_folder(entry: Entry) -> None:
  """Raises a UserError where a run's folder is not as the run left it."""
  folder, again = entry.workdir, 'move the folder away, and the run is done again'
  folders = logged_folders(folder)
  saved = [each for each in folders if _saved(each)]
  found = lines(entry)
  if (saved or found) and not (folder / 'run.json').exists():
    raise UserError(
      f'{folder} has {"checkpoints" if saved else "metrics.jsonl"} but no run.json, '
      f'which says of what run; put it back, or {again}'
    )
  held = any('valid_nll' in line for line in found)
  lacking = any(not (each / 'metrics.jsonl').exists() for each in saved)
  if lacking or (finished(entry) and not held):
    raise UserError(
      f'{folder} has checkpoints but not the metrics.jsonl that belongs to them; put '
      f'it back, or {again}'
    )
  try:
    check_same_run(_filled(entry), folder)
  except UserError as error:
    raise UserError(
      f'{error}\nIf run.json was changed by hand, put it back, or {again}'
    ) from error


def _saved(folder: pathlib.Path) -> bool:
  """Returns whether a run or a seed has checkpoints."""
  return any(manifest.saved(folder / name) for name in ('checkpoints', TRAINING))


def _filled(entry: Entry) -> config.Run:
  """Returns the config of a run, with what data and `init_from` have filled in."""
  filled = FILLED if entry.run.is_finetuning else TAKEN if entry.run.take_shape else ()
  if not (filled and (entry.workdir / 'run.json').exists()):
    return entry.run
  there = config.flat(read_run(entry.workdir))
  return config.from_flat(config.flat(entry.run) | {n: there[n] for n in filled})


def check_folders(sweep: Sweep) -> None:
  """Raises one UserError with all run folders that are not as the runs left them."""
  wrong = []
  for entry in sweep.entries:
    try:
      check_folder(entry)
    except UserError as error:
      wrong.append(str(error))
  if wrong:
    raise UserError('\n'.join([*wrong, 'nothing was started or changed']))


def result(entry: Entry) -> Result:
  """Returns what a run's folder says of it."""
  found = lines(entry)
  steps = steps_of(entry)
  if not found:
    return Result('waiting', 0, steps)
  step = found[-1]['step']
  trained = [line for line in found if 'loss' in line]
  held = [line for line in found if 'valid_nll' in line]
  best = min(held, key=lambda line: line['valid_nll'], default={})
  final = held[-1] if held else {}
  about = read_about(entry.workdir)
  environment = sessions(entry.workdir)[-1]['environment']
  run, task = entry.run, task_of(entry.run)
  cfg = GPTConfig.of(run.model, about.get('vocab') or run.model.vocab)
  any_length = task or run.data.dialogues
  tokens = 0 if any_length else config.tokens_read(run, step)
  return Result(
    state='finished' if finished(entry) else 'unfinished',
    step=step,
    steps=steps,
    loss=trained[-1]['loss'] if trained else None,
    final_nll=final.get('valid_nll'),
    best_nll=best.get('valid_nll'),
    final_bpb=final.get('valid_bpb'),
    best_bpb=best.get('valid_bpb'),
    best_metric=_best_metric(entry.workdir, task) if held and task else None,
    tokens=tokens,
    flops=tokens * sum(cost.flops_per_token(cfg).values()),
    seconds=seconds_of_training(entry.workdir),
    left=_left(trained, steps),
    commit=environment.get('git', {}).get('commit', ''),
    curve=tuple((line['step'], line['valid_nll']) for line in held),
    tokenizer=about.get('data', {}).get('tokenizer', ''),
    lost='' if task else text_lost(entry.workdir),
  )


def _best_metric(workdir: pathlib.Path, task: Task) -> float:
  """Returns the mean over seeds of the best value of a task's first metric."""
  best = (best_line(folder, task) for folder in logged_folders(workdir))
  return float(np.mean([line[task.metrics[0]] for line in best]))


def _left(trained: list[dict], steps: int) -> float | None:
  if not trained:
    return None
  line = trained[-1]
  each = sum(line.get(f'{part}_ms', 0) for part in ('input', 'compute', 'other'))
  return max(steps - line['step'], 0) * each / 1000


def write_csv(sweep: Sweep, states: Mapping[str, str] | None = None) -> pathlib.Path:
  """Writes sweep.csv, a row for each run, and returns its path.

  Args:
    states: of runs by name, where more is known than their folders say.
  """
  fields = list(dict.fromkeys(name for e in sweep.entries for name in e.overrides))
  text, path = io.StringIO(), sweep.folder / 'sweep.csv'
  rows = csv.writer(text, lineterminator='\n')
  # One writer at a time: of jobs of an array, the last knows all.
  with open(sweep.folder / '.csv.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    rows.writerow(['name', 'state', *fields, *MEASURED])
    for entry in sweep.entries:
      try:
        found = result(entry)
      except UserError:  # the others' rows are none the worse
        found = Result('unreadable', 0, entry.run.steps)
      values = config.flat(entry.run)
      rows.writerow(
        [entry.name, (states or {}).get(entry.name, found.state)]
        + [values[name] for name in fields]
        + [getattr(found, name) for name in MEASURED.values()]
      )
    write_whole(path, text.getvalue())
  return path
