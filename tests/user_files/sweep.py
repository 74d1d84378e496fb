"""A sweep as a user wrote it before the rooms moved; kept as it is."""

from gpt_jax.sweep import grid, point

RUNS = point({'model.L': 1}) * grid({'optim.lr': [1e-3, 3e-3], 'seed': [0, 1]})
