"""Programs that update members: one run by itself, or several at once.

Members differ in seeds, batches and numbers alone: the seeds of a fine-tuning, the runs
of a sweep. One compiled program updates a stack of their states. On disk each has its
own state.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import halves, optim, sharding, step
from gpt_jax.training.muon import Stacked
from gpt_jax.training.objective import LanguageModeling, Objective
from gpt_jax.training.reduction import compute_dtype
from gpt_jax.training.step import State


class Alone:
  """The compiled update of one run, in any layout.

  Attributes:
    like: the shapes of its state, with where each array goes.
  """

  def __init__(
    self,
    run: config.Run,
    objective: Objective,
    layout: sharding.Layout,
    like: State,
    fixed: dict | None = None,
  ):
    """Compiles nothing yet.

    Args:
      like: the shapes of its state, with where each array goes.
      fixed: parameters that are not trained.
    """
    self.run, self.layout, self.like = run, layout, like
    self.devices = layout.devices
    places = layout.placed(fixed or {})
    self.fixed = layout.place(fixed) if fixed else {}
    self.hp = optim.Hyper.of(run)
    self.jitted = layout.train_step(run, objective, like, places)
    how = objective.gpt.execution
    self._halved = how.kernels and how.dtype == 'bfloat16' and len(self.devices) == 1
    self._divided = jax.jit(_in_halves, donate_argnums=0)

  @classmethod
  def of(cls, run: config.Run, cfg: GPTConfig, layout: sharding.Layout) -> 'Alone':
    """Returns what updates a language model."""
    objective = LanguageModeling.of(run, GPT(cfg, layout.execution(run.model)))
    like = layout.state_shapes(partial(step.new_state, run, cfg))
    return cls(run, objective, layout, like)

  def stack(self, states: Sequence[State]) -> State:
    """Returns the state to update: that of the only member."""
    return states[0]

  def member(self, state: State, i: int) -> State:
    """Returns the state of a member."""
    del i
    return state.replace(params=_whole(state.params))

  def weights(self, state: State, i: int) -> dict:
    """Returns the parameters to evaluate of a member."""
    del i
    return _whole(state.weights)

  def put(self, rows: Sequence[Any]) -> Any:
    """Returns the batches of all members on their devices."""
    return self.layout.put(rows[0], self.run.accumulate)

  def update(self, state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
    """Returns the state after an update, and its metrics; the old one is donated.

    Where kernels read them, parameters come back in `halves`: see `member`.
    """
    if self._halved and not halves.divided(state.params):
      state = self._divided(state)
    return self.jitted(state, self.fixed, batch, self.hp)

  def lowered(self, rows: Any) -> jax.stages.Lowered:
    """Returns the program of an update, which nothing is put on the devices for.

    Args:
      rows: all rows of a batch, or their shapes.
    """
    batch = self.layout.batch_shapes(rows, self.run.accumulate)
    hp = self.layout.whole_shapes(self.hp)
    like = self.like
    if self._halved:
      like = self.layout.placed(jax.eval_shape(_in_halves, like))
    return self.jitted.lower(like, self.fixed, batch, hp)

  def split(self, metrics: dict[str, jax.Array]) -> list[dict[str, float]]:
    """Returns the metrics of each member; waits until they are computed."""
    return [{name: float(value) for name, value in metrics.items()}]


def _in_halves(state: State) -> State:
  """Returns a state whose parameters that are read as bfloat16 alone are in halves."""

  def split(path, leaf):
    narrow = compute_dtype(path, leaf, 'bfloat16') == jnp.bfloat16
    return halves.Halves.of(leaf) if narrow else leaf

  return state.replace(params=jax.tree_util.tree_map_with_path(split, state.params))


def _whole(params: dict) -> dict:
  """Returns parameters of float32."""
  return jax.jit(halves.whole)(params) if halves.divided(params) else params


class Together:
  """The compiled update of several members, spread over devices.

  Members are divided over devices first; with `share_rows`, the rows of a batch over
  the remaining ones.
  """

  def __init__(
    self,
    runs: Sequence[config.Run],
    objective: Objective,
    devices: Sequence[jax.Device],
    *,
    fixed: dict | None = None,
    share_rows: bool = False,
    in_turn: bool = False,
  ):
    """Compiles nothing yet.

    Args:
      runs: of the members; they differ in seed and numbers.
      devices: to choose from.
      fixed: parameters that are not trained, the same for all.
      share_rows: whether several devices may share the rows of a member's batch.
      in_turn: whether one device updates its members one after another and not at
        once, which keeps a member's arrays in a CPU's caches.
    """
    self.run, number = runs[0], len(runs)
    apart = math.gcd(len(devices), number)
    self.devices = tuple(devices) if share_rows else tuple(devices[:apart])
    self.mesh = Mesh(np.array(self.devices).reshape(apart, -1), ('member', 'row'))
    place = partial(NamedSharding, self.mesh)
    self.each, self.all = place(P('member')), place(P())
    self._micro, self._rows = place(P('member', None, 'row')), place(P('row'))
    choices = self.run.optim
    ema, guard = choices.ema > 0, choices.guard != 'off'
    # One number of updates for all members.
    self.axes = State(0, 0, None, 0 if ema else None, 0 if guard else None)
    self.places = State(
      self.each,
      self.each,
      self.all,
      self.each if ema else None,
      self.each if guard else None,
    )
    self.fixed = jax.device_put(fixed or {}, self.all)
    hps = [optim.Hyper.of(run) for run in runs]
    self.hp = jax.device_put(
      jax.tree.map(lambda *leaf: np.stack(leaf), *hps), self.each
    )
    axis = 'row' if self.mesh.shape['row'] > 1 else None
    stacked = None
    if choices.name == 'muon':
      stacked = Stacked.of(self.run.model, self.devices, None, None, None)
    one = partial(
      step.train_step, objective=objective, choices=choices, axis=axis, stacked=stacked
    )
    at_once = jax.vmap(one, (self.axes, None, 0, 0), (self.axes, 0))

    def one_by_one(state, fixed, batch, hp):
      def each(member):
        own, rows, numbers = member
        new, metrics = one(state.replace(**own), fixed, rows, numbers)
        return _own(new), metrics

      own, metrics = jax.lax.map(each, (_own(state), batch, hp))
      return state.replace(**own, step=state.step + 1), metrics

    in_turn = in_turn and len(self.devices) == 1
    places = self.places, self.all, self._micro, self.each
    self.jitted = jax.jit(
      self._by_device(one_by_one if in_turn else at_once, places, places[::3]),
      in_shardings=places,
      out_shardings=places[::3],
      donate_argnums=0,
    )

  def _by_device(self, fn: Callable, places: Any, results: Any) -> Callable:
    """Returns f, where each device computes for its own members and rows.

    The compiler would divide most of it by itself, but not all kernels of attention.
    """
    if len(self.devices) == 1:
      return fn
    return jax.shard_map(
      fn,
      mesh=self.mesh,
      in_specs=jax.tree.map(lambda place: place.spec, places),
      out_specs=jax.tree.map(lambda place: place.spec, results),
      check_vma=False,  # kernels do not say over which axes their results vary
    )

  def begin(
    self, make: Callable[..., State], *arguments, seeds: Sequence[int]
  ) -> State:
    """Returns the states before the first update, of `make(*arguments, seed)`."""
    over = jax.vmap(make, (*(None,) * len(arguments), 0), self.axes)
    compiled = jax.jit(over, out_shardings=self.places)
    arguments = jax.device_put(arguments, self.all)
    return compiled(*arguments, np.array(seeds, np.uint32))

  def stack(self, states: Sequence[State]) -> State:
    """Returns the states of all members, of one update, as one."""
    # On the host, as they may not fit on a device beside their stack.
    host = [jax.device_get(state) for state in states]
    stacked = jax.tree.map(lambda *leaf: np.stack(leaf), *host)
    return jax.device_put(stacked.replace(step=host[0].step), self.places)

  def member(self, state: State, i: int) -> State:
    """Returns the state of a member."""
    return state.replace(**jax.tree.map(lambda leaf: leaf[i], _own(state)))

  def weights(self, state: State, i: int) -> dict:
    """Returns the parameters to evaluate of a member, on the first device."""
    own = jax.tree.map(lambda leaf: leaf[i], state.weights)
    return jax.device_put(own, self.devices[0])

  def put(self, rows: Sequence[Any]) -> Any:
    """Returns the batches of all members on their devices, [members, A, B, ...]."""

    def split(*leaf):
      whole = np.stack(leaf)
      return whole.reshape(len(leaf), self.run.accumulate, -1, *whole.shape[2:])

    return jax.device_put(jax.tree.map(split, *rows), self._micro)

  def update(self, state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
    """Returns the states after an update, and its metrics; the old are donated."""
    return self.jitted(state, self.fixed, batch, self.hp)

  def split(self, metrics: dict[str, jax.Array]) -> list[dict[str, float]]:
    """Returns the metrics of each member; waits until they are computed."""
    host = jax.device_get(metrics)
    number = len(next(iter(host.values())))
    return [
      {name: float(value[i]) for name, value in host.items()} for i in range(number)
    ]

  def over_rows(self, fn: Callable) -> Callable:
    """Returns the compiled f(stacked parameters, fixed, batch of rows), whole."""
    places = self.each, self.all, self._rows
    rows = NamedSharding(self.mesh, P('member', 'row'))
    return jax.jit(
      self._by_device(jax.vmap(fn, (0, None, None)), places, rows),
      in_shardings=places,
      out_shardings=self.all,
    )


def _own(state: State) -> dict[str, Any]:
  """Returns the fields of a state that each member has for itself."""
  return {
    name: getattr(state, name) for name in ('params', 'opt_state', 'ema', 'guard')
  }
