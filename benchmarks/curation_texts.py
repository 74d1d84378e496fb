"""Texts of several kinds, by number: what a classifier of quality is tried on."""

import random
import re
from collections.abc import Callable, Sequence

from gpt_jax.data import sources
from gpt_jax.data.curation import features

Kind = Callable[[int], str]
_NAMES = 'index count buf ptr node tree list map get set init size data'.split()
_FORMS = '  {0}.{1}({2}, {3});', '  if ({0} != {1}) {{', '// the {0} of {1}', '  }}'
_PHRASES = (
  'Sign in to your account',
  'Terms of use and the privacy policy',
  'Add to cart',
  'Click here to subscribe',
  'All rights reserved',
  'Read more',
  'Share this page',
)


def paragraphs(source: str, between: str = '\n') -> list[str]:
  """Returns the paragraphs of a text that are neither short nor long, each a line.

  Args:
    between: pattern of what divides them.
  """
  texts = (document.text for document in sources.documents(source))
  parts = (' '.join(part.split()) for text in texts for part in re.split(between, text))
  return [part for part in parts if 60 < len(part) < 2000]


def prose(paragraphs: Sequence[str], length: int = 8) -> Kind:
  """Returns texts of some paragraphs; no paragraph is in an even and an odd text."""

  def text(seed: int) -> str:
    return '\n\n'.join(random.Random(seed).sample(paragraphs[seed % 2 :: 2], length))

  return text


def code_like(seed: int) -> str:
  """Returns lines that look like those of a program."""
  rng = random.Random(seed)
  return '\n'.join(
    rng.choice(_FORMS).format(*rng.sample(_NAMES, 3), rng.randrange(99))
    for _ in range(60)
  )


def boilerplate(seed: int) -> str:
  """Returns what stands around the text of a page."""
  rng = random.Random(seed)
  return '\n'.join(f'{rng.choice(_PHRASES)} {rng.randrange(99)}' for _ in range(60))


def shuffled_characters(kind: Kind) -> Kind:
  """Returns texts with the characters of each word in any order."""

  def text(seed: int) -> str:
    rng = random.Random(seed)
    return ' '.join(''.join(rng.sample(word, len(word))) for word in kind(seed).split())

  return text


def shuffled_words(kind: Kind) -> Kind:
  """Returns texts with their words in any order, and the same counts of words."""

  def text(seed: int) -> str:
    *words, last = features.words(kind(seed))
    # At the end an empty word would be lost.
    return ' '.join([*random.Random(seed).sample(words, len(words)), last])

  return text
