"""The algebra of sweeps: points are overrides of a config; `*` and `+` combine them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt_jax.config import UserError


class Points:
  """Overrides by name of a config field, one dict for each run, in order.

  `a * b` joins each point of a with each of b, b's changing fastest; `a + b` has the
  points of a, then those of b.
  """

  def __init__(self, points: Sequence[Mapping[str, Any]]):
    """Takes the points; raises UserError if there are none."""
    if not points:
      raise UserError('a sweep must have at least one run; this part of it is empty')
    self._points = tuple(dict(each) for each in points)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return (dict(each) for each in self._points)

  def __len__(self) -> int:
    return len(self._points)

  def __repr__(self) -> str:
    return f'Points({list(self._points)!r})'

  def __add__(self, other: 'Points') -> 'Points':
    return Points([*self, *_points(other)])

  def __mul__(self, other: 'Points') -> 'Points':
    points = []
    for a, b in itertools.product(self, _points(other)):
      both = [name for name in a if name in b]
      if both:
        raise UserError(
          f'{", ".join(both)} is on both sides of a product; leave it out on one side'
        )
      points.append(a | b)
    return Points(points)


def grid(fields: Mapping[str, Sequence]) -> Points:
  """Returns every combination of the fields' values, the last field changing fastest.

  Raises:
    UserError: there is no field, or one has no list of values.
  """
  rows = itertools.product(*_lists('grid', fields).values())
  return Points([dict(zip(fields, row, strict=True)) for row in rows])


def zipped(fields: Mapping[str, Sequence]) -> Points:
  """Returns a point for each place in the fields' lists, read side by side.

  Raises:
    UserError: there is no field, or the lists are of unequal length.
  """
  lists = _lists('zipped', fields)
  lengths = {name: len(values) for name, values in lists.items()}
  if len(set(lengths.values())) > 1:
    unequal = ', '.join(f'{name} has {length}' for name, length in lengths.items())
    raise UserError(f'zipped needs lists of equal length: {unequal}')
  rows = zip(*lists.values(), strict=True)
  return Points([dict(zip(fields, row, strict=True)) for row in rows])


def point(fields: Mapping[str, Any]) -> Points:
  """Returns the one point with these values; {} is the config as it is."""
  return Points([fields])


def chain(*parts: Points) -> Points:
  """Returns the points of all parts in order; raises UserError if there is none."""
  return Points([each for part in parts for each in _points(part)])


def _points(value: Any) -> Points:
  if not isinstance(value, Points):
    raise UserError(
      f'{value!r} is no part of a sweep; make one with grid, zipped, chain or point'
    )
  return value


def _lists(of: str, fields: Mapping[str, Sequence]) -> dict[str, list]:
  if not fields:
    raise UserError(f'{of} names no field; point({{}}) is the config as it is')
  for name, values in fields.items():
    if isinstance(values, (str, Mapping)) or not hasattr(values, '__len__'):
      raise UserError(
        f'{of}: {name}={values!r} must be a list of values; write [{values!r}]'
      )
    if not len(values):
      raise UserError(f'{of}: {name} has no values; give at least one')
  return {name: list(values) for name, values in fields.items()}
