"""The result of an experiment as a file to commit, without paths of a machine.

`experiments_table` makes the table of experiments/README.md from such files.
"""

import dataclasses
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from gpt_jax.config import UserError
from gpt_jax.files import field, of_kind, read_json, shown, write_whole
from gpt_jax.runs import provenance


class Measured(NamedTuple):
  """One number, with its 95 % interval where there is one."""

  what: str
  value: float
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of an experiment.

  Attributes:
    experiment: its file, below experiments/.
    variant: the argument of its get_config, or ''.
    command: the command that gave it, with placeholders for paths.
    fields: the experiment's config at that time; {} for a script.
    cost: parameters, updates, tokens and seconds where they are known; seconds are the
      mean over runs, and the sum over the seeds of a fine-tuning.
    made_of: commit, python, jax and device; and text, a digest of the held-out text.
  """

  experiment: str
  variant: str
  command: str
  measured: Sequence[Measured]
  fields: dict[str, Any]
  cost: dict[str, float]
  made_of: dict[str, str]


def command(argv: Sequence[str]) -> str:
  """Returns a command for the table, with only the last part of absolute paths."""
  # A path begins a word, or follows one of =,: as in flags, lists and hf:PATH.
  place = re.compile(r'(?<![^=,:\s])(?:~|\.\.|)/(?!/)[^,:\s]*')
  shortened = lambda match: f'PATH/{pathlib.PurePath(match[0]).name}'  # noqa: E731
  return f'python {shlex.join(place.sub(shortened, word) for word in argv)}'


def experiment(path: str | pathlib.Path) -> str:
  """Returns the path below experiments/ of one of its files.

  Raises:
    UserError: it is in no folder experiments/.
  """
  parts = pathlib.Path(path).parts
  if 'experiments' not in parts[:-1]:
    raise UserError(f'{path or "no file"} is not of experiments/; record what is')
  last = len(parts) - 1 - parts[::-1].index('experiments')
  return '/'.join(parts[last + 1 :])


def of_script(
  path: str | pathlib.Path, script: str, measured: Sequence[Measured]
) -> None:
  """Writes what a script of experiments/ measured in this process.

  `script` is its `__file__`. Commit and devices are those of now; what the script
  reads, such as finished runs, may be older.
  """
  below = experiment(script)
  here = provenance.now(jax.devices())
  shown = command([f'experiments/{below}', *sys.argv[1:]])
  write(path, Result(below, '', shown, measured, {}, {}, made_of(here)))


def made_of(known: dict[str, Any]) -> dict[str, str]:
  """Returns the part of `provenance.now` that the table shows."""
  git, devices = known.get('git', {}), known.get('devices', [])
  commit = git.get('commit', 'unknown')[:12] + '+' * bool(git.get('diff'))
  return {
    'commit': commit,  # a + says that there were uncommitted changes
    'python': known.get('python', 'unknown'),
    'jax': known.get('versions', {}).get('jax') or 'unknown',
    'device': f'{len(devices)} x {devices[0]}' if devices else 'unknown',
  }


def write(path: str | pathlib.Path, result: Result) -> None:
  """Writes a result file."""
  text = json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False)
  write_whole(pathlib.Path(path), text + '\n')


def read(path: str | pathlib.Path) -> Result:
  """Returns the result in a file; raises UserError if it is no result."""
  about = read_json(path, remedy=_AGAIN)
  kinds = {'experiment': str, 'variant': str, 'command': str, 'measured': list}
  kinds |= {'fields': dict, 'cost': dict, 'made_of': dict}
  if strange := [name for name in about if name not in kinds]:
    raise UserError(f'{path} is damaged: what is {shown(strange[0])}? {_AGAIN}')
  values = {
    name: field(about, name, kind, path, _AGAIN) for name, kind in kinds.items()
  }
  for name, kind in (('cost', float), ('made_of', str)):
    for value in values[name].values():
      of_kind(value, kind, f'{path}: {name}', _AGAIN)
  measured = [_measured(each, f'{path}: measured') for each in about['measured']]
  return Result(**values | {'measured': measured})


_AGAIN = 'record it again'


def _measured(listed: Any, where: str) -> Measured:
  """Returns a number of a result file: [what, value, low, high]."""
  if not isinstance(listed, list) or not 2 <= len(listed) <= 4:
    raise UserError(f'{where} is damaged: {shown(listed)} is no number; {_AGAIN}')
  what, value, *bounds = listed
  bounds = [None if b is None else of_kind(b, float, where, _AGAIN) for b in bounds]
  of_kind(what, str, where, _AGAIN)
  return Measured(what, of_kind(value, float, where, _AGAIN), *bounds)
