"""The facts about a field of a config: its range, and what it means for a run."""

import dataclasses
from typing import Any

# What a field means for a run; the first is the default.
ROLES = (
  'identity',  # another value is another run
  'number',  # as identity; compiled programs take it as an argument
  'training',  # as identity; but not of the model, or the tokens, that runs may share
  'start',  # as identity; only new weights depend on it, not what a model computes
  'execution',  # how the same is computed; changes at most the rounding
  'length',  # how long the run is, and what its later stages are
  'logging',  # what is measured and kept during training
  'place',  # where something is stored
)


def setting(
  default: Any,
  *,
  choices: tuple[str, ...] = (),
  low: float | None = None,
  below: float | None = None,
  role: str = 'identity',
  tasks: bool = True,
) -> Any:
  """Returns a field of the schema with the facts about it.

  The checks and all lists of fields derive from these facts, so that a new field is one
  line here.

  Args:
    choices: the texts it may be; empty: any.
    low: the smallest number it may be.
    below: numbers must be smaller than this.
    role: one of `ROLES`, or several separated by spaces.
    tasks: whether a fine-tuning may change it from its default.
  """
  facts = {'choices': choices, 'low': low, 'below': below, 'tasks': tasks}
  return dataclasses.field(default=default, metadata=facts | {'roles': roles_of(role)})


def roles_of(names: str) -> set[str]:
  """Returns the roles named in a text; a ValueError where one is unknown."""
  if unknown := set(names.split()) - set(ROLES):
    raise ValueError(f'roles {unknown} must be among {ROLES}')
  return set(names.split())
