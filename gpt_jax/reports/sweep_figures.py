"""Plots of a sweep: curves of all runs, and loss by setting."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gpt_jax.evaluation.statistics import spread
from gpt_jax.reports.sweep_tables import (
  SEED,
  SweptRun,
  not_ranked,
  settings,
  several_tokenizers,
  shown,
  unit_of,
)
from gpt_jax.sweep.plan import Sweep

_STYLES = '-', '--', ':', '-.'
_MARKERS = 'osD^vXP*'
_SMALL = 8  # values of a field that have a colour, or a tick, each


def _number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fields(sweep: Sweep) -> list[str]:
  return [name for name in sweep.varied if name != SEED]


def _values(runs: Sequence[SweptRun], name: str) -> list:
  """Returns the values of a field, numbers in their order."""
  values = list(dict.fromkeys(each.values[name] for each in runs))
  return sorted(values) if all(map(_number, values)) else values


def _colours(values: Sequence) -> dict[Any, Any]:
  """Returns a colour for each value: of numbers, darker ones for smaller."""
  if len(values) < 3 or not all(map(_number, values)):
    return {value: f'C{i % 10}' for i, value in enumerate(values)}
  ramp = matplotlib.colormaps['viridis'](np.linspace(0.0, 0.88, len(values)))
  return dict(zip(values, ramp, strict=True))


def curves(sweep: Sweep, runs: Sequence[SweptRun]) -> Figure:
  """Returns a figure of held-out loss against updates, a line for each run.

  The first field of the sweep chooses the colour, the second, if it has few values, the
  style of the line.
  """
  figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  fields = _fields(sweep)
  colours = _colours(_values(runs, fields[0])) if fields else {}
  second = _values(runs, fields[1]) if len(fields) > 1 else []
  few = second if len(second) <= len(_STYLES) else []
  styles = dict(zip(few, _STYLES, strict=False))
  for each in runs:
    if each.result.curve:
      axes.plot(
        *zip(*each.result.curve, strict=True),
        color=colours[each.values[fields[0]]] if fields else 'C0',
        linestyle=styles.get(each.values[fields[1]], '-') if styles else '-',
        linewidth=1.2 if len(runs) <= 50 else 0.6,
        alpha=0.8,
        marker='.' if len(each.result.curve) == 1 else '',
      )
  keys = [
    Line2D([], [], color=colour, label=f'{fields[0]} = {shown(value)}')
    for value, colour in _thinned(colours)
  ]
  keys += [
    Line2D([], [], color='0.3', linestyle=style, label=f'{fields[1]} = {shown(value)}')
    for value, style in styles.items()
  ]
  _frame(axes, [loss for each in runs for _, loss in each.result.curve[1:]])
  axes.set(xlabel='updates', ylabel=f'held-out loss [{unit_of(sweep)}]')
  axes.grid(alpha=0.3)
  if keys:
    axes.legend(handles=keys, fontsize=9)
  return figure


def _thinned(colours: dict) -> list[tuple]:
  """Returns a few of the values with their colours: the ends, and some between."""
  items = list(colours.items())
  if len(items) <= _SMALL:
    return items
  return [items[i] for i in np.linspace(0, len(items) - 1, 5).round().astype(int)]


def loss(sweep: Sweep, runs: Sequence[SweptRun]) -> Figure | None:
  """Returns a figure of the best loss against a field, or None if none is a number.

  None too if the runs can't be ranked; of several tokenizers it shows bits/byte.

  That is the first field that holds numbers; another, where there is one, has a line
  for each value. Of the rest, the best setting is shown. Bars are 95 % intervals of
  the mean over seeds.
  """
  done = settings(runs)
  x = next((name for name in _fields(sweep) if _numbers(done, name)), None)
  if x is None or not_ranked(runs):
    return None
  judged = 'bits' if several_tokenizers(runs) else 'best'
  unit = 'bits/byte' if judged == 'bits' else unit_of(sweep)
  kept = [each for each in runs if each.state == 'finished']
  line = next(
    (n for n in _fields(sweep) if n != x and 1 < len(_values(kept, n)) <= _SMALL), None
  )
  lines = _values(kept, line) if line else [None]
  figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  places = sorted({each.values[x] for each in done})
  logarithmic = places[0] > 0 and places[-1] >= 5 * places[0]
  colours = _colours(lines)
  dots = []
  for number, value in enumerate(lines):
    best = {}
    for each in done:  # the best first
      if line is None or each.values[line] == value:
        best.setdefault(each.values[x], each)
    own = [best[place] for place in sorted(best)]
    # Side by side, as bars of several lines at one place would hide each other.
    apart = min(0.025, 0.3 / (len(places) - 1) / len(lines))
    shift = (number - (len(lines) - 1) / 2) * apart
    at = [_moved(each.values[x], shift, places, logarithmic) for each in own]
    over = [spread(getattr(each, judged)) for each in own]
    mean = [each['mean'] for each in over]
    axes.errorbar(
      at,
      mean,
      [
        [m - each['low'] for m, each in zip(mean, over, strict=True)],
        [each['high'] - m for m, each in zip(mean, over, strict=True)],
      ],
      color=colours[value],
      marker=_MARKERS[number % len(_MARKERS)],
      markersize=5,
      linewidth=1.3,
      elinewidth=0.8,
      capsize=3,
      label=f'{line} = {shown(value)}',
    )
    for place, each in zip(at, own, strict=True):
      values = getattr(each, judged)
      dots += values
      axes.plot([place] * len(values), values, '.', color='0.25', markersize=4)
  if logarithmic:
    axes.set_xscale('log')
  if len(places) <= _SMALL:
    axes.set_xticks(places, [shown(place) for place in places])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  _frame(axes, dots)
  axes.set(xlabel=x, ylabel=f'best held-out loss [{unit}]')
  axes.grid(alpha=0.3)
  if line:
    figure.legend(loc='outside upper center', ncols=min(len(lines), 4), fontsize=9)
  return figure


def _numbers(done: Sequence, name: str) -> bool:
  values = {each.values[name] for each in done}
  return len(values) > 1 and all(map(_number, values))


def _moved(place: float, shift: float, places: Sequence, logarithmic: bool) -> float:
  """Returns a place a share `shift` of the axis to its right."""
  if logarithmic:
    return place * (places[-1] / places[0]) ** shift
  return place + shift * (places[-1] - places[0])


def _frame(axes: Axes, values: Sequence[float]) -> None:
  """Fits the frame to values: longer bars, and a few losses far above, leave it."""
  values = sorted(value for value in values if math.isfinite(value))
  if not values:
    return
  middle = values[len(values) // 2]
  high = min(values[-1], middle + 4 * max(middle - values[0], 1e-3))
  room = 0.12 * max(high - values[0], 1e-3)
  axes.set_ylim(values[0] - room, high + room)
