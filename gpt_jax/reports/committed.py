"""What an experiment gave, as a file that can be committed: no paths, no arrays.

`experiments/table.py` makes a table of such files.
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
from gpt_jax.files import write_whole
from gpt_jax.runs import provenance


class Measured(NamedTuple):
  """One number; low and high are its 95 % interval, where there is one."""

  what: str
  value: float
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
  """What an experiment gave.

  Attributes:
    experiment: its file, below experiments/.
    variant: what stands behind a colon of its name, or ''.
    command: that made it, with placeholders for paths.
    measured: numbers.
    fields: of the experiment's config as it was; {} of a script.
    cost: parameters, updates, tokens and seconds, those that are known: of several
      runs the mean of one, of a fine-tuning all seeds.
    made_of: commit, python, jax and device; and text, a digest of what was held out.
  """

  experiment: str
  variant: str
  command: str
  measured: Sequence[Measured]
  fields: dict[str, Any]
  cost: dict[str, float]
  made_of: dict[str, str]


def command(argv: Sequence[str]) -> str:
  """Returns a command as a table may show it: of absolute paths only the last part."""
  # A place stands at the beginning, or behind the sign of a flag, a list or a kind.
  place = re.compile(r'(?<![^=,:\s])(?:~|\.\.|)/(?!/)[^,:\s]*')
  shortened = lambda found: f'PATH/{pathlib.PurePath(found[0]).name}'  # noqa: E731
  return f'python {shlex.join(place.sub(shortened, word) for word in argv)}'


def experiment(path: str | pathlib.Path) -> str:
  """Returns the path below experiments/ of one of its files.

  Raises:
    UserError: it is in no such folder.
  """
  parts = pathlib.Path(path).parts
  if 'experiments' not in parts[:-1]:
    raise UserError(f'{path or "no file"} is not of experiments/; keep what is')
  last = len(parts) - 1 - parts[::-1].index('experiments')
  return '/'.join(parts[last + 1 :])


def of_script(
  path: str | pathlib.Path, script: str, measured: Sequence[Measured]
) -> None:
  """Writes what a script of experiments/ measured, run by this process's command.

  Args:
    path: of the file to write.
    script: its `__file__`.
    measured: numbers.

  What the script reads, such as finished runs, may have been made elsewhere.
  """
  below = experiment(script)
  here = provenance.now(jax.devices())
  shown = command([f'experiments/{below}', *sys.argv[1:]])
  write(path, Result(below, '', shown, measured, {}, {}, made_of(here)))


def made_of(known: dict[str, Any]) -> dict[str, str]:
  """Returns what a reader of a table wants to know of `environment.now`."""
  git, devices = known.get('git', {}), known.get('devices', [])
  commit = git.get('commit', 'unknown')[:12] + '+' * bool(git.get('diff'))
  return {
    'commit': commit,  # a + says that there were uncommitted changes
    'python': known.get('python', 'unknown'),
    'jax': known.get('versions', {}).get('jax') or 'unknown',
    'device': f'{len(devices)} x {devices[0]}' if devices else 'unknown',
  }


def write(path: str | pathlib.Path, result: Result) -> None:
  """Writes a result, whole or not at all."""
  text = json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False)
  write_whole(pathlib.Path(path), text + '\n')


def read(path: str | pathlib.Path) -> Result:
  """Returns the result in a file.

  Raises:
    UserError: it holds none.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    found['measured'] = [Measured(*each) for each in found['measured']]
    return Result(**found)
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'{path} is no result: {error!r}; record it again') from error
