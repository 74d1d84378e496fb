"""nanoGPT's CPU setting with our best recipe: Muon at a high rate that falls to 0.

Model, text and budget are those of char_cpu.py: 2,000 updates of 12 x 64 characters.
Claim: at most 1.65 nats/character over the whole held-out text, where nanoGPT's recipe
gives 1.92 (1.895 here). The recipe was chosen by the loss on the last 5 % of the
training text, set aside. Source: Jordan et al. 2024 (Muon). Cost: about a minute on 2
CPU cores.

  python launch.py train --config=experiments/tinyshakespeare/char_cpu_best.py \
    --workdir=runs/char_cpu_best [--config.data.source=PATH --config.data.sha256=]

`char_cpu_best.py:NAME` takes one ingredient out, at the rate that is then best: 'muon'
(AdamW in its place), 'momentum' (Muon's usual 0.95), 'schedule' (warm-up, and a cosine
to a tenth), 'freedom' (weight decay 0.1 and clipping at 1), 'windows' (drawn
independently, and not each once an epoch). Only Muon matters beyond the spread of
seeds: experiments/README.md has the numbers.
"""

from experiments.tinyshakespeare import char_cpu
from gpt_jax import config

# What differs from the recipe.
WITHOUT = {
  '': {},
  'muon': {'name': 'adamw', 'lr': 4e-3, 'warmup': 100, 'beta2': 0.99},
  'momentum': {'muon_momentum': 0.95, 'lr': 6e-3},
  'schedule': {'schedule': 'cosine', 'final_lr': 9e-4, 'warmup': 100},
  'freedom': {'weight_decay': 0.1, 'clip': 1.0, 'lr': 1.3e-2},
  'windows': {},
}


def get_config(without: str = '') -> config.Run:
  """Returns the config, or an ablation of it."""
  if without not in WITHOUT:
    raise config.UserError(f'{without!r} must be one of {", ".join(WITHOUT)}')
  run = char_cpu.get_config()
  # Held-out text is looked at once, so it chooses no checkpoint.
  run.eval_every = run.steps
  run.data.windows = 'random' if without == 'windows' else 'epochs'
  recipe = {
    'name': 'muon',
    'lr': 9e-3,
    'muon_momentum': 0.9,
    'schedule': 'linear',
    'final_lr': 0.0,
    'warmup': 0,
    'weight_decay': 0.0,
    'clip': 0.0,
  }
  run.optim = config.Optim(**recipe | WITHOUT[without])
  return run
