"""A GPT of about 10 million non-embedding parameters on English novels.

Claim: none published; measured beside a Kneser-Ney 5-gram and xz -9 on the same
held-out books (every tenth). Source: GPT-1 was pre-trained on such text (section 4.1);
FOLDER holds novels as .txt files, one book each. Cost: as long as you let it: Ctrl-C
saves, the same command continues. `small.py:10min` is a whole schedule that takes about
10 minutes on 2 CPU cores.

  python launch.py train --config=experiments/novels/small.py --workdir=runs/novels \
    --config.data.source=FOLDER
"""

from gpt_jax import config


def get_config(length: str = 'long') -> config.Run:
  """Returns the config: 'long' or '10min'."""
  short = {'long': False, '10min': True}[length]
  return config.Run(
    steps=560 if short else 100_000,
    batch=16,
    eval_every=280 if short else 1000,
    eval_batch=64,
    eval_tokens=50_000,
    prompts=('', 'It was a dark and stormy night', '"My dear,"'),
    data=config.Data(
      source='',  # to be given
      split='documents',
      tokenizer='bpe',
      vocab=8192,
    ),
    model=config.Model(L=6, D=384, N=6, T=128, bias=False, activation='relu'),
    optim=config.Optim(
      name='muon',
      lr=5e-3,
      final_lr=0.0,
      schedule='linear' if short else 'rsqrt',
      warmup=20 if short else 200,
    ),
  )
