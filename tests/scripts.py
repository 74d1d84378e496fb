"""Scripts of experiments/ opened as modules, several in one process."""

import functools
import importlib.util
import pathlib
import types
from unittest import mock

from absl import flags

EXPERIMENTS = pathlib.Path(__file__).resolve().parent.parent / 'experiments'


def opened(name: str) -> types.ModuleType:
  """Returns a script's module, its flags apart from those of other scripts.

  Args:
    name: its path in experiments/.
  """
  own = flags.FlagValues()
  define = {
    each: functools.partial(getattr(flags, each), flag_values=own)
    for each in dir(flags)
    if each.startswith('DEFINE_')
  }
  path = EXPERIMENTS / name
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  with mock.patch.multiple(flags, **define):
    spec.loader.exec_module(module)
  own.mark_as_parsed()
  return module
