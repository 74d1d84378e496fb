"""De-tokenizers that can be inverted: tokenized text spaced as people write it.

Language models predict text as people write it better than tokens between spaces, and
GPT-2 is evaluated so (Radford et al. 2019, section 3.1). As nothing of the original is
lost, its probability is at least that of what the model reads, and may be divided by
the words of the original.

Rules say which tokens are joined. A token that the inverse would cut is followed by two
spaces, and a line that is not tokens between single spaces begins with two, so the
inverse is exact for every text, not only where the rules are right. OpenAI never
released its rules; these are ours.
"""

import dataclasses
import re

_ABBREVIATION = re.compile(
  r'\.{2,}|(?:[A-Za-z]\.)+|(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Prof|Gen|Col|Lt|Sgt|Capt'
  r'|Maj|Rev|Gov|Sen|Rep|Inc|Corp|Co|Ltd|Bros|Mt|Ft|Jan|Feb|Aug|Sept|Oct|Nov|Dec)\.'
)


@dataclasses.dataclass(frozen=True)
class Detokenizer:
  """The spacing of one corpus.

  Attributes:
    opens: tokens that are joined to the next one -> how they are written.
    closes: tokens that are joined to the one before -> how they are written.
    clitics: what the corpus cuts off the end of a word, such as 's.
    inside: tokens that join two others: (token, written, pattern that finds it).
    edge: what begins and ends every line.
  """

  opens: dict[str, str]
  closes: dict[str, str]
  clitics: re.Pattern
  inside: tuple[tuple[str, str, re.Pattern], ...] = ()
  edge: str = ''

  def read(self, text: str) -> str:
    """Returns a text as people write it."""
    *lines, last = text.split('\n')
    if last:
      last = f'  {last}' if last == self.edge else self._line(last)
    return '\n'.join([*map(self._line, lines), last])

  def invert(self, text: str) -> str:
    """Returns the tokens, between spaces, of a text that `read` returned."""
    *lines, last = text.split('\n')
    return '\n'.join([*map(self._tokens, lines), self._tokens(last) if last else ''])

  def _line(self, line: str) -> str:
    """Returns a line as people write it; a blank one is empty."""
    if line == self.edge:
      return ''
    tokens = line.removeprefix(self.edge).removesuffix(self.edge).split(' ')
    if '' in tokens or line != f'{self.edge}{" ".join(tokens)}{self.edge}':
      return f'  {line}'
    return ' '.join(self._chunks(tokens))

  def _tokens(self, line: str) -> str:
    """Returns the tokens of a line that `_line` returned."""
    if line.startswith('  '):
      return line[2:]
    if not line:
      return self.edge
    tokens, pieces = [], line.split(' ')
    for piece, following in zip(pieces, [*pieces[1:], '-'], strict=True):
      if piece:
        tokens += self._cut(piece) if following else [piece]
    return f'{self.edge}{" ".join(tokens)}{self.edge}'

  def _chunks(self, tokens: list[str]) -> list[str]:
    """Returns the tokens joined as far as `_cut` separates them again."""
    chunks, group, written, i, odd = [], [], '', 0, False
    after_opening = False
    while i < len(tokens):
      token = tokens[i]
      alike = token in self.opens and token in self.closes  # the quote "
      opening = token in self.opens and not (alike and odd)
      step = self._step(tokens[i : i + 2])
      joins = after_opening or len(step) == 2 or self._follows(token) and not opening
      more = [self._write(each, opening) for each in step]
      if group and joins and self._cut(written + ''.join(more)) == group + step:
        group += step
        written += ''.join(more)
      else:
        chunks += [self._chunk(group, written)] if group else []
        step, group = [token], [token]
        written = self._write(token, opening)
      after_opening = opening and len(step) == 1
      odd ^= alike
      i += len(step)
    return [*chunks, self._chunk(group, written)]

  def _step(self, pair: list[str]) -> list[str]:
    """Returns what to add at once: a token, or one that stands between two words."""
    between = pair[0] in {token for token, _, _ in self.inside}
    words = len(pair) == 2 and not {pair[1]} & {*self.opens, *self.closes}
    return pair if between and words else pair[:1]

  def _follows(self, token: str) -> bool:
    return token in self.closes or bool(self.clitics.fullmatch(token))

  def _write(self, token: str, opening: bool) -> str:
    """Returns how a token is written among others."""
    inside = {name: written for name, written, _ in self.inside}
    written = self.opens if opening else self.closes
    return written.get(token) or inside.get(token, token)

  def _chunk(self, group: list[str], written: str) -> str:
    """Returns a group as written; one token as it is, and marked if it would be cut."""
    if len(group) > 1:
      return written
    return group[0] if self._cut(group[0]) == group else f'{group[0]} '

  def _cut(self, chunk: str) -> list[str]:
    """Returns the tokens of a chunk between two spaces."""
    opens = {written: token for token, written in self.opens.items()}
    closes = {written: token for token, written in self.closes.items()}
    first, last = [], []
    while len(chunk) > 1 and chunk[0] in opens:
      first.append(opens[chunk[0]])
      chunk = chunk[1:]
    while len(chunk) > 1:
      clitic = re.search(f'(?<=.)(?:{self.clitics.pattern})$', chunk)
      if clitic:
        last.append(clitic[0])
        chunk = chunk[: clitic.start()]
      elif chunk[-1] in closes and not _ABBREVIATION.fullmatch(chunk):
        last.append(closes[chunk[-1]])
        chunk = chunk[:-1]
      else:
        break
    for token, _, pattern in self.inside:
      chunk = pattern.sub(f' {token} ', chunk)
    return [*first, *chunk.split(), *reversed(last)]


def _between(letter: str, mark: str) -> re.Pattern:
  """Returns the pattern of a mark between two letters, or beside a rare word's <unk>.

  WikiText's mark joins whatever word was there, the rare one too.
  """
  return re.compile(f'(?:(?<={letter})|(?<=<unk>)){mark}(?={letter}|<unk>)')


_OPENS = {each: each for each in '("[$\u00a3'}
_CLOSES = {each: each for each in '.,;:!?)]%"'}
_MOSES = re.compile(r"'(?:s|t|re|ve|ll|d|m)")
_PENN = re.compile(r"n't|'(?:s|re|ve|ll|d|m)")

WIKITEXT = Detokenizer(
  _OPENS,
  _CLOSES,
  _MOSES,
  (
    ('@,@', ',', _between(r'\d', ',')),
    ('@.@', '.', _between(r'\d', r'\.')),
    ('@-@', '-', _between(r'\w', '-')),
  ),
  edge=' ',
)
LM1B = Detokenizer(_OPENS, _CLOSES, _MOSES)
PTB = Detokenizer({'$': '$', '#': '#'}, {'%': '%'}, _PENN, edge=' ')
TREEBANK = Detokenizer(
  {'``': '"', '-LRB-': '(', '$': '$'},
  {"''": '"', '-RRB-': ')'} | {each: each for each in '.,;:!?%'},
  _PENN,
)
