"""Runs of a sweep that one worker trains together, in a process of its own."""

import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from gpt_jax import together
from gpt_jax.config import UserError
from gpt_jax.sweep import plan
from gpt_jax.sweep.plan import LAUNCH, Entry
from gpt_jax.training import loop

_MAIN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from gpt_jax.sweep import group
sys.exit(group.main(sys.argv[1], sys.argv[2:]))
"""


def groups(entries: Sequence[Entry], most: int, workers: int) -> list[list[Entry]]:
  """Returns the runs in groups of one kind, each to be trained together.

  Args:
    entries: the runs.
    most: runs of a group; 0: as many as there are, shared out among the workers.
    workers: how many work at a time.
  """
  kinds: dict[tuple, list[Entry]] = {}
  for entry in entries:
    kinds.setdefault(together.kind(entry.run), []).append(entry)
  found = []
  for alike in kinds.values():
    size = most or -(-len(alike) // workers)
    found += [alike[at : at + size] for at in range(0, len(alike), size)]
  return found


def arguments(folder: pathlib.Path, entries: Sequence[Entry]) -> list[str]:
  """Returns the arguments of Python that train runs of the sweep in a folder."""
  return ['-c', _MAIN, str(LAUNCH.parent), str(folder), *(e.name for e in entries)]


def main(folder: str, names: Sequence[str]) -> int:
  """Trains runs of the sweep in a folder together; returns the exit status."""
  logging.set_verbosity(logging.FATAL)  # as launch.py does
  try:
    known = {entry.name: entry for entry in plan.load(folder).entries}
    chosen = [known[name] for name in names]
    lost = together.train([(e.run, e.workdir) for e in chosen], argv=sys.argv)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except loop.Interrupted as stop:
    return 128 + stop.args[0]
  for workdir, at in lost.items():
    print(f'{workdir}: the loss of update {at} is not finite')
  return 0
