"""nanoGPT's GPU setting: characters of tiny Shakespeare, 6 layers of width 384.

Claim: 1.4697 nats/character at best, as nanoGPT's README reports. Not run here: it
wants a GPU. Source: nanoGPT, config/train_shakespeare_char.py. Cost: minutes on a GPU.

  python launch.py train --config=experiments/tinyshakespeare/char.py \
    --workdir=runs/char [--config.data.source=PATH --config.data.sha256=]
"""

from experiments.tinyshakespeare.char_cpu import text
from gpt_jax import config


def get_config() -> config.Run:
  """Returns the config."""
  return config.Run(
    seed=1337,
    steps=5000,
    batch=64,
    eval_every=250,
    eval_batch=64,
    sample_tokens=500,
    data=text(),
    model=config.Model(
      L=6, D=384, N=6, T=256, bias=False, activation='gelu', dropout=0.2
    ),
    optim=config.Optim(
      lr=1e-3, final_lr=1e-4, warmup=100, beta2=0.99, weight_decay=0.1, clip=1.0
    ),
  )
