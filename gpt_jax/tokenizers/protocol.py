"""The interface of tokenizers, and the mark of a folder that holds one."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.tokenizers.facts import Facts

EOT = '<|endoftext|>'
KIND = 'kind.json'  # beside the files of every saved tokenizer


class Tokenizer(Protocol):
  """The interface of every tokenizer.

  Those that may come from a Hugging Face folder also have `added`, ids of added tokens
  by their texts, and `facts`, what else the folder says (None: nothing).

  Attributes:
    kind: 'bpe', 'unigram', 'sentencepiece', 'byte_bpe', 'gpt1', 'tokenizer_json',
      'chars', 'bytes' or 'numbers'.
    vocab: number of ids, special ones included.
    unknown: ids of text that has no entry of its own.
  """

  kind: str
  vocab: int
  eot: int
  unknown: frozenset[int]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; never `eot`, whatever the text looks like.

    A lone surrogate, which has no UTF-8, is read as U+FFFD.
    """

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the same as an array of unsigned integers."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; `eot` is '', bytes that are not UTF-8 are U+FFFD."""

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns a readable form of each id."""

  def save(self, folder: Path) -> None:
    """Writes the tokenizer into a folder, for `load`."""


@runtime_checkable
class FindsSpecial(Protocol):
  """A tokenizer that has rules of its own for finding special tokens."""

  def encode_special(self, text: str) -> list[int]:
    """Returns the ids of a text in which special tokens are named."""


def start_of_text(tokenizer: Tokenizer) -> int:
  """Returns the id after which a document begins: `eot`, or a line end.

  The latter of characters without an end of text (of which none is a line end, the
  first), which a model of them knows as well as any other. Of other tokenizers whose
  `eot` is no entry it is that all the same.
  """
  if tokenizer.eot < tokenizer.vocab or tokenizer.kind != 'chars':
    return tokenizer.eot
  try:
    return tokenizer.encode('\n')[0]
  except UserError:
    return 0


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
  """Returns the ids of special tokens by their names: end-of-text, and added tokens.

  An end-of-text that is no entry of the vocabulary can't be named.
  """
  end = {EOT: tokenizer.eot} if tokenizer.eot < tokenizer.vocab else {}
  return end | getattr(tokenizer, 'added', {})


def encode_special(tokenizer: Tokenizer, text: str) -> list[int]:
  """Returns the ids of a text in which the names of special tokens are those tokens.

  Of names that begin at the same place the longest counts. The texts between them are
  encoded each by itself. Tokens of a tokenizer.json are found by their own rules.
  """
  if isinstance(tokenizer, FindsSpecial):
    return tokenizer.encode_special(text)
  if not (special := special_tokens(tokenizer)):
    return tokenizer.encode(text)
  longest_first = sorted(special, key=len, reverse=True)
  ids = []
  for part in re.split(f'({"|".join(map(re.escape, longest_first))})', text):
    if part in special:
      ids.append(special[part])
    elif part:
      ids += tokenizer.encode(part)
  return ids


def write_kind(folder: Path, about: dict, facts: Facts | None = None) -> None:
  """Writes the file that says what a tokenizer folder holds, and facts about it."""
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(about, indent=1) + '\n'
  (folder / KIND).write_text(text, encoding='utf-8')
  if facts:
    facts.save(folder)


def text_of(tokenizer: Tokenizer, token: int) -> str:
  """Returns the text of a token by itself; a part of a character in hex."""
  text = tokenizer.decode([token])
  if '\ufffd' not in text:
    return text
  if hasattr(tokenizer, 'decode_bytes'):
    return tokenizer.decode_bytes([token]).hex().upper()
  return tokenizer.pieces([token])[0]


def digest(folder: str | Path) -> str:
  """Returns the sha256 of the names and contents of a tokenizer's files."""
  whole = hashlib.sha256()
  for path in sorted(Path(folder).iterdir()):
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    whole.update(f'{path.name} {content}\n'.encode())
  return whole.hexdigest()
