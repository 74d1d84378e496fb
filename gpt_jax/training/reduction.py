"""Gradients summed over devices once an update, however many micro-batches it has.

Each device computes the micro-batches of its own rows, and adds their gradients up by
itself (`jax.shard_map` over axes that rows are divided over; what other axes divide is
left to the compiler). Only then are they summed over devices, and each device keeps the
part that it updates (reduce-scatter; ZeRO: Rajbhandari et al. 2020, section 5).

Over `data` that is always so. Over `fsdp` it takes whole weights, gathered once before,
and whole gradients on each device. Where there is no room for both, the compiler
gathers weights by layer, and scatters gradients by layer and micro-batch.
"""

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax.model.gpt_config import axes_of
from gpt_jax.training import step
from gpt_jax.training.objective import Objective

ROWS = 'data', 'fsdp'  # the axes of a mesh that rows are divided over


class Schedule(NamedTuple):
  """How often an update sends weights and gradients, and why, in words.

  Attributes:
    once: or else by layer and micro-batch, where no device holds all of either.
  """

  once: bool
  reason: str

  def __str__(self) -> str:
    how = 'once an update' if self.once else 'by layer and micro-batch'
    return f'{how}: {self.reason}'


def summed_once(
  mesh: Mesh, axes: tuple[str, ...], objective: Objective, places: Any, moments: Any
) -> Callable:
  """Returns `step.mean_gradients` over a mesh, f(trained, fixed, batch, hp, step).

  Args:
    axes: of ROWS, over which weights are gathered and gradients summed once.
    places: the sharding of each parameter, trained or not.
    moments: that of each gradient's sum, as of the optimizer's state.
  """
  left = [axis for axis in mesh.axis_names if axis not in axes and mesh.shape[axis] > 1]
  specs = jax.tree.map(lambda place: _scattered(place.spec, axes, left), moments)
  others = jax.tree.map(lambda place: _only(place.spec, left), moments)
  mean = partial(
    step.mean_gradients,
    objective=_local(objective, left),
    axis=axes,
    add=_add(specs, others, axes, left),
  )
  mapped = jax.shard_map(
    mean,
    mesh=mesh,
    in_specs=(P(), P(), P(None, axes), P(), P()),
    out_specs=(P(), specs),
    # A kernel can't be divided over an axis that is the compiler's, even of size 1.
    axis_names=set(mesh.axis_names) - set(left),
    check_vma=False,  # kernels do not say over which axes their results vary
  )
  dtype = objective.gpt.execution.dtype

  def gather(path, leaf, place):
    spec, sent = _only(place.spec, left), compute_dtype(path, leaf, dtype)
    constrain = jax.lax.with_sharding_constraint
    if spec == place.spec or sent == leaf.dtype:
      return constrain(leaf, NamedSharding(mesh, spec))
    # Behind barriers, as the compiler would else send float32 and cast afterwards.
    cast = jax.lax.optimization_barrier(leaf.astype(sent))
    return jax.lax.optimization_barrier(constrain(cast, NamedSharding(mesh, spec)))

  def gradients(trained, fixed, batch, hp, done):
    whole = jax.tree_util.tree_map_with_path(gather, trained | fixed, places)
    trained, fixed = ({name: whole[name] for name in tree} for tree in (trained, fixed))
    metrics, grads = mapped(trained, fixed, batch, hp, done)
    return metrics, jax.lax.with_sharding_constraint(grads, moments)

  return gradients


def _local(objective: Objective, left: list[str]) -> Objective:
  """Returns an objective as computed by the devices that only `left` tells apart."""
  rows = tuple(axis for axis in left if axis in ROWS)
  heads = tuple(axis for axis in ('tensor', 'context') if axis in left)
  context = 'context' if 'context' in left else None
  execution = dataclasses.replace(
    objective.gpt.execution,
    rows=P(rows, context) if left else None,
    heads=P(rows, heads) if left else None,
  )
  return dataclasses.replace(objective, gpt=objective.gpt.clone(execution=execution))


def compute_dtype(path: tuple, leaf: Any, dtype: str) -> jnp.dtype:
  """Returns the dtype in which a parameter is sent: what its only use casts it to."""
  # The head of a task, `clf`, computes in float32.
  alone = path[-1].key in ('kernel', 'lm_head') and path[0].key != 'clf'
  return jnp.dtype(dtype) if alone else leaf.dtype


def _only(spec: P, axes: Collection[str]) -> P:
  """Returns a specification without the axes that are not among these."""
  kept = [tuple(axis for axis in axes_of(part) if axis in axes) for part in spec]
  return P(*(part or None for part in kept))


def _scattered(spec: P, axes: Collection[str], left: Collection[str]) -> P:
  """Returns over which of the axes the dimensions of a gradient's sum are scattered.

  A dimension that others divide too is summed whole: its parts lie in another order.
  """
  cut = _only(spec, left)
  return P(*(None if cut[i] else part for i, part in enumerate(_only(spec, axes))))


def _add(
  specs: Any, others: Any, axes: tuple[str, ...], left: Collection[str]
) -> Callable:
  """Returns f(gradients of a device) -> their sums, of which each keeps its part.

  Args:
    others: what the axes that are left divide: within, they are mapped too, or what
      they divide would be gathered before it is scattered.
  """
  add = partial(_summed, specs=specs, axes=axes)
  if not left:
    return add
  return jax.shard_map(
    add,
    in_specs=(others,),
    out_specs=others,
    axis_names=set(left),
    check_vma=False,
  )


def _summed(grads: Any, *, specs: Any, axes: tuple[str, ...]) -> Any:
  """Returns sums over devices, of which each keeps its part.

  What stays whole is summed in one operation.
  """
  leaves, tree = jax.tree.flatten(grads)
  parts = jax.tree.leaves(specs, is_leaf=lambda spec: isinstance(spec, P))
  whole: dict[tuple[str, ...], list[int]] = {}
  for i, spec in enumerate(parts):
    rest = axes
    for dim, part in enumerate(spec):
      if part:
        leaves[i] = jax.lax.psum_scatter(
          leaves[i], part, scatter_dimension=dim, tiled=True
        )
        rest = tuple(axis for axis in rest if axis not in part)
    whole.setdefault(rest, []).append(i)
  for rest, indices in whole.items():
    sums = jax.lax.psum([leaves[i] for i in indices], rest) if rest else ()
    for i, leaf in zip(indices, sums, strict=bool(rest)):
      leaves[i] = leaf
  return jax.tree.unflatten(tree, leaves)
