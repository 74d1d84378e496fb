"""How steps, batches and states are spread over devices.

One device: `jit`. Several devices of one process: `pmap`, data parallel, each with the
whole state. `config.Run.layout`, or several processes: `jit` over a mesh of devices
with the axes `data`, `fsdp`, `tensor` and `context`; RULES say how each parameter is
cut, and the compiler adds the communication (GSPMD, Xu et al. 2021). A batch's rows are
divided over `data` and `fsdp`, the residual stream's tokens over `context`. A
checkpoint is the same in all of them.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  SingleDeviceSharding,
)
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt_config import Execution, GPTConfig, axes_of
from gpt_jax.training import processes, reduction, step
from gpt_jax.training.muon import Stacked
from gpt_jax.training.objective import LanguageModeling, Objective
from gpt_jax.training.reduction import ROWS

AXES = 'data', 'fsdp', 'tensor', 'context'

# How parameters are cut, by the end of their name: the first rule that matches. What is
# cut by `tensor` is cut by output and then input features, so that the two linear
# layers of a branch need one sum over devices between them (Shoeybi et al. 2019,
# section 3); `fsdp` takes the other axis. An axis that does not divide a dimension
# leaves it whole. Embeddings are cut by rows, which are fewer bytes to send about; the
# vocabulary, a multiple of 128, may not go into so many parts, and then by both.
RULES = (
  (r'(^|/)(wte|lm_head)$', P(('tensor', 'fsdp')), P('tensor', 'fsdp')),
  (r'(^|/)wpe$', P(None, 'fsdp')),
  (r'(attn/[qkv]|mlp/up)/kernel$', P('fsdp', 'tensor')),
  (r'(attn/[qkv]|mlp/up)/bias$', P('tensor')),
  (r'(attn/o|mlp/down)/kernel$', P('tensor', 'fsdp')),
  (r'', P()),
)


def asked_devices(run: config.Run) -> int:
  """Returns how many devices a config asks for; 0 means all there are."""
  return run.devices or _product(run.layout)


def real_or_simulated(number: int) -> list[jax.Device]:
  """Returns the devices there are, or `number` simulated ones if that is more.

  To be called before anything else is done with jax.
  """
  if number:
    jax.config.update('jax_num_cpu_devices', number)
  devices = jax.devices()
  return devices if len(devices) >= number else jax.devices('cpu')


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a run is spread over devices.

  Attributes:
    devices: all of them, over all processes.
    mesh: of them, with the axes `AXES`; None for `jit` on one device and `pmap` on
      several.
    whole: whether a device has the memory for all weights and gradients during an
      update, but for what `tensor` divides; `runs.cost.scheduled` says so.
  """

  devices: tuple[jax.Device, ...]
  mesh: Mesh | AbstractMesh | None = None
  whole: bool = False

  @classmethod
  def of(cls, run: config.Run, devices: list[jax.Device] | None = None) -> 'Layout':
    """Returns the layout of a run.

    Args:
      devices: to choose from; None: all.

    Raises:
      UserError: there are not so many devices, or the layout does not fit them.
    """
    available = jax.devices() if devices is None else devices
    number = asked_devices(run) or len(available)
    processes = len({d.process_index for d in available})
    if number > len(available):
      raise UserError(
        f'{number} devices are asked for but there are {len(available)} '
        f'({available[0].platform}); lower devices or layout, or simulate more on a '
        f'CPU with XLA_FLAGS=--xla_force_host_platform_device_count={number}'
      )
    if processes > 1 and number != len(available):
      raise UserError(
        f'{number} devices are asked for but the {processes} processes have '
        f'{len(available)}, and all of them must take part; set devices=0'
      )
    chosen = tuple(available[:number])
    if not run.layout and processes == 1:
      return cls(chosen)
    sizes = _axes(run.layout or 'data', number)
    return cls(
      chosen, Mesh(np.array(chosen).reshape(sizes), AXES, (AxisType.Auto,) * len(AXES))
    )

  @classmethod
  def imagined(cls, run: config.Run, number: int) -> 'Layout':
    """Returns the layout of a run over devices that need not exist, to count with."""
    sizes = _axes(run.layout or 'data', number)
    return cls((), AbstractMesh(sizes, AXES, (AxisType.Auto,) * len(AXES)))

  @property
  def parts(self) -> int:
    """How many parts the rows of a batch are divided into."""
    if self.mesh is None:
      return len(self.devices)
    return self._size(ROWS)

  @property
  def once(self) -> bool:
    """Whether an update gathers weights and sums gradients once: see `reduction`."""
    if self.mesh is None:
      return True
    return self.whole or self._size('fsdp') == 1

  def _size(self, axes: str | tuple[str, ...]) -> int:
    axes = (axes,) if isinstance(axes, str) else axes
    return math.prod(self.mesh.shape[axis] for axis in axes)

  def __str__(self) -> str:
    if self.mesh is not None:
      sizes = self.mesh.shape.items()
      return ' x '.join(f'{axis} {n}' for axis, n in sizes if n > 1) or 'one device'
    return 'pmap' if len(self.devices) > 1 else 'jit'

  def check(self, cfg: GPTConfig) -> None:
    """Raises UserError if the model can't be cut so."""
    if self.mesh is None:
      return
    tensor, context = self.mesh.shape['tensor'], self.mesh.shape['context']
    for name in ('N', 'F'):
      if getattr(cfg, name) % tensor:
        raise UserError(
          f'layout: tensor={tensor} must divide model.{name}={getattr(cfg, name)}, '
          'since each device computes whole heads and a part of the MLP'
        )
    if cfg.N % (tensor * context) or cfg.T % context:
      raise UserError(
        f'layout: context={context} must divide model.T={cfg.T}, and tensor x context '
        f'= {tensor * context} model.N={cfg.N}, since a device has a part of the '
        'tokens, and in attention whole heads; choose a smaller context'
      )

  def _sharding(self, specs: tuple[P, ...], shape: tuple) -> jax.sharding.Sharding:
    """Returns the sharding of an array: the first that fits, or the last in part."""
    if self.mesh is None:
      return SingleDeviceSharding(self.devices[0])
    for spec in specs:
      if len(spec) > len(shape):  # not a parameter, but a statistic of one
        spec = P()
      fitting = P(
        *(
          axes if axes and not shape[i] % self._size(axes) else None
          for i, axes in enumerate(spec)
        )
      )
      if fitting == spec:
        break
    return NamedSharding(self.mesh, fitting)

  def placed(self, tree: Any, moments: bool = False) -> Any:
    """Returns the shapes of a state or of parameters, with where each array goes.

    Optimizer states follow the parameters whose names end their own, and are divided
    over `data` too (ZeRO: Rajbhandari et al. 2020, section 5.1).

    Args:
      moments: whether parameters are to be placed as their moments are.
    """
    apart = self.mesh is not None and self._size('data') > 1

    def place(path, leaf):
      name = '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path)
      specs = next(specs for rule, *specs in RULES if re.search(rule, name))
      if apart and (moments or name.startswith('opt_state/')):
        specs = [_over_data(spec) for spec in specs] + specs
      sharding = self._sharding(specs, leaf.shape)
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, tree)

  def state_shapes(self, make: Callable[[], step.State]) -> step.State:
    """Returns the shapes of the state `make` returns, with where each array goes."""
    return self.placed(jax.eval_shape(make))

  def bytes_each(self, tree: Any) -> int:
    """Returns the bytes of arrays on one device, from their `placed` shapes."""
    return sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree)
    )

  def new_state(self, make: Callable[[], step.State]) -> step.State:
    """Returns the state that `make` returns, never whole on one device."""
    return jax.jit(make, out_shardings=_shardings(self.state_shapes(make)))()

  def place(self, state: step.State) -> step.State:
    """Returns a state, which all processes have whole, where this layout keeps it."""
    if processes.several_processes():
      # From the host, as devices of one process reach no others.
      state = jax.device_get(state)
    return jax.device_put(state, _shardings(self.placed(state)))

  def gathered(self, params: dict) -> dict:
    """Returns whole parameters on this process's first device; all must call it."""
    if self.mesh is None:
      return jax.device_put(params, self.devices[0])
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, P()))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole(params))

  def _batch_sharding(self, micro: bool) -> jax.sharding.Sharding:
    """Returns the sharding of a batch's leaves; `micro`: [A, B, ...], not [B, ...]."""
    if self.mesh is not None:
      return NamedSharding(self.mesh, P(None, ROWS) if micro else P(ROWS))
    if len(self.devices) == 1:
      return SingleDeviceSharding(self.devices[0])
    return NamedSharding(Mesh(np.array(self.devices), ('data',)), P('data'))

  def rows(self, number: int, accumulate: int = 1) -> np.ndarray:
    """Returns which rows of a batch of `number` this process reads, in order."""
    if not processes.several_processes():
      return np.arange(number)
    shape = accumulate, number // accumulate
    places = self._batch_sharding(True).addressable_devices_indices_map(shape)
    own = np.zeros(shape, bool)
    for place in places.values():
      own[place] = True
    return np.flatnonzero(own)

  def put(self, batch: Batch, accumulate: int | None = None) -> Batch:
    """Returns numpy rows on the devices, as this layout's steps take them.

    Args:
      batch: this process's rows of it, as `rows` names them.
      accumulate: micro-batches of a training step; None for an evaluation.
    """
    sharding = self._batch_sharding(bool(accumulate))
    local = self._divided(batch, accumulate)
    if not processes.several_processes():
      return jax.device_put(local, sharding)
    return jax.tree.map(
      partial(jax.make_array_from_process_local_data, sharding), local
    )

  def batch_shapes(self, batch: Batch, accumulate: int | None = None) -> Batch:
    """Returns the shapes of what `put` makes of all rows, with where each array goes.

    The devices may be absent ones, which take no arrays.
    """
    divided = jax.eval_shape(partial(self._divided, accumulate=accumulate), batch)
    return self._at(divided, self._batch_sharding(bool(accumulate)))

  def whole_shapes(self, tree: Any) -> Any:
    """Returns the shapes of arrays that each device has whole, such as numbers."""
    everywhere = self._sharding((P(),), ())
    return self._at(jax.eval_shape(lambda tree: tree, tree), everywhere)

  def _at(self, shapes: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
      shapes,
    )

  def _divided(self, batch: Batch, accumulate: int | None) -> Batch:
    """Returns a batch with axes for the devices of `pmap` and for micro-batches."""
    mapped = self.mesh is None and len(self.devices) > 1  # pmap has an axis of devices
    parts = (len(self.devices),) if mapped else ()
    parts += (accumulate,) if accumulate else ()
    return jax.tree.map(lambda leaf: leaf.reshape(*parts, -1, *leaf.shape[1:]), batch)

  def execution(self, model: config.Model) -> Execution:
    """Returns how the devices compute a model."""
    if self.mesh is None:
      return Execution.of(model, self.devices)
    place = partial(NamedSharding, self.mesh)
    # For attention all tokens of some heads, sent all to all (DeepSpeed Ulysses: Jacobs
    # et al. 2023, section 3): the compiler adds what lies between the two.
    heads = place(P(ROWS, ('tensor', 'context')))
    how = Execution.of(model, self.devices, place(P(ROWS, 'context')), heads=heads)
    if self.once:
      return how
    return dataclasses.replace(how, gathered=reduction.Gathered(self, model.dtype))

  def train_step(
    self, run: config.Run, objective: Objective, state: step.State, fixed: dict
  ) -> Callable:
    """Returns the compiled f(state, fixed, batch, hp) -> (state, metrics).

    The batch is one that `put` made. The state passed in is donated: its buffers become
    those of the result.

    Args:
      state: shapes, as `placed` returns them.
      fixed: likewise, of the parameters that are not trained.
    """
    moments = _shardings(self.placed(state.params, moments=True))
    stacked = None
    if run.optim.name == 'muon':
      params = _shardings(state.params)
      stacked = Stacked.of(run.model, self.devices, self.mesh, params, moments)
    fn = partial(
      step.train_step, objective=objective, choices=run.optim, stacked=stacked
    )
    if self.mesh is not None:
      whole = NamedSharding(self.mesh, P())
      places = _shardings(state), _shardings(fixed), self._batch_sharding(True), whole
      axes = [axis for axis in ROWS if self._size(axis) > 1]
      if not self.once:
        axes = [axis for axis in axes if axis != 'fsdp']
      left = [axis for axis in AXES if axis not in axes and self._size(axis) > 1]
      # XLA's compiler for GPUs ends the process where axes are mapped and it divides
      # over two others (a check in spmd_partitioner_util.cc, jaxlib 0.10.2): then it
      # sums gradients itself, for each micro-batch.
      if axes and not (len(left) > 1 and self.devices[0].platform == 'gpu'):
        once = reduction.summed_once(
          self.mesh, tuple(axes), objective, places[0].params | places[1], moments
        )
        fn = partial(fn, gradients=once)
      return jax.jit(
        fn, donate_argnums=0, in_shardings=places, out_shardings=(places[0], whole)
      )
    if len(self.devices) == 1:
      return jax.jit(fn, donate_argnums=0)
    return jax.pmap(
      partial(fn, axis='data'),
      axis_name='data',
      in_axes=(None, None, 0, None),
      out_axes=(None, None),
      devices=self.devices,
      donate_argnums=0,
    )

  def eval_step(self, objective: LanguageModeling, params: dict) -> Callable:
    """Returns the compiled f(params, batch) -> (nll_sum, count)."""
    fn = partial(step.eval_step, objective=objective)
    if self.mesh is not None:
      return self.over_rows(fn, params)
    if len(self.devices) == 1:
      return jax.jit(fn)
    return jax.pmap(
      partial(fn, axis='data'),
      axis_name='data',
      in_axes=(None, 0),
      out_axes=None,
      devices=self.devices,
    )

  def over_rows(self, fn: Callable, params: dict) -> Callable:
    """Returns the compiled f(params, batch of rows) of a mesh; its result is whole."""
    places = _shardings(params), self._batch_sharding(False)
    whole = NamedSharding(self.mesh, P())
    return jax.jit(fn, in_shardings=places, out_shardings=whole)


def _over_data(spec: P) -> P:
  """Returns a specification where `data` divides what `fsdp` does, too."""

  return P(*((*axes_of(p), 'data') if 'fsdp' in axes_of(p) else p for p in spec))


def _shardings(shapes: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def _product(layout: str) -> int:
  """Returns how many devices a layout takes, 0 if it does not say."""
  numbers = [part.partition('=')[2] for part in layout.split(',')]
  return math.prod(map(int, numbers)) if all(map(str.isdigit, numbers)) else 0


def _axes(layout: str, number: int) -> tuple[int, ...]:
  """Returns the sizes of the mesh's axes.

  Raises:
    UserError: the layout is no product of `number`.
  """
  wrong = UserError(
    f'layout={layout!r} must be a product of {", ".join(AXES)} that makes {number} '
    "devices, like 'data=2,fsdp=4', with at most one number left out"
  )
  sizes = dict.fromkeys(AXES, 1)
  free = None
  for part in layout.split(','):
    axis, equals, size = part.partition('=')
    if axis not in AXES or (equals and not (size.isdigit() and int(size))):
      raise wrong
    if equals:
      sizes[axis] *= int(size)
    elif free:
      raise wrong
    else:
      free = axis
  if free:
    sizes[free] *= number // math.prod(sizes.values())
  if math.prod(sizes.values()) != number:
    raise wrong
  return tuple(sizes.values())
