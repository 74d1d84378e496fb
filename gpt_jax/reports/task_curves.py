"""Curves of prompted tasks: score against examples, and against parameters."""

import math
from collections.abc import Sequence

import matplotlib
import matplotlib.figure
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.reports.task_results import (
  Model,
  Shown,
  Summary,
  is_share,
  labels,
  metrics,
  million,
  models,
  shots,
  summary,
  tasks,
)
from gpt_jax.reports.task_tables import words
from gpt_jax.tasks.published import GPT3_SIZES, published

GPT3_PARAMETERS = dict(  # Brown et al. 2020, table 2.1
  zip(
    GPT3_SIZES,
    (125e6, 350e6, 760e6, 1.3e9, 2.7e9, 6.7e9, 13e9, 175e9),
    strict=True,
  )
)
_STYLES = {'zero': '-.', 'one': '--', 'few': '-'}
_MARKERS = 'osD^vXP*'


def against_shots(shown: Shown) -> Figure | None:
  """Returns a figure as GPT-3's 1.2: a panel for each task with several K, else None.

  A line is a model's first metric by the paper's rule; chance is dotted. A band is the
  standard deviation over seeds; where there is one seed, its 95 % interval. If a line
  has both, the intervals are bars.
  """
  names = [task for task in tasks(shown) if len(shots(shown, task)) > 1]
  if not names:
    return None
  figure, panels = _figure(len(names))
  own = labels(shown)
  for axes, task in zip(panels, names, strict=True):
    metric, scale = _titled(axes, shown, task)
    for number, model in enumerate(own):
      points = _points(shown, model, task, metric)
      places = [k for k, _ in points]
      colour = f'C{number % 10}'
      axes.plot(
        places,
        [scale * score.value for _, score in points],
        color=colour,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        label=f'{own[model]}, {million(_parameters(shown, model))}',
      )
      sure = [(k, score) for k, score in points if score.low is not None]
      over_seeds = [(k, score) for k, score in sure if score.std is not None]
      banded = over_seeds if len(over_seeds) > 1 else [] if over_seeds else sure
      axes.fill_between(
        [k for k, _ in banded],
        [scale * score.low for _, score in banded],
        [scale * score.high for _, score in banded],
        color=colour,
        alpha=0.15,
        linewidth=0,
      )
      barred = [point for point in sure if point not in banded]
      # Side by side, as bars of several models at one K would hide each other.
      beside = 0.06 * (number - (len(own) - 1) / 2)
      axes.vlines(
        [k + beside * max(k, 1) for k, _ in barred],
        [scale * score.low for _, score in barred],
        [scale * score.high for _, score in barred],
        color=colour,
        linewidth=1,
      )
    _draw_chance(axes, shown, task, metric)
    _scale_of_shots(axes, shots(shown, task))
  _legend(
    figure,
    panels,
    'band, bar: standard deviation over seeds;\n'
    'of one seed, as at K=0, its 95 % interval',
  )
  return figure


def against_size(shown: Shown) -> Figure | None:
  """Returns a figure as GPT-3's 3.x: a panel for each task with several sizes, or None.

  A line is a value of K; of more than four, the two smallest and the largest are drawn.
  Bars are the standard deviation over seeds, or the 95 % interval of a single seed.
  GPT-3's published sizes are grey.
  """
  sizes = {
    task: {seeds[0].parameters for (_, t, _), seeds in shown.items() if t == task}
    for task in tasks(shown)
  }
  names = [task for task, counts in sizes.items() if len(counts) > 1]
  if not names:
    return None
  figure, panels = _figure(len(names))
  drawn = {task: _few(shots(shown, task)) for task in names}
  every_k = sorted({k for values in drawn.values() for k in values})
  for axes, task in zip(panels, names, strict=True):
    metric, scale = _titled(axes, shown, task)
    _draw_gpt3(axes, task, metric, {words(k) for k in drawn[task]})
    for place, k in enumerate(drawn[task]):
      number = every_k.index(k)
      points = [
        (_parameters(shown, model), score)
        for model in models(shown)
        for shot, score in _points(shown, model, task, metric)
        if shot == k
      ]
      points.sort(key=lambda point: point[0])
      if not points:
        continue
      # Side by side, as bars of several K at one size would hide each other.
      beside = 1.12 ** (place - (len(drawn[task]) - 1) / 2)
      axes.errorbar(
        [beside * size for size, _ in points],
        [scale * score.value for _, score in points],
        [
          [
            scale * (f.value - (f.value if f.low is None else f.low)) for _, f in points
          ],
          [
            scale * ((f.value if f.high is None else f.high) - f.value)
            for _, f in points
          ],
        ],
        color=matplotlib.colormaps['plasma'](
          0.85 * _place(k) / max(1, _place(every_k[-1]))
        ),
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label=f'K={k}',
      )
    _draw_chance(axes, shown, task, metric)
    axes.set(xscale='log', xlabel='parameters')
    low, high = axes.get_xlim()
    subs = (1,) if high > 100 * low else (1, 2, 5)
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=8))
    axes.xaxis.set_major_formatter(lambda value, _: million(round(value)))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  _legend(
    figure, panels, 'bars: standard deviation over seeds,\nor 95 % interval of one seed'
  )
  return figure


def _few(values: list[int]) -> list[int]:
  return values if len(values) <= 4 else [*values[:2], values[-1]]


def _figure(count: int) -> tuple[Figure, list[Axes]]:
  """Returns a figure and its `count` panels."""
  columns = min(count, 3 if count <= 9 else 4)
  rows = math.ceil(count / columns)
  size = max(5, 3.4 * columns), 2.7 * rows + 0.9
  figure = matplotlib.figure.Figure(figsize=size, layout='constrained')
  figure.get_layout_engine().set(wspace=0.07, hspace=0.07)
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in panels[count:]:
    axes.remove()
  return figure, panels[:count]


def _titled(axes: Axes, shown: Shown, task: str) -> tuple[str, int]:
  """Sets a panel's titles, and returns its metric and 100 where that is in percent."""
  metric = metrics(shown, task)[0]
  share = is_share(metric)
  axes.set_title(task, fontsize=10)
  axes.set_ylabel(metric.replace('_', ' ') + (' [%]' if share else ''))
  axes.grid(alpha=0.3)
  return metric, 100 if share else 1


def _points(
  shown: Shown, model: Model, task: str, metric: str
) -> list[tuple[int, Summary]]:
  """Returns the finite (K, summary) of a model by the paper's rule."""
  points = []
  for k in shots(shown, task):
    seeds = shown.get((model, task, k))
    of_k = summary(seeds, metric, seeds[0].rule) if seeds else None
    if of_k is not None and math.isfinite(of_k.value):
      points.append((k, of_k))
  return points


def _parameters(shown: Shown, model: Model) -> int:
  return next(seeds[0].parameters for (m, _, _), seeds in shown.items() if m == model)


def _draw_chance(axes: Axes, shown: Shown, task: str, metric: str) -> None:
  chances = [
    seed.chance
    for (_, name, _), seeds in shown.items()
    if name == task and metric == 'accuracy'
    for seed in seeds
    if seed.chance is not None
  ]
  if chances:
    chance = 100 * sum(chances) / len(chances)
    axes.axhline(chance, color='black', linewidth=1, linestyle=':', label='chance')


def _draw_gpt3(axes: Axes, task: str, metric: str, kinds: set[str]) -> None:
  """Draws GPT-3's sizes in grey, for `kinds` of zero, one and few examples."""
  for kind, style in _STYLES.items():
    points = [
      (GPT3_PARAMETERS[each.model.removeprefix('GPT-3 ')], each.value)
      for each in published(task)
      if each.model.startswith('GPT-3')
      and (each.metric, each.shots) == (metric, kind)
      and kind in kinds
    ]
    if points:
      axes.plot(
        *zip(*points, strict=True),
        color='0.6',
        linestyle=style,
        marker='.',
        linewidth=1,
        markersize=4,
        label=f'GPT-3, {kind}-shot',
      )


def _place(k: int) -> float:
  """Returns the place of a K on an axis that is linear to 1 and logarithmic above."""
  return k if k < 1 else 1 + math.log2(k)


def _scale_of_shots(axes: Axes, values: Sequence[int]) -> None:
  """Sets the axis of `_place`, with ticks at those K that have room."""
  axes.set_xscale('symlog', base=2, linthresh=1, linscale=0.5)
  margin = 0.05 * _place(values[-1])
  axes.set_xlim(values[0] - margin, values[-1] * 2**margin)
  ticks = list(values[:1])
  for k in values[1:]:
    if _place(k) - _place(ticks[-1]) > _place(values[-1]) / 10:
      ticks.append(k)
  axes.set_xticks(ticks, list(map(str, ticks)))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  axes.set_xlabel('examples in the prompt (K)')


def _legend(figure: Figure, panels: Sequence[Axes], title: str) -> None:
  """Puts one legend for all panels below them, K in order."""
  handles = {}
  for axes in panels:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  names = sorted(
    handles, key=lambda name: int(name[2:]) if name.startswith('K=') else -1
  )
  width = 0.9 + 0.075 * max(map(len, names))  # of a column, in inches
  figure.legend(
    [handles[name] for name in names],
    names,
    loc='outside lower center',
    ncols=max(1, int(figure.get_figwidth() / width)),
    fontsize=9,
    handlelength=3,
    title=title,
    title_fontsize=9,
  )
