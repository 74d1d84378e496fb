"""Runs of a sweep that one worker trains together, in a process of its own."""

import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from gpt_jax.config import UserError
from gpt_jax.paths import disk_error, hide_closed_loops
from gpt_jax.runs.train import Member, kind, train_together
from gpt_jax.sweep import plan
from gpt_jax.sweep.plan import LAUNCH, Entry
from gpt_jax.training import loop

_MAIN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from gpt_jax.sweep import worker
sys.exit(worker.main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


def groups(entries: Sequence[Entry], most: int, workers: int) -> list[list[Entry]]:
  """Returns the runs in groups of one kind, each to be trained together.

  Args:
    most: runs of a group; 0: all of a kind, divided among the workers.
  """
  kinds: dict[tuple, list[Entry]] = {}
  for entry in entries:
    kinds.setdefault(kind(entry.run), []).append(entry)
  parts = []
  for alike in kinds.values():
    number = -(-len(alike) // most) if most else min(workers, len(alike))
    bounds = [len(alike) * i // number for i in range(number + 1)]
    parts += [alike[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
  return parts


def arguments(
  folder: pathlib.Path, entries: Sequence[Entry], workers: int
) -> list[str]:
  """Returns the arguments of Python that train runs of the sweep in a folder."""
  names = [entry.name for entry in entries]
  return ['-c', _MAIN, str(LAUNCH.parent), str(folder), str(workers), *names]


def main(folder: str, workers: str, names: Sequence[str]) -> int:
  """Trains runs of the sweep in a folder together; returns the exit status."""
  logging.set_verbosity(logging.FATAL)  # as launch.py does
  hide_closed_loops()
  try:
    sweep = plan.load(folder)
    known = {entry.name: entry for entry in sweep.entries}
    chosen = [known[name] for name in names]
    members = [Member(e.run, e.workdir, {**sweep.given, **e.overrides}) for e in chosen]
    lost = train_together(members, argv=sweep.argv, sharing=int(workers))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except OSError as error:
    if not (text := disk_error(error, [folder])):
      raise
    print(f'error: {text}', file=sys.stderr)
    return 1
  except loop.Interrupted as stop:
    return 128 + stop.args[0]
  for workdir, at in lost.items():
    print(f'{workdir}: the loss of update {at} is not finite')
  return 0
