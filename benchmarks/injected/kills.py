"""Kills at random moments: what is left, once the command ended, must be the same."""

import os
import pathlib
import random
import time
from typing import Any

from benchmarks.injected import forked, place

# Of all kills, how many each verb gets.
SHARES = {
  'train': 0.35,
  'fine-tuning': 0.2,
  'prepare': 0.15,
  'sweep': 0.1,
  'eval of tasks': 0.1,
  'eval of text': 0.1,
}
_MOST = 5  # kills of a workdir
_TRIES = 4  # of a command to end once nobody kills it


def undisturbed(folder: pathlib.Path, verb: str) -> dict[str, Any]:
  """Returns what a verb leaves that nothing disturbs, and how many seconds it takes.

  Raises:
    RuntimeError: it fails, or two times leave different things.
  """
  first = place.wanted(folder, verb)  # compiles
  begin = time.monotonic()
  left = place.undisturbed(folder, verb)
  seconds = time.monotonic() - begin
  if differing := place.differences(first, left):
    raise RuntimeError(f'{verb} leaves other things the second time: {differing}')
  return {'left': left, 'seconds': seconds}


def case(
  folder: pathlib.Path, verb: str, number: int, seed: int, wanted: dict[str, Any]
) -> dict[str, Any]:
  """Kills a verb's command up to 5 times, lets it end, and compares what it left.

  Args:
    wanted: what `undisturbed` returned.

  Returns:
    Kills, those of them in the midst of writing, the differences, and files left over.
  """
  rng = random.Random(f'kills {verb} {number} {seed}')
  name = f'killed_{verb}_{number}'.replace(' ', '_')
  workdir = place.fresh(place.VERBS[verb], folder, name)
  arguments = place.VERBS[verb].of_workdir(workdir.name)
  kills, writing, wrong = 0, 0, []
  for _ in range(rng.randint(1, _MOST)):
    before = _unfinished(workdir)
    command = forked.Command(folder, *arguments)
    command.ended(within=rng.uniform(0, wanted['seconds']))
    what = rng.choice(('command', 'all', 'worker')) if verb == 'sweep' else 'command'
    ended = command.ended()
    if not ended:
      command.kill(what, rng)
      kills += 1
      writing += bool(_unfinished(workdir) - before)
    done = command.end()
    wrong += _complaints(done)
    if ended:
      break
  for _ in range(_TRIES):
    done = forked.run(folder, *arguments)
    wrong += _complaints(done)
    if not done.code:
      break
  else:
    wrong.append('it does not end well')
  found = place.differences(wanted['left'], forked.apart(place.left, workdir))
  extra = [name for name in found if name.endswith(place.LEFT_OVER)]
  wrong += [name for name in found if name not in extra]
  return {
    'verb': verb,
    'kills': kills,
    'writing': writing,
    'differences': wrong,
    'left over': extra,
  }


def _complaints(done: forked.Ended) -> list[str]:
  """Returns what a command that nobody killed should not have said."""
  if done.code < 0:
    return []
  if 'Traceback' in done.out + done.err:
    return [f'a traceback: {done.err.strip().splitlines()[-1]}']
  return [f'exit {done.code}: {done.err.strip()[-300:]}'] if done.code else []


def _unfinished(workdir: pathlib.Path) -> set[str]:
  """Returns the names of files and folders that are not whole yet."""
  marks = 'orbax-checkpoint-tmp', '.tmp', 'preparing'
  return {
    os.path.join(folder, name)
    for folder, folders, files in os.walk(workdir)  # passes over what just went away
    for name in folders + files
    if any(mark in name for mark in marks)
  }
