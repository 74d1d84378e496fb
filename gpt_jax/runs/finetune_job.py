"""What a fine-tuning needs, read and checked: task, examples, model, order."""

import copy
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.config.length import stages_of
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, shape
from gpt_jax.runs.load import architecture, load
from gpt_jax.runs.workdir import (
  check_same_run,
  old_groups,
  read_about,
)
from gpt_jax.tasks import inputs, labelled
from gpt_jax.tasks.labelled_table import Task
from gpt_jax.tokenizers import Tokenizer
from gpt_jax.training import checksums, sharding, transfer
from gpt_jax.training.objective import LabelledTask
from gpt_jax.training.step import State, init_state

# What data and source fill in where a config leaves it open.
FILLED = ('steps', 'eval_every', 'task.together', *shape.TAKEN)


@dataclasses.dataclass(frozen=True)
class Job:
  """What all seeds of a run share.

  Attributes:
    run: with the fields filled in that follow from data and source.
    cfg: of the model without the new tokens.
    tokenizer: of the model to start from.
    train, dev: examples as sequences.
    labels: of the examples of dev.
    digests: checksums of the examples.
  """

  run: config.Run
  layout: sharding.Layout
  task: Task
  cfg: GPTConfig
  tokenizer: Tokenizer
  train: inputs.Inputs
  dev: inputs.Inputs
  labels: np.ndarray
  order: inputs.Order
  digests: dict[str, str]

  @property
  def objective(self) -> LabelledTask:
    """What is minimised."""
    gpt = GPT(transfer.grown(self.cfg), self.layout.execution(self.run.model))
    return LabelledTask.of(self.run, gpt, self.task)

  def make(self, source: dict | None, seed: jax.Array) -> State:
    """Returns the state of a seed before the first update."""
    trained = transfer.init(self.run, self.cfg, self.task, source, seed)
    return init_state(self.run, trained, self.cfg.width)

  def source_shapes(self) -> dict:
    """Returns the shapes of the parameters that it starts from."""
    return jax.eval_shape(lambda: init_params(self.cfg, 0))

  def shapes(self) -> State:
    """Returns the shapes of a seed's state."""
    return jax.eval_shape(self.make, self.source_shapes(), np.uint32(0))

  def batch(self, seed: int, step: int) -> inputs.TaskBatch:
    """Returns a seed's batch for the update that follows `step`, numpy arrays."""
    chosen, rows, T = self.order.at(seed, step)
    return inputs.batch(self.train, chosen, rows, T)


def group_size(run: config.Run, layout: sharding.Layout) -> int:
  """Returns how many seeds may train together.

  One where a mesh spreads it over devices, or spikes may throw a seed back.
  """
  if layout.mesh is not None or run.optim.guard == 'rollback':
    return 1
  return min(run.task.together or run.seeds, run.seeds)


def row_parts(run: config.Run, layout: sharding.Layout, seeds: int) -> int:
  """Returns how many devices share the rows of one seed's batch."""
  if layout.mesh is not None:
    return layout.parts
  number = len(layout.devices)
  return number // math.gcd(number, seeds)


def read_job(
  run: config.Run,
  report: Callable[[str], None],
  devices: list[jax.Device] | None = None,
) -> Job:
  """Returns what a run needs, read and checked.

  Args:
    devices: to choose from; all there are unless given.

  Raises:
    UserError: the config breaks a rule, or source or data can't be read.
  """
  run = copy.deepcopy(run)
  config.check_early(run)
  task = labelled.named(run.task.name)
  if pathlib.Path(run.task.data).is_file() and not task.releases[0].held_out:
    raise UserError(
      f'task.data={run.task.data} is a file; give the folder that has both the train '
      'and the dev split'
    )
  examples = {
    split: labelled.read(str(task), run.task.data, split, report)
    for split in ('train', 'dev')
  }
  source = load(run.init_from)
  if source.tokenizer.kind == 'numbers':
    raise UserError(
      f'init_from={run.init_from} has no tokenizer; import it with one: '
      'python launch.py import --source=... --tokenizer=... --workdir=...'
    )
  cfg = shape.take(run, source.config)
  chosen = labelled.drawn(examples['train'], run.task.examples)
  read = partial(inputs.inputs, task, encode=source.tokenizer.encode, vocab=cfg.vocab)
  train, dev = (read(each, T=cfg.T) for each in (chosen, examples['dev']))
  for name, data in (('train', train), ('dev', dev)):
    inputs.tell_truncated(name, data, cfg.T, report)
  missing = np.flatnonzero(train.targets.sum(0) == 0)
  if task.kind != 'multiple_choice' and not task.scores and len(missing):
    raise UserError(
      f'task.examples={run.task.examples} leaves no example of class '
      f'{task.labels[missing[0]]!r} of {task}; raise it'
    )
  layout = sharding.Layout.of(run, devices)
  layout.check(cfg)
  order = inputs.Order(
    train.lengths,
    stages_of(run),
    cfg.T,
    run.task.batches,
  )
  run.steps = run.steps or order.updates(run.task.epochs)
  run.eval_every = min(run.eval_every, order.updates(1))
  config.check(run, row_parts(run, layout, group_size(run, layout)))
  digests = {'train': _digest(train), 'dev': _digest(dev)}
  if run.task.transfer != 'none':
    digests['source'] = checksums.digest(source.params)
  return Job(
    run,
    layout,
    task,
    cfg,
    source.tokenizer,
    train,
    dev,
    np.array([example.label for example in examples['dev']]),
    order,
    digests,
  )


def unread(run: config.Run) -> tuple[config.Run, GPTConfig]:
  """Returns a run and its architecture without new tokens, reading no data or weights.

  Raises:
    UserError: the config breaks a rule, or init_from tells no architecture.
  """
  run = copy.deepcopy(run)
  run.steps, run.task.data = run.steps or 1, run.task.data or 'unread'
  config.check_early(run)
  labelled.named(run.task.name)
  try:
    return run, shape.take(run, architecture(run.init_from))
  except UserError as error:
    raise UserError(
      f'init_from={run.init_from}: {error}; give a workdir, or a folder of Hugging '
      "Face's with its config.json"
    ) from error


def _digest(data: inputs.Inputs) -> str:
  """Returns the SHA-256 of examples as the model reads them."""
  return _sha256([data.targets, *(ids for each in data.sequences for ids in each)])


def _sha256(arrays: Iterable[np.ndarray]) -> str:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f'{array.shape}'.encode())
    digest.update(np.ascontiguousarray(array))
  return digest.hexdigest()


def check_workdir(job: Job, workdir: pathlib.Path) -> None:
  """Raises UserError where a workdir holds another run, or one of other contents."""
  if not (workdir / 'run.json').exists():
    return
  if (workdir / 'checkpoints').exists() and not old_groups(workdir):
    raise UserError(
      f'workdir={workdir} holds a run that is no fine-tuning, or a single seed of '
      'one; choose another'
    )
  check_same_run(job.run, workdir)
  before = read_about(workdir).get('data', {})
  now = digests(job, before)
  changed = [name for name in now if before.get(name) != now[name]]
  if changed:
    where = {'source': f'init_from={job.run.init_from}'}
    raise UserError(
      f'workdir={workdir} was begun with other contents of '
      + ', '.join(where.get(n, f'task.data={job.run.task.data}, {n}') for n in changed)
      + '; restore them, or choose another workdir'
    )


def digests(job: Job, recorded: dict[str, Any]) -> dict[str, str]:
  """Returns the checksums of a job, to compare with those that a run.json has.

  An older version had another checksum of the weights that a fine-tuning starts from;
  where that is recorded and is the weights', it stays.
  """
  now, old = dict(job.digests), recorded.get('source')
  if now.get('source') not in (None, old):
    leaves = jax.tree.leaves(load(job.run.init_from).params)
    if _sha256(leaves) == old:
      now['source'] = old
  return now


def plan(job: Job) -> str:
  """Returns what a run will do."""
  run, C = job.run, inputs.sequences_each(job.task)
  padding = sum(job.order.sizes) * job.order.unit * C
  real = sum(len(ids) for each in job.train.sequences for ids in each)
  epochs = run.steps / job.order.updates(1)
  return (
    f'task      {job.task}: {len(job.train.sequences):,} training and '
    f'{len(job.dev.sequences):,} dev examples of {C} sequence{"s" * (C > 1)}; '
    f'{real:,} tokens an epoch, padded to {padding:,}\n'
    f'model     {cost.parameter_count(job.cfg):,} parameters, transfer '
    f'{run.task.transfer} from {run.init_from}, trains {run.task.train}\n'
    f'training  {run.steps:,} updates of {run.batch} examples, '
    f'{epochs:.3g} epochs, {run.seeds} seed{"s" * (run.seeds > 1)}'
    + _memory_of_logits(job)
  )


def _memory_of_logits(job: Job) -> str:
  """Returns a line about the language-model loss, where its logits are large."""
  rows = job.run.batch // job.run.accumulate // row_parts(job.run, job.layout, 1)
  size = cost.task_logits_bytes(job.run, job.cfg, rows, max(job.order.sizes))
  if job.run.loss_chunk or size < 2**30:
    return ''
  return (
    f'\nmemory    {size / 2**30:.1f} GiB for each seed are logits of the language '
    f'model loss; --config.loss_chunk={cost.small_chunk(job.cfg.T)} makes them few'
  )
