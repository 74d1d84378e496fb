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
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics
from gpt_jax.files import write_whole
from gpt_jax.model.gpt import GPTConfig
from gpt_jax.runs import cost
from gpt_jax.runs.finetune_results import described, results
from gpt_jax.runs.workdir import (
  alone,
  best_line,
  check_same_run,
  group_folder,
  load,
  write_run_json,
)
from gpt_jax.tasks import inputs, labelled
from gpt_jax.tasks.labelled_table import TASKS
from gpt_jax.training import checkpoint, checksums, loop, metrics_log, task_step
from gpt_jax.training.members import Group, Job, devices, group_size, row_parts
from gpt_jax.training.step import State
from gpt_jax.training.throughput import Throughput, free_memory

# What training may choose of a model that comes from elsewhere.
FREE = config.fields_with('number', 'training', 'execution', of='model')


def job(run: config.Run, report: Callable[[str], None]) -> Job:
  """Returns what a run needs, read and checked.

  Raises:
    UserError: the config breaks a rule, or source or data can't be read.
  """
  run = copy.deepcopy(run)
  _check_early(run)
  task = TASKS.get(run.task.name)
  if task and pathlib.Path(run.task.data).is_file() and not task.releases[0].held_out:
    raise UserError(
      f'task.data={run.task.data} is a file; give the folder that has both the train '
      'and the dev split'
    )
  examples = {
    split: labelled.read(run.task.name, run.task.data, split, report)
    for split in ('train', 'dev')
  }
  source = load(run.init_from)
  if source.tokenizer.kind == 'numbers':
    raise UserError(
      f'init_from={run.init_from} has no tokenizer; import it with one: '
      'python launch.py import --source=... --tokenizer=... --workdir=...'
    )
  for name, value in dataclasses.asdict(source.config).items():
    if f'model.{name}' not in FREE:
      value = ','.join(value) if name == 'attention' else value
      setattr(run.model, name, value)
  cfg = GPTConfig.of(run.model, source.tokenizer.vocab)
  chosen = labelled.drawn(examples['train'], run.task.examples)
  read = partial(inputs.inputs, task, encode=source.tokenizer.encode, vocab=cfg.vocab)
  train, dev = (read(each, T=cfg.T) for each in (chosen, examples['dev']))
  for name, data in (('train', train), ('dev', dev)):
    inputs.tell_truncated(name, data, cfg.T, report)
  missing = np.flatnonzero(train.targets.sum(0) == 0)
  if task.kind != 'multiple_choice' and not task.scores and len(missing):
    raise UserError(
      f'task.examples={run.task.examples} leaves no example of class '
      f'{task.labels[missing[0]]!r} of {task.name}; raise it'
    )
  order = inputs.Order(train.lengths, run.batch, cfg.T, run.task.batches)
  run.steps = run.steps or run.task.epochs * len(order)
  run.eval_every = min(run.eval_every, len(order))
  config.check(run, row_parts(run, group_size(run)))
  digests = {'train': _digest(train), 'dev': _digest(dev)}
  if run.task.transfer != 'none':
    digests['source'] = checksums.digest(source.params)
  return Job(
    run,
    task,
    cfg,
    source.tokenizer,
    train,
    dev,
    np.array([example.label for example in examples['dev']]),
    order,
    digests,
  )


def _check_early(run: config.Run) -> None:
  """Checks what can be before data and source are read."""
  early = copy.deepcopy(run)
  early.steps = run.steps or 1
  if str(run.task.transfer).isdigit():
    early.model.L = max(early.model.L, int(run.task.transfer))  # not known yet
  config.check(early)


def _digest(data: inputs.Inputs) -> str:
  """Returns the SHA-256 of examples as the model reads them."""
  return _sha256([data.targets, *(ids for each in data.sequences for ids in each)])


def _sha256(arrays: Iterable[np.ndarray]) -> str:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f'{array.shape}'.encode())
    digest.update(np.ascontiguousarray(array))
  return digest.hexdigest()


def groups(
  job: Job, workdir: pathlib.Path, report: Callable[[str], None]
) -> list[list[int]]:
  """Returns the seeds that train together: as said, else as many as fit.

  What is found is written down, for a run that goes on in another moment.

  Raises:
    UserError: the run has begun with groups of another size than is asked for now, or
      a group's batch can't be divided over the devices.
  """
  path, run = workdir / 'groups.json', job.run
  if path.exists():
    found = json.loads(path.read_text(encoding='utf-8'))
    if run.task.together in (0, len(found[0])):
      return found
    if any(
      group_folder(workdir, found, g).joinpath('checkpoints').exists() for g in found
    ):
      raise UserError(
        f'task.together={run.task.together} must stay {len(found[0])}, as this run has '
        'begun; choose another workdir to change it'
      )
  every = list(range(run.seed, run.seed + run.seeds))
  size = group_size(run)
  if not run.task.together:
    size = most_together(
      size,
      lambda number: Group(job, every[:number]).bytes_needed(),
      free_memory(devices(run)),
      report,
    )
  found = [every[at : at + size] for at in range(0, len(every), size)]
  for group in found:
    config.check(run, row_parts(run, len(group)))
  write_whole(path, json.dumps(found) + '\n')
  return found


def most_together(
  seeds: int,
  needed: Callable[[int], float],
  free: float,
  report: Callable[[str], None],
  what: str = 'seeds',
) -> int:
  """Returns how many seeds to train together: all, or a half, a quarter, ... of them.

  Args:
    seeds: of the run.
    needed: number of seeds -> bytes that their program takes. One is not asked about.
    free: bytes there are, of which a fifth is kept.
    report: is told what does not fit.
    what: they are, in what it is told.
  """
  while seeds > 1 and (size := needed(seeds)) >= 0.8 * free:
    report(
      f'{seeds} {what} together need {size / 2**30:.1f} GiB of {free / 2**30:.1f} free'
    )
    seeds = -(-seeds // 2)
  return seeds


def train(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
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
    if (workdir / 'run.json').exists() and not (workdir / 'groups.json').exists():
      raise UserError(
        f'workdir={workdir} holds a run that is no fine-tuning, or a single seed of '
        'one; choose another'
      )
    check_same_run(run, workdir)
    _check_same_data(there, workdir)
    found = groups(there, workdir, report)
    run.task.together = len(found[0])  # by memory, perhaps: run.json says how many
    done = [checkpoint.done(group_folder(workdir, found, group)) for group in found]
    if min(done) < run.steps:
      _write_workdir(there, workdir, run, max(done), argv, overrides)
    report(_plan(there))
    for group in found:
      report(f'seeds {", ".join(map(str, group))}, together')
      folder = group_folder(workdir, found, group)
      _train_group(Group(there, group), workdir, folder, profile, report)
    judged = results(workdir)
    write_whole(workdir / 'results.json', json.dumps(judged, indent=1) + '\n')
    report(described(judged))


def _check_same_data(job: Job, workdir: pathlib.Path) -> None:
  """Raises UserError where source or data are not those that a run began with."""
  path = workdir / 'run.json'
  if not path.exists():
    return
  before = json.loads(path.read_text(encoding='utf-8'))['data']
  here = comparable(job, before)
  changed = [name for name in here if before.get(name) != here[name]]
  if changed:
    where = {'source': f'init_from={job.run.init_from}'}
    raise UserError(
      f'workdir={workdir} was begun with other contents of '
      + ', '.join(where.get(n, f'task.data={job.run.task.data}, {n}') for n in changed)
      + '; restore them, or choose another workdir'
    )


def comparable(job: Job, before: dict[str, str]) -> dict[str, str]:
  """Returns a job's digests, to be compared with those of a run.json.

  Fine-tunings used to hash the source's weights without their names. Where `before` has
  that hash of the same weights, the result has it too.
  """
  older = before.get('source')
  if older in (None, job.digests.get('source')):
    return job.digests
  source = load(job.run.init_from).params
  same = older == _sha256(jax.tree.leaves(source))
  return job.digests | ({'source': older} if same else {})


def _write_workdir(
  job: Job,
  folder: pathlib.Path,
  run: config.Run,
  start: int,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
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
    overrides=overrides,
    start=start,
  )


def _plan(job: Job) -> str:
  """Returns what a run will do."""
  run, C = job.run, inputs.sequences_each(job.task)
  padding = sum(job.order.sizes) * run.batch * C
  real = sum(len(ids) for each in job.train.sequences for ids in each)
  return (
    f'task      {job.task.name}: {len(job.train.sequences):,} training and '
    f'{len(job.dev.sequences):,} dev examples of {C} sequence{"s" * (C > 1)}; '
    f'{real:,} tokens an epoch, padded to {padding:,}\n'
    f'model     {cost.parameter_count(job.cfg):,} parameters, transfer '
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
  saved = checkpoint.Checkpoints(folder / 'checkpoints', run.keep, best=False)
  like, _ = group.shapes()
  try:
    latest = saved.latest()
    if latest is not None and latest >= run.steps:
      report(f'finished: {latest} updates are done (steps={run.steps}).')
      return
    # Read again, for as long as it is needed: it may be large.
    source = None
    if run.task.train != 'full' or (latest is None and run.task.transfer != 'none'):
      source = load(run.init_from).params
    fixed = group.fixed(source)
    if latest is None:
      state = group.start(source)
    else:
      report(f'going on from the checkpoint of update {latest}')
      state = saved.restore(latest, like)
    del source
    done = int(state.step)
    kept = [_Seed(job, workdir / f'seed_{seed}', seed, done) for seed in group.seeds]

    def evaluate(trained, step):
      logits = group.dev_logits(trained, fixed)
      found = []
      for i, seed in enumerate(kept):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], trained)
        found.append(seed.judged(step, logits[i], own | fixed))
      return {name: float(np.mean([f[name] for f in found])) for name in found[0]}

    written = metrics_log.MetricsLog(folder, done)
    meter = Throughput(
      flops_per_token=0,  # they depend on lengths and on what is trained
      devices=devices(run),
      dtype=job.cfg.dtype,
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
        restore=lambda step: saved.restore(step, like),
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
    _write_workdir(job, folder, own, done)
    self.record = metrics_log.MetricsLog(folder, done)
    self.saved = checkpoint.Checkpoints(folder / 'checkpoints', keep=2)
    self.saved.forget_after(done)  # about to be done again

  def judged(self, step: int, logits: np.ndarray, tree: dict) -> dict[str, float]:
    """Returns the metrics of dev logits [examples, K], and keeps a best model.

    Args:
      step: updates done.
      logits: of the dev split.
      tree: all parameters of the seed.
    """
    job = self.job
    predicted = inputs.answers(job.task, logits)
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    found = {'dev_nll': float(-(job.dev.targets * logp).sum(-1).mean())}
    for name in job.task.metrics:
      found[name] = getattr(metrics, name)(predicted, job.labels)
    self.record.write(step, found)
    best = best_line(self.folder, job.task)
    if best['step'] == step:
      lines = ['prediction\tlabel\n']
      for p, label in zip(predicted.tolist(), job.labels.tolist(), strict=True):
        lines.append(f'{p!r}\t{label!r}\n')
      write_whole(self.folder / 'dev_predictions.tsv', ''.join(lines))
      params, clf = task_step.merged(tree, job.run, job.cfg)
      state = State({'gpt': params, 'clf': clf}, {}, np.int32(step))
      self.saved.save(state, -best[job.task.metrics[0]])
      self.saved.wait()
    return found

  def close(self) -> None:
    """Closes the files."""
    self.record.close()
    self.saved.close()
