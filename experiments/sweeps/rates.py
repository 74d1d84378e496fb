"""Learning rate × width × seed on characters of tiny Shakespeare: 12 small runs.

Claim: none; it shows what a sweep is, and what its report looks like (docs/sweep.md).
Cost: 13 minutes of training on 2 CPU cores that had other work to do.

  python launch.py sweep --config=experiments/tinyshakespeare/char_cpu.py \
    --sweep=experiments/sweeps/rates.py --workdir=runs/rates \
    [--config.data.source=PATH --config.data.sha256=]
"""

from gpt_jax.sweep import grid, point

SMALL = {'steps': 600, 'eval_every': 100, 'sample_tokens': 0, 'model.L': 2}
RUNS = point(SMALL) * grid(
  {'optim.lr': [1e-3, 4e-3, 1.6e-2], 'model.D': [64, 128], 'seed': [0, 1]}
)
