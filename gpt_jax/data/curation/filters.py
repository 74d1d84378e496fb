"""Filters by rule: repair of Unicode, language, and the rules of Gopher and of C4.

The numbers that are defaults of `Gopher` and `C4` are published, but for those marked
`ours`. GPT-3's paper has no rules of this kind: it filters by a classifier alone
(`quality`).
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import Document
from gpt_jax.data.curation.stages import Verdict, each_document
from gpt_jax.data.formats import imported
from gpt_jax.tokenizers.texts import encodable


@dataclasses.dataclass(frozen=True)
class Repair:
  """Mends text that was decoded by the wrong table, by ftfy (Speer 2019); an extra.

  Quotes, ligatures and wide characters stay as they are: an author wrote them. What
  changed is counted; nothing is dropped.

  Attributes:
    form: of Unicode: NFC, NFKC or NFD; '': as it is.
  """

  form: str = 'NFC'

  def __post_init__(self):
    if self.form not in ('', 'NFC', 'NFKC', 'NFD'):
      raise UserError(f"Repair.form={self.form!r} must be NFC, NFKC, NFD or ''")

  def __call__(self, document: Document) -> Verdict:
    ftfy = imported('ftfy', 'Unicode repair')
    settings = ftfy.TextFixerConfig(
      uncurl_quotes=False,
      fix_latin_ligatures=False,
      fix_character_width=False,
      normalization=self.form or None,
      explain=False,
    )
    return document._replace(text=encodable(ftfy.fix_text(document.text, settings)))


@dataclasses.dataclass(frozen=True)
class Language:
  """Keeps documents of some languages, as the library CLD2 names them; an extra.

  GPT-2's authors name the language of WebText by CLD2 too (Radford et al. 2019, section
  3.7).

  Attributes:
    keep: ISO codes.
    least: share of a document's bytes that must be in the first language; ours.
  """

  keep: tuple[str, ...] = ('en',)
  least: float = 0.65

  def __post_init__(self):
    if not self.keep or not all(code == code.lower() for code in self.keep):
      raise UserError(
        f'Language.keep={self.keep!r} must name languages in lower case, such as en, ru'
      )

  def __call__(self, document: Document) -> Verdict:
    cld2 = imported('pycld2', 'the filter of languages')
    try:
      _, _, found = cld2.detect(
        _CONTROL.sub(' ', document.text), isPlainText=True, bestEffort=True
      )
      code, share = found[0][1], found[0][2] / 100
    except cld2.error:  # characters that it refuses
      code, share = 'un', 0.0
    if code not in self.keep:
      return f'language {code}'
    if share < self.least:
      return 'mixed languages'
    meta = {**document.meta, 'language': code, 'language_share': share}
    return document._replace(meta=meta)


_CONTROL = re.compile('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]')


@dataclasses.dataclass(frozen=True)
class Gopher:
  """The rules of MassiveText: Rae et al. 2021, appendix A.1.1 and table A1.

  Words are what whitespace divides, lines what a line end does, paragraphs what an
  empty line does. A line, paragraph or n-gram is a duplicate from its second time on.

  Differs: the share of characters in n-grams counts those of words, without the blanks
  between them. The paper does not say which occurrences of an n-gram it counts.

  Attributes:
    words: least and most words of a document.
    word_length: least and most mean characters of a word.
    symbols: most '#', and most '...' or '…', for a word.
    bullets: most share of lines that begin with a bullet.
    ellipses: most share of lines that end with an ellipsis.
    alphabetic: least share of words with a letter.
    stop_words: least different ones of the, be, to, of, and, that, have, with.
    duplicate_lines, duplicate_paragraphs: most share of their number.
    line_characters, paragraph_characters: most share of characters in duplicates.
    top_ngrams: of n = 2, 3, 4, the most share of characters in the one that has most.
    duplicate_ngrams: of n = 5 .. 10, the most share of characters in duplicates.
  """

  words: tuple[int, int] = (50, 100_000)
  word_length: tuple[float, float] = (3, 10)
  symbols: float = 0.1
  bullets: float = 0.9
  ellipses: float = 0.3
  alphabetic: float = 0.8
  stop_words: int = 2
  duplicate_lines: float = 0.3
  duplicate_paragraphs: float = 0.3
  line_characters: float = 0.2
  paragraph_characters: float = 0.2
  top_ngrams: tuple[float, ...] = (0.2, 0.18, 0.16)
  duplicate_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)

  def __call__(self, document: Document) -> Verdict:
    words = document.text.split()
    reason = (
      self._of_words(words, document.text)
      or self._of_lines(document.text)
      or self._of_ngrams(words)
    )
    return reason or document

  def _of_words(self, words: list[str], text: str) -> str:
    """Returns which rule of words is broken, or ''."""
    if len(words) < self.words[0]:
      return 'few words'
    if len(words) > self.words[1]:
      return 'many words'
    length = sum(map(len, words)) / len(words)
    if not self.word_length[0] <= length <= self.word_length[1]:
      return 'word length'
    hashes, dots = text.count('#'), text.count('...') + text.count('…')
    if max(hashes, dots) > self.symbols * len(words):
      return 'symbols'
    if sum(map(_has_letter, words)) < self.alphabetic * len(words):
      return 'few words with letters'
    if len(_STOP_WORDS & {word.lower() for word in words}) < self.stop_words:
      return 'few stop words'
    return ''

  def _of_lines(self, text: str) -> str:
    """Returns which rule of lines and paragraphs is broken, or ''."""
    lines = [each for line in text.splitlines() if (each := line.strip())]
    if sum(line.startswith(_BULLETS) for line in lines) > self.bullets * len(lines):
      return 'bullets'
    if sum(line.endswith(_ELLIPSES) for line in lines) > self.ellipses * len(lines):
      return 'ellipses'
    paragraphs = [each for part in _EMPTY_LINE.split(text) if (each := part.strip())]
    for parts, what, number, characters in (
      (lines, 'lines', self.duplicate_lines, self.line_characters),
      (paragraphs, 'paragraphs', self.duplicate_paragraphs, self.paragraph_characters),
    ):
      again = duplicates(parts)
      if len(again) > number * len(parts):
        return f'duplicate {what}'
      if sum(map(len, again)) > characters * len(text):
        return f'characters in duplicate {what}'
    return ''

  def _of_ngrams(self, words: list[str]) -> str:
    """Returns which rule of n-grams is broken, or ''."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    top = dict(enumerate(self.top_ngrams, 2))
    again = dict(enumerate(self.duplicate_ngrams, 5))
    for n, hashes in ngrams(words, max([*top, *again], default=0)):
      if n in top and share_of_top(hashes, lengths) > top[n]:
        return f'top {n}-gram'
      if n in again:
        share = share_of_duplicates(hashes, lengths)
        if share > again[n]:
          return f'duplicate {n}-grams'
        # A longer duplicate is made of shorter ones, so that no share is larger.
        if n >= max(top, default=0) and share <= min(again.values()):
          break
    return ''


_STOP_WORDS = frozenset('the be to of and that have with'.split())
_BULLETS = '•', '‣', '▶', '◀', '◦', '■', '□', '▪', '▫', '–', '-', '*'
_ELLIPSES = '...', '…'
_EMPTY_LINE = re.compile(r'\n\s*\n')
_LETTER = re.compile(r'[^\W\d_]')


def _has_letter(word: str) -> bool:
  return _LETTER.search(word) is not None


def duplicates(parts: Sequence[str]) -> list[str]:
  """Returns the texts that came before, as often as they come again."""
  seen: set[str] = set()
  return [each for each in parts if each in seen or seen.add(each)]


def ngrams(words: Sequence[str], most: int) -> Iterator[tuple[int, np.ndarray]]:
  """Yields n and a hash of each n-gram, [W - n + 1] uint64, for n from 1 to `most`.

  Of two different n-grams the hashes are equal but by a chance of 2^-64.
  """
  numbers: dict[str, int] = {}
  each = (numbers.setdefault(word, len(numbers)) for word in words)
  ids = np.fromiter(each, np.uint64, len(words)) + np.uint64(1)
  hashes = np.zeros_like(ids)
  for n in range(1, min(most, len(words)) + 1):
    hashes = hashes[: len(words) - n + 1]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    hashes += ids[n - 1 :]
    yield n, hashes


def share_of_top(hashes: np.ndarray, lengths: np.ndarray) -> float:
  """Returns the share of characters in the most frequent n-gram; of one alone 0.

  Args:
    hashes: of the n-grams, [W - n + 1].
    lengths: of the words, [W].
  """
  n = len(lengths) - len(hashes) + 1
  _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
  if counts.max() == 1:
    return 0.0
  first = first[counts == counts.max()]
  sizes = [lengths[at : at + n].sum() for at in first.tolist()]
  return float(counts.max() * max(sizes) / lengths.sum())


def share_of_duplicates(hashes: np.ndarray, lengths: np.ndarray) -> float:
  """Returns the share of characters in n-grams that came before, each counted once.

  Args:
    hashes: of the n-grams, [W - n + 1].
    lengths: of the words, [W].
  """
  n = len(lengths) - len(hashes) + 1
  again = np.ones(len(hashes), bool)
  again[np.unique(hashes, return_index=True)[1]] = False
  inside = np.zeros(len(lengths) + 1, np.int64)  # where an n-gram begins, and ends
  inside[: len(again)] += again
  inside[n:] -= again
  return float(lengths[np.cumsum(inside)[:-1] > 0].sum() / lengths.sum())


@dataclasses.dataclass(frozen=True)
class C4:
  """The rules of C4: Raffel et al. 2020, section 2.2, for single pages.

  Lines are kept that end with a terminal mark and have enough words, and hold none of
  its phrases; pages with a brace, 'lorem ipsum' or too few sentences are dropped.

  Differs: the list of bad words is left out, and so are spans of three sentences that
  other pages have too: `dedup` is of whole documents.

  Attributes:
    line_words: least words of a line.
    sentences: least sentences of a page.
  """

  line_words: int = 5
  sentences: int = 3

  def __call__(self, document: Document) -> Verdict:
    text, lower = document.text, document.text.lower()
    if 'lorem ipsum' in lower:
      return 'lorem ipsum'
    if '{' in text:
      return 'brace'
    lines = [line for line in text.splitlines() if self._keeps(line.strip())]
    kept = '\n'.join(_CITATION.sub('', line) for line in lines)
    if len(_SENTENCE.findall(kept)) < self.sentences:
      return 'few sentences'
    return document._replace(text=kept)

  def _keeps(self, line: str) -> bool:
    """Returns whether a line is kept."""
    lower = line.lower()
    return (
      line.endswith(('.', '!', '?', '"', '”'))
      and not line.endswith('...')
      and len(line.split()) >= self.line_words
      and not any(phrase in lower for phrase in _PHRASES)
    )


_PHRASES = (
  'javascript',
  'terms of use',
  'privacy policy',
  'cookie policy',
  'uses cookies',
  'use of cookies',
  'use cookies',
)
_CITATION = re.compile(r'\[(?:\d*|edit|citation needed)\]')
_SENTENCE = re.compile(r'[.!?]+["”\')\]]*(?=\s|$)')


def run(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  settings: Repair | Language | Gopher | C4,
  name: str,
) -> dict[str, Any]:
  """Writes the documents that a filter keeps, and returns a report.

  Args and what is returned are those of `stages.each_document`.

  Args:
    settings: the filter.
  """
  return each_document(
    engine, shards, output, functools.partial(_judge, settings), name
  )


def _judge(settings: Repair | Language | Gopher | C4, document: Document) -> Verdict:
  return settings(document)
