"""A folder with what a tiny fine-tuning needs, and its config."""

import random

from gpt_jax import config
from gpt_jax.config import papers
from gpt_jax.runs import train

GOOD, BAD = ['good', 'fine', 'nice', 'warm'], ['bad', 'dull', 'cold', 'weak']


def write(folder):
  """Makes a pre-trained workdir `base` and the files of `sst2`; returns the folder."""
  rng = random.Random(0)
  (folder / 'text').mkdir()
  for i in range(3):
    words = ' '.join(rng.choice(GOOD + BAD) for _ in range(60))
    (folder / f'text/{i}.txt').write_text(words)
  run = config.Run(steps=2, batch=2, eval_every=2, sample_tokens=0, devices=1)
  run.data = config.Data(source=str(folder / 'text'), tokenizer='bytes')
  run.model = config.Model(L=1, D=16, N=2, T=48, norm='post', scaled_init=False)
  run.optim.warmup = 0
  train.train(run, folder / 'base', report=lambda text: None)

  def review(label):
    words = [rng.choice(BAD if label == 0 else GOOD) for _ in range(rng.randint(1, 3))]
    return ' '.join(words)

  for split, number in (('train', 37), ('dev', 20)):
    lines = [f'{review(i % 2)}\t{i % 2}\n' for i in range(number)]
    (folder / 'sst2').mkdir(exist_ok=True)
    path = folder / 'sst2' / f'{split}.tsv'
    path.write_text('sentence\tlabel\n' + ''.join(lines))
  return folder


def make(place, **fields):
  """Returns a run of two seeds on the small task; '__' stands for a dot."""
  run = papers.gpt1_finetuning('sst2')
  flat = config.flat(run) | {
    'init_from': str(place / 'base'),
    'task.data': str(place / 'sst2'),
    'seeds': 2,
    'devices': 1,
    'batch': 8,
    'log_every': 1,
    'optim.lr': 3e-3,
    'task.epochs': 2,
  }
  return config.from_flat(flat | {k.replace('__', '.'): v for k, v in fields.items()})
