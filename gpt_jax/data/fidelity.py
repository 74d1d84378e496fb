"""Whether a tokenizer gives a text back, found while the text is encoded.

One that changes a text, say to lower case, predicts another, easier text: its bits/byte
are of that one, divided by the bytes of the first, and can't be compared with those of
other tokenizers.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.files import field, of_kind

SAMPLE = 1 << 22  # bytes of a token file that are decoded again, evenly spread
_EXPLAINED = 8  # pieces that are looked at for what changed
_AROUND = 24  # characters shown on each side of the first difference
_KINDS = {
  'unknown': int,
  'lost': int,
  'pieces': int,
  'changed': int,
  'bytes': int,
  'how': list,
  'first': list,
}


def _without_accents(text: str) -> str:
  """Returns a text without the marks over and under its letters."""
  apart = unicodedata.normalize('NFD', text)
  bare = ''.join(c for c in apart if not unicodedata.combining(c))
  return unicodedata.normalize('NFC', bare)


# What tokenizers do to texts, in an order in which each undoes the next's traces.
_CHANGES: dict[str, Callable[[str], str]] = {
  'forms of characters (NFKC)': lambda text: unicodedata.normalize('NFKC', text),
  'accents': _without_accents,
  'letter case': str.casefold,
  'blanks': lambda text: re.sub(r'\s+', '', text),
}


class Fidelity:
  """What a tokenizer makes of the text of one token file, piece by piece.

  Attributes:
    record: unknown (ids of text without an entry of its own), lost (those of them that
      no decoding brings back), bytes and pieces of the text that was decoded again, how
      many pieces changed, how, and the first place: [document, before, after].
  """

  def __init__(
    self, tokenizer: tokenizers.Tokenizer, size: int, done: dict[str, Any] | None = None
  ):
    """Takes the bytes of all text, and the record of an earlier run to go on from."""
    self._tokenizer, self._size = tokenizer, size
    self._unknown, self._lost = (np.zeros(tokenizer.vocab, bool) for _ in range(2))
    for i in tokenizer.unknown:
      self._unknown[i] = True
      self._lost[i] = not re.fullmatch('<0x..>', tokenizer.pieces([i])[0])
    self.record = done or {name: kind() for name, kind in _KINDS.items()}

  def watch(self, name: str, text: str, ids: np.ndarray, seen: int) -> None:
    """Looks at a piece of text and its ids.

    Args:
      name: of its document.
      seen: bytes of all text before it.
    """
    now = self.record
    lost = int(self._lost[ids].sum())
    now['unknown'] += int(self._unknown[ids].sum())
    now['lost'] += lost
    if now['bytes'] * self._size > seen * SAMPLE:
      return  # the sample is as far as the text is
    now['pieces'] += 1
    now['bytes'] += len(text.encode())
    back = self._tokenizer.decode(ids.tolist())
    if back == text:
      return
    now['changed'] += 1
    if now['changed'] <= _EXPLAINED:
      now['how'] = sorted({*now['how'], *_changes(text, back, lost > 0)})
    if not now['first']:
      now['first'] = [name, *_difference(text, back)]


def _changes(text: str, back: str, unknown: bool) -> list[str]:
  """Returns in words what became of a text, the fewest changes that explain it.

  `unknown` says whether ids that lose text are in it: what else changed is not told.
  """

  def plain(whole: str, without: str = '') -> str:
    for name, change in _CHANGES.items():
      whole = change(whole) if name != without else whole
    return whole

  if plain(text) == plain(back):
    needed = [n for n in _CHANGES if plain(text, n) != plain(back, n)]
    return needed or ['forms of characters (NFKC)']
  return ['characters that it does not know' if unknown else 'other characters']


def _difference(text: str, back: str) -> tuple[str, str]:
  """Returns the surroundings of the first place where two texts differ."""
  most = min(len(text), len(back))
  low, high = 0, most  # equal up to low; differs up to high, or only beyond
  while low < high:
    middle = (low + high + 1) // 2
    if text[low:middle] == back[low:middle]:
      low = middle
    else:
      high = middle - 1
  begin = max(low - _AROUND, 0)
  return text[begin : low + _AROUND], back[begin : low + _AROUND]


def checked(record: dict[str, Any], where: str, again: str) -> dict[str, Any]:
  """Returns a record that a file has, {} as it is; raises UserError if it is none."""
  for name, kind in _KINDS.items() if record else ():
    field(record, name, kind, where, again)
  for part in (*record.get('how', ()), *record.get('first', ())):
    of_kind(part, str, where, again)
  return record


def described(record: dict[str, Any], tokens: int) -> str:
  """Returns in words what a tokenizer made of the text of so many tokens."""
  share = f'{100 * record["unknown"] / tokens:.2g} % unknown'
  tried = f'{record["bytes"] / 1e6:.2f} MB'
  if not record['changed']:
    lost = ', but unknown text does not come back' * bool(record['lost'])
    return f'{share}; {tried} decoded again came back unchanged{lost}'
  name, before, after = record['first']
  return (
    f'{share}; {record["changed"]:,} of {record["pieces"]:,} pieces, {tried}, came '
    f'back otherwise: the tokenizer changes {", ".join(record["how"])}; first in '
    f'{name}, {before!r} became {after!r}'
  )


def lost(record: dict[str, Any], kind: str) -> str:
  """Returns how a tokenizer changes the text of a token file, '' if it does not.

  Args:
    record: of the file; {} if an older version prepared it, or if it is not known.
    kind: of the tokenizer.
  """
  if not record:
    return {
      'gpt1': 'its tokenizer changes letter case and blanks',
      'sentencepiece': 'whether its tokenizer gives text back is not known',
    }.get(kind, '')
  if record['changed']:
    return f'its tokenizer changes {", ".join(record["how"])}'
  return 'its tokenizer loses text that is unknown to it' if record['lost'] else ''


def warning(how: str) -> str:
  """Returns what bits/byte are worth where `lost` is not ''."""
  return f'bits/byte are not comparable with those of other tokenizers: {how}'
