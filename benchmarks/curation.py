"""Gopher's rules of `launch.py curate` beside datatrove's; what the classifier tells.

  python -m benchmarks.curation --source=NOVELS

Where datatrove is installed, Gopher's rules are timed beside its own, document by
document in turns. Then, how well the classifier of quality tells prose from other
texts, with 95 % intervals.
"""

import os
import platform
import random
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from benchmarks import curation_texts
from gpt_jax.cli.messages import run_script
from gpt_jax.data.curation import features, logistic
from gpt_jax.data.curation.filters import Gopher
from gpt_jax.data.curation.quality import Quality
from gpt_jax.data.curation.shards import Document

_SOURCE = flags.DEFINE_string('source', 'python:docs', 'text that corpora are made of')
_ROUNDS = 5
_COMPARED = 300  # documents
_TEXTS = 300  # of each kind, to train on and to test


def documents(parts: Sequence[str], seed: int, junk: bool) -> Iterator[str]:
  """Yields documents of about 3,000 characters; where `junk`, a third is none."""
  rng = random.Random(seed)
  mean = statistics.mean(map(len, parts))
  while True:
    some = rng.choices(parts, k=max(1, round(3000 / mean)))
    if junk and rng.random() < 1 / 3:
      some = [f'{rng.choice(some)[:20]} #{rng.randrange(99)} {{' for _ in range(60)]
    yield '\n'.join(some)


def compared(parts: Sequence[str]) -> str:
  """Returns how Gopher's rules here and datatrove's compare in time, as a sentence."""
  try:
    from datatrove.data import Document as TheirDocument
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
  except ImportError:
    return 'datatrove is not installed: not compared.'
  some = documents(parts, 0, junk=True)
  texts = [next(some) for _ in range(_COMPARED)]
  ours, theirs = Gopher(), (GopherQualityFilter(), GopherRepetitionFilter())

  def here(text: str) -> None:
    ours(Document('', '', text, {}))

  def there(text: str) -> None:
    document = TheirDocument(text=text, id='')
    if theirs[0].filter(document) is True:
      theirs[1].filter(document)

  for warm in (here, there):  # their tokenizer is loaded
    warm(texts[0])
  ratios, seconds = [], {here: [], there: []}
  for _ in range(_ROUNDS):
    for each in (here, there):
      begun = time.process_time()
      for text in texts:
        each(text)
      seconds[each].append(time.process_time() - begun)
    ratios.append(seconds[there][-1] / seconds[here][-1])
  size = sum(map(len, texts)) / 1e6
  speeds = [size / statistics.median(seconds[each]) for each in (here, there)]
  return (
    f"Gopher's rules on {len(texts)} documents of {size:.1f} MB, CPU time, {_ROUNDS} "
    f'rounds in turns: {speeds[0]:.1f} MB/s here, {speeds[1]:.2f} MB/s by datatrove: '
    f'{statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f}).'
  )


def areas(parts: Sequence[str]) -> Iterator[str]:
  """Yields rows: how well the classifier tells prose from other texts, held out."""
  prose = curation_texts.prose(parts)
  kinds = {
    'code-like': curation_texts.code_like,
    'boilerplate': curation_texts.boilerplate,
    'characters shuffled in words': curation_texts.shuffled_characters(prose),
    'words shuffled': curation_texts.shuffled_words(prose),
  }
  for name, kind in kinds.items():
    row = []
    for ngrams in (1, 2):
      train, test = (
        logistic.rows(
          [
            features.counts(make(2 * (first + i) + odd), ngrams)
            for make, first in ((prose, 0), (kind, _TEXTS))  # of other paragraphs
            for i in range(_TEXTS)
          ],
          features.BUCKETS,
        )
        for odd in (0, 1)
      )
      y = np.repeat([True, False], _TEXTS)
      scores = test @ logistic.fit(train, y, Quality(('',)).l2).weights
      rng = np.random.default_rng(0)
      again = []
      for _ in range(200):  # the bootstrap over documents of each kind
        some = np.concatenate(
          [rng.integers(0, _TEXTS, _TEXTS) + _TEXTS * k for k in (0, 1)]
        )
        again.append(logistic.area(scores[some], y))
      low, high = np.quantile(again, [0.025, 0.975])
      row.append(f'{logistic.area(scores, y):.3f} ({low:.3f} to {high:.3f})')
    yield f'| {name} | {" | ".join(row)} |'


def main(argv: list[str]) -> None:
  del argv
  parts = curation_texts.paragraphs(_SOURCE.value)
  print(f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores, ', end='')
  print(f'Python {platform.python_version()}')
  print(f'\n{compared(parts)}\n')
  print('| prose and | words | words and pairs |\n|---|---|---|')
  for row in areas(parts):
    print(row, flush=True)


if __name__ == '__main__':
  run_script(main)
