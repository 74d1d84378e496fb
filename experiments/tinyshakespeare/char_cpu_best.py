"""nanoGPT's CPU setting with our best recipe: Muon at a high rate that falls to 0.

Model, text and budget are those of char_cpu.py: 2,000 updates of 12 x 64 characters.
Claim: at most 1.65 nats/character over the whole held-out text, where nanoGPT's recipe
gives 1.92 (1.895 here). Rates were chosen by runs of 1,000 updates and their loss on
the last 5 % of the training text; 0.009 does as well. Source: Jordan et al. 2024
(Muon). Cost: 3 minutes on 2 CPU cores.

  python launch.py train --config=experiments/tinyshakespeare/char_cpu_best.py \
    --workdir=runs/char_cpu_best [--config.data.source=PATH --config.data.sha256=]

`char_cpu_best.py:NAME` changes one ingredient: 'adamw' at the best of its rates
instead of Muon; 'momentum', Muon's usual 0.95; 'random_windows', drawn independently
(no worse).
"""

from experiments.tinyshakespeare import char_cpu
from gpt_jax import config


def get_config(without: str = '') -> config.Run:
  """Returns the config, or an ablation of it."""
  assert without in ('', 'adamw', 'momentum', 'random_windows'), without
  run = char_cpu.get_config()
  # Held-out text is looked at once, so it chooses no checkpoint.
  run.eval_every = run.steps
  run.data.windows = 'random' if without == 'random_windows' else 'epochs'
  run.optim = config.Optim(
    name='muon',
    lr=0.013,
    final_lr=0.0,
    schedule='linear',
    warmup=0,
    muon_momentum=0.95 if without == 'momentum' else 0.9,
    weight_decay=0.0,
    clip=0.0,
  )
  if without == 'adamw':
    run.optim = config.Optim(
      lr=4e-3, final_lr=0.0, schedule='linear', warmup=100, beta2=0.99
    )
  return run
