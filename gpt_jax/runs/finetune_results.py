"""How good fine-tuned models are: each seed, and all together."""

import pathlib
from collections.abc import Callable

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics, statistics
from gpt_jax.files import MEND, brief, field, of_kind, read_json, shown, write_whole
from gpt_jax.inference.classifier import Classifier
from gpt_jax.runs.load import load
from gpt_jax.runs.workdir import best_line, read_run, seed_folders
from gpt_jax.tasks import inputs, labelled, readers
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.labelled_table import Task, task_of


def read_predictions(folder: pathlib.Path) -> np.ndarray:
  """Returns what a seed's best model answered on dev, and what is right: [examples, 2].

  Raises:
    UserError: dev_predictions.tsv can't be read, or holds something else.
  """
  path, rows = folder / 'dev_predictions.tsv', []
  for row in readers.tsv(path, ('prediction', 'label')):
    if row['line'] == '1':  # the names of the columns
      continue
    try:
      rows.append([float(row['prediction']), float(row['label'])])
    except ValueError as error:
      raise UserError(f'{row["where"]} is damaged: {brief(error)}; {MEND}') from error
  if not np.isfinite(rows).all() or not rows:
    raise UserError(f'{path} is damaged: it lacks numbers, or has none; {MEND}')
  return np.array(rows)


def read_results(path: pathlib.Path, task: Task) -> dict:
  """Returns the results of a fine-tuning that `results` made.

  Args:
    path: of results.json.

  Raises:
    UserError: it can't be read, or holds something else.
  """
  remedy = f'{MEND}; or remove it, and the same command as before writes it again'
  found = read_json(path, remedy=remedy)
  field(found, 'examples', int, path, remedy)
  seeds = field(found, 'seeds', dict, path, remedy)
  over_seeds = field(found, 'over_seeds', dict, path, remedy)
  if not seeds:
    raise UserError(f'{path} is damaged: it has no seeds; {remedy}')
  for seed, best in seeds.items():
    where = f'{path}: seed {shown(seed)}'
    field(of_kind(best, dict, where, remedy), 'step', int, where, remedy)
    intervals = field(best, 'intervals', dict, where, remedy)
    for name in task.metrics:
      field(best, name, float, where, remedy)
      pair = field(intervals, name, list, where, remedy)
      if len(pair) != 2:
        raise UserError(f'{where} is damaged: {name} has no interval; {remedy}')
      for bound in pair:
        of_kind(bound, float, where, remedy)
  for name in task.metrics:
    over, where = field(over_seeds, name, dict, path, remedy), f'{path}: {name}'
    for each in ('mean', 'median', 'std', 'low', 'high'):
      field(over, each, float, where, remedy)
  return found


def evaluate(
  workdir: str | pathlib.Path,
  data: str = '',
  split: str = 'dev',
  report: Callable[[str], None] = print,
) -> dict | pathlib.Path:
  """Judges every seed's best model on a split; or answers one that has no labels.

  Args:
    workdir: of a run, or of one of its seeds.
    data: as in `tasks.read`; '' is the run's.
    split: as in `tasks.read`.

  Returns:
    What `results` returns; or, without labels, where the answers of the best seed are
    written: predictions.tsv (of another split than test its name is added), as GLUE
    wants it, a line for each example.

  Raises:
    UserError: there is no model yet, or the examples can't be read.
  """
  workdir = pathlib.Path(workdir)
  run = read_run(workdir)
  task = task_of(run)
  examples = labelled.read(str(task), data or run.task.data, split, report)
  if any(example.label is None for example in examples):
    predicted = _answers(load(workdir), examples, report)
    names = task.labels
    lines = ['index\tprediction\n'] + [
      f'{example.id}\t{names[int(p)] if names else f"{p:.3f}"}\n'
      for example, p in zip(examples, predicted, strict=True)
    ]
    name = 'predictions.tsv' if split == 'test' else f'predictions_{split}.tsv'
    write_whole(workdir / name, ''.join(lines))
    return workdir / name
  labels = np.array([example.label for example in examples])
  seeds = {}
  folders = [f for f in seed_folders(workdir) if best_line(f, task)]
  for folder in folders or [workdir]:
    model = load(folder)
    predicted = _answers(model, examples, report if not seeds else lambda text: None)
    seed = str(read_run(folder).seed)
    seeds[seed] = {'step': model.step} | _judged(task, predicted, labels)
  return _summary(task, len(examples), seeds)


def _answers(
  model: Classifier, examples: list[Example], report: Callable[[str], None]
) -> np.ndarray:
  return inputs.answers(model.task, model.task_logits(examples, report))


def _judged(task: Task, predicted: np.ndarray, labels: np.ndarray) -> dict:
  """Returns each metric and its 95 % interval over examples (bootstrap)."""
  functions = {name: getattr(metrics, name) for name in task.metrics}
  return {name: f(predicted, labels) for name, f in functions.items()} | {
    'intervals': {
      name: statistics.interval(f, predicted, labels) for name, f in functions.items()
    }
  }


def results(workdir: pathlib.Path) -> dict:
  """Returns how good each seed's best epoch is on dev, and all together.

  For each metric and seed its value and a 95 % interval over examples; and over seeds
  mean, median, standard deviation and a 95 % interval of the mean.
  """
  task = task_of(read_run(workdir))
  seeds = {}
  for folder in seed_folders(workdir):
    step = best_line(folder, task)['step']
    table = read_predictions(folder)
    seeds[folder.name.removeprefix('seed_')] = {'step': step} | _judged(task, *table.T)
  return _summary(task, len(table), seeds)


def _summary(task: Task, examples: int, seeds: dict[str, dict]) -> dict:
  return {
    'task': str(task),
    'examples': examples,
    'seeds': seeds,
    'over_seeds': {
      name: statistics.spread([seed[name] for seed in seeds.values()])
      for name in task.metrics
    },
  }


def described(found: dict) -> str:
  """Returns `results` in words."""
  lines = []
  for name, over in found['over_seeds'].items():
    for seed, best in found['seeds'].items():
      low, high = best['intervals'][name]
      lines.append(
        f'{found["task"]} {name} {best[name]:.4f} [{low:.4f}, {high:.4f}]  '
        f'seed {seed}, update {best["step"]}'
      )
    if len(found['seeds']) > 1:
      lines.append(
        f'{found["task"]} {name} mean {over["mean"]:.4f} '
        f'[{over["low"]:.4f}, {over["high"]:.4f}]  median {over["median"]:.4f}, '
        f'standard deviation {over["std"]:.4f} over {len(found["seeds"])} seeds'
      )
  return '\n'.join(lines)
