"""Several seeds of a fine-tuning in one program, spread over devices."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.model.gpt import GPTConfig, init_params
from gpt_jax.tasks import inputs
from gpt_jax.tasks.inputs import Inputs, TaskBatch
from gpt_jax.tasks.labelled_table import Task
from gpt_jax.tokenizers import Tokenizer
from gpt_jax.training import optim, sharding, task_step
from gpt_jax.training.step import State


@dataclasses.dataclass(frozen=True)
class Job:
  """What all seeds of a run share.

  Attributes:
    run: with everything filled in that data and source say.
    task: of the table.
    cfg: of the model without the new tokens.
    tokenizer: of the model that is started from.
    train, dev: examples as sequences.
    labels: of the examples of dev.
    order: of the training examples.
    digests: checksums of the examples.
  """

  run: config.Run
  task: Task
  cfg: GPTConfig
  tokenizer: Tokenizer
  train: Inputs
  dev: Inputs
  labels: np.ndarray
  order: inputs.Order
  digests: dict[str, str]


def devices(run: config.Run) -> tuple[jax.Device, ...]:
  """Returns those that a run uses."""
  return sharding.Layout.of(run).devices


def group_size(run: config.Run) -> int:
  """Returns how many seeds a run asks to train together."""
  return min(run.task.together or run.seeds, run.seeds)


def row_parts(run: config.Run, seeds: int) -> int:
  """Returns how many devices share the rows of one seed's batch."""
  number = len(devices(run))
  return number // math.gcd(number, seeds)


class Group:
  """The compiled programs of seeds that train together, spread over devices.

  Seeds are divided over devices as far as they go, the rows of a batch over the rest.
  """

  def __init__(self, job: Job, seeds: Sequence[int]):
    run = self.run = job.run
    self.job, self.seeds = job, seeds
    rows = row_parts(run, len(seeds))
    mesh = Mesh(np.array(devices(run)).reshape(-1, rows), ('seed', 'row'))
    place = partial(NamedSharding, mesh)
    self.each, self.all = place(P('seed')), place(P())
    self.micro, self.rows = place(P('seed', None, 'row')), place(P('row'))
    static = {'run': run, 'cfg': job.cfg, 'task': job.task}
    self.axes = State(0, 0, None)  # one number of updates for all

    def update(state, fixed, batch, hp):
      step = partial(task_step.train_step, **static)
      step = jax.vmap(step, (self.axes, None, 0, 0), (self.axes, 0))
      state, found = step(state, fixed, batch, hp)
      return state, jax.tree.map(lambda value: value.mean(0), found)

    self.state_sharding = State(self.each, self.each, self.all)
    self.update = jax.jit(
      update,
      in_shardings=(self.state_sharding, self.all, self.micro, self.each),
      out_shardings=(self.state_sharding, self.all),
      donate_argnums=0,
    )
    self.predict = jax.jit(
      jax.vmap(partial(task_step.predict_step, **static), (0, None, None)),
      in_shardings=(self.each, self.all, self.rows),
      out_shardings=self.all,
    )
    runs = [dataclasses.replace(run, seed=seed) for seed in seeds]
    hps = [optim.Hyper.of(each) for each in runs]
    self.hp = jax.device_put(
      jax.tree.map(lambda *leaf: np.stack(leaf), *hps), self.each
    )

  def _make(self, source: dict | None, seed: jax.Array) -> State:
    """Returns the state of one seed before the first update."""
    job, run = self.job, self.run
    trained = task_step.init(run, job.cfg, job.task, source, seed)
    tx = optim.transformation(
      run.optim, optim.Hyper.of(run), np.int32(0), job.cfg.width
    )
    return State(trained, tx.init(trained), np.int32(0))

  def start(self, source: dict | None) -> State:
    """Returns the state before the first update.

    Args:
      source: parameters of the model that is started from; None with
        task.transfer=none.
    """
    make = jax.jit(
      jax.vmap(self._make, (None, 0), self.axes), out_shardings=self.state_sharding
    )
    return make(jax.device_put(source, self.all), np.array(self.seeds, np.uint32))

  def fixed(self, source: dict | None) -> dict:
    """Returns what is not trained, on all devices."""
    return jax.device_put(task_step.fixed(self.run, source), self.all)

  def shapes(self) -> tuple[State, dict]:
    """Returns the shapes of the state and of what is not trained, and their places."""

    def placed(tree, sharding):
      return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
      )

    source = jax.eval_shape(lambda: init_params(self.job.cfg, 0))
    seeds = jax.ShapeDtypeStruct((len(self.seeds),), np.uint32)
    made = jax.eval_shape(jax.vmap(self._make, (None, 0), self.axes), source, seeds)
    state = State(
      placed(made.params, self.each),
      placed(made.opt_state, self.each),
      placed(made.step, self.all),
    )
    return state, placed(task_step.fixed(self.run, source), self.all)

  def batch(self, step: int) -> TaskBatch:
    """Returns the batch of the update that follows `step`, [seeds, A, B, ...]."""
    job, run = self.job, self.run
    made = []
    for seed in self.seeds:
      chosen, T = job.order.at(seed, step)
      made.append(inputs.batch(job.train, chosen, run.batch, T))

    def split(*leaf):
      rows = np.stack(leaf)
      return rows.reshape(len(leaf), run.accumulate, -1, *rows.shape[2:])

    return jax.device_put(jax.tree.map(split, *made), self.micro)

  def dev_logits(self, trained: dict, fixed: dict) -> np.ndarray:
    """Returns logits [seeds, examples, K] of the dev split."""

    def predict(batch):
      return self.predict(trained, fixed, jax.device_put(batch, self.rows))

    rows = self.run.eval_batch * row_parts(self.run, len(self.seeds))
    return inputs.all_logits(self.job.dev, rows, self.job.cfg.T, predict)

  def bytes_needed(self) -> int:
    """Returns the bytes that an update of the longest batch takes of a device."""
    order = self.job.order
    longest = max(range(len(order)), key=lambda step: order.at(0, step)[1])
    batch = self.batch(longest)
    memory = self.update.lower(*self.shapes(), batch, self.hp).compile()
    memory = memory.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes
