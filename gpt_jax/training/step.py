"""One update of the parameters, the same on one device and on many."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, GPTConfig, init_params
from gpt_jax.model.layers import Dropout
from gpt_jax.training import loss, optim
from gpt_jax.training.spikes import SpikeDetector, judge


@flax.struct.dataclass
class State:
  """All that training carries from one update to the next.

  Attributes:
    params: the model's parameters, float32.
    opt_state: optax's state.
    step: int32 scalar, updates done.
    ema: the moving average of the parameters, or None where there is none.
    guard: of the guard against spikes, or None where there is none.
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


def init_state(run: config.Run, cfg: GPTConfig, params: dict | None = None) -> State:
  """Returns the state before the first update, with new parameters unless given."""
  params = init_params(cfg, run.seed) if params is None else params
  step = jnp.int32(0)
  tx = optim.transformation(run.optim, optim.Hyper.of(run), step, cfg.width)
  return State(
    params=params,
    opt_state=tx.init(params),
    step=step,
    # A copy: the same buffer can't be donated twice.
    ema=jax.tree.map(jnp.array, params) if run.optim.ema else None,
    guard=SpikeDetector.new() if run.optim.guard != 'off' else None,
  )


def averaged(ema: dict, params: dict, step: jax.Array, decay: jax.Array) -> dict:
  """Returns the moving average after update number `step` + 1.

  The decay rises to its value as (1 + step) / (10 + step), so that early weights,
  which were far off, are forgotten (as TensorFlow's ExponentialMovingAverage does).
  """
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def model_nll_sum(
  params: dict,
  batch: Batch,
  cfg: GPTConfig,
  loss_chunk: int,
  **how,
) -> jax.Array:
  """Returns the sum of -log p over a batch's targets, weighted [nats].

  Args:
    params: of the model.
    batch: leaves [B, ...].
    cfg: of the model.
    loss_chunk: as in `config.Run`.
    **how: `drop` and `spread` of the model.
  """
  apply = partial(GPT(cfg).apply, {'params': params}, batch.ids_BT, **how)
  if not loss_chunk:
    return loss.nll_sum(apply()[0], batch.y_BT, batch.w_BT)
  x_BTD, head_VD = apply(logits=False)
  return loss.chunked_nll_sum(
    x_BTD, head_VD, batch.y_BT, batch.w_BT, cfg.vocab, loss_chunk
  )


_ALL_ROWS = 2**31 - 1  # the number of no row: the key of what all rows share


def dropout(hp: optim.Hyper, step: jax.Array, row_B: jax.Array) -> Dropout:
  """Returns the draw of an update: a function of (seed, step, row) and no more."""
  key = jax.random.fold_in(jax.random.key(hp.seed), step)
  rows = jax.vmap(jax.random.fold_in, (None, 0))(key, row_B)
  return Dropout(rows, hp.dropout, jax.random.fold_in(key, _ALL_ROWS))


_T = TypeVar('_T')


def accumulated(compute: Callable[[Any], _T], batch: Any) -> _T:
  """Returns the sum of `compute` over micro-batches, one at a time.

  Args:
    compute: from leaves [B, ...] to a tree of arrays.
    batch: leaves [A, B, ...].
  """
  total = compute(jax.tree.map(lambda leaf: leaf[0], batch))
  rest = jax.tree.map(lambda leaf: leaf[1:], batch)
  if not jax.tree.leaves(rest)[0].shape[0]:
    return total

  def add(total, micro):
    return jax.tree.map(jnp.add, total, compute(micro)), None

  return jax.lax.scan(add, total, rest)[0]


def train_step(
  state: State,
  batch: Batch,
  hp: optim.Hyper,
  *,
  run: config.Run,
  cfg: GPTConfig,
  axis: str | None = None,
  **how,
) -> tuple[State, dict[str, jax.Array]]:
  """Returns the state after one update, and its metrics.

  The loss is the mean over the targets of the whole batch: their number is summed over
  micro-batches and devices first, gradients are those of nll_sum / count, and are
  added. So neither micro-batches nor devices that hold fewer targets change it.

  Args:
    state: before the update.
    batch: leaves [A, B, ...]: A micro-batches of B rows on this device.
    hp: numeric hyper-parameters.
    run: its choices (optimizer, schedule, whether there is dropout) are static.
    cfg: of the model.
    axis: name of the mapped axis that devices form, or None.
    **how: `spread` of the model.

  Returns:
    The state, and float32 scalars: loss [nats/token], grad_norm (before clipping) and
    lr, all of this update; with a guard also spike, 1 for an update that was left out.
  """

  def sum_devices(tree):
    return tree if axis is None else jax.lax.psum(tree, axis)

  count = sum_devices(batch.w_BT.sum())

  def micro_loss(params, micro):
    drop = None
    if run.model.dropout:
      drop = dropout(hp, state.step, micro.row_B)
    nll = model_nll_sum(params, micro, cfg, run.loss_chunk, drop=drop, **how)
    # Where no target counts, the loss is zero rather than 0 / 0.
    return nll / jnp.maximum(count, 1)

  gradient = partial(jax.value_and_grad(micro_loss), state.params)
  nll, grads = sum_devices(accumulated(gradient, batch))

  tx = optim.transformation(run.optim, hp, state.step, cfg.width)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {
    'loss': nll,
    'grad_norm': optax.tree.norm(grads),
    'lr': optim.learning_rate(state.step, hp, run.optim.schedule),
  }
  new = state.replace(params=params, opt_state=opt_state)
  if state.ema is not None:
    new = new.replace(ema=averaged(state.ema, params, state.step, hp.ema))
  if state.guard is not None:
    after, spike = judge(state.guard, nll, metrics['grad_norm'], hp.guard_sigmas)
    new = jax.tree.map(lambda old, made: jnp.where(spike, old, made), state, new)
    new = new.replace(guard=after)
    metrics['spike'] = jnp.float32(spike)
  return new.replace(step=state.step + 1), metrics


def eval_step(
  params: dict,
  batch: Batch,
  *,
  cfg: GPTConfig,
  loss_chunk: int,
  axis: str | None = None,
  **how,
) -> tuple[jax.Array, jax.Array]:
  """Returns (nll_sum [nats], count [tokens]) over a batch of leaves [B, ...]."""
  sums = model_nll_sum(params, batch, cfg, loss_chunk, **how), batch.w_BT.sum()
  return sums if axis is None else jax.lax.psum(sums, axis)
