"""The text and tables of a sweep's report: best settings, runs and cost."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation.statistics import spread
from gpt_jax.files import read_text
from gpt_jax.reports.markup import code, fenced, heading, picture, plain, table
from gpt_jax.sweep.plan import Entry, Sweep
from gpt_jax.sweep.status import Result, result

SEED = 'seed'
_MOST = 20  # settings in the table of the best


class SweptRun(NamedTuple):
  """A run of a sweep: the fields it sets, its state and its result."""

  entry: Entry
  state: str
  values: dict[str, Any]  # fields that the sweep varies
  result: Result


class Setting(NamedTuple):
  """The finished runs that differ only in their seed.

  Attributes:
    values: the other fields that the sweep varies.
    best: lowest held-out losses, one for each seed, in `unit_of` them.
    final: last held-out losses.
    bits: bits/byte at `best`; None where they can't be compared.
    metric: of fine-tunings, the best of the task's metric on dev.
  """

  values: dict[str, Any]
  best: list[float]
  final: list[float]
  bits: list[float | None]
  metric: list[float]


def unit_of(sweep: Sweep) -> str:
  """Returns what the held-out losses of a sweep are counted in."""
  return 'nats/example' if sweep.entries[0].run.is_finetuning else 'nats/token'


def collected(sweep: Sweep) -> list[SweptRun]:
  """Returns all runs of a sweep; the state of an unfinished one is from sweep.csv."""
  states, path = {}, sweep.folder / 'sweep.csv'
  if path.exists():
    try:
      table = list(csv.DictReader(io.StringIO(read_text(path), newline='')))
    except csv.Error as error:
      raise UserError(
        f'{path} is damaged: {error}; remove it, and the same sweep writes it again'
      ) from error
    states = {row.get('name'): row.get('state') for row in table}
  runs, varied = [], sweep.varied
  for entry in sweep.entries:
    values = config.flat(entry.run)
    outcome = result(entry)
    state = outcome.state
    if state != 'finished':
      state = states.get(entry.name) or state
    varied_values = {name: values[name] for name in varied}
    runs.append(SweptRun(entry, state, varied_values, outcome))
  return runs


def several_tokenizers(runs: Sequence[SweptRun]) -> bool:
  """Returns whether finished runs have several, so that their tokens differ."""
  done = [each.result.tokenizer for each in runs if each.state == 'finished']
  return len(set(filter(None, done))) > 1


def not_ranked(runs: Sequence[SweptRun]) -> str:
  """Returns why finished runs can't be ranked, '' if they can.

  They can't if they have several tokenizers, one of which changes text.
  """
  lossy = [r for r in runs if r.state == 'finished' and r.result.lost]
  if not lossy or not several_tokenizers(runs):
    return ''
  first = lossy[0]
  return (
    'The runs have several tokenizers, of which some change the held-out text '
    f'({plain(first.entry.name)}: {plain(first.result.lost)}), so that neither '
    'nats/token nor bits/byte of them can be compared. Settings are in the order of '
    'the sweep.'
  )


def settings(runs: Sequence[SweptRun]) -> list[Setting]:
  """Returns the settings that have a finished run, the best mean first.

  Of several tokenizers bits/byte say which is best; if one of them changes text,
  nothing does, and the settings are in the order of the sweep (`not_ranked`).
  """
  by_values: dict[tuple, Setting] = {}
  for each in runs:
    if each.state != 'finished':
      continue
    values = {name: value for name, value in each.values.items() if name != SEED}
    own = by_values.setdefault(tuple(values.items()), Setting(values, [], [], [], []))
    own.best.append(each.result.best_nll)
    own.final.append(each.result.final_nll)
    own.bits.append(None if not_ranked(runs) else each.result.best_bpb)
    own.metric.append(each.result.best_metric)
  if not_ranked(runs):
    return list(by_values.values())
  judged = 'bits' if several_tokenizers(runs) else 'best'
  return sorted(
    by_values.values(), key=lambda own: spread(getattr(own, judged))['mean']
  )


def blocks(sweep: Sweep, runs: Sequence[SweptRun], drawn: set[str]) -> list[str]:
  """Returns the report, with the plots that are named in `drawn`."""
  name = sweep.sweep_file.rsplit('/', 1)[-1].removesuffix('.py')
  unit = unit_of(sweep)
  report = [
    heading(f'Sweep {plain(name)}', 1),
    _about(sweep, runs),
    fenced(f'python {shlex.join(sweep.argv)}'),
    heading('The best settings'),
    f'Held-out loss in {unit}, the mean over seeds, with its 95 % interval by '
    "Student's t (of two seeds 12.7 standard errors to each side). Best is the "
    "lowest of a run's evaluations, so a little too good; final is the last one. "
    'Only finished runs count.',
    *_of_tokenizers(runs),
    _settings(settings(runs), unit),
  ]
  for name, title, text in (
    (
      'sweep_loss',
      'Loss by setting',
      'Best held-out loss: dots are runs, lines join the means over seeds, and bars '
      'are their 95 % intervals, cut at the frame. Fields that are not shown have '
      'their best value.',
    ),
    (
      'sweep_curves',
      'Curves',
      'Held-out loss of every run against its updates; the start may be cut.',
    ),
  ):
    if name in drawn:
      report += [heading(title), picture(name, text)]
  return [
    *report,
    heading('What it cost'),
    _cost(runs),
    heading('Runs'),
    _runs(runs, unit),
  ]


def _of_tokenizers(runs: Sequence[SweptRun]) -> list[str]:
  """Returns what is to be said where runs have several tokenizers."""
  if why := not_ranked(runs):
    return [why]
  if several_tokenizers(runs):
    return [
      'The runs have several tokenizers: settings are ranked by bits/byte, and '
      'nats/token are comparable only between runs of one tokenizer.'
    ]
  return []


def shown(value: Any) -> str:
  """Returns a value of a field in few characters."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def _about(sweep: Sweep, runs: Sequence[SweptRun]) -> str:
  count = Counter(each.state for each in runs)
  states = ', '.join(f'{number} {state}' for state, number in count.items())
  varied = sweep.varied
  fixed = {
    name: value
    for each in sweep.entries
    for name, value in each.overrides.items()
    if name not in varied
  }
  text = f'{len(runs)} runs of {code(sweep.config_file)}: {states}. '
  for name in varied:
    values = list(dict.fromkeys(shown(each.values[name]) for each in runs))
    more = f' ... ({len(values)} values)' if len(values) > 8 else ''
    text += f'`{name}` is {", ".join(map(plain, values[:8]))}{more}. '
  if fixed:
    settings_of_all = (code(f'{name}={shown(value)}') for name, value in fixed.items())
    text += f'In all of them {", ".join(settings_of_all)}.'
  return text.strip()


def _mean(values: Sequence[float]) -> str:
  if None in values:
    return '-'
  over = spread(list(values))
  if len(values) == 1:
    return f'{over["mean"]:.4f}'
  return f'{over["mean"]:.4f} [{over["low"]:.4f}, {over["high"]:.4f}]'


def _settings(ordered: Sequence[Setting], unit: str) -> str:
  names = list(ordered[0].values) if ordered else []
  rows = [
    [
      *(plain(shown(each.values[name])) for name in names),
      str(len(each.best)),
      _mean(each.best),
      _mean(each.final),
      _mean(each.bits),
      _mean(each.metric),
    ]
    for each in ordered[:_MOST]
  ]
  head = [
    *names,
    'seeds',
    f'best [{unit}]',
    f'final [{unit}]',
    'best [bits/byte]',
    'best on dev',
  ]
  return _table(head, rows, 0)


def _cost(runs: Sequence[SweptRun]) -> str:
  results = [each.result for each in runs]
  seconds = sum(each.seconds for each in results)
  commits = sorted({each.commit[:12] for each in results if each.commit})
  return (
    f'{sum(each.tokens for each in results):,} tokens, '
    f'{sum(each.flops for each in results):.3g} FLOPs and {seconds:,.0f} seconds '
    f'({seconds / 3600:.2f} hours) of training over all runs, without start-up and '
    'updates that were lost when a run was killed. Code: '
    + (', '.join(f'`{each}`' for each in commits) or 'unknown')
    + '.'
  )


def _runs(runs: Sequence[SweptRun], unit: str) -> str:
  def number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)

  rows = [
    [
      plain(each.entry.name),
      each.state,
      number(each.result.best_nll, '.4f'),
      number(each.result.final_nll, '.4f'),
      number(None if not_ranked(runs) else each.result.best_bpb, '.4f'),
      number(each.result.best_metric, '.4f'),
      f'{each.result.step}/{each.result.steps}',
      number(each.result.tokens or None, ','),
      number(each.result.flops or None, '.2e'),
      f'{each.result.seconds:,.0f}',
    ]
    for each in runs
  ]
  head = (
    f'run,state,best [{unit}],final [{unit}],best [bits/byte],best on dev,updates,'
    'tokens,FLOPs,seconds'
  )
  return _table(head.split(','), rows, 2)


def _table(head: list[str], rows: list[list[str]], texts: int) -> str:
  """Returns a table without the columns of results that no row has."""
  kept = [
    i for i, _ in enumerate(head) if i < texts or any(row[i] != '-' for row in rows)
  ]
  return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], texts)
