"""Flags that several verbs share, and how values of flags are read."""

from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.config.experiment import load
from gpt_jax.paths import user_path

STORES = 's3://', 'gs://', 'abfs://', 'hdfs://'  # of URLs that fsspec opens


class _Whole(flags.IntegerParser):
  """Reads whole numbers; 1e4 is one."""

  def convert(self, argument):
    try:
      return super().convert(argument)
    except ValueError:
      number = float(argument)
      if abs(number) < 2**53 and number.is_integer():
        return int(number)
      raise


config_flags.register_flag_parser_for_type(int, _Whole())


class _Experiment(flags.ArgumentParser):
  """Reads the config of an experiment."""

  def parse(self, argument):
    return load(user_path(argument, '--config'))

  def flag_type(self):
    return 'experiment'


class _Path(flags.ArgumentParser):
  """Reads a path of the user."""

  def __init__(self, name: str, others: tuple[str, ...], workdir: bool):
    super().__init__()
    self._name, self._others, self._workdir = name, others, workdir

  def parse(self, argument):
    return user_path(
      argument, f'--{self._name}', others=self._others, workdir=self._workdir
    )

  def flag_type(self):
    return 'path'


def path_flag(
  values: flags.FlagValues,
  name: str,
  default: Any,
  what: str,
  *,
  several: bool = False,
  others: Sequence[str] = (),
  is_workdir: bool = False,
) -> None:
  """Defines a flag that takes a path; see `paths.user_path`.

  Args:
    default: None: the flag is required.
    several: whether it may be repeated.
  """
  parser = _Path(name, tuple(others), is_workdir)
  as_text = flags.ArgumentSerializer()
  if several:
    flags.DEFINE_multi(parser, as_text, name, default, what, flag_values=values)
  else:
    flags.DEFINE(parser, name, default, what, values, as_text)
  if default is None:
    flags.mark_flag_as_required(name, flag_values=values)


def paths(values: flags.FlagValues) -> list[str]:
  """Returns the paths among the values of flags."""
  found = []
  for name in values:
    if isinstance(values[name].parser, _Path):
      value = values[name].value
      found += value if isinstance(value, list) else [value]
  return [each for each in found if each]


def workdir(values):
  path_flag(values, 'workdir', None, 'folder of the run', is_workdir=True)


def experiment(values):
  config_flags.DEFINE_config_file(
    'config',
    None,
    'experiment file, with an argument for its get_config after a colon; '
    '--config.FIELD=VALUE sets a field',
    flag_values=values,
  )
  values['config'].parser = _Experiment()
  flags.mark_flag_as_required('config', flag_values=values)


def has_fields(values: flags.FlagValues) -> bool:
  """Returns whether a command line may set fields of a run's config."""
  return 'config' in values and isinstance(values['config'].parser, _Experiment)


def checkpoint(values):
  flags.DEFINE_string(
    'checkpoint', 'best', "'best', 'latest' or a number of updates", flag_values=values
  )


def weights(values):
  flags.DEFINE_string(
    'weights',
    '',
    "in how few bits: int8, or int4 with the output matrix in int8; '': as trained",
    flag_values=values,
  )
  flags.DEFINE_bool('int8', False, 'the same as --weights=int8', flag_values=values)


def few_bits(values: flags.FlagValues) -> str:
  """Returns the form of weights that a command line asks for; '': as trained."""
  if values.int8 and values.weights not in ('', 'int8'):
    raise UserError(f'--int8 and --weights={values.weights} differ; leave one out')
  return values.weights or ('int8' if values.int8 else '')


def on_flag(values, when: str = ''):
  flags.DEFINE_string(
    'on',
    '',
    f'{when}only compile, for devices that are not here, and print what it would take '
    'of them: h100:8, a100, v5e:4x4, v5p:2x2x1, .. (docs/scaling.md)',
    flag_values=values,
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
