"""A GPT of about 10 million non-embedding parameters on English novels.

Claim: none published; measured beside a Kneser-Ney 5-gram and xz -9 on the same
held-out books (every tenth). Source of the text: a folder of novels as .txt files, one
book each; GPT-1 was pre-trained on such text (section 4.1). Cost: as long as you let
it: Ctrl-C saves, the same command continues. `small.py:10min` is a whole schedule that
takes about 10 minutes on 2 CPU cores.

  python launch.py train --config=experiments/novels/small.py --workdir=runs/novels \
    --config.data.source=FOLDER
"""

from gpt_jax import config


def get_config(length: str = 'long') -> config.Run:
  """Returns the config: 'long' or '10min'."""
  steps = {'long': 100_000, '10min': 500}[length]
  return config.Run(
    steps=steps,
    batch=16,
    eval_every=min(1000, steps),
    eval_tokens=100_000,
    prompts=('', "It was a dark and stormy night', '"My dear,"'),
    data=config.Data(
      source='../shared/data/text/novels',
      split='documents',
      tokenizer='bpe',
      vocab=8192,
    ),
    model=config.Model(L=6, D=384, N=6, T=128),
    optim=config.Optim(lr=1.5e-3, final_lr=1e-4, warmup=50),
  )
