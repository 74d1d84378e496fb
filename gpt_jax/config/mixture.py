"""Mixtures as a config says them: named sources, and their weights by stage."""

import dataclasses
import re
from fractions import Fraction
from typing import NamedTuple

from gpt_jax.config.schema import Data

CYCLE = 10_000  # rows after which the order of the sources repeats


class Stage(NamedTuple):
  """Updates with the same weights, from one on until the next stage.

  Attributes:
    update: updates done before its first.
    rows: of each source in `CYCLE` rows; every source of the mixture is in it.
  """

  update: int
  rows: dict[str, int]


def sources(data: Data) -> dict[str, Data]:
  """Returns each source of a valid mixture by its name, as data of its own."""
  checksums = [s.strip() for s in data.sha256.split(',') if s.strip()]
  own = {}
  for name, source in _named(data.mixture):
    number = source.count('://')
    own[name] = dataclasses.replace(
      data,
      source=source,
      sha256=','.join(checksums[:number]),
      tokens='',
      mixture='',
      weights='',
    )
    checksums = checksums[number:]
  return own


def stages(data: Data) -> list[Stage]:
  """Returns the stages of a valid mixture in their order."""
  names = [name for name, _ in _named(data.mixture)]
  parts = [_stage(part) for part in _entries(data.weights, ';')]
  parts = parts or [('0', [(name, '1') for name in names])]
  return [
    Stage(int(update), _shared({n: Fraction(dict(given).get(n, 0)) for n in names}))
    for update, given in parts
  ]


def wrong_mixture(data: Data) -> list[str]:
  """Returns the rules that are broken about a mixture of sources."""
  if not data.mixture:
    return [
      f'data.weights={data.weights!r} must come with data.mixture, which names the '
      'sources'
    ] * bool(data.weights)
  wrong = []
  for name, value, usual in (
    ('source', data.source, Data.source),
    ('valid', data.valid, ''),
  ):
    if value not in ('', usual):
      wrong.append(
        f"data.{name}={value!r} must be '' with data.mixture, whose sources are read "
        'instead, and hold out data.holdout each'
      )
  if data.windows != 'epochs':
    wrong.append(
      f"data.windows={data.windows!r} must be 'epochs' with data.mixture: its sources "
      'are drawn without replacement'
    )
  named = _named(data.mixture)
  names = [name for name, _ in named]
  for name, source in named:
    if not re.fullmatch(r'[\w-]+', name) or not source:
      wrong.append(
        f'data.mixture: {f"{name}={source}":.80} must be NAME=SOURCE, where NAME has '
        'letters, digits, _ and - only: "web=/data/web; books=/data/books"'
      )
  if len(set(names)) < len(names):
    wrong.append('data.mixture must name each source once')
  return wrong or _wrong_weights(data.weights, names)


def _wrong_weights(text: str, names: list[str]) -> list[str]:
  """Returns the rules that the weights of some sources break."""
  wrong, last = [], -1
  for number, part in enumerate(_entries(text, ';')):
    update, given = _stage(part)
    where = f'data.weights: stage {part!r:.80}'
    if (
      not update.isdecimal() or int(update) <= last or bool(int(update)) != bool(number)
    ):
      wrong.append(
        f'{where} must begin with an update above those of the stages before it, like '
        '"5000: web=1", but for the first, which begins with the run'
      )
      continue
    last = int(update)
    values = {name: _number(value) for name, value in given}
    if unknown := sorted(set(values) - set(names)) or len(values) < len(given):
      which = ', '.join(unknown) if isinstance(unknown, list) else 'one of them twice'
      wrong.append(
        f'{where} must give a weight to sources of data.mixture ({", ".join(names)}), '
        f'each once, not to {which}'
      )
    elif None in values.values() or not any(values.values()):
      wrong.append(
        f'{where} must have weights that are numbers and not negative, one above 0, '
        'like "web=60, books=8"'
      )
    elif lost := [n for n, rows in _shared(values).items() if values[n] and not rows]:
      wrong.append(
        f'{where}: {", ".join(lost)} would have less than one of {CYCLE:,} rows; give '
        'a larger weight, or 0'
      )
  return wrong


def _entries(text: str, separator: str) -> list[str]:
  return [entry.strip() for entry in text.split(separator) if entry.strip()]


def _named(text: str) -> list[tuple[str, str]]:
  """Returns the names and values of 'NAME=VALUE; NAME=VALUE', as they stand."""
  parted = (entry.partition('=') for entry in _entries(text, ';'))
  return [(name.strip(), value.strip()) for name, _, value in parted]


def _stage(text: str) -> tuple[str, list[tuple[str, str]]]:
  """Returns the update and the weights of a stage, as they stand."""
  update, colon, rest = text.rpartition(':')
  return (update.strip() if colon else '0'), _named(rest.replace(',', ';'))


def _number(text: str) -> Fraction | None:
  """Returns the number that a text means, not the float nearest to it; None: none."""
  try:
    number = Fraction(text)
  except (ValueError, ZeroDivisionError):
    return None
  return number if number >= 0 else None


def _shared(weights: dict[str, Fraction]) -> dict[str, int]:
  """Returns the rows of each source in `CYCLE`: its quota, rounded down or up.

  By largest remainders, so that they add up to `CYCLE`.
  """
  total = sum(weights.values())
  quotas = {name: weight / total * CYCLE for name, weight in weights.items()}
  rows = {name: int(quota) for name, quota in quotas.items()}
  left = sorted(quotas, key=lambda name: rows[name] - quotas[name])
  for name in left[: CYCLE - sum(rows.values())]:
    rows[name] += 1
  return rows
