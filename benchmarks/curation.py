"""Memory and speed of `launch.py curate` by stage; its rules beside datatrove's.

  python -m benchmarks.curation --megabytes=60,480 --workers=2 \
    > benchmarks/results/curation-cpu.md

For each size it makes a corpus, half of it curated and half raw (a third of that junk),
and runs the pipeline one stage at a time: seconds, and the most memory that the command
and its processes had resident together. Where datatrove is installed, Gopher's rules
are timed beside its own, document by document in turns. Last, how well the classifier
of quality tells prose from other texts, with 95 % intervals. Linux only.
"""

import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from benchmarks import curation_texts
from gpt_jax.cli.messages import run_script
from gpt_jax.data import sources
from gpt_jax.data.curation import features, logistic
from gpt_jax.data.curation.filters import Gopher
from gpt_jax.data.curation.quality import Quality
from gpt_jax.data.curation.shards import Document

_MEGABYTES = flags.DEFINE_list('megabytes', ['10', '80'], 'sizes of the raw text')
_WORKERS = flags.DEFINE_integer('workers', 2, 'processes at a time', lower_bound=1)
_SOURCE = flags.DEFINE_string('source', 'python:docs', 'text that corpora are made of')
_FOLDER = flags.DEFINE_string('folder', '', 'where to work; empty: a temporary one')
_FILE = 1 << 24  # characters of a raw file
_ROUNDS = 5
_COMPARED = 300  # documents
_TEXTS = 300  # of each kind, to train on and to test

_CONFIG = """
from gpt_jax.data.curation.filters import C4, Gopher
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality

STAGES = Gopher(), C4(), Quality(('books',))


def get_curation(stages):
  return Curation(
    (Source('books', {books!r}), Source('crawl', {crawl!r})), STAGES[: int(stages)]
  )
"""


def paragraphs(source: str) -> list[str]:
  """Returns the paragraphs of a text that are neither short nor long."""
  texts = (document.text for document in sources.documents(source))
  parts = (part.strip() for text in texts for part in text.split('\n'))
  return [part for part in parts if 60 < len(part) < 2000]


def documents(parts: Sequence[str], seed: int, junk: bool) -> Iterator[str]:
  """Yields documents of about 3,000 characters; where `junk`, a third is none."""
  rng = random.Random(seed)
  mean = statistics.mean(map(len, parts))
  while True:
    some = rng.choices(parts, k=max(1, round(3000 / mean)))
    if junk and rng.random() < 1 / 3:
      some = [f'{rng.choice(some)[:20]} #{rng.randrange(99)} {{' for _ in range(60)]
    yield '\n'.join(some)


def write(folder: pathlib.Path, parts: Sequence[str], characters: float) -> None:
  """Writes half of a corpus as books, half as a crawl."""
  for name in ('books', 'crawl'):
    (folder / name).mkdir(parents=True)
    left, file = characters / 2, 0
    while left > 0:
      with open(folder / name / f'{file:05d}.jsonl', 'w', encoding='utf-8') as stream:
        size = 0
        for text in documents(parts, file, name == 'crawl'):
          stream.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')
          size += len(text)
          if size >= min(_FILE, left):
            break
      left, file = left - size, file + 1
  paths = {name: str(folder / name) for name in ('books', 'crawl')}
  (folder / 'curate.py').write_text(_CONFIG.format(**paths))


def resident(process: int) -> int:
  """Returns the bytes that a process and all it started have resident together."""
  total, waiting = 0, [process]
  while waiting:
    each = waiting.pop()
    try:
      about = pathlib.Path(f'/proc/{each}/statm').read_text()
      for task in pathlib.Path(f'/proc/{each}/task').iterdir():
        waiting += map(int, (task / 'children').read_text().split())
    except (FileNotFoundError, ProcessLookupError):
      continue  # it ended meanwhile
    total += int(about.split()[1]) * os.sysconf('SC_PAGE_SIZE')
  return total


def measured(command: list[str]) -> tuple[float, int, str]:
  """Returns the seconds that a command took, its peak memory and what it printed."""
  begun, most = time.monotonic(), 0
  with tempfile.TemporaryFile('w+') as out:
    process = subprocess.Popen(command, stdout=out)
    while process.poll() is None:
      most = max(most, resident(process.pid))
      time.sleep(0.02)
    out.seek(0)
    text = out.read()
  if process.returncode:
    raise RuntimeError(f'{command} ended with {process.returncode}')
  return time.monotonic() - begun, most, text


def run(folder: pathlib.Path, megabytes: float, workers: int) -> Iterator[str]:
  """Yields a line of the table for each stage."""
  for number, name in enumerate(('ingest', 'gopher', 'c4', 'quality')):
    seconds, most, _ = measured(
      [
        sys.executable,
        'launch.py',
        'curate',
        f'--config={folder / "curate.py"}:{number}',
        f'--workdir={folder / "out"}',
        f'--workers={workers}',
      ]
    )
    report = folder / f'out/{number:02d}-{name}/report.json'
    about = json.loads(report.read_text(encoding='utf-8'))
    yield (
      f'| {name} | {megabytes:,.0f} | {seconds:,.0f} | {most / 1e6:,.0f} | '
      f'{about["documents"]:,} | {about["kept"]:,} |'
    )


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
  parts = paragraphs(_SOURCE.value)
  print(f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores, ', end='')
  print(f'--workers={_WORKERS.value}, Python {platform.python_version()}\n')
  print('| stage | MB | seconds | peak MB of all processes | documents | kept |')
  print('|---|---|---|---|---|---|')
  for megabytes in map(float, _MEGABYTES.value):
    with tempfile.TemporaryDirectory(dir=_FOLDER.value or None) as name:
      folder = pathlib.Path(name)
      write(folder, parts, megabytes * 1e6)
      for line in run(folder, megabytes, _WORKERS.value):
        print(line, flush=True)
  print(f'\n{compared(parts)}\n')
  print('| prose and | words | words and pairs |\n|---|---|---|')
  for row in areas(parts):
    print(row, flush=True)


if __name__ == '__main__':
  run_script(main)
