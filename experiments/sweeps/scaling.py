"""Scaling laws: small GPTs of several sizes, each with several budgets of compute.

Claim: published, that loss falls with compute as a power law, each budget having a best
size (Brown et al. 2020, figure 3.1; Hoffmann et al. 2022, section 3.2, isoFLOP
profiles). Source: as there. Cost: 13 runs, 1.1e13 FLOPs; see experiments/README.md.

  python launch.py sweep --config=experiments/sweeps/scaling_run.py \
    --sweep=experiments/sweeps/scaling.py --config.data.source=FOLDER \
    --workdir=runs/scaling --workers=2
  python launch.py train --config=experiments/sweeps/scaling_run.py \
    --config.data.source=FOLDER --workdir=runs/large --config.model.L=5 \
    --config.model.D=160 --config.model.N=5 --config.steps=1551
  python experiments/sweeps/fit_scaling.py --runs='runs/scaling/*' \
    --predict=runs/large --target=scaling.png

The second is a run of four times the compute of any in the sweep, 8e12 FLOPs, and twice
the parameters, which the fit has not seen.
"""

from gpt_jax.sweep import chain, point

TOKENS = 8 * 64  # of an update, as in scaling_run.py
BYTES, T = 256, 64
SIZES = {32: 2, 64: 2, 96: 3, 128: 4}  # layers by width; heads are 32 wide
BUDGETS = {  # FLOPs: the widths that take them in 140 updates or more
  6e10: (32, 64),
  2e11: (32, 64, 96),
  6e11: (32, 64, 96, 128),
  2e12: (32, 64, 96, 128),
}


def steps(flops: float, D: int, L: int) -> int:
  """Returns the updates that a budget pays for, counted as `describe` does."""
  a_token = 6 * (12 * L * D * D + BYTES * D) + 12 * L * D * T
  return round(flops / a_token / TOKENS)


RUNS = chain(
  *(
    point(
      {
        'model.D': D,
        'model.L': SIZES[D],
        'model.N': D // 32,
        'steps': steps(flops, D, SIZES[D]),
      }
    )
    for flops, widths in BUDGETS.items()
    for D in widths
  )
)
