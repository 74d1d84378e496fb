"""One update of what is trained, for any objective, on one device and on many."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import halves, optim
from gpt_jax.training.muon import Stacked
from gpt_jax.training.objective import LanguageModeling, Objective
from gpt_jax.training.spikes import SpikeDetector, judge


@flax.struct.dataclass
class State:
  """All that training carries from one update to the next.

  Attributes:
    params: float32: a model's parameters, or the trained tree of
      `training/transfer.py`; between updates some may be in `halves`.
    step: int32 scalar, updates done.
  """

  params: dict
  opt_state: optax.OptState
  step: jax.Array
  ema: dict | None = None
  guard: SpikeDetector | None = None

  @property
  def weights(self) -> dict:
    """The parameters to evaluate and to use: averaged, where there is an average."""
    return self.params if self.ema is None else self.ema


def init_state(run: config.Run, params: dict, width: float) -> State:
  """Returns the state before the first update.

  Args:
    run: chooses the optimizer, and whether there is an average or a guard.
  """
  step = jnp.int32(0)
  tx = optim.transformation(run.optim, optim.Hyper.of(run), step, width)
  return State(
    params=params,
    opt_state=tx.init(params),
    step=step,
    # A copy: the same buffer can't be donated twice.
    ema=jax.tree.map(jnp.array, params) if run.optim.ema else None,
    guard=SpikeDetector.new() if run.optim.guard != 'off' else None,
  )


def new_state(run: config.Run, cfg: GPTConfig) -> State:
  """Returns the state of a new language model before the first update."""
  return init_state(run, init_params(cfg, run.seed), cfg.width)


def averaged(ema: dict, params: dict, step: jax.Array, decay: jax.Array) -> dict:
  """Returns the moving average after update number `step` + 1.

  The decay rises to its value as (1 + step) / (10 + step), so that early weights,
  which were far off, are forgotten (as TensorFlow's ExponentialMovingAverage does).
  """
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


_T = TypeVar('_T')


def accumulated(
  compute: Callable[[Any], _T], batch: Any, *, last_apart: bool = False
) -> _T:
  """Returns the sum of `compute` over micro-batches, one at a time.

  Args:
    batch: leaves [A, B, ...].
    last_apart: whether the last one, and not the first, is outside the compiled loop,
      where what follows for one tensor need not wait for the others.
  """
  A = jax.tree.leaves(batch)[0].shape[0]
  apart = A - 1 if last_apart else 0
  rest = slice(None, apart) if last_apart else slice(1, None)
  alone = lambda: compute(jax.tree.map(lambda leaf: leaf[apart], batch))  # noqa: E731
  if A == 1:
    return alone()

  def add(total, micro):
    return jax.tree.map(jnp.add, total, compute(micro)), None

  others = jax.tree.map(lambda leaf: leaf[rest], batch)
  if not last_apart:
    return jax.lax.scan(add, alone(), others)[0]
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(alone))
  return jax.tree.map(jnp.add, jax.lax.scan(add, zero, others)[0], alone())


def mean_gradients(
  trained: dict,
  fixed: dict,
  batch: Any,
  hp: optim.Hyper,
  step: jax.Array,
  *,
  objective: Objective,
  axis: str | tuple[str, ...] | None = None,
  add: Callable[[dict], dict] | None = None,
) -> tuple[dict[str, jax.Array], dict]:
  """Returns the objective's metrics, divided, and the gradient for `trained`, float32.

  Args:
    trained: the parameters, of any dtype.
    batch: leaves [A, B, ...]: A micro-batches of B rows on this device.
    axis: name of the mapped axis that devices form, or names, or None.
    add: sums gradients over devices; None: all of them whole.
  """

  def sum_devices(tree):
    return tree if axis is None else jax.lax.psum(tree, axis)

  # Where nothing counts, the loss is zero rather than 0 / 0.
  count = jnp.maximum(sum_devices(objective.count(batch)), 1)

  def mean(trained, micro):
    total, parts = objective.sums(trained, fixed, micro, hp, step)
    return total / count, jax.tree.map(lambda part: part / count, parts)

  def gradient(micro):
    # The compiler drops a cast that the model takes back; here its gradient is float32.
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained)
    (_, parts), grads = jax.value_and_grad(mean, has_aux=True)(exact, micro)
    return parts, grads

  metrics, grads = accumulated(gradient, batch, last_apart=axis is not None)
  if add is None:
    return sum_devices((metrics, grads))
  return sum_devices(metrics), add(grads)


def train_step(
  state: State,
  fixed: dict,
  batch: Any,
  hp: optim.Hyper,
  *,
  objective: Objective,
  choices: config.Optim,
  axis: str | None = None,
  gradients: Callable | None = None,
  stacked: Stacked | None = None,
) -> tuple[State, dict[str, jax.Array]]:
  """Returns the state after one update, and its metrics.

  Args:
    fixed: the parameters that are not trained; {} for a language model.
    batch: leaves [A, B, ...]: A micro-batches of B rows on this device.
    choices: the optimizer, its schedule, and whether there is clipping: static.
    axis: name of the mapped axis that devices form, or None.
    gradients: takes the place of `mean_gradients` (`training/reduction.py`).
    stacked: as in `optim.transformation`.

  Returns:
    The state, and float32 scalars: the objective's, divided ('loss' among them),
    grad_norm (before clipping) and lr, all of this update; with a guard also spike, 1
    for an update that was left out.
  """
  gradients = gradients or partial(mean_gradients, objective=objective, axis=axis)
  metrics, grads = gradients(halves.upper(state.params), fixed, batch, hp, state.step)

  width = objective.gpt.config.width
  norm = None
  if objective.gpt.execution.joined:
    grads, norm = optim.in_few_arrays(grads)
  tx = optim.transformation(choices, hp, state.step, width, norm, stacked)
  before = halves.whole(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, before)
  params = optax.apply_updates(before, updates)
  metrics |= {
    'grad_norm': optax.tree.norm(grads) if norm is None else norm,
    'lr': optim.learning_rate(state.step, hp, choices.schedule),
  }
  new = state.replace(params=halves.like(params, state.params), opt_state=opt_state)
  if state.ema is not None:
    new = new.replace(ema=averaged(state.ema, params, state.step, hp.ema))
  if state.guard is not None:
    loss, norm = metrics['loss'], metrics['grad_norm']
    after, spike = judge(state.guard, loss, norm, hp.guard_sigmas)
    new = jax.tree.map(lambda old, updated: jnp.where(spike, old, updated), state, new)
    new = new.replace(guard=after)
    metrics['spike'] = jnp.float32(spike)
  return new.replace(step=state.step + 1), metrics


def eval_step(
  params: dict,
  batch: Batch,
  *,
  objective: LanguageModeling,
  axis: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns (nll_sum [nats], count [tokens]) over a batch of leaves [B, ...]."""
  sums = objective.nll_sum(params, batch), objective.count(batch)
  return sums if axis is None else jax.lax.psum(sums, axis)
