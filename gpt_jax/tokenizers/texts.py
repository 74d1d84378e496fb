"""Prepares texts for tokenizers."""

import re
from collections.abc import Iterable


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
