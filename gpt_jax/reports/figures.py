"""Plots of runs: loss curves, and both sides of GPT-1's figure 2."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.figure
import matplotlib.ticker

from gpt_jax.config import UserError, fields_with, flat
from gpt_jax.runs.finetune_results import read_results
from gpt_jax.runs.workdir import read_run
from gpt_jax.tasks.labelled_table import TASKS
from gpt_jax.training.metrics_log import read_metrics


def save(figure: matplotlib.figure.Figure, target: str | pathlib.Path) -> None:
  """Writes a figure as what the target's ending says, without an ending as a PNG.

  Raises:
    UserError: the ending is of no kind of picture.
  """
  kind = pathlib.Path(target).suffix.removeprefix('.').lower() or 'png'
  if kind not in figure.canvas.get_supported_filetypes():
    raise UserError(f'target={target} must end in .png, .svg or .pdf')
  figure.savefig(target, dpi=130, format=kind)  # else it adds an ending to a name


def loss_curves(workdir: str | pathlib.Path, target: str | pathlib.Path) -> None:
  """Writes `loss_figure` as a PNG."""
  save(loss_figure(workdir), target)


def loss_figure(workdir: str | pathlib.Path) -> matplotlib.figure.Figure:
  """Returns a figure of a run's training and held-out loss against updates.

  Raises:
    UserError: the workdir has no metrics.
  """
  lines = read_metrics(workdir)
  if not lines:
    groups = sorted(
      p.parent.name for p in pathlib.Path(workdir).glob('*/metrics.jsonl')
    )
    where = f'; there are some in its {", ".join(groups)}' if groups else ''
    raise UserError(f'{workdir} has no metrics to plot{where or "; train it first"}')
  of_task = any('dev_nll' in line for line in lines)
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  held_out = 'dev_nll' if of_task else 'valid_nll'
  for field, label, style in (
    ('loss', 'training (a batch)', {'color': 'tab:gray', 'linewidth': 0.8}),
    (
      held_out,
      'dev, after each epoch' if of_task else 'held-out text',
      {'color': 'tab:blue', 'marker': 'o'},
    ),
  ):
    points = [(line['step'], line[field]) for line in lines if field in line]
    if points:  # a seed of a task has only dev losses
      axes.plot(*zip(*points, strict=True), label=label, **style)
  last = [line for line in lines if held_out in line][-1:]
  for line in last:
    others = [n for n in line if n not in ('step', held_out, 'valid_ppl')]
    text = '\n'.join(
      f'{line[n]:.3f} {n.replace("valid_bpb", "bits/byte")}' for n in others
    )
    axes.annotate(
      f'{line[held_out]:.3f}\n{text}',
      (line['step'], line[held_out]),
      xytext=(-8, 12),
      textcoords='offset points',
      ha='right',
    )
  axes.set_xlabel('updates')
  axes.set_ylabel('loss of the task [nats/example]' if of_task else 'loss [nats/token]')
  axes.set_title(pathlib.Path(workdir).name, parse_math=False)
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def normalised(line: dict, value: float) -> float:
  """Returns a value on a scale where the line's chance is 0 and its reference 1."""
  return (value - line['chance']) / (line['reference'] - line['chance'])


def zero_shot_curves(lines: Sequence[dict], target: str | pathlib.Path) -> None:
  """Writes a PNG as GPT-1's figure 2, right: zero-shot scores against updates.

  Args:
    lines: for each task and checkpoint its task, step, metric, value, low and high
      (95 % interval), chance and reference.

  Raises:
    UserError: there are no lines.
  """
  if not lines:
    raise UserError('no zero-shot values to plot; measure some first')
  figure = matplotlib.figure.Figure(figsize=(7, 5), layout='constrained')
  axes = figure.subplots()
  for number, task in enumerate(dict.fromkeys(line['task'] for line in lines)):
    own = sorted((w for w in lines if w['task'] == task), key=lambda w: w['step'])
    last = own[-1]
    (drawn,) = axes.plot(
      [line['step'] for line in own],
      [normalised(line, line['value']) for line in own],
      marker='osD^vX'[number % 6],
      markersize=4,
      label=f'{task} ({last["metric"]}, {last["chance"]:g} to {last["reference"]:g})',
    )
    # Only the last intervals are drawn, side by side; all would hide each other.
    value, low, high = (
      normalised(last, last[name]) for name in ('value', 'low', 'high')
    )
    axes.errorbar(
      last['step'] * 1.05 ** (number + 1),
      value,
      [[value - low], [high - value]],
      color=drawn.get_color(),
      marker=drawn.get_marker(),
      markersize=4,
      capsize=3,
    )
  axes.axhline(0, color='black', linewidth=0.8, linestyle=':')
  axes.set(xscale='log', xlabel='updates of pre-training (beside the last: 95 %)')
  axes.set_ylabel('score: 0 is chance, 1 the reference')
  axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
  axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter('{x:,.0f}'))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  axes.grid(alpha=0.3)
  figure.legend(
    loc='outside lower center', ncols=2, title='task (metric, chance to reference)'
  )
  save(figure, target)


class Transfer(NamedTuple):
  """A task fine-tuned from some layers of a pre-trained model.

  Attributes:
    metric: the task's first, on dev.
    layers: how many were transferred, with the embeddings; None: not even those.
    values: the metric of each seed.
    over_seeds: mean, median, std, low and high of them (`statistics.spread`).
    examples: how many dev has.
  """

  task: str
  metric: str
  layers: int | None
  values: list[float]
  over_seeds: dict[str, float]
  examples: int


def transfers(workdirs: Sequence[str | pathlib.Path]) -> list[Transfer]:
  """Returns the results of fine-tuned runs, by task and the layers transferred.

  Raises:
    UserError: there is no workdir, one holds no finished fine-tuning, or two of a task
      transfer the same layers or differ in more than that.
  """
  if not workdirs:
    raise UserError('no workdirs; give those of finished fine-tuned runs')
  free = {'seed', 'seeds', 'task.data', 'task.transfer'}
  free.update(fields_with('execution', 'logging'))
  results, firsts, places = {}, {}, {}
  for workdir in workdirs:
    run, path = read_run(workdir), pathlib.Path(workdir) / 'results.json'
    if not run.is_finetuning or not path.exists():
      raise UserError(
        f'{workdir} has no results.json of a fine-tuned run; fine-tune it to the end'
      )
    name, kept = run.task.name, run.task.transfer
    layers = {'none': None, 'all': run.model.L}.get(kept, kept)
    layers = None if layers is None else int(layers)
    other = places.setdefault((name, layers), workdir)
    if other != workdir:
      raise UserError(
        f'{other} and {workdir} transfer as much to {name}; leave one out'
      )
    first, fields = firsts.setdefault(name, (workdir, flat(run)))
    differing = [
      f'{field}: {fields[field]!r} there, {value!r} here'
      for field, value in flat(run).items()
      if fields[field] != value and field not in free
    ]
    if differing:
      raise UserError(
        f'{first} and {workdir} differ in more than what was transferred to {name}; '
        'leave one out\n' + '\n'.join(differing)
      )
    on_dev = read_results(path, TASKS[name])
    metric = TASKS[name].metrics[0]
    results[name, layers] = Transfer(
      name,
      metric,
      layers,
      [seed[metric] for seed in on_dev['seeds'].values()],
      on_dev['over_seeds'][metric],
      on_dev['examples'],
    )
  return sorted(results.values(), key=lambda each: (each.task, _place(each)))


def _place(each: Transfer) -> int:
  """Returns the place on the axis of layers; -1 where nothing was transferred."""
  return -1 if each.layers is None else each.layers


def transfer_curve(transferred: Sequence[Transfer], target: str | pathlib.Path) -> None:
  """Writes a PNG as GPT-1's figure 2, left: dev metrics against layers transferred.

  There is a panel for each task. Lines join the means over seeds; bars are their 95 %
  intervals, and the dots beside them are the seeds.
  """
  names = list(dict.fromkeys(each.task for each in transferred))
  size = 1 + 4.5 * len(names), 4
  figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
  for axes, task in zip(
    figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
  ):
    own = [each for each in transferred if each.task == task]
    places = [_place(each) for each in own]
    mean = [each.over_seeds['mean'] for each in own]
    half = [each.over_seeds['high'] - each.over_seeds['mean'] for each in own]
    axes.errorbar(places, mean, half, marker='o', markersize=4, capsize=3)
    for place, each in zip(places, own, strict=True):
      if len(each.values) > 1:
        beside = [place + 0.15] * len(each.values)
        axes.plot(beside, each.values, '.', color='tab:gray', markersize=4)
    shown = ['nothing' if each.layers is None else each.layers for each in own]
    axes.set_xticks(places, shown)
    axes.set(xlabel='layers transferred', ylabel=f'dev {own[0].metric}', title=task)
    axes.grid(alpha=0.3)
  save(figure, target)
