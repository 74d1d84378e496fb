"""What a run is (`schema`), and what it may be (`rules`): read and changed as one."""

from gpt_jax.config.checks import check
from gpt_jax.config.schema import (
  LENGTH_AND_LOGGING,
  Data,
  Exams,
  Model,
  Optim,
  Run,
  Task,
  UserError,
  fields,
  fields_with,
  flat,
  from_flat,
  nearest,
)

__all__ = [
  'LENGTH_AND_LOGGING',
  'Data',
  'Exams',
  'Model',
  'Optim',
  'Run',
  'Task',
  'UserError',
  'check',
  'fields',
  'fields_with',
  'flat',
  'from_flat',
  'nearest',
]
