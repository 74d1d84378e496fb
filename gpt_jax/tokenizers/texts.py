"""Prepares texts for tokenizers."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator

LONG = 256  # characters of a word that trainers are given whole
_BLANKS = re.compile(rf'\s{{{LONG + 1}}}')


def encodable(text: str) -> str:
  """Returns the text with its lone surrogates, which have no UTF-8, as U+FFFD."""
  try:
    text.encode()
    return text
  except UnicodeEncodeError:
    return re.sub('[\ud800-\udfff]', '\ufffd', text)


def even_sample(texts: Iterable[str], limit: int) -> list[str]:
  """Returns texts of about `limit` characters at most, spread evenly over them all."""
  kept, size, every = [], 0, 1
  for i, text in enumerate(texts):
    if i % every == 0:
      kept.append(text)
      size += len(text)
    while size > limit and len(kept) > 1:
      kept, every = kept[::2], every * 2
      size = sum(map(len, kept))
  return kept


def with_short_words(
  text: str, long: re.Pattern, wanted: Callable[[str], bool] = bool
) -> Iterator[str]:
  """Yields a text in pieces, cut after every 256 characters of its long words.

  Trainers of tokenizers take time by the square of a word, and nobody's words are so
  long: other texts come back whole.

  Args:
    long: matches words of more than 256 characters.
    wanted: whether to cut one of them.
  """
  if max(map(len, text.split()), default=0) <= LONG and not _BLANKS.search(text):
    yield text  # there are none, which is found ten times as fast
    return
  start = 0
  for word in long.finditer(text):
    if wanted(word[0]):
      for end in range(word.start() + LONG, word.end(), LONG):
        yield text[start:end]
        start = end
  if start < len(text):
    yield text[start:]


def is_repetitive(text: str) -> bool:
  """Returns whether zlib leaves less than a tenth; of prose it leaves half."""
  content = text.encode()
  return 10 * len(zlib.compress(content, 1)) < len(content)
