"""A workdir: what it holds, and how it is opened.

run.json (the config and all that the run was made of), tokenizer/, tokens/ (unless
data.tokens names another folder), checkpoints/, metrics.jsonl, tensorboard/ and
samples.txt.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from gpt_jax import config, hugging_face, tokenizers
from gpt_jax.classifier import Classifier
from gpt_jax.config import UserError
from gpt_jax.data import prepare, tokens
from gpt_jax.data.task_table import TASKS, Task
from gpt_jax.files import write_whole
from gpt_jax.language_model import LanguageModel
from gpt_jax.model.gpt import Shape, init_params
from gpt_jax.training import checkpoint, task_step
from gpt_jax.training.record import read_metrics

_PACKAGES = 'jax jaxlib flax optax orbax-checkpoint numpy grain sentencepiece'.split()


class Prepared(NamedTuple):
  """The tokens of a run."""

  tokenizer: tokenizers.Tokenizer
  train: tokens.TokenFile
  valid: tokens.TokenFile


def prepared(
  run: config.Run, workdir: pathlib.Path, report: Callable[[str], None] = print
) -> Prepared:
  """Returns the tokenizer and tokens of a run, made first where they are missing.

  With `init_from` the tokenizer is that run's, copied once. Where data.tokens names
  another folder, the tokenizer is copied into the workdir, which so stays complete.
  """
  if not run.data.source:
    raise UserError(
      f"data.source='' names no text for {workdir}; set --config.data.source. If these "
      'are imported weights, train and evaluate in a new workdir that starts from '
      f'them: --config.init_from={workdir}'
    )
  folder = pathlib.Path(run.data.tokens or workdir)
  own = pathlib.Path(workdir) / 'tokenizer'
  given = None
  if run.init_from:
    given = own if own.exists() else pathlib.Path(run.init_from) / 'tokenizer'
  prepare.prepare(run.data, folder, report=report, tokenizer=given)
  made = folder / 'tokenizer'
  if not own.exists():
    staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
    shutil.copytree(made, staged, dirs_exist_ok=True)
    staged.rename(own)
  files = [tokens.open_tokens(folder / 'tokens' / part) for part in ('train', 'valid')]
  digest = tokenizers.digest(own)
  if any(file.tokenizer != digest for file in files):
    raise UserError(
      f'{own} is not the tokenizer that made {folder / "tokens"}; remove the one that '
      'does not belong there'
    )
  return Prepared(tokenizers.load(own), *files)


@contextlib.contextmanager
def alone(workdir: pathlib.Path, *, shared: bool = False) -> Iterator[None]:
  """Keeps a second process from training in the same workdir.

  Args:
    workdir: is there.
    shared: whether others that share it too may be in it: jobs of one sweep.
  """
  with open(workdir / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'workdir={workdir} is in use by another training process; wait for it or '
        'choose another workdir'
      ) from None
    yield


def in_use(workdir: pathlib.Path) -> bool:
  """Returns whether a process trains in a workdir, which need not be there yet."""
  if not workdir.exists():
    return False
  try:
    with alone(workdir):
      return False
  except UserError:
    return True


def read_run(workdir: str | pathlib.Path) -> config.Run:
  """Returns the config in a workdir's run.json."""
  path = pathlib.Path(workdir) / 'run.json'
  if not path.exists():
    raise UserError(f'{workdir} is no workdir: it has no run.json')
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))['config']
    return config.from_flat(fields)
  except (KeyError, TypeError, json.JSONDecodeError) as error:
    raise UserError(f'{path} is damaged: {error!r}') from error


def check_same_run(run: config.Run, workdir: pathlib.Path) -> None:
  """Raises UserError where the workdir holds a run that this one does not continue."""
  if not (workdir / 'run.json').exists():
    return
  old, new = config.flat(read_run(workdir)), config.flat(run)
  differing = [
    f'{name}: {old[name]!r} there, {new[name]!r} now'
    for name in new
    if old[name] != new[name] and name not in config.LENGTH_AND_LOGGING
  ]
  if differing:
    raise UserError(
      f'workdir={workdir} holds another run; choose another workdir, or run it with '
      'the same config\n' + '\n'.join(differing)
    )


def write_run_json(
  run: config.Run,
  workdir: pathlib.Path,
  *,
  vocab: int,
  data: dict[str, str],
  devices: Sequence[jax.Device],
  argv: Sequence[str],
) -> None:
  """Writes what the run is made of.

  Args:
    run: its config.
    workdir: where to.
    vocab: the tokenizer's entries.
    data: checksums of what it is trained and judged on.
    devices: that it uses.
    argv: the command.
  """
  about = {
    'config': config.flat(run),
    'argv': list(argv),
    'vocab': vocab,
    'git': git_state(),
    'versions': {'python': platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _PACKAGES},
    'devices': [f'{d.platform}: {d.device_kind}' for d in devices],
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'data': data,
  }
  write_whole(workdir / 'run.json', json.dumps(about, indent=1) + '\n')


def git_state() -> dict[str, str]:
  """Returns the commit and uncommitted change of this code; {} outside a checkout."""
  root = pathlib.Path(__file__).resolve().parent.parent

  def git(*command):
    return subprocess.run(
      ['git', *command], cwd=root, capture_output=True, text=True, check=True
    ).stdout

  try:
    return {'commit': git('rev-parse', 'HEAD').strip(), 'diff': git('diff', 'HEAD')}
  except (OSError, subprocess.CalledProcessError):
    return {}


def load(
  path: str | pathlib.Path, checkpoint_step: str | int = 'best'
) -> LanguageModel:
  """Returns the `LanguageModel` in a workdir or a folder of weights.

  Of a workdir that was fine-tuned on a task it is a `Classifier`, the best seed's; the
  others are in the folders seed_N.

  Args:
    path: a workdir, a Hugging Face folder, or hf:NAME@REVISION (see `hugging_face`).
    checkpoint_step: of a workdir: 'best' (lowest held-out loss; of a task, the epoch
      with the best metric), 'latest', or a number of updates.

  Raises:
    UserError: `path` is neither, or has no such checkpoint.
  """
  workdir = pathlib.Path(path)
  if not (workdir / 'run.json').exists() and hugging_face.names_weights(path):
    return hugging_face.open_model(path)[1]
  run = read_run(workdir)
  task = TASKS.get(run.task.name)
  if task and (workdir / 'groups.json').exists():
    workdir = _best_seed(workdir, task)
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  shape = Shape.of(run.model, tokenizer.vocab)
  averaged = bool(run.optim.ema)
  if not task:
    like = jax.eval_shape(lambda: init_params(shape, 0))
    params, step = _restored(workdir, checkpoint_step, like, averaged)
    return LanguageModel(params, shape, tokenizer, step)
  shape = task_step.grown(shape)
  like = jax.eval_shape(
    lambda: {
      'gpt': init_params(shape, 0),
      'clf': task_step.new_head(task, shape.D, jax.random.key(0)),
    }
  )
  tree, step = _restored(workdir, checkpoint_step, like, averaged)
  return Classifier(tree['gpt'], shape, tokenizer, step, tree['clf'], task)


def seed_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the workdirs of a fine-tuned run's seeds, in their order."""
  found = [p for p in workdir.glob('seed_*') if p.name[5:].isdigit()]
  return sorted(found, key=lambda folder: int(folder.name[5:]))


def best_line(folder: pathlib.Path, task: Task) -> dict[str, float]:
  """Returns the first line of metrics with the best value of a task's metric; or {}."""
  lines = [line for line in read_metrics(folder) if task.metrics[0] in line]
  return max(lines, key=lambda line: line[task.metrics[0]], default={})


def _best_seed(workdir: pathlib.Path, task: Task) -> pathlib.Path:
  """Returns the folder of the seed that is best on dev, the first of equals."""
  judged = [f for f in seed_folders(workdir) if best_line(f, task)]
  if not judged:
    raise UserError(f'{workdir} has no model yet: no epoch is done; train it first')
  return max(judged, key=lambda folder: best_line(folder, task)[task.metrics[0]])


def _restored(
  workdir: pathlib.Path, wanted: str | int, like: dict, averaged: bool
) -> tuple[dict, int]:
  """Returns the parameters of a checkpoint, and the number of its updates."""
  if not (workdir / 'checkpoints').is_dir():
    raise UserError(f'{workdir} has no checkpoint yet; train it first')
  saved = checkpoint.Checkpoints(workdir / 'checkpoints')  # to read: keeps all
  try:
    kept = saved.steps()
    step = {'best': saved.best(), 'latest': saved.latest()}.get(wanted, wanted)
    if not kept or (isinstance(step, str) and not step.isdigit()):
      step = None
    if step is None or int(step) not in kept:
      raise UserError(
        f'{workdir} has no checkpoint {wanted!r}; there are best, latest and '
        f'{", ".join(map(str, kept)) or "none"}'
      )
    return saved.restore_params(int(step), like, averaged=averaged), int(step)
  finally:
    saved.close()
