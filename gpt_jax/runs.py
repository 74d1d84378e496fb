"""Puts a run together: data, model, step, loop, workdir; and opens a finished one.

A workdir holds run.json (the config and all that the run was made of), tokenizer/,
tokens/ (unless data.tokens names another folder), checkpoints/, metrics.jsonl,
tensorboard/ and samples.txt.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from gpt_jax import config, describe, hugging_face, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import batches, prepare, tokens
from gpt_jax.evaluation import ngram, score
from gpt_jax.files import write_whole
from gpt_jax.language_model import LanguageModel
from gpt_jax.model.gpt import Shape, init_params
from gpt_jax.training import checkpoint, loop, parallel, record, step

# Fields of a shape that two models that compute the same may differ in.
_NOT_THE_FUNCTION = 'vocab scaled_init dropout_wte dtype remat flash'.split()
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


def train(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  profile: tuple[int, int] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Trains a run to its end, or goes on where its workdir's last checkpoint stands.

  Raises:
    UserError: the config breaks a rule, the workdir is another run's or is in use, or
      training can't go on.
    loop.Interrupted: asked to stop; the state reached is saved.
  """
  devices = parallel.devices(run.devices)
  config.check(run, len(devices))
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  with _alone(workdir):
    _check_same_run(run, workdir)
    data = prepared(run, workdir, report)
    shape = Shape.of(run.model, data.tokenizer.vocab)
    if shape.vocab < data.tokenizer.vocab:
      raise UserError(
        f'model.vocab={shape.vocab} must be at least {data.tokenizer.vocab}, the '
        "tokenizer's entries; 0 takes as many as it has"
      )
    batch = batches.training_batches(
      data.train.ids,
      T=shape.T,
      rows=run.batch,
      seed=run.seed,
      order=run.data.windows,
    )
    report(
      describe.plan(
        run,
        shape,
        devices,
        tokens=len(data.train.ids) - 1,
        held_out=len(data.valid.ids) - 1,
        bytes_per_token=_bytes_per_token(data.train),
      )
    )
    _write_run_json(run, workdir, data, devices, argv)

    saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
    try:
      state = _start(run, shape, saved, report)
      done = int(state.step)
      if done >= run.steps:
        report(f'finished: {done} updates are done (steps={run.steps}). {_best(saved)}')
        return
      eval_step = parallel.compile_eval_step(shape, devices)

      def evaluate(params):
        return _held_out(eval_step, params, shape, data.valid, run, len(devices))

      def draw(params):
        model = LanguageModel(params, shape, data.tokenizer)
        return _samples(model, run)

      written = record.Record(workdir, done)
      try:
        loop.train(
          run,
          state,
          update=parallel.compile_train_step(run, shape, devices),
          batch=batch,
          evaluate=evaluate,
          sample=draw,
          record=written,
          checkpoints=saved,
          profile=profile,
          profile_folder=str(workdir / 'profile'),
        )
      finally:
        written.close()
      report(f'finished: {run.steps} updates. {_best(saved)}')
    finally:
      saved.close()


def _best(saved: checkpoint.Checkpoints) -> str:
  return f'The best checkpoint is that of update {saved.best()}.'


def _start(
  run: config.Run,
  shape: Shape,
  saved: checkpoint.Checkpoints,
  report: Callable[[str], None],
) -> step.State:
  """Returns the latest checkpoint, else `init_from`'s weights, else new ones."""
  latest = saved.latest()
  if latest is not None:
    report(f'going on from the checkpoint of update {latest}')
    return saved.restore(latest, jax.eval_shape(lambda: step.init_state(run, shape)))
  if not run.init_from:
    return step.init_state(run, shape)
  source = load(run.init_from)
  theirs, ours = vars(source.shape), vars(shape)
  differing = [
    f'model.{name}: {theirs[name]} there, {ours[name]} here'
    for name in ours
    if theirs[name] != ours[name] and name not in _NOT_THE_FUNCTION
  ]
  if source.shape.vocab > shape.vocab:
    differing.append(f'model.vocab: {theirs["vocab"]} there, {ours["vocab"]} here')
  if differing:
    raise UserError(
      f'init_from={run.init_from} is a model of another shape:\n' + '\n'.join(differing)
    )
  report(f'starting from the weights of {run.init_from}, update {source.step}')
  params = dict(source.params)
  if source.shape.vocab < shape.vocab:
    # Entries that are new to the model begin like any others (GPT-1, section 3.2).
    new = init_params(shape, run.seed)
    known = source.shape.vocab
    for name in new.keys() & {'wte', 'lm_head'}:
      params[name] = new[name].at[:known].set(params[name][:known])
    report(f'{shape.vocab - known} entries are new to its vocabulary')
  return step.init_state(run, shape, params)


def _held_out(eval_step, params, shape, file, run, devices) -> dict[str, float]:
  """Returns the held-out metrics of parameters during a run."""
  rows = batches.held_out_batches(
    file.ids, T=shape.T, rows=run.eval_batch * devices, limit=run.eval_tokens
  )
  nll, count = score.held_out_nll(eval_step, params, rows)
  return score.held_out_metrics(nll, count, _bytes_per_token(file))


def _bytes_per_token(file: tokens.TokenFile) -> float:
  """Returns the UTF-8 bytes of the text for each target of its token file."""
  return file.bytes / (len(file.ids) - 1)


def _samples(model: LanguageModel, run: config.Run) -> str:
  """Returns the continuations of the run's fixed prompts, always with one seed."""
  prompts = [_last_tokens(model, prompt) for prompt in run.prompts]
  made = model.generate_ids(
    prompts, max_new_tokens=run.sample_tokens, temperature=0.8, seed=0
  )
  return '\n'.join(
    f'[{prompt}]{generation.text}'
    for prompt, generation in zip(run.prompts, made, strict=True)
  )


def _last_tokens(model: LanguageModel, prompt: str) -> list[int]:
  return model.prompt_ids(prompt)[-model.shape.T :]


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
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


def _check_same_run(run: config.Run, workdir: pathlib.Path) -> None:
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


def _write_run_json(run, workdir, data, devices, argv) -> None:
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
    params = saved.restore_params(int(wanted), like)
  finally:
    saved.close()
  return LanguageModel(params, shape, tokenizer, int(wanted))


def import_model(source: str, workdir: str | pathlib.Path, tokenizer: str = '') -> str:
  """Makes a workdir of other people's weights; returns what there is to say of it.

  Args:
    source: see `hugging_face.find`.
    workdir: is made; run.json comes last, so that half an import is no workdir.
    tokenizer: path of one, where it is not among the weights.

  Raises:
    UserError: `workdir` holds a run, or the source can't be read.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / 'run.json').exists():
    raise UserError(f'workdir={workdir} holds a run; choose another workdir')
  found, model = hugging_face.open_model(source, tokenizer)
  run = config.Run(steps=0, model=found, data=config.Data(source=''))
  run.optim.name = 'sgd'  # no optimizer state
  workdir.mkdir(parents=True, exist_ok=True)
  with _alone(workdir):
    for part in ('tokenizer', 'checkpoints'):
      shutil.rmtree(workdir / part, ignore_errors=True)
    model.tokenizer.save(workdir / 'tokenizer')
    saved = checkpoint.Checkpoints(workdir / 'checkpoints', run.keep)
    try:
      saved.save(step.init_state(run, model.shape, model.params), None)
      saved.wait()
    finally:
      saved.close()
    about = {
      'config': config.flat(run),
      'imported': str(source),
      'vocab': model.shape.vocab,
      'tokenizer': tokenizers.digest(workdir / 'tokenizer'),
    }
    write_whole(workdir / 'run.json', json.dumps(about, indent=1) + '\n')
  number = describe.parameter_count(model.shape)
  return (
    f'imported {source} into {workdir}: {number:,} parameters, tokenizer '
    f'{model.tokenizer.kind} of {model.tokenizer.vocab:,} entries'
  )


def export_model(
  workdir: str | pathlib.Path, checkpoint_step: str | int, target: str | pathlib.Path
) -> str:
  """Writes a workdir's model as a Hugging Face folder; returns what was written."""
  model = load(workdir, checkpoint_step)
  return hugging_face.export(model, read_run(workdir).model.dropout, target)


def evaluate(
  workdir: str | pathlib.Path,
  checkpoint_step: str | int = 'best',
  report: Callable[[str], None] = print,
  *,
  int8: bool = False,
) -> dict[str, float]:
  """Returns the metrics of a workdir's model on all of its held-out text.

  With `int8` those of the model with its linear layers' weights in 8 bits.
  """
  run, model = read_run(workdir), load(workdir, checkpoint_step)
  model = model.int8() if int8 else model
  devices = parallel.devices(run.devices)
  data = prepared(run, pathlib.Path(workdir), report)
  run.eval_tokens = 0
  eval_step = parallel.compile_eval_step(model.shape, devices)
  metrics = _held_out(
    eval_step, model.params, model.shape, data.valid, run, len(devices)
  )
  return {'step': model.step, **metrics}


def baselines(
  workdir: str | pathlib.Path, report: Callable[[str], None] = print
) -> dict[str, float]:
  """Returns bits per byte of the held-out text under models that are no GPT.

  A Kneser-Ney 5-gram over the same tokens, `xz -9` of the held-out text alone, and
  `xz -9` of it after the training text.
  """
  data = prepared(read_run(workdir), pathlib.Path(workdir), report)
  nll = ngram.kneser_ney_nll(data.train.ids, data.valid.ids, data.tokenizer.vocab)
  train, valid = (
    data.tokenizer.decode(file.ids.tolist()).encode()
    for file in (data.train, data.valid)
  )
  return {
    '5-gram (Kneser-Ney, same tokens)': nll / math.log(2) / data.valid.bytes,
    'xz -9 (held-out text alone)': ngram.xz_bits_per_byte(valid),
    'xz -9 (after the training text)': ngram.xz_bits_per_byte(valid, train),
  }
