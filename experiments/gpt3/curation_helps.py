"""Does curation help? The same GPT and as many tokens, on raw text and on curated text.

Claim: none published as a number; GPT-3's appendix A says that quality filtering and
fuzzy de-duplication improve quality. Source: Brown et al. 2020, appendix A. Cost: 15
trainings of a small GPT, some minutes each on a CPU.

  python experiments/gpt3/curation_helps.py --books=FOLDER --workdir=runs/curation

The raw text is that of `raw_text.py`. It is curated by rules (Gopher's), by GPT-3's
quality classifier, and by fuzzy de-duplication: with all three, and without each. Every
model reads the same number of bytes, and is judged by bits/byte of parts of books that
are held out whole. Three seeds each; the gain over raw text and what a step adds to the
other two are paired by seed, with 95 % intervals by Student's t. Killed, the same
command goes on.
"""

import json
import pathlib
import sys

from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import raw_text

from gpt_jax import config
from gpt_jax.cli.messages import run_script
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

_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of all runs', required=True)
_STEPS = flags.DEFINE_integer('steps', 800, 'updates of 2,048 bytes', lower_bound=1)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'trainings of each', lower_bound=2)
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')

STEPS = {
  'rules': Gopher(),
  'quality': Quality(curated=('reference',)),
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
  counts = dict.fromkeys(('clean', *raw_text.KINDS), 0)
  for shard in list_shards(folder):
    for document in read_shard(shard):
      if document.source == 'raw':
        counts[rows[int(document.id.rpartition('#')[2])]] += 1
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
  books = pathlib.Path(raw_text._BOOKS.value)
  if not (root / 'text/held_out.txt').exists():
    print(raw_text.write(books, root / 'text', raw_text._DOCUMENTS.value, 0))
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
