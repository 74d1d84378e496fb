"""Does curation help? The same GPT and as many tokens, on raw text and on curated text.

Claim: none published as a number; GPT-3's appendix A says that quality filtering and
fuzzy de-duplication improve quality. Source: Brown et al. 2020, appendix A. Cost: 15
trainings of a small GPT, some minutes each on a CPU.

  python experiments/gpt3/curation_helps.py --books=FOLDER --workdir=runs/curation

FOLDER has one .txt for each book. Of every eighth book parts are held out, and parts of
the one after it are the reference of good text that a quality classifier learns from;
both stay as they are. The others are cut into documents of 2,000 characters or more,
and dirt is added, as many documents of each kind as KINDS says for each clean one:

  copy      one of few documents again, as it is
  near      one of few documents again, one word in forty another one
  page      menus, notices and lists of links, as around the text of web pages
  advert    sentences that praise wares, well-formed prose by every rule
  code      lines of an assignment or a call, with made-up names
  noise     a document whose characters are shuffled

This raw text is curated by rules (Gopher's), by GPT-3's quality classifier, and by
fuzzy de-duplication: with all three, and without each. No step reads the kinds. Every
model reads the same number of bytes, and is judged by bits/byte of parts of books that
are held out whole. Three seeds each; the gain over raw text and what a step adds to the
other two are paired by seed, with 95 % intervals by Student's t. Killed, the same
command goes on.
"""

import json
import pathlib
import random
import sys
from collections.abc import Iterator

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import config, files
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.data.curation import engine, pipeline
from gpt_jax.data.curation.dedup import Dedup
from gpt_jax.data.curation.filters import Gopher
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.quality import Quality
from gpt_jax.data.curation.shards import list_shards, read_shard
from gpt_jax.evaluation.statistics import spread
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.runs.train import train
from gpt_jax.training.metrics_log import read_metrics

_BOOKS = flags.DEFINE_string('books', None, 'folder of .txt files', required=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of all runs', required=True)
_STEPS = flags.DEFINE_integer('steps', 800, 'updates of 2,048 bytes', lower_bound=1)
_DOCUMENTS = flags.DEFINE_integer('documents', 6000, 'clean ones', lower_bound=100)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'trainings of each', lower_bound=2)
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')

KINDS = {
  'copy': 0.4, 'near': 0.4, 'page': 0.3, 'advert': 0.3, 'code': 0.15, 'noise': 0.15,
}  # fmt: skip
# One document in so many is copied, and often, as on the web (Lee et al. 2022, section
# 1: a sentence of C4 stands there 61,036 times).
COPIED = 50
SIZE = 2_000  # characters of a document, at least
OTHERS = 300  # documents that are held out, and of the reference
_MENU = 'home about news products support contact login register help sitemap'.split()
_NOTICE = (
  'All rights reserved. Reproduction without permission is not allowed.',
  'This site uses cookies. Click here to accept them and go on.',
  'Sign up for our newsletter and never miss an offer.',
  'Click here to print this page. Click here to send it to a friend.',
)
_WARES = 'watches kitchens holidays insurance shoes mattresses garden furniture'.split()
_PRAISE = (
  'You will not find better {} at this price, and they are delivered to your door.',
  'Our customers love our {} because we have more than twenty years of experience.',
  'If you want {} that last, call us today and ask for the special offer of the week.',
  'All of our {} come with a guarantee of two years, and you can return them for free.',
  'Save up to {} percent with the newsletter that thousands of people read every day.',
  'The best {} of the year have been chosen by our team for you and your family.',
)


def documents(book: str) -> Iterator[str]:
  """Yields a book in parts of whole paragraphs, each of `SIZE` characters or more."""
  part: list[str] = []
  for paragraph in book.split('\n\n'):
    part.append(' '.join(paragraph.split()))
    if sum(map(len, part)) >= SIZE:
      yield '\n\n'.join(part)
      part = []


def near(text: str, words: list[str], draw: random.Random) -> str:
  """Returns the text with one word in forty replaced by one of `words`."""
  return ' '.join(
    draw.choice(words) if draw.random() < 1 / 40 else word for word in text.split(' ')
  )


def page(draw: random.Random) -> str:
  """Returns what stands around the text of a web page, without the text."""
  lines = []
  while sum(map(len, lines)) < SIZE:
    menu = draw.sample(_MENU, 5)
    links = (f'{draw.choice(_MENU)}/{draw.randrange(10**6)}.html' for _ in range(3))
    lines += [' | '.join(menu), draw.choice(_NOTICE), *links]
  return '\n'.join(lines)


def advert(draw: random.Random) -> str:
  """Returns sentences that praise wares."""
  lines: list[str] = []
  while sum(map(len, lines)) < SIZE:
    ware = draw.choice((*_WARES, str(draw.randrange(10, 90))))
    lines.append(draw.choice(_PRAISE).format(ware))
  return ' '.join(lines)


def code(words: list[str], draw: random.Random) -> str:
  """Returns lines that look like a program's, with names made of `words`."""

  def name() -> str:
    return '_'.join(filter(str.isalpha, draw.sample(words, 2))).lower() or 'x'

  lines: list[str] = []
  while sum(map(len, lines)) < SIZE:
    indent = '  ' * draw.randrange(4)
    value = draw.choice((f'{name()}[{draw.randrange(99)}]', f'{draw.random():.4f}'))
    lines.append(
      draw.choice(
        (
          f'{indent}{name()} = {value};',
          f'{indent}if ({name()} == {value}) {{ return {name()}({name()}, {value}); }}',
        )
      )
    )
  return '\n'.join(lines)


def noise(text: str, draw: random.Random) -> str:
  """Returns the text's characters in random order."""
  return ''.join(draw.sample(text, len(text)))


def dirty(clean: list[str], draw: random.Random) -> list[dict[str, str]]:
  """Returns clean documents among dirt, in random order: rows with `text`, `kind`."""
  words = ' '.join(clean[:: max(1, len(clean) // 50)]).split()
  few = clean[: max(1, len(clean) // COPIED)]
  makers = {
    'copy': lambda: draw.choice(few),
    'near': lambda: near(draw.choice(few), words, draw),
    'page': lambda: page(draw),
    'advert': lambda: advert(draw),
    'code': lambda: code(words, draw),
    'noise': lambda: noise(draw.choice(clean), draw),
  }
  rows = [{'text': text, 'kind': 'clean'} for text in clean]
  for kind, share in KINDS.items():
    rows += [
      {'text': makers[kind](), 'kind': kind} for _ in range(round(share * len(clean)))
    ]
  draw.shuffle(rows)
  return rows


def write_texts(
  books: pathlib.Path, output: pathlib.Path, number: int, seed: int
) -> str:
  """Writes raw.jsonl, reference.jsonl and held_out.txt, and says how much they hold.

  Args:
    number: clean documents at most.
  """
  paths = sorted(books.glob('*.txt'))
  if len(paths) < 8:
    raise UserError(
      f'--books={books} has {len(paths)} .txt files; 8 or more are needed, as every '
      'eighth is held out'
    )
  texts = [list(documents(path.read_text(encoding='utf-8'))) for path in paths]
  draw = random.Random(seed)

  def some(most: int, *places: int) -> list[str]:
    every = [part for i, text in enumerate(texts) if i % 8 in places for part in text]
    return draw.sample(every, min(most, len(every)))

  clean, reference, held_out = (
    some(number, *range(2, 8)),
    some(OTHERS, 1),
    some(OTHERS, 0),
  )
  rows = dirty(clean, draw)
  output.mkdir(parents=True, exist_ok=True)
  for name, lines in (
    ('raw', rows),
    ('reference', [{'text': text} for text in reference]),
  ):
    text = ''.join(json.dumps(row) + '\n' for row in lines)
    files.write_whole(output / f'{name}.jsonl', text)
  files.write_whole(output / 'held_out.txt', '\n\n'.join(held_out))
  return (
    f'{len(rows):,} documents, {len(clean):,} of them clean; {len(reference):,} of '
    f'reference and {len(held_out):,} held out'
  )


STEPS = {
  'rules': Gopher(),
  # Trained on few of the texts that it judges: what it has seen as raw scores near 0.
  'quality': Quality(curated=('reference',), documents=200),
  'dedup': Dedup(),
}
VARIANTS = {
  'raw': (),
  'all': tuple(STEPS),
  **{f'no {name}': tuple(each for each in STEPS if each != name) for name in STEPS},
}


def curated(root: pathlib.Path, variant: str) -> str:
  """Makes the corpus of a variant and returns its folder; both sources are in it."""
  sources = tuple(
    Source(name, str(root / 'text' / f'{name}.jsonl')) for name in ('raw', 'reference')
  )
  curation = pipeline.Curation(sources, tuple(STEPS[s] for s in VARIANTS[variant]))
  folder = root / variant.replace(' ', '_') / 'corpus'
  every = pipeline.run(curation, str(folder), engine.local(2, folder / pipeline.STATE))
  return every[-1].folder


def kinds(folder: str, rows: list[str]) -> dict[str, int]:
  """Returns how many documents of each kind a corpus has; the reference is no kind."""
  counts = dict.fromkeys(('clean', *KINDS), 0)
  for shard in list_shards(folder):
    for document in read_shard(shard):
      if document.source == 'raw':
        counts[rows[int(document.id.rpartition('#')[2]) - 1]] += 1
  return counts


def run_of(root: pathlib.Path, corpus: str, seed: int) -> config.Run:
  """Returns the training of one seed on a corpus."""
  return config.Run(
    seed=seed,
    steps=_STEPS.value,
    batch=16,
    eval_every=_STEPS.value,
    eval_tokens=300_000,
    sample_tokens=0,
    data=config.Data(
      source=corpus, valid=str(root / 'text/held_out.txt'), tokenizer='bytes'
    ),
    model=config.Model(L=3, D=96, N=3, T=128),
    optim=config.Optim(lr=3e-3, warmup=min(50, _STEPS.value)),
  )


def bits(root: pathlib.Path, variant: str, corpus: str) -> list[float]:
  """Returns held-out bits/byte after the training, of each seed."""
  values = []
  for seed in range(_SEEDS.value):
    workdir = root / variant.replace(' ', '_') / f'seed{seed}'
    train(run_of(root, corpus, seed), workdir, report=lambda text: None)
    (last,) = (line for line in read_metrics(workdir) if 'valid_bpb' in line)
    values.append(last['valid_bpb'])
  return values


def main(argv: list[str]) -> None:
  """Prints what each corpus holds, and the tables."""
  del argv
  logging.set_verbosity(logging.FATAL)  # Orbax tells much
  root = pathlib.Path(_WORKDIR.value).absolute()
  books = pathlib.Path(_BOOKS.value)
  if not (root / 'text/held_out.txt').exists():
    print(write_texts(books, root / 'text', _DOCUMENTS.value, 0))
  lines = (root / 'text/raw.jsonl').read_text(encoding='utf-8').splitlines()
  rows = [json.loads(line)['kind'] for line in lines]
  values, counts = {}, {}
  for variant in VARIANTS:
    corpus = curated(root, variant)
    counts[variant] = kinds(corpus, rows)
    values[variant] = bits(root, variant, corpus)
    print(f'{variant}: {values[variant]}', flush=True)
  print('\n| text | ' + ' | '.join(counts['raw']) + ' | bits/byte [95 %] |')
  print('|---|' + '---|' * (len(counts['raw']) + 1))
  measured = []
  for variant, own in values.items():
    about = spread(own)
    cells = ' | '.join(f'{count:,}' for count in counts[variant].values())
    between = f'[{about["low"]:.4f}, {about["high"]:.4f}]'
    print(f'| {variant} | {cells} | {about["mean"]:.4f} {between} |')
    measured.append(
      Measured(f'bits/byte, {variant}', about['mean'], about['low'], about['high'])
    )
  print('\n| gain in bits/byte | mean [95 %] |\n|---|---|')
  for name, worse, better in (
    ('all steps, over raw text', 'raw', 'all'),
    *((f'{step}, beside the others', f'no {step}', 'all') for step in STEPS),
  ):
    pairs = zip(values[worse], values[better], strict=True)
    gain = spread([a - b for a, b in pairs])
    print(f'| {name} | {gain["mean"]:.4f} [{gain["low"]:.4f}, {gain["high"]:.4f}] |')
    measured.append(Measured(f'gain, {name}', gain['mean'], gain['low'], gain['high']))
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
