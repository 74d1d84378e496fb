"""The two files of a BPE: vocab.json and merges.txt."""

import json
from collections.abc import Iterable
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.files import read_json, read_text, shown

Merges = list[tuple[str, str]]
MOST = 2**26  # bytes of a file of a vocabulary; one of 256,000 entries has 30 MB


def read_bpe(vocab: Path, merges: Path) -> tuple[dict[str, int], Merges]:
  """Returns the ids and the merges in the two files of a BPE.

  Raises:
    UserError: one can't be read or is not such a file.
  """
  ids, pairs = read_json(vocab, most=MOST), []
  # Not splitlines: U+0085 and others are entries of vocabularies, not line ends.
  for number, line in enumerate(read_text(merges, most=MOST).split('\n'), 1):
    pair = tuple(line.removesuffix('\r').split(' '))
    if line.startswith('#version') or not line:
      continue
    if len(pair) != 2:
      raise UserError(
        f'{merges}: line {number} is not two entries: {shown(line)}; give the merges '
        'of a BPE vocabulary'
      )
    pairs.append(pair)
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
  """Raises a UserError unless vocabulary and merges fit each other.

  Args:
    vocab, merges: as a file has them: of any types.
  """
  strange = [each for each in vocab.items() if tuple(map(type, each)) != (str, int)]
  strange += [
    each for each in merges if len(each) != 2 or {type(part) for part in each} != {str}
  ]
  if strange:
    raise UserError(
      f'{name}: {shown(strange[0])} is no entry with its id, and no merge of two '
      'entries; give a BPE vocabulary'
    )
  if sorted(vocab.values()) != list(range(len(vocab))):
    raise UserError(
      f'{name}: the ids of its {len(vocab)} entries must be 0 .. {len(vocab) - 1}, '
      'each once'
    )
  lacking = [entry for entry in needed if entry not in vocab]
  if lacking:
    raise UserError(
      f'{name}: the vocabulary lacks {len(lacking)} entries it must have, among them '
      f'{shown(lacking[0])}: another kind of vocabulary?'
    )
  for number, (a, b) in enumerate(merges, 1):
    if a not in vocab or b not in vocab or a + b not in vocab:
      missing = [entry for entry in (a, b, a + b) if entry not in vocab]
      raise UserError(
        f'{name}: merge {number} ({shown(a)}, {shown(b)}) does not fit the vocabulary, '
        f'which has no {shown(missing[0])}: files of two tokenizers?'
      )
