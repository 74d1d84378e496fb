"""Low-rank changes of linear layers (Hu et al. 2021, "LoRA", section 4).

A layer with kernel W gets x W + (alpha / rank) x A B, where A [in, rank] starts at
random and B [rank, out] at zero, so that training begins at the model itself. All
linear layers of the blocks have one, like Dettmers et al. 2023 (section 4); Hu et al.
chose queries and values.

The tree is a collection of its own, 'lora', beside 'params': it has a leaf pair a, b
where that has a kernel, and a is scaled already by alpha / rank.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


def init(params: dict, rank: int, key: jax.Array) -> dict:
  """Returns new changes of every kernel in a model's parameters."""
  changes, flat = {}, flatten_dict(params)
  for i, path in enumerate(sorted(path for path in flat if path[-1] == 'kernel')):
    inputs, outputs = flat[path].shape
    a = inputs**-0.5 * jax.random.normal(jax.random.fold_in(key, i), (inputs, rank))
    changes[(*path[:-1], 'a')] = a
    changes[(*path[:-1], 'b')] = jnp.zeros((rank, outputs))
  return unflatten_dict(changes)


def scaled(lora: dict, alpha: float, rank: int) -> dict:
  """Returns the collection that the model takes: a times alpha / rank."""
  return unflatten_dict(
    {
      path: leaf * (alpha / rank) if path[-1] == 'a' else leaf
      for path, leaf in flatten_dict(lora).items()
    }
  )


def merged(params: dict, scaled_lora: dict) -> dict:
  """Returns parameters that compute the same without changes beside them."""
  flat, change = flatten_dict(params), flatten_dict(scaled_lora)
  for path in change:
    if path[-1] == 'a':
      kernel = (*path[:-1], 'kernel')
      flat[kernel] = flat[kernel] + change[path] @ change[(*path[:-1], 'b')]
  return unflatten_dict(flat)
