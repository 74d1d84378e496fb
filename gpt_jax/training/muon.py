"""Muon's iteration over many matrices at once, divided over devices.

Matrices of one shape are stacked, each device makes some of them orthogonal, whole, and
the results are sent to where they are used: once, and in the dtype of the iteration
(as in Liu et al. 2025, "Muon is scalable for LLM training", section 2.3, but by whole
matrices).
"""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.model.gpt_config import axes_of

Cut = tuple[tuple[str, ...], tuple[str, ...]]  # the axes that divide rows, and columns

# Of a quintic that lifts all singular values to about 1 (Jordan et al. 2024).
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_TURNS = 5


def newton_schulz(x_MRC: jax.Array, dtype: str) -> jax.Array:
  """Returns matrices whose singular values are near 1, [M, R, C], in `dtype`.

  Args:
    x_MRC: their norms are at most 1; R <= C.
  """
  x_MRC = x_MRC.astype(dtype)
  a, b, c = _COEFFICIENTS
  for _ in range(_TURNS):
    s_MRR = x_MRC @ x_MRC.swapaxes(1, 2)
    x_MRC = a * x_MRC + (b * s_MRR + c * s_MRR @ s_MRR) @ x_MRC
  return x_MRC


class Stacked(NamedTuple):
  """How matrices are made orthogonal: f(tree of matrices) -> the same, float32.

  Attributes:
    dtype: of the iteration and of what is sent.
    mesh: of the devices that share the work; None: one device.
    places: by the keys of its path, where a parameter's momentum is, and where it is.
  """

  dtype: str
  mesh: Mesh | None = None
  places: dict[tuple[str, ...], tuple[NamedSharding, NamedSharding]] | None = None

  @classmethod
  def of(
    cls,
    model: config.Model,
    devices: Sequence[jax.Device],
    mesh: Mesh | None,
    params: Any,
    moments: Any,
  ) -> 'Stacked | None':
    """Returns how a run's devices do it; None: one by one, by one device.

    On a CPU it is float32, and by one device unless there is a mesh.

    Args:
      params: the shardings of parameters.
      moments: those of their momenta.
    """
    cpu = not devices or devices[0].platform == 'cpu'
    dtype = 'float32' if cpu else model.dtype
    if mesh is None:
      return None if cpu else cls(dtype)
    leaves = jax.tree_util.tree_leaves_with_path
    pairs = zip(leaves(moments), leaves(params), strict=True)
    return cls(
      dtype, mesh, {_keys(path): (moment, p) for (path, moment), (_, p) in pairs}
    )

  def __call__(self, updates: Any) -> Any:
    """Returns the matrices of a tree, whose norms are at most 1, orthogonal."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
    groups = collections.defaultdict(list)
    for i, (path, leaf) in enumerate(leaves):
      turned = leaf.shape[0] > leaf.shape[1]
      axes = self._axes(path, turned)
      groups[tuple(sorted(leaf.shape)), axes].append((i, turned))
    results = [None] * len(leaves)
    for (_, axes), members in groups.items():
      stack = jnp.stack([leaves[i][1].T if t else leaves[i][1] for i, t in members])
      stack = self._orthogonal(stack, *axes)
      for (i, turned), matrix in zip(members, stack, strict=False):
        matrix = matrix.astype(jnp.float32)
        results[i] = matrix.T if turned else matrix
    return jax.tree.unflatten(tree, results)

  def _axes(self, path: tuple, turned: bool) -> tuple[Cut, Cut]:
    """Returns which axes divide rows and columns: of the momentum, and afterwards."""
    if self.mesh is None:
      return ((), ()), ((), ())

    def cut(place):
      parts = [axes_of(part) for part in place.spec] + [(), ()]
      real = [tuple(a for a in part if self.mesh.shape[a] > 1) for part in parts[:2]]
      return tuple(real[::-1] if turned else real)

    return tuple(map(cut, self.places[_keys(path)]))

  def _orthogonal(self, x_MRC: jax.Array, before: Cut, after: Cut) -> jax.Array:
    """Returns M or more matrices [.., R, C], divided as they are to be afterwards."""
    if self.mesh is None:
      return newton_schulz(x_MRC, self.dtype)
    axes = [axis for axis, size in self.mesh.shape.items() if size > 1]
    rest = tuple(axis for axis in axes if axis not in (*before[0], *before[1]))
    # Zeros for those devices that would have none.
    more = -len(x_MRC) % self.mesh.size
    x_MRC = jnp.pad(x_MRC.astype(self.dtype), ((0, more), (0, 0), (0, 0)))

    def own(x):
      # XLA's CPU compiler gives parts of a stack layouts that it then refuses.
      x = jax.lax.optimization_barrier(x)
      for dim in (0, 1):
        if before[dim]:
          x = jax.lax.all_to_all(x, before[dim], 0, dim + 1, tiled=True)
      if rest:
        some = len(x) // math.prod(self.mesh.shape[axis] for axis in rest)
        x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(rest) * some, some)
      x = newton_schulz(x, self.dtype)
      x = jax.lax.all_gather(x, rest, tiled=True) if rest else x
      for dim in (1, 0):
        gone = tuple(axis for axis in before[dim] if axis not in after[dim])
        x = jax.lax.all_gather(x, gone, tiled=True) if gone else x
        if after[dim]:
          x = jax.lax.all_to_all(x, after[dim], dim + 1, 0, tiled=True)
      return x

    specs = (P(None, *(part or None for part in cut)) for cut in (before, after))
    return jax.shard_map(
      own,
      mesh=self.mesh,
      in_specs=next(specs),
      out_specs=next(specs),
      check_vma=False,  # it can't tell that what was gathered is the same everywhere
    )(x_MRC)


def _keys(path: tuple) -> tuple[str, ...]:
  return tuple(key.key for key in path)
