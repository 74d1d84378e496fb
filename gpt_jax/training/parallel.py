"""The only room that knows devices: it compiles steps for one device or several.

One device: `jit`. Several devices of one process: `pmap`, data parallel. The state is
never replicated by hand (`in_axes=None`), so that a checkpoint is the same whatever the
number of devices.
"""

from collections.abc import Callable
from functools import partial

import jax

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.batches import Batch
from gpt_jax.model.gpt import Shape
from gpt_jax.training import step


def devices(number: int) -> list[jax.Device]:
  """Returns the first `number` devices of this process; 0 means all."""
  found = jax.local_devices()
  if number > len(found):
    raise UserError(
      f'devices={number} but there are {len(found)} ({found[0].platform}); lower it, '
      'or simulate more on a CPU with XLA_FLAGS=--xla_force_host_platform_device_count='
      f'{number}'
    )
  return found[: number or len(found)]


def compile_train_step(run: config.Run, shape: Shape, devices: list) -> Callable:
  """Returns f(state, batch, hp) -> (state, metrics) for a whole batch of numpy rows.

  The state passed in is donated: its buffers become those of the result.
  """
  fn = partial(step.train_step, run=run, shape=shape)
  if len(devices) == 1:
    compiled = jax.jit(fn, donate_argnums=0)
    parts = (run.accumulate,)
  else:
    compiled = jax.pmap(
      partial(fn, axis='data'),
      axis_name='data',
      in_axes=(None, 0, None),
      out_axes=(None, None),
      devices=devices,
      donate_argnums=0,
    )
    parts = (len(devices), run.accumulate)
  return lambda state, batch, hp: compiled(state, _split(batch, parts), hp)


def compile_eval_step(shape: Shape, devices: list) -> Callable:
  """Returns f(params, batch) -> (nll_sum, count) for a whole batch of numpy rows."""
  fn = partial(step.eval_step, shape=shape)
  if len(devices) == 1:
    return jax.jit(fn)
  compiled = jax.pmap(
    partial(fn, axis='data'),
    axis_name='data',
    in_axes=(None, 0),
    out_axes=None,
    devices=devices,
  )
  return lambda params, batch: compiled(params, _split(batch, (len(devices),)))


def _split(batch: Batch, parts: tuple[int, ...]) -> Batch:
  """Returns the batch with its rows divided into equal parts, in order."""
  return jax.tree.map(lambda leaf: leaf.reshape(*parts, -1, *leaf.shape[1:]), batch)
