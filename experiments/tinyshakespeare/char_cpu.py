"""nanoGPT's CPU setting: characters of tiny Shakespeare, 4 layers of width 128.

Claim: 1.92 nats/character on the last tenth of the text, nanoGPT's own result with 200
evaluation batches (its README's 1.88 used 20). Source: nanoGPT, README ("I only have a
macbook") and config/train_shakespeare_char.py. Cost: about 2 minutes on 2 CPU cores.

  python launch.py train --config=experiments/tinyshakespeare/char_cpu.py \
    --workdir=runs/char_cpu [--config.data.source=PATH --config.data.sha256=]
"""

from gpt_jax import config

ADDRESS = (
  'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/'
  'input.txt'
)
SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'


def text() -> config.Data:
  """Returns tiny Shakespeare by characters, 90/10 by position."""
  return config.Data(
    source=ADDRESS,
    sha256=SHA256,
    split='position',
    holdout=0.1,
    tokenizer='chars',
    windows='random',
  )


def get_config() -> config.Run:
  """Returns the config."""
  return config.Run(
    seed=1337,
    steps=2000,
    batch=12,
    eval_every=500,
    eval_batch=64,
    sample_tokens=256,
    data=text(),
    model=config.Model(L=4, D=128, N=4, T=64, bias=False, activation='gelu'),
    optim=config.Optim(
      lr=1e-3, final_lr=1e-4, warmup=100, beta2=0.99, weight_decay=0.1, clip=1.0
    ),
  )
