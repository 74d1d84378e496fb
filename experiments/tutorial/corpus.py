"""The tutorial's corpus: small texts in English and in Russian, made by a grammar.

Stories, definitions, translations, lists, sums and reviews. The same documents on every
machine and every Python: all chance comes from `random.Random(seed).random()`, whose
sequence Python promises to keep. Some combinations are left out everywhere, so that a
model that gets them right did not remember them: `held_out_pair` of adjective and noun,
`held_out_sum` of operands; and the nouns of UNLISTED are in no list of translations.

  python experiments/tutorial/corpus.py --target=runs/tutorial/corpus.jsonl
"""

import json
import pathlib
import random
import sys
from collections.abc import Callable, Sequence

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from experiments.tutorial.words import (
  ADJECTIVES,
  BAD,
  CAUSES,
  ENDINGS,
  GOOD,
  KINDS,
  NAMES,
  NOUNS,
  OPPOSITES,
  PLACES,
  REVIEWED,
  WAS,
  WHICH,
  Adjective,
  Noun,
)
from gpt_jax.cli.messages import run_script
from gpt_jax.files import write_whole

_DOCUMENTS = 5_000
HIGHEST = 9  # operand of a sum
_FOUND = [noun for noun in NOUNS if noun.kind < 2]  # in stories: animals and things
UNLISTED = 'fox', 'lamp', 'cheese', 'river'


def held_out_pair(adjective: Adjective, noun: Noun) -> bool:
  """Returns whether the two never stand together in the corpus."""
  return (7 * ADJECTIVES.index(adjective) + 3 * NOUNS.index(noun)) % 10 == 0


def held_out_sum(a: int, b: int) -> bool:
  """Returns whether neither a + b nor b + a is in the corpus."""
  return (a * b + a + b) % 10 == 7


class Draw:
  """Chance, by the one method whose results are the same in every Python."""

  def __init__(self, seed: int):
    self._random = random.Random(seed).random

  def below(self, n: int) -> int:
    """Returns a whole number from 0 to n - 1."""
    return int(self._random() * n)

  def one(self, options: Sequence):
    """Returns one of the options."""
    return options[self.below(len(options))]

  def some(self, options: Sequence, n: int) -> list:
    """Returns n different ones."""
    left = list(options)
    return [left.pop(self.below(len(left))) for _ in range(n)]

  def pair(self, nouns: Sequence[Noun] = NOUNS) -> tuple[Adjective, Noun]:
    """Returns an adjective and a noun that may stand together."""
    while True:
      adjective, noun = self.one(ADJECTIVES), self.one(nouns)
      if not held_out_pair(adjective, noun):
        return adjective, noun


def with_article(words: str) -> str:
  """Returns English words with 'a' or 'an' before them."""
  return f'{"an" if words[0] in "aeiou" else "a"} {words}'


def _story(draw: Draw) -> str:
  """Returns a story: somebody finds something, and another one asks about it."""
  (en, ru, sex), (other_en, other_ru, other_sex) = draw.some(NAMES, 2)
  adjective, noun = draw.pair(_FOUND)
  place_en, place_ru = draw.one(PLACES)
  cause = draw.one(CAUSES)
  end_en, end_ru = draw.one(ENDINGS)
  gives = draw.below(2)
  if draw.below(2):
    he, him = ('She', 'her') if sex == 'f' else ('He', 'him')
    middle = (
      f'{en} gave the {noun.en} to {other_en}.'
      if gives
      else f'{other_en} asked {him} for the {noun.en}.'
    )
    return (
      f'{en} found {with_article(adjective.en)} {noun.en} near the {place_en}. '
      f'{cause[0]}, so {he.lower()} {cause[1]}. '
      f'{other_en} asked: "Where did you find the {noun.en}?" '
      f'"Near the {place_en}," said {en}. {middle} {end_en}'
    )
  she = sex == 'f'
  found, said, gave = (
    ('нашла', 'сказала', 'отдала') if she else ('нашёл', 'сказал', 'отдал')
  )
  asked, wanted = (
    ('спросила', 'попросила') if other_sex == 'f' else ('спросил', 'попросил')
  )
  middle = (
    f'{ru} {gave} {noun.it} другу.' if gives else f'{other_ru} {wanted} {noun.it}.'
  )
  return (
    f'{ru} {found} {adjective.it(noun)} {noun.it} у {place_ru}. '
    f'{cause[2]}, поэтому {"она" if she else "он"} {cause[4 if she else 3]}. '
    f'{other_ru} {asked}: «Где ты {found} {noun.it}?» '
    f'«У {place_ru}», — {said} {ru}. {middle} {end_ru}'
  )


def definition(noun: Noun, russian: bool) -> str:
  """Returns the definition of a noun."""
  kind_en, kind_ru, gender = KINDS[noun.kind]
  if russian:
    which = f'{WHICH[gender]} {noun.what_ru}'
    return f'Определение: "{noun.ru}" - это {kind_ru}, {which}.'
  return f'Definition: "{noun.en}" is {kind_en} that {noun.what_en}.'


def _definitions(draw: Draw) -> str:
  russian = draw.below(2)
  chosen = draw.some(NOUNS, 1 + draw.below(3))
  return '\n'.join(definition(noun, russian) for noun in chosen)


def _translations(draw: Draw) -> str:
  """Returns pairs of words or phrases in words: By-Russian this, in English that."""
  lines, from_russian = [], draw.below(2)
  for _ in range(1 + draw.below(5)):
    adjective, noun = draw.pair()
    en, ru = noun.en, noun.ru
    if draw.below(2):
      en, ru = f'{adjective.en} {en}', f'{adjective.of(noun)} {ru}'
    lines.append(
      f"По-русски: '{ru}', по-английски: '{en}'"
      if from_russian
      else f"In English: '{en}', in Russian: '{ru}'"
    )
  return '\n'.join(lines)


def _listed(draw: Draw) -> str:
  """Returns lines 'this = that'; what '=' means is only to be seen from the lines."""
  nouns = draw.some(NOUNS, 3 + draw.below(6))
  known = [noun for noun in nouns if noun.en not in UNLISTED]
  opposites = draw.some(OPPOSITES, 3 + draw.below(6))
  pairs = (
    lambda: [(noun.ru, noun.en) for noun in known],
    lambda: [(noun.en, noun.ru) for noun in known],
    lambda: [(noun.ru, KINDS[noun.kind][1]) for noun in nouns],
    lambda: [(noun.en, KINDS[noun.kind][0].split()[1]) for noun in nouns],
    lambda: [(one[2], one[3]) for one in opposites],
    lambda: [(one[0], one[1]) for one in opposites],
  )
  return '\n'.join(f'{this} = {that}' for this, that in draw.one(pairs)())


def _sums(draw: Draw) -> str:
  lines = []
  while len(lines) < 4:
    a, b = draw.below(HIGHEST + 1), draw.below(HIGHEST + 1)
    if not held_out_sum(a, b):
      lines.append(f'{a} + {b} = {a + b}')
  return '\n'.join(lines)


def _reviews(draw: Draw) -> str:
  """Returns reviews of two like words, and the mood of each."""
  lines, russian = [], draw.below(2)
  for _ in range(1 + draw.below(4)):
    en, ru, gender = draw.one(REVIEWED)
    good = draw.below(2)
    one, other = draw.some(GOOD if good else BAD, 2)
    form = 'mfn'.index(gender) + 1
    lines.append(
      f'Отзыв: {ru} {WAS[gender]} {one[form]}, даже {other[form]}. '
      f'Настроение: {"радость" if good else "грусть"}'
      if russian
      else f'Review: the {en} was {one[0]}, even {other[0]}. '
      f'Mood: {"good" if good else "bad"}'
    )
  return '\n'.join(lines)


# Kinds of documents, and how many of 20 documents are of each.
_SHARES: list[tuple[Callable[[Draw], str], int]] = [
  (_story, 6),
  (_definitions, 2),
  (_translations, 5),
  (_listed, 4),
  (_sums, 2),
  (_reviews, 1),
]


def documents(count: int = _DOCUMENTS, seed: int = 0) -> list[str]:
  """Returns the documents of the corpus, in a mixed order."""
  draw = Draw(seed)
  kinds = [kind for kind, share in _SHARES for _ in range(share)]
  return [draw.one(kinds)(draw) for _ in range(count)]


def main(argv: list[str]) -> None:
  """Writes the corpus, a JSON line for each document."""
  del argv
  made = documents()
  lines = [json.dumps({'text': text}, ensure_ascii=False) + '\n' for text in made]
  pathlib.Path(_TARGET.value).parent.mkdir(parents=True, exist_ok=True)
  write_whole(_TARGET.value, ''.join(lines))
  size = sum(len(text.encode()) for text in made)
  print(f'wrote {_TARGET.value}: {len(made):,} documents, {size:,} bytes of text')


if __name__ == '__main__':
  _TARGET = flags.DEFINE_string('target', None, 'JSON lines to write', required=True)
  run_script(main)
