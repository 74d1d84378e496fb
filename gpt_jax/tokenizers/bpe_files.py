"""The two files of a BPE: vocab.json and merges.txt."""

import json
from collections.abc import Iterable
from pathlib import Path

from gpt_jax.config import UserError

Merges = list[tuple[str, str]]


def read_bpe(vocab: Path, merges: Path) -> tuple[dict[str, int], Merges]:
  """Returns the ids and the merges in the two files of a BPE.

  Raises:
    UserError: one can't be read or is not such a file.
  """
  path = vocab
  try:
    ids = json.loads(vocab.read_text(encoding='utf-8'))
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
      raise ValueError('not an object of ids')
    path, pairs = merges, []
    # Not splitlines: U+0085 and others are entries of vocabularies, not line ends.
    for number, line in enumerate(merges.read_text(encoding='utf-8').split('\n'), 1):
      pair = tuple(line.removesuffix('\r').split(' '))
      if line.startswith('#version') or not line:
        continue
      if len(pair) != 2:
        raise ValueError(f'line {number} is not two entries: {line!r}')
      pairs.append(pair)
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e
  except ValueError as e:
    raise UserError(f'{path}: not a file of a BPE vocabulary: {e}') from e
  return ids, pairs


def write_bpe(folder: Path, vocab: dict[str, int], merges: Merges) -> None:
  """Writes vocab.json and merges.txt."""
  text = json.dumps(vocab, ensure_ascii=False)
  (folder / 'vocab.json').write_text(text, encoding='utf-8')
  lines = ['#version: 0.2', *(f'{a} {b}' for a, b in merges)]
  text = '\n'.join(lines) + '\n'
  (folder / 'merges.txt').write_text(text, encoding='utf-8', newline='\n')


def check_bpe(
  vocab: dict[str, int], merges: Merges, needed: Iterable[str], name: str
) -> None:
  """Raises a UserError unless vocabulary and merges fit each other."""
  if sorted(vocab.values()) != list(range(len(vocab))):
    raise UserError(
      f'{name}: the ids of its {len(vocab)} entries must be 0 .. {len(vocab) - 1}, '
      'each once'
    )
  lacking = [entry for entry in needed if entry not in vocab]
  if lacking:
    raise UserError(
      f'{name}: the vocabulary lacks {len(lacking)} entries it must have, among them '
      f'{lacking[0]!r}: another kind of vocabulary?'
    )
  for number, (a, b) in enumerate(merges, 1):
    if a not in vocab or b not in vocab or a + b not in vocab:
      missing = [entry for entry in (a, b, a + b) if entry not in vocab]
      raise UserError(
        f'{name}: merge {number} ({a} {b}) does not fit the vocabulary, which has no '
        f'{missing[0]!r}: files of two tokenizers?'
      )
