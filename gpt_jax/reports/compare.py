"""Two runs compared: config and environment, results, and a paired test."""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.evaluation import likelihood, statistics
from gpt_jax.files import field
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import figures
from gpt_jax.runs import cost
from gpt_jax.runs.finetune_results import read_predictions
from gpt_jax.runs.load import load
from gpt_jax.runs.reproduce import (
  data_changes,
  differing_fields,
  environment_changes,
  parts,
)
from gpt_jax.runs.tokens import prepared
from gpt_jax.runs.workdir import (
  best_line,
  read_about,
  read_run,
  seed_folders,
  text_lost,
)
from gpt_jax.tasks.labelled_table import Task, task_of
from gpt_jax.training.metrics_log import read_metrics

# Runs are compared at equal amounts of these: label and number format.
AXES = {
  'tokens': ('training tokens', ',.0f'),
  'flops': ('training FLOPs', '.3e'),
  'seconds': ('seconds of training', ',.1f'),
}
_LEAST_DOCUMENTS = 10  # with fewer, windows are compared
_POINTS = 5  # of each axis, in the table


class Curve(NamedTuple):
  """The held-out loss of a run after each evaluation, arrays of one length.

  Attributes:
    tokens: read in training.
    flops: of training (`cost.flops_per_token`).
    seconds: of training, with compilation, without evaluation and saving.
    nll: nats/token.
    bpb: bits/byte.
  """

  steps: np.ndarray
  tokens: np.ndarray
  flops: np.ndarray
  seconds: np.ndarray
  nll: np.ndarray
  bpb: np.ndarray


class Texts(NamedTuple):
  """The losses of two models on the same held-out texts.

  Attributes:
    unit: what a text is: 'documents', or windows of so many tokens.
    bits: [2, texts].
    bytes: [texts].
  """

  unit: str
  bits: np.ndarray
  bytes: np.ndarray


class Comparison(NamedTuple):
  """Two runs, the first and the second.

  Attributes:
    fields: (name, value, value) of the config, those that differ.
    environment: the differences in code, packages, devices and data, in words.
    test: the paired test of their best checkpoints, None where it is not possible.
    unit: what is paired, or why nothing is.
    same_text: whether the held-out text is the same.
    changed: why bits/byte of the two can't be compared, as a tokenizer changes text; ''
      where they can.
    curves: of held-out loss; () of fine-tunings.
    task: of fine-tunings, else None.
    dev: of fine-tunings, the best of the task's first metric by seed.
  """

  names: tuple[str, str]
  fields: list[tuple]
  environment: list[str]
  test: statistics.Paired | None
  unit: str
  same_text: bool = True
  changed: str = ''
  curves: tuple[Curve, ...] = ()
  task: Task | None = None
  dev: tuple[dict[int, float], ...] = ()


def compare(first: str | pathlib.Path, second: str | pathlib.Path) -> Comparison:
  """Returns the differences of two runs of language modelling, or of one task.

  Raises:
    UserError: they are not of one kind, or one was not evaluated yet or has no
      checkpoint.
  """
  folders = pathlib.Path(first), pathlib.Path(second)
  names = [read_run(folder).task.name for folder in folders]
  if names[0] != names[1]:
    each = [f'a fine-tuning on {n}' if n else 'language modelling' for n in names]
    raise UserError(
      f'{first} is {each[0]} and {second} is {each[1]}, which can not be compared; '
      'give two runs of one kind'
    )
  for folder in folders:
    if read_run(folder).data.dialogues:
      raise UserError(
        f'{folder} is trained on dialogues, and `compare` is of runs on text; evaluate '
        "each on the other's dialogues by `eval --held_out`"
      )
  results = (_tuned if names[0] else _trained)(folders)
  about = [read_about(folder) for folder in folders]
  changes = environment_changes(
    parts(folders[0]), [part.session['environment'] for part in parts(folders[1])]
  )
  names = tuple(folder.absolute().name for folder in folders)
  return Comparison(
    names=names if names[0] != names[1] else tuple(map(str, folders)),
    fields=differing_fields(about[0]['config'], read_run(folders[1])),
    environment=changes + data_changes(about[0]['data'], about[1]['data']),
    **results,
  )


def _trained(folders: tuple[pathlib.Path, pathlib.Path]) -> dict[str, Any]:
  """Returns the fields of the comparison of two runs of language modelling."""
  curves = curve(folders[0]), curve(folders[1])
  changed = changed_text(folders)
  losses = changed or texts(*folders)
  paired = isinstance(losses, Texts)
  return {
    'curves': curves,
    'changed': changed,
    'same_text': paired or losses != _OTHER_TEXT,
    'test': statistics.paired(*losses.bits, losses.bytes) if paired else None,
    'unit': losses.unit if paired else losses,
  }


def changed_text(folders: Sequence[pathlib.Path]) -> str:
  """Returns why runs can't be compared by bits/byte, '' where they can.

  They can't where they have several tokenizers, one of which changes text.
  """
  made = {tokenizers.digest(folder / 'tokenizer') for folder in folders}
  how = {folder.absolute().name: text_lost(folder) for folder in folders}
  wrong = [f'{name}: {text}' for name, text in how.items() if text]
  if len(made) < 2 or not wrong:
    return ''
  return (
    'bits/byte of several tokenizers are compared only where each gives its text back; '
    f'{"; ".join(wrong[:3])}'
  )


def _tuned(folders: tuple[pathlib.Path, pathlib.Path]) -> dict[str, Any]:
  """Returns the fields of the comparison of two fine-tunings on one task.

  An example's score is the mean over seeds, at the best epoch of each: 1 for a right
  answer, 0 for a wrong one; of a regression the squared error.
  """
  task = task_of(read_run(folders[0]))
  dev, scores, labels = [], [], []
  for folder in folders:
    seeds = [f for f in seed_folders(folder) or [folder] if best_line(f, task)]
    if not seeds:
      raise UserError(f'{folder} has no epoch to compare yet; train it further')
    best = {read_run(f).seed: best_line(f, task)[task.metrics[0]] for f in seeds}
    dev.append(best)
    read = [read_predictions(f) for f in seeds]
    if len({len(table) for table in read}) > 1:
      raise UserError(
        f'{folder}: the dev_predictions.tsv of its seeds have not as many lines; put '
        'them back as they were'
      )
    predicted, own = np.stack(read, -1).swapaxes(0, 1)
    each = (predicted - own) ** 2 if task.scores else predicted == own
    scores.append(each.mean(-1))
    labels.append(own[:, 0])
  if not np.array_equal(*labels):
    raise UserError(
      f'{folders[0]} and {folders[1]} were judged on other dev examples: their labels '
      'differ; compare fine-tunings with the dev split of the same task.data'
    )
  test = statistics.paired(*scores, np.ones(len(labels[0])))
  return {'task': task, 'dev': tuple(dev), 'test': test, 'unit': 'dev examples'}


def curve(workdir: pathlib.Path) -> Curve:
  """Returns the held-out loss of a run against its cost.

  Raises:
    UserError: the run has no evaluation yet.
  """
  run = read_run(workdir)
  lines = read_metrics(workdir)
  judged = [line for line in lines if 'valid_bpb' in line]
  if not judged:
    raise UserError(f'{workdir} has no evaluation to compare yet; train it further')
  cfg = GPTConfig.of(run.model, field(read_about(workdir), 'vocab', int, workdir))
  tokens = functools.partial(config.tokens_read, run)
  at, clock = [0], [0.0]
  for line in lines:
    if 'tokens_per_s' in line:
      # Of a resumed run the first rate is that of fewer updates: taken for all.
      took = (tokens(line['step']) - tokens(at[-1])) / line['tokens_per_s']
      at.append(line['step'])
      clock.append(clock[-1] + took)
  steps = np.array([line['step'] for line in judged])
  read = np.array([tokens(step) for step in steps], np.float64)
  return Curve(
    steps=steps,
    tokens=read,
    flops=read * sum(cost.flops_per_token(cfg).values()),
    seconds=np.interp(steps, at, clock),
    nll=np.array([line['valid_nll'] for line in judged]),
    bpb=np.array([line['valid_bpb'] for line in judged]),
  )


def at_equal(curves: tuple[Curve, Curve], axis: str) -> list[tuple[float, ...]]:
  """Returns (place, first, second) of bits/byte at equal places of an axis of `AXES`.

  Places are evenly spread over the range that both curves cover; between evaluations
  loss is interpolated linearly. Empty where no range is covered by both.
  """
  x = [getattr(each, axis) for each in curves]
  low, high = max(each[0] for each in x), min(each[-1] for each in x)
  if low > high:
    return []
  places = np.linspace(low, high, _POINTS) if low < high else np.array([low])
  y = [np.interp(places, each, c.bpb) for each, c in zip(x, curves, strict=True)]
  return [tuple(map(float, row)) for row in zip(places, *y, strict=True)]


_OTHER_TEXT = 'their held-out texts are not the same'
_MIXTURES = 'the held-out text of a mixture is several texts, which are not paired'
_FEW_DOCUMENTS = (
  f'fewer than {_LEAST_DOCUMENTS} held-out documents, and other tokens: nothing to pair'
)


def texts(first: pathlib.Path, second: pathlib.Path) -> Texts | str:
  """Returns the losses of the best checkpoints of two runs on each held-out document.

  With fewer than 10 documents they are losses on windows of the longer context, if both
  runs have the same tokens. A string says why the runs can't be paired.
  """
  runs = [read_run(folder) for folder in (first, second)]
  data = [
    prepared(run, folder) for run, folder in zip(runs, (first, second), strict=True)
  ]
  if any(each.stages for each in data):
    return _MIXTURES
  a, b = (each.valid for each in data)
  if (a.text, a.bytes, a.documents) != (b.text, b.bytes, b.documents):
    return _OTHER_TEXT
  by_document = a.documents >= _LEAST_DOCUMENTS
  if not by_document and a.digest != b.digest:
    return _FEW_DOCUMENTS
  bits, T = [], max(run.model.T for run in runs)
  for run, folder, each in zip(runs, (first, second), data, strict=True):
    model, ids = load(folder), each.valid.ids
    nll = likelihood.held_out_token_nll(
      model.params,
      model.gpt,
      ids,
      run.eval_batch,
      each.valid.starts if run.model.documents == 'apart' else None,
    )
    # A document's end-of-text stands before the next one.
    begin = each.valid.starts if by_document else np.arange(0, len(nll), T)
    begin = np.minimum(begin.astype(np.int64), len(nll) - 1)
    bits.append(np.add.reduceat(nll, begin) / math.log(2))
  if by_document:
    ends = [*a.starts[1:], len(a.ids)]
    documents = [
      data[0].tokenizer.decode(a.ids[int(start) : int(end)].tolist())
      for start, end in zip(a.starts, ends, strict=True)
    ]
    size = np.array([len(text.encode()) for text in documents])
    size = size * (a.bytes / size.sum())  # some tokenizers change a text a little
    return Texts('documents', np.array(bits), size)
  begin = np.arange(0, len(a.ids) - 1, T)
  size = np.diff([*begin, len(a.ids) - 1]) * a.bytes / (len(a.ids) - 1)
  return Texts(f'windows of {T} tokens', np.array(bits), size)


def tables(runs: Comparison) -> list[Table | str]:
  """Returns a comparison for the terminal."""
  a, b = map(escape, runs.names)
  fields = Table('field', a, b, title='config: what differs')
  for name, old, new in runs.fields:
    fields.add_row(name, Text(repr(old)), Text(repr(new)))
  output = [fields if runs.fields else 'configs are the same']
  output.append(
    '\n'.join(['what else differs:', *(f'  {text}' for text in runs.environment)])
    if runs.environment
    else 'code, packages, flags, devices and data are the same'
  )
  output += _dev(runs) if runs.task else _losses(runs)
  output.append(_tested(runs))
  return output


def _dev(runs: Comparison) -> list[Table]:
  """Returns the best metric on dev of each seed of two fine-tunings."""
  metric = runs.task.metrics[0]
  table = Table('run', 'seed', metric, '95 % interval', title=f'{metric} on dev, best')
  for name, best in zip(runs.names, runs.dev, strict=True):
    for seed, value in best.items():
      table.add_row(escape(name), f'{seed}', f'{value:.4f}', '')
    over = statistics.spread(list(best.values()))
    interval = f'{over["low"]:.4f} to {over["high"]:.4f}' if len(best) > 1 else ''
    table.add_row(escape(name), 'mean', f'{over["mean"]:.4f}', interval)
    table.add_section()
  return [table]


def _losses(runs: Comparison) -> list[Table | str]:
  """Returns the held-out losses of two runs of language modelling."""
  output, (a, b) = [], map(escape, runs.names)
  if runs.changed:
    output.append(runs.changed)
  elif not runs.same_text:
    output.append(f'{_OTHER_TEXT}: losses below are not comparable')
  held = Table('held-out loss', 'update', 'nats/token', 'bits/byte')
  for name, each in zip(runs.names, runs.curves, strict=True):
    for what, i in (('best', int(each.bpb.argmin())), ('last', len(each.bpb) - 1)):
      held.add_row(
        f'{name}, {what}',
        f'{each.steps[i]}',
        f'{each.nll[i]:.4f}',
        '-' if runs.changed else f'{each.bpb[i]:.4f}',
      )
  output.append(held)
  if runs.changed:
    return output
  equal = Table('at equal', '', a, b, 'second - first', title='bits/byte held out')
  for axis, (words, how) in AXES.items():
    for place, x, y in at_equal(runs.curves, axis):
      equal.add_row(words, f'{place:{how}}', f'{x:.4f}', f'{y:.4f}', f'{y - x:+.4f}')
    equal.add_section()
  return [*output, equal]


def _tested(runs: Comparison) -> str:
  """Returns the paired test in words."""
  if runs.test is None:
    return f'no paired test: {runs.unit}'
  t, what = runs.test, 'bits/byte'
  if runs.task:
    what = 'squared error' if runs.task.scores else 'right answers of one'
    what += ', the mean over seeds'
  return (
    f'best checkpoints on {t.count:,} held-out {runs.unit}, in pairs: '
    f'{runs.names[1]} - {runs.names[0]} = {t.difference:+.4f} {what}, 95 % '
    f'interval {t.low:+.4f} to {t.high:+.4f}, p = {t.p:.2g}'
  )


def plot(runs: Comparison, target: str | pathlib.Path) -> None:
  """Writes a PNG with the held-out loss of two runs at equal tokens, FLOPs and time.

  Raises:
    UserError: they are fine-tunings, or a tokenizer changes text.
  """
  if runs.changed:
    raise UserError(
      f'--target={target} draws bits/byte, but {runs.changed}; leave it out'
    )
  if runs.task:
    raise UserError(
      f'--target={target} draws held-out losses of language modelling; leave it out '
      "for fine-tunings, whose curves are in each run's `report`"
    )
  figure = matplotlib.figure.Figure(figsize=(11, 3.8), layout='constrained')
  panels = figure.subplots(1, len(AXES), sharey=True)
  for axes, (axis, (words, _)) in zip(panels, AXES.items(), strict=True):
    for number, (name, each) in enumerate(zip(runs.names, runs.curves, strict=True)):
      axes.plot(
        getattr(each, axis), each.bpb, marker='os'[number], markersize=4, label=name
      )
    axes.set_xlabel(words)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=''))
    axes.grid(alpha=0.3)
  panels[0].set_ylabel('held-out text [bits/byte]')
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=2,
    title=None if runs.same_text else f'{_OTHER_TEXT}: not comparable',
  )
  figures.save(figure, target)
