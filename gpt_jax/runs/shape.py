"""The shape of a model that starts from another: taken from it, or compared."""

import copy
import dataclasses
import pathlib

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.inference import hugging_face
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs.load import architecture, is_weights
from gpt_jax.runs.workdir import read_run

# What training may choose of a model that comes from elsewhere.
FREE = config.fields_with('number', 'training', 'execution', of='model')
# The rest of what a model is.
TAKEN = tuple(
  f'model.{each.name}'
  for each in dataclasses.fields(config.Model)
  if f'model.{each.name}' not in FREE
)
# Fields that two models that compute the same may differ in; the vocabulary may grow.
_NOT_THE_FUNCTION = ('model.vocab', 'model.scaled_init', *FREE)


def take(run: config.Run, source: GPTConfig) -> GPTConfig:
  """Makes a run's model that of its source, but for what training may choose."""
  for name, value in dataclasses.asdict(source).items():
    if f'model.{name}' not in FREE:
      value = ','.join(value) if name == 'attention' else value
      setattr(run.model, name, value)
  return GPTConfig.of(run.model, source.vocab)


def resolved(run: config.Run, workdir: str | pathlib.Path | None = None) -> config.Run:
  """Returns a run with the shape of `init_from`, if take_shape says so.

  Args:
    workdir: where it is trained. If it was begun there with the same `init_from`, that
      need not be there any more.

  Raises:
    UserError: `init_from` tells no shape, or a field of the model is set to another
      value than it has there.
  """
  if not (run.take_shape and run.init_from) or run.is_finetuning:
    return run
  run, asked = copy.deepcopy(run), run.model
  begun = workdir is not None and (pathlib.Path(workdir) / 'run.json').exists()
  before = read_run(workdir) if begun else None
  if before and before.take_shape and before.init_from == run.init_from:
    source = GPTConfig.of(before.model, before.model.vocab)
  else:
    source = _shape_of(run.init_from)
  take(run, source)
  run.model.vocab = max(asked.vocab, source.vocab)
  there, usual = vars(source), vars(config.Model())
  here = vars(GPTConfig.of(dataclasses.replace(asked, L=source.L), 0)) | {'L': asked.L}
  differing = [
    f'model.{name}: {there[name]} there, {here[name]} here'
    for name in there
    if f'model.{name}' not in _NOT_THE_FUNCTION
    and getattr(asked, name) != usual[name]
    and here[name] != there[name]
  ]
  if differing:
    raise UserError(
      f'take_shape=True takes the shape of init_from={run.init_from}, and the config '
      'sets another; leave these out:\n' + '\n'.join(differing)
    )
  return run


def check_source(source: str) -> None:
  """Raises UserError where nothing of what `init_from` may be is at a path."""
  if not is_weights(source) and not (pathlib.Path(source) / 'run.json').exists():
    raise UserError(
      f'init_from={source} must be a workdir, with its run.json, a folder of weights, '
      "with Hugging Face's config.json, or hf:NAME@REVISION; there is none"
    )


def _shape_of(source: str) -> GPTConfig:
  """Returns the architecture of a source with as many entries as its tokenizer has."""
  check_source(source)
  cfg = architecture(source)
  if is_weights(source):
    folder = hugging_face.find(source, hugging_face.DESCRIPTIONS)
    tokenizer = hugging_face.open_tokenizer(folder)
  else:
    tokenizer = tokenizers.load(pathlib.Path(source) / 'tokenizer')
  # GPT-1's end-of-text is our own, after the entries it was trained with.
  return dataclasses.replace(
    cfg, vocab=max(cfg.vocab, tokenizer.vocab if tokenizer else 0)
  )


def check(run: config.Run, source: GPTConfig, ours: GPTConfig) -> None:
  """Raises UserError where a run's model is of another shape than its source.

  Args:
    ours: the architecture of the run; with vocab 0, that of its tokenizer is not known.
  """
  there, here = vars(source), vars(ours)
  differing = [
    f'model.{name}: {there[name]} there, {here[name]} here'
    for name in here
    if there[name] != here[name] and f'model.{name}' not in _NOT_THE_FUNCTION
  ]
  if ours.vocab and source.vocab > ours.vocab:
    differing.append(f'model.vocab: {source.vocab} there, {ours.vocab} here')
  if differing:
    raise UserError(
      f'init_from={run.init_from} is a model of another shape; to train one of its '
      'shape: --config.take_shape=True, with a config that leaves model at its '
      'defaults, such as experiments/gpt2/continue.py\n' + '\n'.join(differing)
    )
