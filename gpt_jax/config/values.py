"""The values of a config by dotted name, and lists of fields by what they mean."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from gpt_jax.config.schema import Run
from gpt_jax.config.setting import roles_of


def fields(
  config: Any, prefix: str = ''
) -> Iterator[tuple[str, dataclasses.Field, Any]]:
  """Yields the dotted name, the declaration and the value of every field, in order."""
  for each in dataclasses.fields(config):
    value = getattr(config, each.name)
    if dataclasses.is_dataclass(value):
      yield from fields(value, f'{prefix}{each.name}.')
    else:
      yield prefix + each.name, each, value


def flat(config: Any) -> dict[str, Any]:
  """Returns the values of a dataclass tree by dotted name, in the order declared."""
  return {name: value for name, _, value in fields(config)}


def fields_with(*roles: str, of: str | None = None) -> tuple[str, ...]:
  """Returns the dotted names of the fields that have at least one of the roles.

  Args:
    of: a section of the config, such as 'model', '' for the fields of `Run` itself;
      None: any section.
  """
  wanted = roles_of(' '.join(roles))
  return tuple(
    name
    for name, each, _ in fields(Run())
    if each.metadata.get('roles', {'identity'}) & wanted
    and of in (None, name.rpartition('.')[0])
  )


# A run may be resumed with other values of these; any other field makes another run.
FREE_ON_RESUME = fields_with('execution', 'length', 'logging')


def identity(run: Run) -> str:
  """Returns a hash of what makes a run this one: fields that a resume must not change.

  Fields at their defaults are left out, so that a new field changes no run's.
  """
  usual = flat(Run())
  own = {
    name: value
    for name, value in flat(run).items()
    if value != usual[name] and name not in FREE_ON_RESUME
  }
  return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def from_flat(values: dict[str, Any]) -> Run:
  """Returns the run with the given values by dotted name; others keep their defaults.

  Raises:
    KeyError: a name is not in the schema.
  """
  run = Run()
  known = flat(run)
  for name, value in values.items():
    *path, last = name.split('.')
    target = run
    for part in path:
      target = getattr(target, part)
    setattr(target, last, tuple(value) if isinstance(known[name], tuple) else value)
  return run


def nearest(name: str, names: Iterable[str]) -> str:
  """Returns ' Did you mean ...?' with the names closest to `name`, or ''."""
  names = list(names)
  close = difflib.get_close_matches(name, names, 3, 0.5)
  last = name.rsplit('.', 1)[-1]
  close += [n for n in names if n.rsplit('.', 1)[-1] == last and n not in close]
  return f' Did you mean {" or ".join(close)}?' if close else ''
