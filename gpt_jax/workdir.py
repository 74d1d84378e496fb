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
from gpt_jax.config import UserError
from gpt_jax.data import prepare, tokens
from gpt_jax.files import write_whole
from gpt_jax.language_model import LanguageModel
from gpt_jax.model.gpt import Shape, init_params
from gpt_jax.training import checkpoint

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
def alone(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps a second process from training in the same workdir."""
  with open(workdir / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'workdir={workdir} is in use by another training process; wait for it or '
        'choose another workdir'
      ) from None
    yield


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
  data: Prepared,
  devices: Sequence[jax.Device],
  argv: Sequence[str],
) -> None:
  """Writes what the run is made of."""
  about = {
    'config': config.flat(run),
    'argv': list(argv),
    'vocab': data.tokenizer.vocab,
    'git': _git(),
    'versions': {'python': platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _PACKAGES},
    'devices': [f'{d.platform}: {d.device_kind}' for d in devices],
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'data': {
      'train': data.train.digest,
      'valid': data.valid.digest,
      'tokenizer': data.train.tokenizer,
    },
  }
  write_whole(workdir / 'run.json', json.dumps(about, indent=1) + '\n')


def _git() -> dict[str, str]:
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

  Args:
    path: a workdir, a Hugging Face folder, or hf:NAME@REVISION (see `hugging_face`).
    checkpoint_step: of a workdir: 'best' (lowest held-out loss), 'latest', or a number
      of updates.

  Raises:
    UserError: `path` is neither, or has no such checkpoint.
  """
  workdir = pathlib.Path(path)
  if not (workdir / 'run.json').exists() and hugging_face.names_weights(path):
    return hugging_face.open_model(path)[1]
  run = read_run(workdir)
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  shape = Shape.of(run.model, tokenizer.vocab)
  if not (workdir / 'checkpoints').is_dir():
    raise UserError(f'{workdir} has no checkpoint yet; train it first')
  saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
  try:
    kept = saved.steps()
    wanted = {'best': saved.best(), 'latest': saved.latest()}.get(
      checkpoint_step, checkpoint_step
    )
    if not kept or (isinstance(wanted, str) and not wanted.isdigit()):
      wanted = None
    if wanted is None or int(wanted) not in kept:
      raise UserError(
        f'{workdir} has no checkpoint {checkpoint_step!r}; there are best, latest and '
        f'{", ".join(map(str, kept)) or "none"}'
      )
    like = jax.eval_shape(lambda: init_params(shape, 0))
    averaged = bool(run.optim.ema)
    params = saved.restore_params(int(wanted), like, averaged=averaged)
  finally:
    saved.close()
  return LanguageModel(params, shape, tokenizer, int(wanted))
