"""The search of a sweep file: spaces to draw from, and when to stop early."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_jax.config import UserError

_OF_TOKENIZERS = {'data.tokenizer', 'data.vocab', 'data.cleaning'}


@dataclasses.dataclass(frozen=True)
class Space:
  """Values of one field.

  Attributes:
    kind: 'uniform', 'log_uniform' or 'choice'.
    values: (low, high), or those to choose from.
  """

  kind: str
  values: tuple


@dataclasses.dataclass(frozen=True)
class Search:
  """A random search.

  Attributes:
    halving: 0: every run goes to its end. Else at evaluations 1, halving, halving² ...
      only the best 1 / halving of the runs that came so far continue.
  """

  space: Mapping[str, Space]
  runs: int
  seed: int
  halving: int


def uniform(low: float, high: float) -> Space:
  """Returns the numbers from low to high; integers where both are."""
  return Space('uniform', _ordered('uniform', low, high))


def log_uniform(low: float, high: float) -> Space:
  """Returns the numbers from low to high, drawn evenly by their logarithm."""
  if not low > 0:
    raise UserError(f'log_uniform: low={low} must be above 0')
  return Space('log_uniform', _ordered('log_uniform', low, high))


def choice(values: Sequence[Any]) -> Space:
  """Returns the given values, each as likely."""
  if not values:
    raise UserError('choice has no values; give at least one')
  return Space('choice', tuple(values))


def search(
  space: Mapping[str, Space], *, runs: int, seed: int = 0, halving: int = 0
) -> Search:
  """Returns a random search; see `Search`.

  Raises:
    UserError: a field is no space, or a number is out of range.
  """
  for name, each in space.items():
    if not isinstance(each, Space):
      raise UserError(f'search: {name}={each!r} must be uniform, log_uniform or choice')
  if not space or runs < 1:
    raise UserError(f'search of {len(space)} fields, runs={runs}: each must be >= 1')
  if halving == 1 or halving < 0:
    raise UserError(f'search: halving={halving} must be 0 (off) or at least 2')
  apart = sorted(_OF_TOKENIZERS & set(space))
  if halving and apart:
    raise UserError(
      f'search: halving={halving} compares runs by nats/token, which of several '
      f'{" and ".join(apart)} are of different tokens; use halving=0, or a sweep for '
      'each tokenizer'
    )
  return Search(dict(space), runs, seed, halving)


def _ordered(kind: str, low: float, high: float) -> tuple:
  if not low < high:
    raise UserError(f'{kind}: low={low} must be less than high={high}')
  return low, high
