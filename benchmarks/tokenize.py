"""Speed of our tokenizers beside `tokenizers` and `sentencepiece` alone.

  python -m benchmarks.tokenize --novels=NOVELS \
    --gpt2=GPT2_VOCABULARY > benchmarks/results/tokenize.md
  python -m benchmarks.tokenize --memory --novels=... --gpt2=...

The text is 10 MB of the novels and 10 MB of Python's standard library, in documents
of about 10 kB. Every worker process holds all contenders; in each round each contender
encodes all the text, divided among the workers, one contender after the other, so that
what else the machine does hits all of them. Medians of the rounds; a ratio is the
median of the rounds' ratios.
"""

import sys

if sys.path[0].endswith('benchmarks'):
  # Run as a script: this folder would offer this file as the standard `tokenize`.
  sys.path.pop(0)
  sys.path.insert(0, '.')

import argparse
import contextlib
import functools
import os
import platform
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import turns
from gpt_jax.cli.messages import shown

ROUNDS = 5
SIZE = 10_000_000  # characters of each text
DOCUMENT = 10_000  # characters of a document
VOCAB = 8192

# contender -> the peer it is measured against
PEER = {
  'GPT-2, gpt_jax': 'GPT-2, tokenizers',
  'BPE 8k, gpt_jax': 'BPE 8k, sentencepiece',
  'unigram 8k, gpt_jax': 'unigram 8k, sentencepiece',
}


def load(models: Path, gpt2: str) -> dict[str, Callable[[list[str]], list]]:
  """Returns the contenders: functions from texts to the ids of each."""
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # speeds are for one process each
  import sentencepiece
  import tokenizers as peer

  from gpt_jax import tokenizers

  hugging_face = peer.ByteLevelBPETokenizer(f'{gpt2}/vocab.json', f'{gpt2}/merges.txt')
  ours = {
    'GPT-2': tokenizers.open_path(gpt2),
    'BPE 8k': tokenizers.load(models / 'bpe'),
    'unigram 8k': tokenizers.load(models / 'unigram'),
  }
  contenders = {
    f'{name}, gpt_jax': functools.partial(_each, t.encode_array)
    for name, t in ours.items()
  }
  contenders['GPT-2, tokenizers'] = lambda texts: [
    encoding.ids for encoding in hugging_face.encode_batch(texts)
  ]
  for name, kind in ('BPE 8k', 'bpe'), ('unigram 8k', 'unigram'):
    file = str(models / kind / 'sentencepiece.model')
    processor = sentencepiece.SentencePieceProcessor(model_file=file)
    contenders[f'{name}, sentencepiece'] = functools.partial(
      processor.encode, num_threads=1
    )
  return contenders


def _each(encode: Callable, texts: list[str]) -> list:
  return [encode(text) for text in texts]


def setup(models: Path, gpt2: str, texts: dict[str, list[str]]) -> dict[str, Callable]:
  """Returns the jobs of a worker: each contender, on a text given by its name."""
  contenders = load(models, gpt2)
  for name, contender in contenders.items():  # warm, and the ids are the same
    ids = [list(i) for i in contender(texts['novels'][:20])]
    if name in PEER:
      assert ids == [list(i) for i in contenders[PEER[name]](texts['novels'][:20])]

  def job(contender, text):
    contender(texts[text])

  return {name: functools.partial(job, c) for name, c in contenders.items()} | {
    'ready': lambda: None
  }


@contextlib.contextmanager
def workers(
  count: int, models: Path, gpt2: str, texts: dict[str, list[str]]
) -> Iterator[list[turns.Worker]]:
  """Gives some worker processes, each with its share of the texts."""
  shares = (
    {name: text[i::count] for name, text in texts.items()} for i in range(count)
  )
  started = [turns.Worker(setup, models, gpt2, share) for share in shares]
  turns.seconds(started, 'ready')
  yield started
  for worker in started:
    worker.close()


def read_texts(novels: str) -> dict[str, list[str]]:
  """Returns the two texts in documents."""
  files = {
    'novels': sorted(Path(novels).glob('*.txt')),
    'code': sorted(Path(sysconfig.get_path('stdlib')).rglob('*.py')),
  }
  texts = {}
  for name, paths in files.items():
    paths = [p for p in paths if 'site-packages' not in p.parts]
    whole = ''
    for path in paths:
      whole += path.read_text(encoding='utf-8', errors='replace')
      if len(whole) >= SIZE:
        break
    starts = range(0, min(len(whole), SIZE), DOCUMENT)
    texts[name] = [whole[at : at + DOCUMENT] for at in starts]
  return texts


def size(texts: Sequence[str]) -> float:
  """Returns the size of texts in MB."""
  return sum(len(text.encode()) for text in texts) / 1e6


def encoding_table(models: Path, gpt2: str, texts: dict[str, list[str]]) -> None:
  """Prints how fast each contender encodes."""
  print('| text | processes | contender | MB/s | ratio to its peer |')
  print('|---|---|---|---|---|')
  for count in (1, 2):
    with workers(count, models, gpt2, texts) as started:
      for text in texts:
        names = [*PEER, *PEER.values()]
        seconds = {name: [] for name in names}
        for _ in range(ROUNDS):
          for name in names:
            seconds[name].append(turns.seconds(started, name, text))
        for name in names:
          speed = size(texts[text]) / statistics.median(seconds[name])
          ratio = ''
          if name in PEER:
            ratio = f'{turns.median_ratio(seconds[PEER[name]], seconds[name]):.2f}'
          print(f'| {text} | {count} | {name} | {speed:.1f} | {ratio} |', flush=True)


def prepare_table(models: Path, gpt2: str, novels: str) -> None:
  """Prints what `prepare` takes over bare encoding, of all the novels."""
  from gpt_jax import config
  from gpt_jax.data import prepare, sources

  unigram = str(models / 'unigram')
  print(
    '\n| tokenizer | text, MB | processes | bare encoding, s | prepare, s | ratio |'
  )
  print('|---|---|---|---|---|---|')
  for name, tokenizer, repeat, count in (
    ('GPT-2', gpt2, 1, 1),
    ('GPT-2', gpt2, 1, 2),
    ('GPT-2', gpt2, 4, 2),
    ('unigram 8k', unigram, 1, 1),
    ('unigram 8k', unigram, 1, 2),
  ):
    source = ','.join([novels] * repeat)
    data = config.Data(source=source, tokenizer=tokenizer, processes=count)
    texts = {'novels': [d.text for d in sources.documents(source)]}
    bare, whole = [], []
    with workers(count, models, gpt2, texts) as started:
      for _ in range(3):
        bare.append(turns.seconds(started, f'{name}, gpt_jax', 'novels'))
        with tempfile.TemporaryDirectory() as folder:
          begun = time.perf_counter()
          prepare.prepare(data, folder, report=lambda line: None)
          whole.append(time.perf_counter() - begun)
    ratio = turns.median_ratio(whole, bare)
    print(
      f'| {name} | {size(texts["novels"]):.0f} | {count} '
      f'| {statistics.median(bare):.2f} | {statistics.median(whole):.2f} '
      f'| {ratio:.2f} |',
      flush=True,
    )


def memory_table(novels: str, gpt2: str) -> None:
  """Prints the memory that preparing 1 GB of text takes, all processes together."""
  print('| tokenizer | text | documents | seconds | peak, MB |')
  print('|---|---|---|---|---|')
  with tempfile.TemporaryDirectory() as folder:
    whole = Path(folder) / 'whole.txt'
    files = sorted(Path(novels).glob('*.txt'))
    with open(whole, 'wb') as out:
      while out.tell() < 1e9:
        for file in files:
          out.write(file.read_bytes())
    for name, tokenizer in ('GPT-2', gpt2), ('BPE 8k, trained', 'bpe'):
      workdir = Path(folder) / 'w'
      code = (
        'import sys; from gpt_jax.config import Data; '
        'from gpt_jax.data.prepare import prepare; '
        'prepare(Data(source=sys.argv[1], tokenizer=sys.argv[2], vocab=8192, '
        'processes=2), sys.argv[3])'
      )
      begun = time.perf_counter()
      running = subprocess.Popen(
        [sys.executable, '-c', code, str(whole), tokenizer, str(workdir)],
        stdout=subprocess.DEVNULL,
      )
      peak = 0
      while running.poll() is None:
        peak = max(peak, resident(running.pid))
        time.sleep(0.05)
      assert running.returncode == 0
      seconds = time.perf_counter() - begun
      mb = whole.stat().st_size / 1e6
      print(f'| {name} | {mb:.0f} MB | 1 | {seconds:.0f} | {peak:.0f} |', flush=True)
      shutil.rmtree(workdir)


def resident(pid: int) -> float:
  """Returns the resident memory of a process and its children in MB."""
  listed = subprocess.run(
    ['ps', '-o', 'rss=', '-p', str(pid), '--ppid', str(pid)],
    capture_output=True,
    text=True,
  )
  return sum(map(int, listed.stdout.split())) * 1024 / 1e6


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--novels', required=True, help='folder of .txt files')
  parser.add_argument('--gpt2', required=True, help='folder of vocab.json, merges.txt')
  parser.add_argument('--memory', action='store_true', help='1 GB instead of speed')
  flags = parser.parse_args()
  from gpt_jax import tokenizers

  print(f'{platform.machine()}, {os.cpu_count()} cores, Python', end=' ')
  print(platform.python_version(), end='\n\n')
  if flags.memory:
    memory_table(flags.novels, flags.gpt2)
    return
  texts = read_texts(flags.novels)
  with tempfile.TemporaryDirectory() as folder:
    models = Path(folder)
    for kind in ('bpe', 'unigram'):
      mixed = [t for pair in zip(*texts.values(), strict=False) for t in pair]
      tokenizers.train(kind, mixed, VOCAB).save(models / kind)
    encoding_table(models, flags.gpt2, texts)
    prepare_table(models, flags.gpt2, flags.novels)


if __name__ == '__main__':
  with shown():
    main()
