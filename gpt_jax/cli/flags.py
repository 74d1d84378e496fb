"""Flags that several verbs share."""

from absl import flags
from ml_collections import config_flags

from gpt_jax import config
from gpt_jax.config import UserError


def workdir(values):
  flags.DEFINE_string('workdir', None, 'folder of the run', flag_values=values)
  flags.mark_flag_as_required('workdir', flag_values=values)


def experiment(values):
  config_flags.DEFINE_config_file(
    'config',
    None,
    'experiment file, with an argument for its get_config after a colon; '
    '--config.FIELD=VALUE sets a field',
    flag_values=values,
  )
  flags.mark_flag_as_required('config', flag_values=values)


def checkpoint(values):
  flags.DEFINE_string(
    'checkpoint', 'best', "'best', 'latest' or a number of updates", flag_values=values
  )


def int8(values):
  flags.DEFINE_bool(
    'int8', False, "with the linear layers' weights in 8 bits", flag_values=values
  )


def overridden(values: flags.FlagValues) -> config.Run:
  """Returns the config, and prints what the command line changed in it."""
  changed = config_flags.get_override_values(values['config'])
  for name, value in changed.items():
    print(f'--config.{name}={value!r}')
  return values.config


def refuse(values, names: list[str], of: str) -> None:
  """Raises a UserError if a flag was given that has no effect on a command."""
  for name in names:
    if values[name].present:
      raise UserError(f'--{name} says nothing to {of}; leave it out')
