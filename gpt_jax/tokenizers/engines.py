"""Pipelines of the library `tokenizers`: opened, made, compared."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import brief, field, of_kind, shown
from gpt_jax.tokenizers.bpe_files import Merges, check_bpe

_MODELS = 'BPE', 'Unigram', 'WordLevel'
# Fields of a BPE in tokenizer.json that change ids, where each character has an entry.
OPTIONS = (
  *('continuing_subword_prefix', 'end_of_word_suffix'),
  *('byte_fallback', 'ignore_merges'),
)


@contextlib.contextmanager
def said(name: str) -> Iterator[None]:
  """Turns whatever the library says is wrong into a UserError.

  Args:
    name: what it was about to do, for the error.
  """
  try:
    yield
  except BaseException as e:
    panic = type(e).__name__ == 'PanicException'  # of Rust, and no Exception
    if isinstance(e, UserError) or not (isinstance(e, Exception) or panic):
      raise
    raise UserError(f'{name} ({brief(e)}); correct it') from None


def check(whole: dict[str, Any], where: Path | str) -> None:
  """Raises a UserError unless a tokenizer.json has a vocabulary that can be used.

  The library would take some of what is refused here for something else, or panic.
  """
  model = field(whole, 'model', dict, where)
  kind = model.get('type', 'BPE')
  if kind not in _MODELS:
    parts = (f'{n}={shown(whole.get(n))}' for n in ('normalizer', 'pre_tokenizer'))
    raise UserError(
      f'{where}: model.type={shown(kind)} ({"; ".join(parts)}) is none of '
      f'{", ".join(_MODELS)}; tokenizers of other kinds are not read'
    )
  if model.get('dropout'):
    raise UserError(
      f'{where}: model.dropout={shown(model["dropout"])} would draw the ids of a text '
      'by chance; set it to null'
    )
  places = f'{where}: added_tokens'
  added = {}
  for token in of_kind(whole.get('added_tokens') or [], list, places):
    of_kind(token, dict, places)
    added[field(token, 'content', str, places)] = field(token, 'id', int, places)
  if kind == 'BPE':
    vocab, merges = bpe_of(whole, where)
  elif kind == 'WordLevel':
    vocab, merges = field(model, 'vocab', dict, where), []
  else:
    pieces = field(model, 'vocab', list, where)
    for piece in pieces:
      text, score = (*of_kind(piece, list, where), None, None)[:2]
      of_kind(text, str, where), of_kind(score, float, where)
    vocab, merges = {piece[0]: i for i, piece in enumerate(pieces)}, []
  check_bpe(vocab | added, merges, (), str(where))


def bpe_of(whole: dict[str, Any], where: Path | str) -> tuple[dict[str, int], Merges]:
  """Returns the entries and merges of a tokenizer.json, of any types."""
  model = field(whole, 'model', dict, where)
  merges = [
    tuple(
      merge.split(' ')
      if isinstance(merge, str)
      else of_kind(merge, list, f'{where}: merges')
    )
    for merge in field(model, 'merges', list, where)
  ]
  return field(model, 'vocab', dict, where), merges


def opened(whole: dict[str, Any] | str, where: Path | str) -> tokenizers.Tokenizer:
  """Returns the pipeline of a tokenizer.json.

  Raises:
    UserError: the library can't read it.
  """
  text = whole if isinstance(whole, str) else json.dumps(whole)
  with said(f'{where}: is not the byte-level BPE of GPT-2, nor another tokenizer.json'):
    return tokenizers.Tokenizer.from_str(text)


def shell(whole: dict[str, Any], where: Path | str) -> tokenizers.Tokenizer:
  """Returns the pipeline of a tokenizer.json without its vocabulary."""
  model = {'type': 'BPE', 'vocab': {}, 'merges': []}
  return opened({**whole, 'model': model, 'added_tokens': []}, where)


def of_class(
  kind: str, vocab: dict[str, int], merges: Merges, prefix: bool, unknown: str
) -> tokenizers.Tokenizer:
  """Returns the pipeline that a class of `transformers` makes of a vocabulary.

  Args:
    kind: 'GPT2Tokenizer' or 'OpenAIGPTTokenizer'.
    prefix: a blank goes before each text (GPT-2's only).
    unknown: the entry for characters that have none (GPT-1's only).
  """
  if kind == 'GPT2Tokenizer':
    encoder = tokenizers.Tokenizer(models.BPE(vocab, merges))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    encoder.decoder = decoders.ByteLevel()
  else:
    encoder = tokenizers.Tokenizer(
      models.BPE(vocab, merges, unk_token=unknown, end_of_word_suffix='</w>')
    )
    encoder.normalizer = normalizers.BertNormalizer(lowercase=True)
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoder.decoder = decoders.BPEDecoder(suffix='</w>')
  return encoder


def parts(whole: dict[str, Any], where: Path | str) -> dict[str, Any]:
  """Returns how a tokenizer.json cuts, joins and frames texts.

  What makes no difference is left out, so that equal parts are equal.
  """
  found = json.loads(shell(whole, where).to_str())
  cut = {name: found[name] for name in ('normalizer', 'pre_tokenizer', 'decoder')}
  for name, part in cut.items():
    kind = (part or {}).get('type')
    if kind == 'ByteLevel':
      idle = {'trim_offsets'}
      idle |= {'add_prefix_space', 'use_regex'} if name == 'decoder' else set()
      cut[name] = {key: value for key, value in part.items() if key not in idle}
    elif kind == 'BertNormalizer' and part['strip_accents'] is None:
      cut[name] = part | {'strip_accents': part['lowercase']}
  model = whole['model']
  return cut | {f'model.{name}': model.get(name) or None for name in OPTIONS}


def frame(encoder: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the ids that a pipeline puts before and after a text."""
  if encoder.post_processor is None:
    return (), ()
  one = tokenizers.Tokenizer(models.WordLevel({'a': 0}, unk_token='a')).encode('a')
  with said('its post_processor can not be used'):
    whole = encoder.post_processor.process(one)
    at = whole.special_tokens_mask.index(0)
  return tuple(whole.ids[:at]), tuple(whole.ids[at + 1 :])
