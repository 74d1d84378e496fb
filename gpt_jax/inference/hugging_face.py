"""Hugging Face folders: finds, opens and writes models."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.files import listed, sync
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.tokenizers import hugging_face as their_tokenizers
from gpt_jax.weights import convert
from gpt_jax.weights import facts as folder_facts
from gpt_jax.weights.config_json import read_config
from gpt_jax.weights.facts import Facts

# What marks a folder of weights; the first is Hugging Face's, the others OpenAI's.
_MARKS = 'config.json', 'hparams.json', 'params_shapes.json'
# What marks a tokenizer among them; the last two are OpenAI's.
_TOKENIZERS = (
  'tokenizer.json',
  'merges.txt',
  '*.model',
  'tokenizer/kind.json',
  'vocab.bpe',
  'vocab_40000.bpe',
)
# All of a folder but the weights.
DESCRIPTIONS = '*.json', '*.txt', '*.model', '*.jinja'
_FETCHED = *DESCRIPTIONS, '*.safetensors'


def names_weights(source: str | Path) -> bool:
  """Returns whether a source is on the hub, or a folder that looks like weights."""
  folder = Path(source).expanduser()
  return str(source).startswith('hf:') or any((folder / m).exists() for m in _MARKS)


def find(source: str | Path, patterns: tuple[str, ...] = _FETCHED) -> Path:
  """Returns the folder of a source, fetched from the hub if it is not a path.

  Args:
    source: a folder, or hf:NAME or hf:NAME@REVISION, which is kept in the hub's cache.
    patterns: of the names of files that are fetched.

  Raises:
    UserError: there is no such folder, it has no weights, or it can't be fetched.
  """
  if not str(source).startswith('hf:'):
    if not names_weights(source):
      raise UserError(
        f'{source}: holds no weights: there is no {", ".join(_MARKS[:-1])} or '
        f'{_MARKS[-1]} in it'
      )
    return Path(source).expanduser()
  import huggingface_hub

  name, _, revision = str(source).removeprefix('hf:').partition('@')
  try:
    return Path(
      huggingface_hub.snapshot_download(
        name, revision=revision or None, allow_patterns=list(patterns)
      )
    )
  except Exception as e:  # its errors share no class, and all say why
    raise UserError(
      f'{source}: can not be fetched ({type(e).__name__}: {str(e).splitlines()[0]}); '
      'give a folder on this machine instead'
    ) from e


def architecture(source: str | Path) -> GPTConfig:
  """Returns the architecture of a source (see `find`), from config.json alone.

  Raises:
    UserError: there is none, or it is not supported.
  """
  path = find(source, _MARKS[:1]) / _MARKS[0]
  if not path.exists():
    raise UserError(
      f'{source}: has no {_MARKS[0]}, which tells the architecture; import it first: '
      f'python launch.py import --source={source} --workdir=...'
    )
  family, model, wrong = read_config(path)
  if wrong:
    raise UserError(f'{path}: not a {family} that can be read:\n' + '\n'.join(wrong))
  return GPTConfig.of(model, model.vocab)


class Opened(NamedTuple):
  """A model of a folder.

  Attributes:
    notes: what a report of an import says of it, a sentence each.
  """

  config: config.Model
  model: LanguageModel
  facts: Facts
  notes: list[str]


def open_model(
  source: str | Path, tokenizer: str = '', ignore: Sequence[str] = ()
) -> Opened:
  """Returns the model of a source (see `find`).

  Args:
    tokenizer: path of a tokenizer, instead of the one in the folder. Where there is
      neither, texts are ids written as numbers.
    ignore: see `convert.read_all`.

  Raises:
    UserError: weights or tokenizer are missing, damaged, not supported or of two
      models.
  """
  folder = find(source)
  model, params, notes = convert.read_all(folder, ignore)
  facts = folder_facts.read(folder, ignore)
  opened = open_tokenizer(folder, tokenizer)
  if not opened:
    opened = tokenizers.Numbers(model.vocab, _end_of_text(folder, model.vocab))
  # GPT-1's end-of-text is our own, after the entries it was trained with.
  known = opened.vocab - (opened.kind == 'gpt1')
  if known > model.vocab:
    raise UserError(
      f'the tokenizer has {opened.vocab} entries, but {source} predicts only '
      f'{model.vocab}; give the one it was trained with as --tokenizer'
    )
  ends = folder_facts.other_ends(facts, opened.eot, model.vocab)
  notes += folder_facts.notes(facts, opened.eot, folder)
  notes += getattr(getattr(opened, 'facts', None), 'notes', ())
  # To the device once: every call would copy numpy's arrays.
  params = jax.tree.map(jnp.asarray, params)
  execution = Execution.of(model, jax.local_devices()[:1])
  gpt = GPT(GPTConfig.of(model, model.vocab), execution)
  return Opened(model, LanguageModel(params, gpt, opened, ends=ends), facts, notes)


def open_tokenizer(
  folder: Path, path: str = '', cleaning: str = 'auto'
) -> tokenizers.Tokenizer | None:
  """Returns the tokenizer at a path, else that in a folder of weights, if it has one.

  Args:
    cleaning: as in `gpt1.GPT1`.
  """
  if path:
    return tokenizers.open_path(path, cleaning)
  if any(next(folder.glob(name), None) for name in _TOKENIZERS):
    facts = folder_facts.read(folder)
    vocab = facts.config.get('vocab_size')
    ends = folder_facts.ends(facts, vocab) if type(vocab) is int else ()
    return tokenizers.open_path(folder, cleaning, last=next(iter(ends), None))
  return None


def _end_of_text(folder: Path, vocab: int) -> int:
  """Returns the first id that ends a text by config.json or generation_config.json.

  Where there is none, the one after the vocabulary.
  """
  return next(iter(folder_facts.ends(folder_facts.read(folder), vocab)), vocab)


def export(
  model: LanguageModel, dropout: float, target: str | Path, facts: Facts | None = None
) -> str:
  """Writes a folder that `transformers` opens, whole or not at all.

  The files are read again, and their logits compared, before they are moved into place.
  The folder also has our own tokenizer if Hugging Face has none of its kind.

  Args:
    target: a folder that does not exist, or is empty.
    facts: of the folder that the model came from, which are written back.

  Returns:
    A report.

  Raises:
    UserError: `target` is in use, or no architecture or tokenizer of Hugging Face does
      what this model does.
  """
  target = Path(target)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(f'target={target} is there already; choose a new folder')
  target.parent.mkdir(parents=True, exist_ok=True)
  staged = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
  staged.mkdir()
  try:
    cfg, eot = model.config, model.tokenizer.eot
    found = facts or Facts({})
    facts = folder_facts.to_write(found, eot, cfg.vocab, model.step > 0)
    family = convert.write(model.params, cfg, dropout, eot, staged, facts.config)
    differs = ''
    if model.tokenizer.kind == 'numbers':
      differs = 'the model has no tokenizer, and so has the folder'
    else:
      differs = their_tokenizers.write(model.tokenizer, staged, model.config.T)
      if model.tokenizer.kind not in ('byte_bpe', 'gpt1', 'tokenizer_json'):
        model.tokenizer.save(staged / 'tokenizer')
    folder_facts.write(facts, staged)
    apart = _largest_difference(model, staged)
    if apart > 1e-4:
      raise RuntimeError(f'the logits of what was written are {apart} apart')
    for path in [*staged.rglob('*'), staged]:
      sync(path)
    if target.exists():
      target.rmdir()
    staged.rename(target)
    sync(target.parent)
  finally:
    shutil.rmtree(staged, ignore_errors=True)
  said = [f'wrote {target}: {family}, logits within {apart:.1e} of the model', differs]
  ends = folder_facts.ends(facts, cfg.vocab)
  if facts.config and ends != folder_facts.ends(found, cfg.vocab):
    said.append(
      f'eos_token_id is {", ".join(map(str, ends))}, with the end-of-text of the text '
      'that the model was trained on'
    )
  if facts.ignored:
    said.append(f'left out, as the import did: {listed(facts.ignored)}')
  return '\n'.join(filter(None, said))


def _largest_difference(model: LanguageModel, folder: Path) -> float:
  """Returns how far apart the logits of a model and of its folder are."""
  written, params = convert.read(folder)
  gpt = GPT(GPTConfig.of(written, written.vocab))
  again = LanguageModel(params, gpt, model.tokenizer)
  random = np.random.default_rng(0)
  ids = random.integers(0, model.config.vocab, (2, min(model.config.T, 256)))
  apart = jnp.abs(model.logits(ids) - again.logits(ids)).max()
  return float(apart)
