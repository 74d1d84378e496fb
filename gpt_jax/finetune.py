"""Fine-tunes a model on a labelled task: several seeds in one program, where they fit.

A workdir holds run.json, groups.json (which seeds train together), for each seed a
folder seed_N, a workdir of its own with the best epoch's model, and results.json when
all seeds are done. Checkpoints of a run that is under way, and its metrics, are in the
workdir; where there are several groups, in a folder for each.
"""

import copy
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config, describe
from gpt_jax.classifier import Classifier
from gpt_jax.config import UserError
from gpt_jax.data import task_inputs, tasks
from gpt_jax.data.task_inputs import Inputs, TaskBatch
from gpt_jax.data.task_table import TASKS, Task
from gpt_jax.data.tasks import Example
from gpt_jax.evaluation import metrics
from gpt_jax.files import write_whole
from gpt_jax.language_model import LanguageModel
from gpt_jax.model.gpt import Shape
from gpt_jax.training import checkpoint, loop, optim, record, task_step
from gpt_jax.training.meter import Meter
from gpt_jax.training.step import State
from gpt_jax.workdir import (
  alone,
  best_line,
  check_same_run,
  load,
  read_run,
  seed_folders,
  write_run_json,
)

# What training may choose of a model that comes from elsewhere.
_FREE = 'dropout', 'dropout_wte', 'dtype', 'remat', 'flash', 'scan'


@dataclasses.dataclass(frozen=True)
class Job:
  """What all seeds of a run share.

  Attributes:
    run: with everything filled in that data and source say.
    task: of the table.
    shape: of the model without the new tokens.
    source: the model that is started from.
    train, dev: examples as sequences.
    labels: of the examples of dev.
    order: of the training examples.
  """

  run: config.Run
  task: Task
  shape: Shape
  source: LanguageModel
  train: Inputs
  dev: Inputs
  labels: np.ndarray
  order: task_inputs.Order
  digests: dict[str, str]


def job(run: config.Run, report: Callable[[str], None]) -> Job:
  """Returns what a run needs, read and checked.

  Raises:
    UserError: the config breaks a rule, or source or data can't be read.
  """
  run = copy.deepcopy(run)
  early = [w for w in config.wrong_task(run) if not w.startswith('task.transfer')]
  if early:
    raise UserError('\n'.join(early))
  if pathlib.Path(run.task.data).is_file() and run.task.name != 'storycloze':
    raise UserError(
      f'task.data={run.task.data} is a file; give the folder that has both the train '
      'and the dev split'
    )
  examples = {
    split: tasks.read(run.task.name, run.task.data, split, report)
    for split in ('train', 'dev')
  }
  task = TASKS[run.task.name]
  source = load(run.init_from)
  if source.tokenizer.kind == 'numbers':
    raise UserError(
      f'init_from={run.init_from} has no tokenizer; import it with one: '
      'python launch.py import --source=... --tokenizer=... --workdir=...'
    )
  shape = source.shape
  for name, value in dataclasses.asdict(shape).items():
    if name not in _FREE:
      value = ','.join(value) if name == 'attention' else value
      setattr(run.model, name, value)
  shape = Shape.of(run.model, source.tokenizer.vocab)
  chosen = _evenly(examples['train'], run.task.examples)
  read = partial(
    task_inputs.inputs, task, encode=source.tokenizer.encode, vocab=shape.vocab
  )
  train, dev = (read(each, T=shape.T) for each in (chosen, examples['dev']))
  for name, data in (('train', train), ('dev', dev)):
    if data.truncated:
      report(
        f'{name}: a text of {data.truncated:,} of {len(data.sequences):,} examples is '
        f'cut to fit into the context of {shape.T} tokens'
      )
  order = task_inputs.Order(train.lengths, run.batch, shape.T, run.task.batches)
  run.steps = run.steps or run.task.epochs * len(order)
  run.eval_every = min(run.eval_every, len(order))
  run.optim.warmup = round(run.task.warmup * run.steps)
  config.check(run, _row_parts(run, _group_size(run)))
  digests = {
    split: hashlib.sha256(repr(each).encode()).hexdigest()
    for split, each in (('train', chosen), ('dev', examples['dev']))
  }
  labels = np.array([example.label for example in examples['dev']])
  return Job(run, task, shape, source, train, dev, labels, order, digests)


def _evenly(examples: list[Example], number: int) -> list[Example]:
  """Returns so many of the examples, drawn once: every seed has the same."""
  if not number or number >= len(examples):
    return examples
  drawn = np.random.default_rng(0).permutation(len(examples))[:number]
  return [examples[i] for i in np.sort(drawn)]


def _devices(run: config.Run) -> list[jax.Device]:
  there = jax.devices()
  if run.devices > len(there):
    raise UserError(f'devices={run.devices} must be at most {len(there)}, those here')
  return there[: run.devices or len(there)]


def _group_size(run: config.Run) -> int:
  return min(run.task.together or run.seeds, run.seeds)


def _row_parts(run: config.Run, seeds: int) -> int:
  """Returns how many devices share the rows of one seed's batch."""
  number = len(_devices(run))
  return number // math.gcd(number, seeds)


class Group:
  """The compiled programs of seeds that train together, spread over devices.

  Seeds are divided over devices as far as they go, the rows of a batch over the rest.
  """

  def __init__(self, job: Job, seeds: Sequence[int]):
    run = self.run = job.run
    self.job, self.seeds = job, seeds
    rows = _row_parts(run, len(seeds))
    devices = np.array(_devices(run)).reshape(-1, rows)
    mesh = Mesh(devices, ('seed', 'row'))
    place = partial(NamedSharding, mesh)
    self.each, self.all = place(P('seed')), place(P())
    self.micro, self.rows = place(P('seed', None, 'row')), place(P('row'))
    static = {'run': run, 'shape': job.shape, 'task': job.task}
    state = State(0, 0, None)

    def update(state, fixed, batch, hp):
      step = jax.vmap(
        partial(task_step.train_step, **static),
        (state_axes, None, 0, 0),
        (state_axes, 0),
      )
      state, found = step(state, fixed, batch, hp)
      return state, jax.tree.map(lambda value: value.mean(0), found)

    state_axes = state
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

  def start(self) -> tuple[State, dict]:
    """Returns the state before the first update, and what is not trained."""
    job, run = self.job, self.run
    new = partial(task_step.init, run, job.shape, job.task)

    def make(source, seed):
      trained, _ = new(source, seed)
      tx = optim.transformation(
        run.optim, optim.Hyper.of(run), np.int32(0), job.shape.width
      )
      return State(trained, tx.init(trained), np.int32(0))

    source = None
    if run.task.transfer != 'none':
      source = jax.device_put(job.source.params, self.all)
    seeds = np.array(self.seeds, np.uint32)
    axes = State(0, 0, None)
    made = jax.jit(jax.vmap(make, (None, 0), axes), out_shardings=self.state_sharding)(
      source, seeds
    )
    return made, self.fixed()

  def fixed(self) -> dict:
    """Returns what is not trained, on all devices."""
    if self.run.task.train == 'full':
      return {}
    return jax.device_put({'gpt': self.job.source.params}, self.all)

  def shapes(self) -> State:
    """Returns the shapes of the state, with where its arrays go."""
    shapes = jax.eval_shape(lambda: self.start()[0])
    place = lambda sharding: partial(  # noqa: E731
      jax.tree.map,
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    )
    return State(
      place(self.each)(shapes.params),
      place(self.each)(shapes.opt_state),
      place(self.all)(shapes.step),
    )

  def batch(self, step: int) -> TaskBatch:
    """Returns the batch of the update that follows `step`, [seeds, A, B, ...]."""
    job, run = self.job, self.run
    made = []
    for seed in self.seeds:
      chosen, T = job.order.at(seed, step)
      made.append(task_inputs.batch(job.train, chosen, run.batch, T))

    def split(*leaf):
      rows = np.stack(leaf)
      return rows.reshape(len(leaf), run.accumulate, -1, *rows.shape[2:])

    return jax.device_put(jax.tree.map(split, *made), self.micro)

  def dev_logits(self, trained: dict, fixed: dict) -> np.ndarray:
    """Returns logits [seeds, examples, K] of the dev split."""
    data = self.job.dev
    logits = np.zeros((len(self.seeds), *data.targets.shape), np.float32)
    rows = self.run.eval_batch * _row_parts(self.run, len(self.seeds))
    for chosen, batch in task_inputs.all_batches(data, rows, self.job.shape.T):
      found = self.predict(trained, fixed, jax.device_put(batch, self.rows))
      logits[:, chosen] = np.asarray(found)[:, : len(chosen)]
    return logits

  def bytes_needed(self) -> int:
    """Returns the bytes that an update of the longest batch takes of a device."""
    step = int(
      np.argmax([self.job.order.at(0, i)[1] for i in range(len(self.job.order))])
    )
    lowered = self.update.lower(self.shapes(), self.fixed(), self.batch(step), self.hp)
    memory = lowered.compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def _free_bytes(device: jax.Device) -> int:
  """Returns the memory of a device that is not in use."""
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats['bytes_in_use']
  return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def groups(
  job: Job, workdir: pathlib.Path, report: Callable[[str], None]
) -> list[list[int]]:
  """Returns the seeds that train together: as said, else as many as fit.

  What is found is written down, for a run that goes on in another moment.
  """
  path = workdir / 'groups.json'
  if path.exists():
    return json.loads(path.read_text(encoding='utf-8'))
  run = job.run
  seeds = list(range(run.seed, run.seed + run.seeds))
  size = _group_size(run)
  while not run.task.together and size > 1:
    free = _free_bytes(_devices(run)[0])
    needed = Group(job, seeds[:size]).bytes_needed()
    if needed < 0.8 * free:
      break
    report(
      f'{size} seeds together need {needed / 2**30:.1f} GiB of {free / 2**30:.1f} free'
    )
    size = -(-size // 2)
  found = [seeds[at : at + size] for at in range(0, len(seeds), size)]
  write_whole(path, json.dumps(found) + '\n')
  return found


def train(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  profile: tuple[int, int] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Fine-tunes all seeds of a run, or goes on where it stopped.

  Raises:
    UserError: the config breaks a rule, files can't be read, the workdir is another
      run's or is in use, or training can't go on.
    loop.Interrupted: asked to stop; the state reached is saved.
  """
  workdir = pathlib.Path(workdir)
  there = job(run, report)
  run = there.run
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir):
    check_same_run(run, workdir)
    _write_workdir(there, workdir, run, argv)
    report(_plan(there))
    together = groups(there, workdir, report)
    for seeds in together:
      folder = workdir
      if len(together) > 1:
        folder = workdir / f'seeds_{seeds[0]}_{seeds[-1]}'
      report(f'seeds {", ".join(map(str, seeds))}, together')
      _train_group(Group(there, seeds), workdir, folder, profile, report)
    found = results(workdir)
    write_whole(workdir / 'results.json', json.dumps(found, indent=1) + '\n')
    report(described(found))


def _write_workdir(
  job: Job, folder: pathlib.Path, run: config.Run, argv: Sequence[str]
) -> None:
  """Writes the tokenizer and run.json into a folder."""
  folder.mkdir(exist_ok=True)
  if not (folder / 'tokenizer').exists():
    staged = folder / f'.tokenizer.{os.getpid()}.tmp'
    shutil.rmtree(staged, ignore_errors=True)
    job.source.tokenizer.save(staged)
    staged.rename(folder / 'tokenizer')
  write_run_json(
    run,
    folder,
    vocab=job.source.tokenizer.vocab,
    data=job.digests,
    devices=_devices(run),
    argv=argv,
  )


def _plan(job: Job) -> str:
  """Returns what a run will do."""
  run, C = job.run, task_inputs.sequences_each(job.task)
  padding = sum(job.order.sizes) * run.batch * C
  real = sum(len(ids) for each in job.train.sequences for ids in each)
  return (
    f'task      {job.task.name}: {len(job.train.sequences):,} training and '
    f'{len(job.dev.sequences):,} dev examples of {C} sequence{"s" * (C > 1)}; '
    f'{real:,} tokens an epoch, padded to {padding:,}\n'
    f'model     {describe.parameter_count(job.shape):,} parameters, transfer '
    f'{run.task.transfer} from {run.init_from}, trains {run.task.train}\n'
    f'training  {run.steps:,} updates of {run.batch} examples, '
    f'{run.steps / len(job.order):.3g} epochs, {run.seeds} seed{"s" * (run.seeds > 1)}'
  )


def _train_group(
  group: Group,
  workdir: pathlib.Path,
  folder: pathlib.Path,
  profile: tuple[int, int] | None,
  report: Callable[[str], None],
) -> None:
  """Trains some seeds together to their end."""
  job, run = group.job, group.run
  saved = checkpoint.Checkpoints(folder / 'checkpoints', run.keep)
  try:
    latest = saved.latest()
    if latest is None:
      state, fixed = group.start()
    else:
      report(f'going on from the checkpoint of update {latest}')
      state, fixed = saved.restore(latest, group.shapes()), group.fixed()
    done = int(state.step)
    if done >= run.steps:
      report(f'finished: {done} updates are done (steps={run.steps}).')
      return
    kept = [_Seed(job, workdir / f'seed_{seed}', seed, done) for seed in group.seeds]

    def evaluate(trained, step):
      logits = group.dev_logits(trained, fixed)
      found = []
      for i, seed in enumerate(kept):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], trained)
        found.append(seed.judged(step, logits[i], own | fixed))
      return {name: float(np.mean([f[name] for f in found])) for name in found[0]}

    written = record.Record(folder, done)
    meter = Meter(
      flops_per_token=sum(describe.flops_per_token(job.shape).values()),
      devices=_devices(run),
      dtype=job.shape.dtype,
    )
    try:
      loop.train(
        run,
        state,
        update=lambda state, rows, _: group.update(state, fixed, rows, group.hp),
        batch=group.batch,
        evaluate=evaluate,
        sample=lambda trained: '',
        record=written,
        meter=meter,
        checkpoints=saved,
        restore=lambda step: saved.restore(step, group.shapes()),
        profile=profile,
        profile_folder=str(folder / 'profile'),
      )
    finally:
      written.close()
      for seed in kept:
        seed.close()
    report(meter.summary())
  finally:
    saved.close()


class _Seed:
  """Judges one seed after each epoch, and keeps its best model in a workdir of its own.

  That holds run.json, tokenizer/, checkpoints/, metrics.jsonl and what the best model
  says of the dev split, dev_predictions.tsv.
  """

  def __init__(self, job: Job, folder: pathlib.Path, seed: int, done: int):
    """Opens the folder of a seed that goes on after `done` updates."""
    self.job, self.folder = job, folder
    own = dataclasses.replace(job.run, seed=seed, seeds=1)
    _write_workdir(job, folder, own, argv=())
    self.record = record.Record(folder, done)
    self.saved = checkpoint.Checkpoints(folder / 'checkpoints', keep=1)

  def judged(self, step: int, logits: np.ndarray, tree: dict) -> dict[str, float]:
    """Returns the metrics of dev logits [examples, K], and keeps a best model.

    Args:
      step: updates done.
      logits: of the dev split.
      tree: all parameters of the seed.
    """
    job = self.job
    predicted = task_inputs.answers(job.task, logits)
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    found = {'valid_nll': float(-(job.dev.targets * logp).sum(-1).mean())}
    for name in job.task.metrics:
      found[name] = getattr(metrics, name)(predicted, job.labels)
    self.record.write(step, found)
    best = best_line(self.folder, job.task)
    if best['step'] == step and step not in self.saved.steps():
      params, clf = task_step.merged(tree, job.run, job.shape)
      state = State({'gpt': params, 'clf': clf}, {}, np.int32(step))
      self.saved.save(state, -best[job.task.metrics[0]])
      self.saved.wait()
      lines = ['prediction\tlabel\n']
      lines += [
        f'{p:g}\t{label:g}\n' for p, label in zip(predicted, job.labels, strict=True)
      ]
      write_whole(self.folder / 'dev_predictions.tsv', ''.join(lines))
    return found

  def close(self) -> None:
    self.record.close()
    self.saved.close()


def evaluate(
  workdir: str | pathlib.Path,
  data: str = '',
  split: str = 'dev',
  report: Callable[[str], None] = print,
) -> dict | pathlib.Path:
  """Judges every seed's best model on a split; or answers one that has no labels.

  Args:
    workdir: of a run, or of one of its seeds.
    data: as in `tasks.read`; '' is the run's.
    split: as in `tasks.read`.
    report: is told of examples that are cut or left out.

  Returns:
    What `results` returns; or, without labels, where the answers of the best seed are
    written: predictions.tsv, as GLUE wants it, a line for each example.

  Raises:
    UserError: there is no model yet, or the examples can't be read.
  """
  workdir = pathlib.Path(workdir)
  run = read_run(workdir)
  task = TASKS[run.task.name]
  examples = tasks.read(task.name, data or run.task.data, split, report)
  if any(example.label is None for example in examples):
    predicted = _answers(load(workdir), examples)
    names = task.labels
    lines = ['index\tprediction\n'] + [
      f'{example.id}\t{names[int(p)] if names else f"{p:.3f}"}\n'
      for example, p in zip(examples, predicted, strict=True)
    ]
    write_whole(workdir / 'predictions.tsv', ''.join(lines))
    return workdir / 'predictions.tsv'
  labels = np.array([example.label for example in examples])
  seeds = {}
  for folder in seed_folders(workdir) or [workdir]:
    model = load(folder)
    seed = str(read_run(folder).seed)
    seeds[seed] = {'step': model.step} | _judged(
      task, _answers(model, examples), labels
    )
  return _summary(task, len(examples), seeds)


def _answers(model: Classifier, examples: list[Example]) -> np.ndarray:
  return task_inputs.answers(model.task, model.task_logits(examples))


def _judged(task: Task, predicted: np.ndarray, labels: np.ndarray) -> dict:
  """Returns each metric and its 95 % interval over examples (bootstrap)."""
  functions = {name: getattr(metrics, name) for name in task.metrics}
  return {name: f(predicted, labels) for name, f in functions.items()} | {
    'intervals': {
      name: metrics.interval(f, predicted, labels) for name, f in functions.items()
    }
  }


def results(workdir: pathlib.Path) -> dict:
  """Returns how good each seed's best epoch is on dev, and all together.

  For each metric and seed its value and a 95 % interval over examples; and over seeds
  mean, median, standard deviation and a 95 % interval of the mean.
  """
  task = TASKS[read_run(workdir).task.name]
  seeds = {}
  for folder in seed_folders(workdir):
    step = best_line(folder, task)['step']
    table = np.loadtxt(folder / 'dev_predictions.tsv', skiprows=1, ndmin=2)
    seeds[folder.name.removeprefix('seed_')] = {'step': step} | _judged(task, *table.T)
  return _summary(task, len(table), seeds)


def _summary(task: Task, examples: int, seeds: dict[str, dict]) -> dict:
  return {
    'task': task.name,
    'examples': examples,
    'seeds': seeds,
    'over_seeds': {
      name: metrics.spread([seed[name] for seed in seeds.values()])
      for name in task.metrics
    },
  }


def described(found: dict) -> str:
  """Returns `results` in words."""
  lines = []
  for name, over in found['over_seeds'].items():
    for seed, best in found['seeds'].items():
      low, high = best['intervals'][name]
      lines.append(
        f'{found["task"]} {name} {best[name]:.4f} [{low:.4f}, {high:.4f}]  '
        f'seed {seed}, update {best["step"]}'
      )
    if len(found['seeds']) > 1:
      lines.append(
        f'{found["task"]} {name} mean {over["mean"]:.4f} '
        f'[{over["low"]:.4f}, {over["high"]:.4f}]  median {over["median"]:.4f}, '
        f'standard deviation {over["std"]:.4f} over {len(found["seeds"])} seeds'
      )
  return '\n'.join(lines)
