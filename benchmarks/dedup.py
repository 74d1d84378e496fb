"""Fuzzy de-duplication: time by the size of a corpus, and beside datasketch's.

  python -m benchmarks.dedup --novels=FOLDER > benchmarks/results/dedup.md

Documents are the novels' paragraphs, the longer ones in parts of 80 words, in a drawn
order. Beside datasketch (its MinHash with as many hashes, and MinHashLSH with the same
bands): its process has all texts in memory, finds candidates and stops there; ours
reads shards, verifies and writes the shards that are left, with one process. They take
turns; a ratio is the median of the rounds' ratios. Where datasketch is not installed,
the comparison is left out.
"""

import argparse
import contextlib
import importlib.util
import os
import platform
import random
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import turns
from gpt_jax.cli.messages import shown
from gpt_jax.data.curation import dedup, engine, shards
from gpt_jax.data.curation.shards import Document, read_shard, write_shard

SIZES = 25_000, 50_000, 100_000, 200_000
SHARD = 12_500  # documents
WORDS = 80
ROUNDS = 5


def texts_of(novels: str) -> list[str]:
  """Returns the documents in a drawn order, which is always the same."""
  texts = []
  for path in sorted(Path(novels).glob('*.txt')):
    for part in re.split(r'\n\s*\n', path.read_text('utf-8', errors='replace')):
      words = part.split()
      texts += [' '.join(words[i : i + WORDS]) for i in range(0, len(words), WORDS)]
  random.Random(0).shuffle(texts)
  return texts


def write(folder: str, texts: list[str]) -> list[str]:
  """Writes texts as shards and returns their paths."""
  for i in range(0, len(texts), SHARD):
    some = [
      Document(f'novels#{i + j}', 'novels', text, {})
      for j, text in enumerate(texts[i : i + SHARD])
    ]
    write_shard(f'{folder}/{i // SHARD:05d}{shards.SUFFIX}', some)
  return shards.list_shards(folder)


def setup(paths: list[str]) -> dict[str, Callable]:
  """Returns the jobs of a process; each returns seconds of the clock and of the CPU."""

  def ours(mode: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
      runs = engine.local(1, f'{folder}/state')
      begun, used = time.perf_counter(), time.process_time()
      with contextlib.redirect_stdout(sys.stderr):  # progress
        report = dedup.run(runs, paths, f'{folder}/out', dedup.Dedup(mode=mode))
      return {
        'seconds': time.perf_counter() - begun,
        'cpu': time.process_time() - used,
        'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        'report': report,
      }

  def theirs() -> dict:
    import datasketch

    texts = [document.text for path in paths for document in read_shard(path)]
    begun, used = time.perf_counter(), time.process_time()
    table = datasketch.MinHashLSH(num_perm=112, params=(14, 8))
    found = 0
    for number, text in enumerate(texts):
      words = text.lower().split()
      last = max(1, len(words) - 4)
      shingles = {' '.join(words[i : i + 5]).encode() for i in range(last)}
      sketch = datasketch.MinHash(num_perm=112)
      sketch.update_batch(list(shingles))
      found += bool(table.query(sketch))
      table.insert(number, sketch)
    return {
      'seconds': time.perf_counter() - begun,
      'cpu': time.process_time() - used,
      'report': {'found': found},
    }

  return {'ours': ours, 'theirs': theirs}


def job(worker: turns.Worker, name: str, *arguments: str) -> dict:
  worker.start(name, *arguments)
  return worker.wait()


def size_table(texts: list[str]) -> None:
  """Prints what corpora of several sizes take, each in a process of its own."""
  print(
    '| mode | documents | seconds | CPU s | CPU us a document | peak MB | copies '
    '| compared | left out | candidates | largest bucket |'
  )
  print('|' + '---|' * 11)
  for mode in ('bands', 'gpt3'):
    for size in SIZES:
      with tempfile.TemporaryDirectory() as folder:
        worker = turns.Worker(setup, write(folder, texts[:size]))
        took = job(worker, 'ours', mode)
        worker.close()
      report, pairs = took['report'], took['report']['pairs']
      print(
        f'| {mode} | {size:,} | {took["seconds"]:.1f} | {took["cpu"]:.1f} '
        f'| {took["cpu"] / size * 1e6:.0f} | {took["memory"]:.0f} '
        f'| {report["dropped"].get("copy", 0):,} | {pairs["compared"]:,} '
        f'| {pairs["left_out"]:,} | {pairs.get("candidates", 0):,} '
        f'| {pairs["largest"]:,} |',
        flush=True,
      )


def peer_table(texts: list[str]) -> None:
  """Prints the speed beside datasketch's, in turns."""
  if importlib.util.find_spec('datasketch') is None:
    print('\ndatasketch is not installed: no comparison')
    return
  import datasketch

  folder = tempfile.mkdtemp()
  workers = [turns.Worker(setup, write(folder, texts[: SIZES[0]])) for _ in range(2)]
  ours, theirs = [], []
  for _ in range(ROUNDS):
    theirs.append(job(workers[1], 'theirs'))
    ours.append(job(workers[0], 'ours', 'bands'))
  for worker in workers:
    worker.close()
  shutil.rmtree(folder)
  print(f'\n{SIZES[0]:,} documents, {ROUNDS} rounds, datasketch', end=' ')
  print(f'{datasketch.__version__}: medians\n')
  print('| | seconds | CPU s | copies |\n|---|---|---|---|')
  for name, took, count in (
    ('gpt_jax, mode bands', ours, ours[0]['report']['dropped'].get('copy', 0)),
    ('datasketch', theirs, theirs[0]['report']['found']),
  ):
    seconds, cpu = (
      statistics.median(each[key] for each in took) for key in ('seconds', 'cpu')
    )
    print(f'| {name} | {seconds:.2f} | {cpu:.2f} | {count:,} |')
  ratios = [
    turns.median_ratio([t[key] for t in theirs], [o[key] for o in ours])
    for key in ('seconds', 'cpu')
  ]
  print(f'| datasketch to gpt_jax | {ratios[0]:.2f} | {ratios[1]:.2f} | |')


def processor() -> str:
  """Returns the processor's name."""
  text = Path('/proc/cpuinfo').read_text() if os.path.exists('/proc/cpuinfo') else ''
  names = re.findall(r'model name\s*: (.*)', text)
  return names[0] if names else platform.machine()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--novels', required=True, help='folder of .txt files')
  texts = texts_of(parser.parse_args().novels)
  print(f'{processor()}, {os.cpu_count()} cores, Python {platform.python_version()};')
  print('`python -m benchmarks.dedup --novels=NOVELS`\n')
  size_table(texts)
  peer_table(texts)


if __name__ == '__main__':
  with shown():
    main()
