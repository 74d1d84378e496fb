"""Gradients summed over devices once an update, however many micro-batches it has.

Each device computes the micro-batches of its own rows, and adds their gradients up by
itself (`jax.shard_map` over axes that rows are divided over; what other axes divide is
left to the compiler). Only then are they summed over devices, and each device keeps the
part that it updates (reduce-scatter; ZeRO: Rajbhandari et al. 2020, section 5).

Over `data` that is always so. Over `fsdp` it takes whole weights, gathered once before,
and whole gradients on each device. Where there is no room for both, weights are
gathered by layer (`Gathered`), and gradients scattered by layer and micro-batch.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax.model.gpt_config import axes_of
from gpt_jax.training import step
from gpt_jax.training.loss import Parts
from gpt_jax.training.objective import Objective

# Where sums of a loss's gradients stay in its loop. Behind it they wait for nothing,
# and a CPU that stands for many devices begins such sums in another order on each: it
# hangs.
SUMMED_IN_TURNS = ('cpu',)
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
  cuts = jax.tree.map(lambda place: _Cut.of(place.spec, axes, left), moments)
  specs = jax.tree.map(lambda cut: cut.scattered, cuts, is_leaf=_is_cut)
  mean = partial(
    step.mean_gradients,
    objective=_local(objective, left),
    axis=axes,
    add=_add(cuts, axes, left, mesh.devices.flat[0].platform),
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
    # Where a dimension came in two, one for what divides it within: as it belongs.
    grads = jax.tree.map(lambda sum, leaf: sum.reshape(leaf.shape), grads, trained)
    return metrics, jax.lax.with_sharding_constraint(grads, moments)

  return gradients


@dataclasses.dataclass(frozen=True)
class Gathered:
  """Gathers parameters over `fsdp`, and scatters their gradients, where it is called.

  Left to itself the compiler does so at each use, or sends activations instead.

  Attributes:
    layout: of type `sharding.Layout`, which says where each belongs.
    dtype: of the model's products.
    left: as in `summed_once`, within whose trace it is; None: in no such trace.
  """

  layout: Any
  dtype: str
  left: tuple[str, ...] | None = None

  def __call__(self, params: dict) -> dict:
    """Returns parameters of a layer or of the ends, float32, rounded for their use."""
    places = self.layout.placed(params)
    return jax.tree_util.tree_map_with_path(self._gathered, params, places)

  def parts(self, rows: NamedSharding | P) -> Parts | None:
    """Returns the devices that divide the rows of a batch, for a loop over a loss.

    None: those of `SUMMED_IN_TURNS`.

    Args:
      rows: where they are, as `Execution.rows`.
    """
    mesh, spec = self.layout.mesh, rows if isinstance(rows, P) else rows.spec
    if mesh.devices.flat[0].platform in SUMMED_IN_TURNS:
      return None
    number = math.prod(mesh.shape[axis] for axis in axes_of(spec[0]))
    at = P(spec[0])
    at = NamedSharding(mesh, at) if self.left is None else at
    return Parts(number, lambda x: jax.lax.with_sharding_constraint(x, at))

  def _gathered(self, path: tuple, leaf: jax.Array, place: Any) -> jax.Array:
    mesh, spec = place.sharding.mesh, place.sharding.spec
    if 'fsdp' not in [axis for part in spec for axis in axes_of(part)]:
      return leaf
    if self.left is not None:
      spec = _only(spec, self.left)
    whole = _only(spec, [axis for axis in mesh.axis_names if axis != 'fsdp'])
    sent = compute_dtype(path, leaf, self.dtype)

    def put(x, spec):
      at = NamedSharding(mesh, spec) if self.left is None else spec
      return jax.lax.with_sharding_constraint(x, at)

    @jax.custom_vjp
    def gather(x):
      # As in `summed_once`: cast first.
      cast = jax.lax.optimization_barrier(x.astype(sent))
      return put(cast, whole).astype(x.dtype)

    gather.defvjp(lambda x: (gather(x), None), lambda _, grad: (put(grad, spec),))
    return gather(leaf)


def _local(objective: Objective, left: list[str]) -> Objective:
  """Returns an objective as computed by the devices that only `left` tells apart."""
  rows = tuple(axis for axis in left if axis in ROWS)
  heads = tuple(axis for axis in ('tensor', 'context') if axis in left)
  context = 'context' if 'context' in left else None
  gathered = objective.gpt.execution.gathered
  if gathered is not None:
    gathered = dataclasses.replace(gathered, left=tuple(left))
  execution = dataclasses.replace(
    objective.gpt.execution,
    rows=P(rows, context) if left else None,
    heads=P(rows, heads) if left else None,
    gathered=gathered,
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


class _Cut(NamedTuple):
  """How the sum of a gradient leaves the devices.

  Attributes:
    scattered: over which of the axes its dimensions are.
    within: over which axes that are left the gradient's are.
    after: the same of its sum.
    twice: the dimension that both divide, which comes in two; None: there is none.
  """

  scattered: P
  within: P
  after: P
  twice: int | None

  @classmethod
  def of(cls, spec: P, axes: Collection[str], left: Collection[str]) -> '_Cut':
    """Returns that of a gradient whose sum is to be placed by `spec`.

    A device's part of such a dimension is cut by what is left, then by the axes. As
    one dimension the parts of the sum would lie in another order.
    """
    scattered, within = _only(spec, axes), _only(spec, left)
    for i in range(len(spec)):
      if scattered[i] and within[i]:
        split = lambda spec, *two, i=i: P(*spec[:i], *two, *spec[i + 1 :])  # noqa: E731
        before = split(scattered, None, scattered[i])
        return cls(before, within, split(within, within[i], None), i)
    return cls(scattered, within, within, None)


def _is_cut(value: Any) -> bool:
  return isinstance(value, _Cut)


def _add(
  cuts: Any, axes: tuple[str, ...], left: Collection[str], platform: str
) -> Callable:
  """Returns f(gradients of a device) -> their sums, of which each keeps its part.

  What the axes that are left divide is mapped too, or it would be gathered before it is
  scattered.
  """
  # As many bytes. A TPU's compiler makes of a scatter over chips of several planes a
  # sum (`runs/layout_choice.py`).
  add = partial(_summed, cuts=cuts, axes=axes, one_by_one=platform == 'tpu')
  if not left:
    return add
  within, after = (
    jax.tree.map(lambda cut, i=i: cut[i], cuts, is_leaf=_is_cut) for i in (1, 2)
  )
  return jax.shard_map(
    add,
    in_specs=(within,),
    out_specs=after,
    axis_names=set(left),
    check_vma=False,
  )


def _summed(
  grads: Any, *, cuts: Any, axes: tuple[str, ...], one_by_one: bool = False
) -> Any:
  """Returns sums over devices, of which each keeps its part.

  What stays whole is summed in one operation.

  Args:
    one_by_one: whether to scatter over one axis after the other.
  """
  leaves, tree = jax.tree.flatten(grads)
  whole: dict[tuple[str, ...], list[int]] = {}
  for i, cut in enumerate(jax.tree.leaves(cuts, is_leaf=_is_cut)):
    rest = axes
    if cut.twice is not None:
      leaves[i] = jnp.expand_dims(leaves[i], cut.twice)
    for dim, part in enumerate(cut.scattered):
      if part:
        for over in axes_of(part) if one_by_one else (part,):
          leaves[i] = jax.lax.psum_scatter(
            leaves[i], over, scatter_dimension=dim, tiled=True
          )
        rest = tuple(axis for axis in rest if axis not in part)
    whole.setdefault(rest, []).append(i)
  for rest, indices in whole.items():
    sums = jax.lax.psum([leaves[i] for i in indices], rest) if rest else ()
    for i, leaf in zip(indices, sums, strict=bool(rest)):
      leaves[i] = leaf
  return jax.tree.unflatten(tree, leaves)
