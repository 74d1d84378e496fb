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
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from gpt_jax import config, describe
from gpt_jax.config import UserError
from gpt_jax.data import task_inputs, tasks
from gpt_jax.data.task_table import TASKS
from gpt_jax.data.tasks import Example
from gpt_jax.evaluation import metrics
from gpt_jax.files import write_whole
from gpt_jax.model.gpt import Shape
from gpt_jax.task_results import described, results
from gpt_jax.training import checkpoint, loop, record, task_step
from gpt_jax.training.meter import Meter
from gpt_jax.training.seeds import Group, Job, devices, group_size, row_parts
from gpt_jax.training.step import State
from gpt_jax.workdir import (
  alone,
  best_line,
  check_same_run,
  load,
  write_run_json,
)

# What training may choose of a model that comes from elsewhere.
_FREE = 'dropout', 'dropout_wte', 'dtype', 'remat', 'flash', 'scan'


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
  config.check(run, row_parts(run, group_size(run)))
  digests = {
    split: hashlib.sha256(repr(each).encode()).hexdigest()
    for split, each in (('train', chosen), ('dev', examples['dev']))
  }
  labels = np.array([example.label for example in examples['dev']])
  return Job(
    run,
    task,
    shape,
    source.params,
    source.tokenizer,
    train,
    dev,
    labels,
    order,
    digests,
  )


def _evenly(examples: list[Example], number: int) -> list[Example]:
  """Returns so many of the examples, drawn once: every seed has the same."""
  if not number or number >= len(examples):
    return examples
  drawn = np.random.default_rng(0).permutation(len(examples))[:number]
  return [examples[i] for i in np.sort(drawn)]


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
  size = group_size(run)
  while not run.task.together and size > 1:
    free = _free_bytes(devices(run)[0])
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
    job.tokenizer.save(staged)
    staged.rename(folder / 'tokenizer')
  write_run_json(
    run,
    folder,
    vocab=job.tokenizer.vocab,
    data=job.digests,
    devices=devices(run),
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
      devices=devices(run),
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
