"""What a sweep found, in words and tables: by setting, by run, and what it cost."""

import csv
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt_jax import config
from gpt_jax.evaluation.statistics import spread
from gpt_jax.reports.markup import Code, Part, Picture, Table, Title, Words
from gpt_jax.sweep.plan import Entry, Sweep
from gpt_jax.sweep.status import Result, result

SEED = 'seed'
_MOST = 20  # settings in the table of the best


class Found(NamedTuple):
  """A run of a sweep, what it sets, and what came of it."""

  entry: Entry
  state: str
  values: dict[str, Any]  # of the fields that the sweep varies
  result: Result


class Setting(NamedTuple):
  """The finished runs that differ in nothing but their seed.

  Attributes:
    values: of the other fields that the sweep varies.
    best: lowest held-out losses, one for each seed [nats/token].
    final: last held-out losses.
    bits: per byte, beside `best`.
  """

  values: dict[str, Any]
  best: list[float]
  final: list[float]
  bits: list[float]


def collected(sweep: Sweep) -> list[Found]:
  """Returns all runs of a sweep, as their folders say, and sweep.csv of the others."""
  states, path = {}, sweep.folder / 'sweep.csv'
  if path.exists():
    with open(path, encoding='utf-8', newline='') as file:
      states = {row.get('name'): row.get('state') for row in csv.DictReader(file)}
  made, varied = [], sweep.varied
  for entry in sweep.entries:
    values = config.flat(entry.run)
    found = result(entry)
    state = found.state
    if state != 'finished':
      state = states.get(entry.name) or state
    made.append(Found(entry, state, {name: values[name] for name in varied}, found))
  return made


def settings(found: Sequence[Found]) -> list[Setting]:
  """Returns the settings that have a finished run, the best mean first."""
  made: dict[tuple, Setting] = {}
  for each in found:
    if each.state != 'finished':
      continue
    values = {name: value for name, value in each.values.items() if name != SEED}
    own = made.setdefault(tuple(values.items()), Setting(values, [], [], []))
    own.best.append(each.result.best_nll)
    own.final.append(each.result.final_nll)
    own.bits.append(each.result.best_bpb)
  return sorted(made.values(), key=lambda own: spread(own.best)['mean'])


def parts(sweep: Sweep, found: Sequence[Found], pictures: set[str]) -> list[Part]:
  """Returns the report.

  Args:
    sweep: of which.
    found: its runs.
    pictures: names of the plots there are.
  """
  made = [
    Title(f'Sweep {sweep.sweep_file.rsplit("/", 1)[-1].removesuffix(".py")}', 1),
    Words(_about(sweep, found)),
    Code(f'python {shlex.join(sweep.argv)}'),
    Title('The best settings'),
    Words(
      'Held-out loss in nats/token, the mean over seeds, with its 95 % interval by '
      "Student's t (of two seeds 12.7 standard errors to each side). Best is the "
      "lowest of a run's evaluations, so a little too good; final is the last one. "
      'Only finished runs count.'
    ),
    _settings(settings(found)),
  ]
  for name, title, text in (
    (
      'sweep_loss',
      'Loss by setting',
      'Best held-out loss: dots are runs, lines go through the means over seeds, and '
      'bars are their 95 % intervals; one that leaves the frame is cut. Of fields that '
      'are not shown, the best value.',
    ),
    (
      'sweep_curves',
      'Curves',
      'Held-out loss of every run against its updates; beginnings may leave the frame.',
    ),
  ):
    if name in pictures:
      made += [Title(title), Picture(name, text)]
  return [
    *made,
    Title('What it cost'),
    Words(_cost(found)),
    Title('Runs'),
    _runs(found),
  ]


def shown(value: Any) -> str:
  """Returns a value of a field in few characters."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def _about(sweep: Sweep, found: Sequence[Found]) -> str:
  count = Counter(each.state for each in found)
  states = ', '.join(f'{number} {state}' for state, number in count.items())
  varied = sweep.varied
  fixed = {
    name: value
    for each in sweep.entries
    for name, value in each.overrides.items()
    if name not in varied
  }
  told = f'{len(found)} runs of `{sweep.config_file}`: {states}. '
  for name in varied:
    values = list(dict.fromkeys(shown(each.values[name]) for each in found))
    more = f' ... ({len(values)} values)' if len(values) > 8 else ''
    told += f'`{name}` is {", ".join(values[:8])}{more}. '
  if fixed:
    told += 'In all of them '
    told += ', '.join(f'`{name}={shown(value)}`' for name, value in fixed.items()) + '.'
  return told.strip()


def _mean(values: Sequence[float]) -> str:
  if None in values:
    return '-'
  told = spread(list(values))
  if len(values) == 1:
    return f'{told["mean"]:.4f}'
  return f'{told["mean"]:.4f} [{told["low"]:.4f}, {told["high"]:.4f}]'


def _settings(found: Sequence[Setting]) -> Table:
  names = list(found[0].values) if found else []
  rows = [
    [
      *(shown(each.values[name]) for name in names),
      str(len(each.best)),
      _mean(each.best),
      _mean(each.final),
      _mean(each.bits),
    ]
    for each in found[:_MOST]
  ]
  head = [
    *names,
    'seeds',
    'best [nats/token]',
    'final [nats/token]',
    'best [bits/byte]',
  ]
  return Table(head, rows, 0)


def _cost(found: Sequence[Found]) -> str:
  results = [each.result for each in found]
  seconds = sum(each.seconds for each in results)
  commits = sorted({each.commit[:12] for each in results if each.commit})
  return (
    f'{sum(each.tokens for each in results):,} tokens, '
    f'{sum(each.flops for each in results):.3g} FLOPs and {seconds:,.0f} seconds '
    f'({seconds / 3600:.2f} hours) of training over all runs; starting up, and what a '
    'kill undid, is not in it. Code: '
    + (', '.join(f'`{each}`' for each in commits) or 'unknown')
    + '.'
  )


def _runs(found: Sequence[Found]) -> Table:
  def number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)

  rows = [
    [
      each.entry.name,
      each.state,
      number(each.result.best_nll, '.4f'),
      number(each.result.final_nll, '.4f'),
      number(each.result.best_bpb, '.4f'),
      f'{each.result.step}/{each.result.steps}',
      f'{each.result.tokens:,}',
      f'{each.result.flops:.2e}',
      f'{each.result.seconds:,.0f}',
    ]
    for each in found
  ]
  head = (
    'run,state,best [nats/token],final [nats/token],best [bits/byte],updates,tokens,'
    'FLOPs,seconds'
  )
  return Table(head.split(','), rows, 2)
