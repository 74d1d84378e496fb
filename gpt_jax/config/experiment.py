"""Experiments: Python files of the user, run and made into a config."""

import contextlib
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

from gpt_jax.config import schema
from gpt_jax.config.schema import Run, UserError
from gpt_jax.config.values import nearest

_NAME = 'config_file'  # of the module; a class in the file needs one to be found by
_SECTIONS = {
  each.__name__: each
  for each in (Run, schema.Data, schema.Model, schema.Optim, schema.Task, schema.Exams)
}


def load(argument: str, function: str = 'get_config', kind: type = Run) -> Any:
  """Returns what a function of a user's file makes: the config of an experiment.

  Args:
    argument: FILE or FILE:VARIANT, where VARIANT is the argument of the function.
    function: name of it.
    kind: what it must return.

  Raises:
    UserError: there is no such file, it can't be run, or the function is not there,
      takes no such argument or returns no `kind`.
  """
  what = 'config.Run' if kind is Run else kind.__name__
  file, colon, variant = argument.partition(':')
  if not file:
    raise UserError(f'--config={argument} names no file')
  make = getattr(run_file(file, _NAME), function, None)
  if not callable(make):
    raise UserError(
      f'{file} has no {function}(): an experiment is a file with a function of this '
      f'name that returns {what}'
    )
  given = [variant] if colon else []
  try:
    inspect.signature(make).bind(*given)
  except TypeError as error:
    raise UserError(
      f'{file}: {function}() takes no variant; write --config={file}'
      if given
      else f'{file}: {function}() needs a variant; write --config={file}:VARIANT'
    ) from error
  with blamed_on(file):
    made = make(*given)
  if not isinstance(made, kind):
    raise UserError(f'{file}: {function}() returned {type(made).__name__}, not {what}')
  return made


def run_file(file: str | pathlib.Path, name: str) -> types.ModuleType:
  """Runs a Python file of the user and returns its module.

  Args:
    name: of the module in sys.modules.

  Raises:
    UserError: there is no such file, or it raises; file and line are named.
  """
  path = pathlib.Path(file)
  if not path.is_file():
    near = difflib.get_close_matches(path.name, [p.name for p in _beside(path)], 3, 0.5)
    names = ' or '.join(str(path.with_name(each)) for each in near)
    what = 'is a folder, not a Python file' if path.is_dir() else 'is not there'
    raise UserError(f'{file!s} {what}' + (f'. Did you mean {names}?' if near else ''))
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  module = importlib.util.module_from_spec(
    importlib.util.spec_from_loader(name, loader, origin=str(path))
  )
  module.__file__ = str(path)  # an experiment may build on one beside it
  sys.modules[name] = module
  with blamed_on(file):
    loader.exec_module(module)
  return module


def _beside(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the Python files in the folder of a path."""
  return sorted(path.parent.glob('*.py')) if path.parent.is_dir() else []


@contextlib.contextmanager
def blamed_on(file: str | pathlib.Path) -> Iterator[None]:
  """Makes one sentence of what the code of a user's file raises, with its line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # whatever the user's own code raises
    place = str(file)
    if isinstance(error, SyntaxError):
      reason = error.msg
      place = f'{error.filename}, line {error.lineno}' if error.lineno else place
    else:
      reason = ' '.join(str(error).split())
      frames = traceback.extract_tb(error.__traceback__)
      lines = [f.lineno for f in frames if f.filename == str(pathlib.Path(file))]
      place += f', line {lines[-1]}' if lines else ''
    raise UserError(
      f'{place}: {type(error).__name__}: {reason}{_nearest_field(error)}'
    ) from error


def _nearest_field(error: Exception) -> str:
  """Returns which field may be meant by a name that the schema does not have, or ''."""
  found = re.match(
    r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
  )
  owner, name = found.groups() if found else ('', '')
  if owner not in _SECTIONS:
    return ''
  names = [each.name for each in dataclasses.fields(_SECTIONS[owner])]
  return f'.{near}' if (near := nearest(name, names)) else ''
