"""Many runs of one config; sweep files import their vocabulary from here.

from gpt_jax.sweep import chain, grid, point, zipped

RUNS = grid({'optim.lr': [1e-3, 3e-3], 'seed': [0, 1]}) * zipped(
  {'model.D': [64, 128], 'model.N': [4, 8]}
)
"""

from gpt_jax.sweep.algebra import Points, chain, grid, point, zipped
from gpt_jax.sweep.search_space import Search, choice, log_uniform, search, uniform

__all__ = [
  'Points',
  'Search',
  'chain',
  'choice',
  'grid',
  'log_uniform',
  'point',
  'search',
  'uniform',
  'zipped',
]
