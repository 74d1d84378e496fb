"""Damaged checkpoints, as a power cut or a bad disk leaves them; and single bits.

The newest checkpoint of a run, finished or interrupted, is damaged in one place. Then
`train`, `sample` and `eval` each work on a copy of their own. What may come of it:

  recovered  all is as if nothing had happened, and a line says what was passed over
  named      one line of error names the checkpoint, and the file or the tensor
  harmless   all is as if nothing had happened: what was damaged does not matter
  UNCLEAR    an error, but it doesn't name them, or is not one line
  SILENT     something else was loaded or trained, or nothing said that it was older
  TRACEBACK  a traceback, or death by a signal
"""

import functools
import json
import pathlib
import random
import re
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.injected import forked, place

CLASSES = 'recovered', 'named', 'harmless', 'UNCLEAR', 'SILENT', 'TRACEBACK'
BASES = 'finished', 'interrupted'
_COMMANDS = {
  'train': ('train', '--config=run.py'),
  'sample': ('sample', '--checkpoint=latest', '--max_new_tokens=4', '--seed=0'),
  'eval': ('eval', '--checkpoint=latest'),
}
_ON_FILES = 'truncated', 'zeroed', 'removed', 'renamed', 'flipped'
# What a line about a checkpoint that is passed over says, besides its number.
_SAYS = r'damaged|is not there'
# Lines on stderr that are there without any damage.
_USUAL = re.compile(r'update \d+|stopping: |\s*$')


class Fault(NamedTuple):
  """What is done to the newest checkpoint of a run.

  Attributes:
    base: the run, one of `BASES`.
    where: the place of a file or folder in the checkpoint; '' for all of it.
  """

  base: str
  what: str
  where: str


@functools.cache
def bases(folder: pathlib.Path) -> dict[str, Any]:
  """Makes the two runs, and returns what is to be expected of them.

  Of each its checkpoints' steps, and a hash of the weights that each gives to a model.
  """
  left = place.wanted(folder, 'train')
  shutil.copytree(folder / 'undisturbed_train', folder / 'finished')
  for _ in range(20):
    shutil.rmtree(folder / 'interrupted', ignore_errors=True)
    command = forked.Command(folder, *_COMMANDS['train'], '--workdir=interrupted')
    while not (folder / 'interrupted/checkpoints/40').exists() and not command.ended():
      time.sleep(0.002)
    command.kill()
    command.end()
    *older, _, _, last = _steps(folder / 'interrupted')
    for step in older:  # one that was being removed
      shutil.rmtree(folder / f'interrupted/checkpoints/{step}')
    if last in (40, 50):
      break
  digests = {}
  for base in BASES:
    digests |= forked.apart(_weights, folder / base)
  steps = {base: _steps(folder / base) for base in BASES}
  return {'left': left, 'steps': steps, 'digests': digests}


def faults(folder: pathlib.Path, known: dict[str, Any]) -> list[Fault]:
  """Returns every fault of every file and folder of the newest checkpoints."""
  found = []
  for base in BASES:
    newest = _newest(folder / base, known['steps'][base])
    for path in sorted(newest.rglob('*')):
      where = str(path.relative_to(newest))
      if path.is_dir():
        found.append(Fault(base, 'removed folder', where))
        continue
      kinds = _ON_FILES if path.stat().st_size else ('removed', 'renamed')
      found += [Fault(base, what, where) for what in kinds]
    found += [
      Fault(base, 'removed folder', ''),
      Fault(base, 'empty, of a higher number', ''),
      Fault(base, 'an older one under its number', ''),
      Fault(base, 'itself under a higher number', ''),
    ]
  return found


def case(
  folder: pathlib.Path, fault: Fault, number: int, seed: int, known: dict[str, Any]
) -> dict[str, Any]:
  """Damages a run's newest checkpoint, and says what each command makes of it.

  Args:
    known: what `bases` returned.
  """
  fault = Fault(*fault)
  steps = known['steps'][fault.base]
  outcomes, said = {}, {}
  for verb in _COMMANDS:
    rng = random.Random(f'damage {number} {seed}')  # the same damage for each
    workdir = folder / f'damaged_{number}_{verb}'
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(folder / fault.base, workdir)
    struck = _plant(workdir, fault, steps, rng)
    judge = _judged_training if verb == 'train' else _judged_model
    done, loaded = _watched(folder, verb, f'--workdir={workdir.name}')
    outcomes[verb] = _failed(done, struck, fault) or judge(
      folder, workdir, fault, struck, done, loaded, known
    )
    said[verb] = (done.out + done.err).strip()[-400:]
    shutil.rmtree(workdir, ignore_errors=True)
  return {'fault': list(fault), 'outcomes': outcomes, 'said': said}


def _watched(
  folder: pathlib.Path, verb: str, *more: str
) -> tuple[forked.Ended, dict[str, Any]]:
  """Returns how a command ended, and a hash of the weights of its first model."""
  record = folder / f'.weights.{time.monotonic_ns()}'

  def watch() -> None:
    from gpt_jax.inference.language_model import LanguageModel
    from gpt_jax.training import checksums

    begin = LanguageModel.__init__

    def recorded(self, *given, **named) -> None:
      begin(self, *given, **named)
      if not record.exists():
        about = {'step': self.step, 'digest': checksums.digest(self.params)}
        record.write_text(json.dumps(about))

    LanguageModel.__init__ = recorded

  done = forked.run(folder, *_COMMANDS[verb], *more, before=watch)
  loaded = json.loads(record.read_text()) if record.exists() else {}
  record.unlink(missing_ok=True)
  return done, loaded


def _failed(done: forked.Ended, struck: int, fault: Fault) -> str:
  """Returns the class of a command that failed; '' if it did not."""
  text = done.out + done.err
  if 'Traceback' in text or done.code < 0:
    return 'TRACEBACK'
  if not done.code:
    return ''
  lines = [x for x in done.err.splitlines() if not _USUAL.match(x)]
  tensor = r'[\w./]+/(kernel|bias|scale|wte|wpe)|wte|wpe|params|rest|ema|opt_state'
  file = pathlib.Path(fault.where).name
  names = re.search(tensor, text) or (file and file in text) or not file
  number = re.search(rf'\b{struck}\b', text)
  return 'named' if len(lines) == 1 and names and number else 'UNCLEAR'


def _judged_model(folder, workdir, fault, struck, done, loaded, known) -> str:
  """Returns the class of a command that loaded a model and did not fail."""
  steps = known['steps'][fault.base]
  step = str(loaded.get('step'))
  if loaded.get('digest') != known['digests'].get(step):
    return 'SILENT'
  if _says(done, fault, struck, step):
    return 'recovered'
  return 'harmless' if step == str(max(steps)) else 'SILENT'


def _judged_training(folder, workdir, fault, struck, done, loaded, known) -> str:
  """Returns the class of a training that did not fail."""
  try:
    found = forked.apart(place.left, workdir)
  except RuntimeError:  # it left a checkpoint that can't be read
    return 'SILENT'
  last = 'checkpoints/60'
  same = all(
    found.get(name) == text
    for name, text in known['left'].items()
    if name == last or not name.startswith('checkpoints/') or name in found
  )
  if not same:
    return 'SILENT'
  newest = max(known['steps'][fault.base])
  on = re.search(r'going on from .*?(\d+)$', done.out, re.MULTILINE)
  at = int(on[1]) if on else 60 if 'updates are done' in done.out else 0
  if _says(done, fault, struck, str(at)):
    return 'recovered'
  return 'harmless' if at == newest else 'SILENT'


def _says(done: forked.Ended, fault: Fault, struck: int, used: str) -> bool:
  """Returns whether a line says that a checkpoint was passed over.

  One that is gone without a trace can't be told from one that a kill prevented: there
  it is enough to say which one is used.
  """
  gone = fault.what == 'removed folder' and not fault.where
  return any(
    (re.search(rf'\b{struck}\b', line) and re.search(_SAYS, line))
    or (gone and f'checkpoint of update {used}' in line)
    for line in (done.out + done.err).splitlines()
  )


def _plant(
  workdir: pathlib.Path, fault: Fault, steps: list[int], rng: random.Random
) -> int:
  """Damages a workdir; returns the number of the checkpoint that is damaged by it."""
  newest = _newest(workdir, steps)
  above = newest.with_name(str(max(steps) + 10))
  path = newest / fault.where
  if fault.what == 'removed folder':
    shutil.rmtree(path)
  elif fault.what == 'empty, of a higher number':
    above.mkdir()
    return int(above.name)
  elif fault.what == 'an older one under its number':
    shutil.rmtree(newest)
    shutil.copytree(newest.with_name(str(sorted(steps)[-2])), newest)
  elif fault.what == 'itself under a higher number':
    shutil.copytree(newest, above)
    return int(above.name)
  elif fault.what == 'removed':
    path.unlink()
  elif fault.what == 'renamed':
    path.rename(f'{path}~')
  else:
    path.write_bytes(_CHANGES[fault.what](bytearray(path.read_bytes()), rng))
  return max(steps)


def flipped(data: bytearray, rng: random.Random) -> bytearray:
  """Returns bytes with one bit changed."""
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return data


_CHANGES: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
  'truncated': lambda data, rng: data[: rng.randrange(len(data))],
  'zeroed': lambda data, rng: bytearray(len(data)),
  'flipped': flipped,
}


def flips(
  folder: pathlib.Path, number: int, seed: int, count: int, known: dict[str, Any]
) -> dict[str, Any]:
  """Flips bits of array data one at a time, and loads what they are in.

  Each is loaded twice: all of the state, as training resumes, and the weights alone, as
  a model is opened.

  Returns:
    Of each flip its item, file, byte, and 'noticed' (a UserError), 'harmless' (all is
    as before), 'UNNOTICED' or 'TRACEBACK'.
  """
  from gpt_jax.config import UserError

  rng = random.Random(f'flips {number} {seed}')
  workdir = folder / f'flipped_{number}'
  step = max(known['steps']['finished'])

  def renew() -> list[pathlib.Path]:
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(folder / 'finished', workdir)
    newest = workdir / f'checkpoints/{step}'
    return [p for p in sorted(newest.rglob('*')) if p.parent.name == 'd']

  files = renew()
  good = [load(workdir, step) for load in (_resumed, _opened)]
  outcomes = []
  for _ in range(count):
    path = rng.choices(files, [file.stat().st_size for file in files])[0]
    before = path.read_bytes()
    path.write_bytes(flipped(bytearray(before), rng))
    each = []
    for load, wanted in zip((_resumed, _opened), good, strict=True):
      try:
        each.append('harmless' if load(workdir, step) == wanted else 'UNNOTICED')
      except UserError:
        each.append('noticed')
      except Exception as error:  # any other is a fault
        each.append(f'TRACEBACK: {type(error).__name__}')
    item = path.relative_to(workdir / f'checkpoints/{step}').parts[0]
    outcomes.append([item, *each])
    if path.exists():
      path.write_bytes(before)
    else:  # moved aside
      files = renew()
  shutil.rmtree(workdir)
  return {'flips': outcomes}


def _resumed(workdir: pathlib.Path, step: int) -> str:
  """Returns a hash of the state from which training resumes."""
  import jax

  from gpt_jax.model.gpt_config import GPTConfig
  from gpt_jax.runs.workdir import read_about, read_run
  from gpt_jax.training import checkpoint, checksums, sharding
  from gpt_jax.training.step import new_state

  run = read_run(workdir)
  cfg = GPTConfig.of(run.model, read_about(workdir)['vocab'])
  like = sharding.Layout(jax.devices()[:1]).state_shapes(lambda: new_state(run, cfg))
  saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
  try:
    state = saved.restore(step, like)
  finally:
    saved.close()
  return checksums.digest((state.params, state.opt_state, state.ema, state.step))


def _opened(workdir: pathlib.Path, step: int) -> str:
  """Returns a hash of the weights of the model that is opened."""
  from gpt_jax.runs.load import load
  from gpt_jax.training import checksums

  return checksums.digest(load(workdir, str(step)).params)


def _weights(workdir: pathlib.Path) -> dict[str, str]:
  """Returns the hashes of the weights that its checkpoints give to a model."""
  return {str(step): _opened(workdir, step) for step in _steps(workdir)}


def _steps(workdir: pathlib.Path) -> list[int]:
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return sorted(int(name) for name in names if name.isdigit())


def _newest(workdir: pathlib.Path, steps: list[int]) -> pathlib.Path:
  return workdir / f'checkpoints/{max(steps)}'
