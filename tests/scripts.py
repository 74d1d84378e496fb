"""launch.py and scripts of experiments/, run in the process of the tests."""

import contextlib
import functools
import importlib.util
import io
import pathlib
import subprocess
import sys
import types
from unittest import mock

from absl import flags

import launch as entry

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


def launch(folder: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess:
  """Runs launch.py as a process would, without the seconds that one takes to start.

  An exception that would be a traceback there is raised.

  Args:
    folder: the working directory.
  """
  line, code = ['launch.py', *map(str, arguments)], 0
  with (
    contextlib.chdir(folder),
    contextlib.redirect_stdout(io.StringIO()) as out,
    contextlib.redirect_stderr(io.StringIO()) as err,
    mock.patch.object(sys, 'argv', line),
  ):
    try:
      entry.main()
    except SystemExit as stop:
      code = stop.code or 0
  if isinstance(code, str):
    err.write(f'{code}\n')
    code = 1
  return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())
