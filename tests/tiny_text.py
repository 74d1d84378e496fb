"""A small text of random words, the same each time, to train on in tests."""

import random

WORDS = ['the', 'cat', 'dog', 'sees', 'hears', 'a', 'bird', 'and', 'then']


def write(folder):
  """Writes twelve documents of 80 words into folder/text."""
  (folder / 'text').mkdir()
  rng = random.Random(0)
  for i in range(12):
    text = ' '.join(rng.choice(WORDS) for _ in range(80))
    (folder / f'text/{i:02}.txt').write_text(text)
