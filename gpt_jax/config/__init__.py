"""The config of a run: fields (`schema`), rules (`checks`), the models of `papers`."""

from gpt_jax.config.checks import LARGEST, check, check_early, recorded, wrong_model
from gpt_jax.config.length import tokens_read
from gpt_jax.config.schema import (
  TRAINED,
  Data,
  Exams,
  Model,
  Optim,
  Run,
  Task,
  UserError,
)
from gpt_jax.config.values import (
  FREE_ON_RESUME,
  fields_with,
  flat,
  from_flat,
  identity,
  nearest,
)

__all__ = [
  'FREE_ON_RESUME',
  'LARGEST',
  'TRAINED',
  'Data',
  'Exams',
  'Model',
  'Optim',
  'Run',
  'Task',
  'UserError',
  'check',
  'check_early',
  'fields_with',
  'flat',
  'from_flat',
  'identity',
  'nearest',
  'recorded',
  'tokens_read',
  'wrong_model',
]
