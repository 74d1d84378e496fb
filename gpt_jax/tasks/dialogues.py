"""Dialogues: files of turns, and the examples that DialoGPT makes of them; without jax.

A dialogue is a list of turns, the last of which answers those before. Formats:

  .tsv    DialoGPT's: source, tab, target; turns of the source joined by ` EOS `; 0.0 or
          1.0 before a turn is its weight in the loss
  .jsonl  an object a line: {"turns": [TEXT or {"text": TEXT, "weight": 1}, ..]}; or
          {"dialogue": "A: TEXT\nB: TEXT"}, whose speakers are left out
  .txt    a line a turn, an empty line between dialogues; a `- ` before a turn is left
          out

Source: Zhang et al. 2020, section 3.1, and the release's prepro.py.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gpt_jax.config import UserError
from gpt_jax.files import field, lines, of_kind, parse_json_line

SEPARATOR = ' EOS '
_MEND = 'mend the line or take it out'
_SPEAKER = re.compile(r'^\s*[^\s:]{1,30}:\s+')


class Turn(NamedTuple):
  """What one speaker says.

  Attributes:
    weight: of its tokens in the loss; 0: none.
  """

  text: str
  weight: float = 1.0


Dialogue = list[Turn]


def read(path: str | pathlib.Path) -> Iterator[Dialogue]:
  """Yields the dialogues of a .tsv, .jsonl or .txt file, in order.

  Raises:
    UserError: the file can't be read, or a line is no dialogue, with its number.
  """
  path = pathlib.Path(path)
  readers = {'.tsv': _tsv, '.jsonl': _json_lines, '.txt': _transcript}
  if path.suffix not in readers:
    raise UserError(
      f'{path} is no file of dialogues: its name must end in {", ".join(readers)}'
    )
  try:
    with open(path, 'rb') as stream:
      yield from readers[path.suffix](_texts(stream, path), path)
  except OSError as error:
    raise UserError(f'{path} can not be read: {error.strerror or error}') from error


def _texts(stream, path: pathlib.Path) -> Iterator[tuple[int, str]]:
  for number, line in lines(stream, path):
    try:
      yield number, line.decode('utf-8-sig' if number == 1 else 'utf-8').rstrip('\r\n')
    except UnicodeDecodeError as error:
      raise UserError(
        f'{path}: line {number}: byte {error.start:,} is not UTF-8; {_MEND}'
      ) from error


def _tsv(texts: Iterable[tuple[int, str]], path: pathlib.Path) -> Iterator[Dialogue]:
  for number, text in texts:
    yield from_tsv(text, f'{path}: line {number}')


def from_tsv(line: str, where: str) -> Dialogue:
  """Returns the dialogue in a line of DialoGPT's format.

  Differs: prepro.py takes any number before a turn for its weight, so that `25 , you ?`
  weighs 25 and says ', you ?'; here 0.0 and 1.0 are weights, and others are words.

  Args:
    where: names the line in an error.
  """
  source, tab, target = line.strip('\r\n ').partition('\t')
  if not tab or '\t' in target:
    raise UserError(f'{where} must have one tab, between source and target; {_MEND}')
  return [_weighted(turn, where) for turn in [*source.split(SEPARATOR), target]]


def _weighted(text: str, where: str) -> Turn:
  words = text.split()
  weight = words.pop(0) if words and words[0] in ('0.0', '1.0') else '1.0'
  if not words:
    raise UserError(f'{where} has an empty turn; {_MEND}')
  return Turn(' '.join(words), float(weight))


def _json_lines(
  texts: Iterable[tuple[int, str]], path: pathlib.Path
) -> Iterator[Dialogue]:
  for number, text in texts:
    where = f'{path}: line {number}'
    if text.strip():
      about = parse_json_line(text.encode(), where, _MEND)
      if 'turns' not in about and 'dialogue' in about:
        spoken = field(about, 'dialogue', str, where, _MEND).split('\n')
        yield [Turn(_SPEAKER.sub('', turn).strip()) for turn in spoken if turn.strip()]
      else:
        turns = field(about, 'turns', list, where, _MEND)
        yield [_from_json(turn, where) for turn in turns]


def _from_json(value: object, where: str) -> Turn:
  if isinstance(value, str):
    turn = Turn(value)
  else:
    about = of_kind(value, dict, where, _MEND, 'a turn')
    weight = field({'weight': 1.0, **about}, 'weight', float, where, _MEND)
    turn = Turn(field(about, 'text', str, where, _MEND), float(weight))
  if not turn.text.strip():
    raise UserError(f'{where} has an empty turn; {_MEND}')
  return turn


def _transcript(
  texts: Iterable[tuple[int, str]], path: pathlib.Path
) -> Iterator[Dialogue]:
  del path
  turns: Dialogue = []
  for _, text in texts:
    if turn := text.strip().removeprefix('- ').strip():
      turns.append(Turn(turn))
    elif turns:
      yield turns
      turns = []
  if turns:
    yield turns


def to_json(turns: Dialogue) -> str:
  """Returns a dialogue as a line of .jsonl, which `read` gives back."""
  return json.dumps(
    {
      'turns': [
        turn.text if turn.weight == 1 else {'text': turn.text, 'weight': turn.weight}
        for turn in turns
      ]
    },
    ensure_ascii=False,
  )


class Example(NamedTuple):
  """A row of a batch, without padding.

  Attributes:
    ids: that are read.
    targets: the id after each.
    weights: of each target in the loss.
    learnt: the turns, by number, whose tokens have one.
  """

  ids: list[int]
  targets: list[int]
  weights: list[float]
  learnt: list[int]


def examples(
  turns: Sequence[tuple[list[int], float]], end: int, longest: int = 128
) -> list[Example]:
  """Returns the examples of a dialogue, as the release's prepro.py makes them.

  Turns are joined by the id `end`. The first turn of an example has no loss: the first
  target is the token that follows its `end`. Before a turn is added it is seen whether
  more than `longest` tokens are there; then an example ends, and the next one begins
  with its last turn. So an example may be longer than `longest`, by a turn. A longer
  turn is left out, and what comes after it begins anew; left out are too a last turn of
  weight 0 (the target of a file's line), and an example without any loss.

  Args:
    turns: ids and weight of each turn.
    end: the id of the end of text.
  """
  if turns and turns[-1][1] == 0:
    turns = turns[:-1]
  parts: list[list[int]] = []
  part: list[int] = []
  length = 0
  for number, (turn, _) in enumerate(turns):
    if len(turn) > longest:
      parts.append(part)
      part, length = [], 0
      continue
    if length > longest:
      parts.append(part)
      part, length = part[-1:], len(turns[part[-1]][0]) + 1
    part = [*part, number]
    length += len(turn) + 1
  return [
    _example(turns, each, end)
    for each in [*parts, part]
    if any(turns[i][1] for i in each[1:])
  ]


def _example(
  turns: Sequence[tuple[list[int], float]], part: Sequence[int], end: int
) -> Example:
  """Returns two turns or more as a row that ends with its last target.

  Args:
    part: their numbers.
  """
  ids = [token for i in part for token in [*turns[i][0], end]]
  weights = [
    turns[i][1] if i != part[0] else 0.0
    for i in part
    for _ in range(len(turns[i][0]) + 1)
  ]
  last = max(place for place, weight in enumerate(weights) if weight)
  return Example(
    ids[:last],
    ids[1 : last + 1],
    weights[1 : last + 1],
    [i for i in part[1:] if turns[i][1]],
  )


def reverse(turns: Sequence[Turn]) -> Dialogue:
  """Returns the turns from last to first: what a backward model reads.

  It learns P(source | target), which ranks replies (Zhang et al. 2020, section 3.2). A
  target of weight 0 is left out before.
  """
  turns = list(turns)
  return (turns[:-1] if turns and turns[-1].weight == 0 else turns)[::-1]


def plain(text: str) -> str:
  """Returns a turn's words in lower case, without marks."""
  letters = (c if c.isalnum() or c.isspace() else ' ' for c in text.lower())
  return ' '.join(''.join(letters).split())
