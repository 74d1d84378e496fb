"""Fine-tuning on a labelled task: the seeds of a run are members of one training.

A workdir holds run.json, for each seed a folder seed_N, and results.json when all
seeds are done. A seed's folder is a workdir of its own: run.json, tokenizer/, the log
of its training, the best epoch's model in checkpoints/, its predictions on the dev
split in dev_predictions.tsv, and in training/ the states that training resumes from.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics
from gpt_jax.files import write_json, write_whole
from gpt_jax.runs import schedule
from gpt_jax.runs.finetune_job import (
  Job,
  check_workdir,
  group_size,
  plan,
  read_job,
  row_parts,
)
from gpt_jax.runs.finetune_results import described, results
from gpt_jax.runs.load import load
from gpt_jax.runs.workdir import (
  TRAINING,
  alone,
  old_groups,
  read_run,
  updates_done,
  write_run_json,
)
from gpt_jax.tasks import inputs
from gpt_jax.training import (
  checkpoint,
  metrics_log,
  optim,
  processes,
  saved,
  sharding,
  transfer,
)
from gpt_jax.training.loop import Training
from gpt_jax.training.members import Alone, Together
from gpt_jax.training.step import State
from gpt_jax.training.throughput import free_memory


def groups(
  job: Job, workdir: pathlib.Path, report: Callable[[str], None]
) -> list[list[int]]:
  """Returns the seeds that train together: as begun, else as asked for, else as fit.

  Raises:
    UserError: the run has begun with groups of another size than is asked for now, or
      a group's batch can't be divided over the devices.
  """
  run = job.run
  every = list(range(run.seed, run.seed + run.seeds))
  size = group_size(run, job.layout)
  begun = (workdir / 'run.json').exists() and read_run(workdir).task.together
  if begun and updates_done(workdir):
    if run.task.together not in (0, begun):
      raise UserError(
        f'task.together={run.task.together} must stay {begun}, as this run has begun; '
        'choose another workdir to change it'
      )
    size = min(begun, size)
  elif not run.task.together and size > 1:
    free = free_memory(job.layout.devices)
    size = most_together(size, partial(bytes_needed, job), free, report)
  found = [every[at : at + size] for at in range(0, len(every), size)]
  for group in found:
    config.check(run, row_parts(run, job.layout, len(group)))
  return found


def program_of(job: Job, seeds: Sequence[int], fixed: dict) -> Together:
  """Returns what updates seeds together."""
  runs = [dataclasses.replace(job.run, seed=seed) for seed in seeds]
  devices = job.layout.devices
  return Together(runs, job.objective, devices, fixed=fixed, share_rows=True)


def longest_batch(job: Job) -> inputs.TaskBatch:
  """Returns the batch of the first epoch that has the most tokens."""
  batches = (job.batch(0, step) for step in range(job.order.updates(1)))
  return max(batches, key=lambda batch: batch.tokens)


def lowered(job: Job, seeds: int) -> jax.stages.Lowered:
  """Returns the update of the longest batch, of so many seeds together.

  In a layout its devices may be absent.
  """
  layout, source, batch = job.layout, job.source_shapes(), longest_batch(job)
  fixed = transfer.fixed(job.run, source)
  if layout.mesh is not None:
    like, fixed = layout.placed(job.shapes()), layout.placed(fixed)
    step = layout.train_step(job.run, job.objective, like, fixed)
    rows = layout.batch_shapes(batch, job.run.accumulate)
    return step.lower(like, fixed, rows, layout.whole_shapes(optim.Hyper.of(job.run)))
  program = program_of(job, range(seeds), {})
  make = jax.vmap(job.make, (None, 0), program.axes)
  state = jax.eval_shape(make, source, np.arange(seeds, dtype=np.uint32))
  rows = program.put([batch] * seeds)
  return program.jitted.lower(state, fixed, rows, program.hp)


def bytes_needed(job: Job, seeds: int) -> int:
  """Returns the bytes that an update of the longest batch takes of a device."""
  memory = lowered(job, seeds).compile().memory_analysis()
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def most_together(
  seeds: int,
  needed: Callable[[int], float],
  free: float,
  report: Callable[[str], None],
  what: str = 'seeds',
) -> int:
  """Returns how many seeds to train together: all, or a half, a quarter, ... of them.

  Args:
    needed: number of seeds, 2 or more -> bytes that their program takes.
    free: bytes, of which a fifth is left free.
    what: the word for them in the report.
  """
  while seeds > 1 and (size := needed(seeds)) >= 0.8 * free:
    report(
      f'{seeds} {what} together need {size / 2**30:.1f} GiB of {free / 2**30:.1f} free'
    )
    seeds = -(-seeds // 2)
  return seeds


@contextlib.contextmanager
def opened(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
  report: Callable[[str], None] = print,
) -> Iterator[Iterator[Training]]:
  """Gives the groups of seeds that are left to train, one after another.

  The workdir is locked meanwhile; when all are trained, results.json is written.

  Raises:
    UserError: the config breaks a rule, files can't be read, or the workdir is another
      run's or is in use.
  """
  workdir = pathlib.Path(workdir)
  job = read_job(run, report)
  run, writes = job.run, processes.first_process()
  workdir.mkdir(parents=True, exist_ok=True)
  with alone(workdir) if writes else contextlib.nullcontext():
    with processes.first_process_first('prepared'):
      check_workdir(job, workdir)
      _give_seeds_their_states(job, workdir)
      together = groups(job, workdir, report)
      run.task.together = len(together[0])  # by memory, perhaps: run.json says so
      done = [saved.done(_folder(workdir, s), TRAINING) for s in sum(together, [])]
      if max(done) and (said := schedule.continued(read_run(workdir), run, max(done))):
        report(said)
      if writes and min(done) < run.steps:
        _write_workdir(job, workdir, run, max(done), argv, overrides)
    report(plan(job))
    yield _trainings(job, together, workdir, report)
    if writes:
      judged = results(workdir)
      write_json(workdir / 'results.json', judged)
      report(described(judged))


def _trainings(
  job: Job,
  together: list[list[int]],
  workdir: pathlib.Path,
  report: Callable[[str], None],
) -> Iterator[Training]:
  """Yields the training of each group of seeds that is not finished."""
  run = job.run
  for group in together:
    report(f'seeds {", ".join(map(str, group))}, together')
    with contextlib.ExitStack() as stack:
      seeds = []
      for number in group:
        seeds.append(_Seed(job, _folder(workdir, number), number, report))
        stack.callback(seeds[-1].close)
      done = _in_common(seeds)
      if done >= run.steps:
        report(f'finished: {done} updates are done (steps={run.steps}).')
        continue
      program, state = _begun(job, seeds, done)
      if done:
        report(f'going on from the checkpoint of update {done}')
      for seed in seeds:
        seed.begin(done)
      yield Training(
        run=run,
        state=state,
        program=program,
        folders=[seed.folder for seed in seeds],
        checkpoints=[seed.states for seed in seeds],
        rows=_rows(job, group),
        evaluate=_evaluation(job, program, seeds),
        sample=lambda state, seeds=seeds: [''] * len(seeds),
        restore=partial(_restored, job, program, seeds),
        flops_per_token=0,  # they depend on lengths and on what is trained
        report=report,
      )


def _folder(workdir: pathlib.Path, seed: int) -> pathlib.Path:
  """Returns the workdir of a seed."""
  return workdir / f'seed_{seed}'


def _in_common(seeds: 'Sequence[_Seed]') -> int:
  """Returns the updates of the last states that all seeds have; 0: there are none.

  A kill in the midst of saving leaves some with a state more than others.
  """
  steps = [set(seed.states.steps()) for seed in seeds]
  common = set.intersection(*steps)
  if all(steps) and not common:
    raise UserError(
      f'{seeds[0].folder.parent}: its seeds have no state of the same update: '
      + '; '.join(f'{seed.folder.name} {seed.states.steps()}' for seed in seeds)
      + '. Put their folders back from a copy, or train in another workdir'
    )
  return max(common, default=0)


def _rows(job: Job, seeds: list[int]) -> Callable[[int], list[inputs.TaskBatch]]:
  """Returns what gives the next batch of each seed, as far as this process reads it."""

  def rows(step):
    batches = [job.batch(seed, step) for seed in seeds]
    own = job.layout.rows(len(batches[0].w_B), job.run.accumulate)
    return [jax.tree.map(lambda leaf: leaf[own], batch) for batch in batches]

  return rows


def _begun(job: Job, seeds: 'list[_Seed]', done: int) -> tuple[Alone | Together, State]:
  """Returns what updates seeds, and their state after `done` updates."""
  run, layout = job.run, job.layout
  # Read again, for as long as it is needed: it may be large.
  source = None
  if run.task.train != 'full' or (not done and run.task.transfer != 'none'):
    source = load(run.init_from).params
  fixed = transfer.fixed(run, source)
  numbers = [seed.seed for seed in seeds]
  if layout.mesh is None:
    program = program_of(job, numbers, fixed)
  else:
    own = dataclasses.replace(run, seed=numbers[0])
    program = Alone(own, job.objective, layout, layout.placed(job.shapes()), fixed)
  if done:
    return program, _restored(job, program, seeds, done)
  if layout.mesh is None:
    return program, program.begin(job.make, source, seeds=numbers)
  return program, layout.place(jax.jit(job.make)(source, np.uint32(numbers[0])))


def _restored(
  job: Job, program: Alone | Together, seeds: 'list[_Seed]', done: int
) -> State:
  """Returns the state of seeds as it was saved after `done` updates."""
  one = sharding.Layout(job.layout.devices[:1])
  like = one.placed(job.shapes()) if job.layout.mesh is None else program.like
  return program.stack([seed.states.restore(done, like) for seed in seeds])


def _evaluation(
  job: Job, program: Alone | Together, seeds: 'list[_Seed]'
) -> Callable[[State, int], list[dict[str, float]]]:
  """Returns what judges seeds on the dev split, and keeps their best models."""
  objective, layout, run = job.objective, job.layout, job.run
  merge = partial(transfer.merged, task=run.task, cfg=objective.gpt.config)
  rows = run.eval_batch * row_parts(run, layout, len(seeds))
  if isinstance(program, Together):
    stacked = program.over_rows(
      lambda trained, fixed, batch: objective.logits(trained | fixed, batch)
    )

    def predict(trained, batch):
      return stacked(trained, program.fixed, batch)
  else:
    whole = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec())
    merge = jax.jit(merge, out_shardings=whole)
    alone_step = layout.over_rows(objective.logits, program.like.params | program.fixed)

    def predict(trained, batch):
      own = layout.rows(len(batch.w_B))
      mine = layout.put(jax.tree.map(lambda leaf: leaf[own], batch))
      return alone_step(trained | program.fixed, mine)[None]

  def evaluate(state, step):
    logits = inputs.all_logits(
      job.dev, rows, job.cfg.T, partial(predict, state.weights)
    )
    scores = []
    for i, seed in enumerate(seeds):
      own = program.member(state, i).weights | program.fixed
      scores.append(seed.judged(step, logits[i], partial(merge, own)))
    return scores

  return evaluate


def _give_seeds_their_states(job: Job, workdir: pathlib.Path) -> None:
  """Divides states that seeds share, as a version before this one kept them."""
  old = old_groups(workdir)
  if old and processes.several_processes():
    raise UserError(
      f'workdir={workdir} is of an older version, whose seeds share their states; let '
      'it go on with one process once, without --distributed'
    )
  one = sharding.Layout(job.layout.devices[:1])
  for folder, seeds in old.items():
    with contextlib.closing(
      checkpoint.Checkpoints(folder / 'checkpoints', best=False)
    ) as shared:
      if shared.latest() is None:
        continue
      program = program_of(job, seeds, {})
      make = jax.vmap(job.make, (None, 0), program.axes)
      numbers = np.array(seeds, np.uint32)
      like = one.placed(jax.eval_shape(make, job.source_shapes(), numbers))
      state = shared.restore(shared.latest(), like)
    for i, seed in enumerate(seeds):
      with contextlib.closing(
        checkpoint.Checkpoints(_folder(workdir, seed) / TRAINING, best=False)
      ) as own:
        own.save(program.member(state, i), None)
        own.wait()
  if old:
    (workdir / 'groups.json').unlink()


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
    devices=job.layout.devices,
    argv=argv,
    overrides=overrides,
    start=start,
  )


class _Seed:
  """A seed of a fine-tuning: its log, its states, and its best model so far."""

  def __init__(
    self, job: Job, folder: pathlib.Path, seed: int, report: Callable[[str], None]
  ):
    """Opens the folder of a seed, made if missing."""
    self.job, self.folder, self.seed = job, folder, seed
    self.own = dataclasses.replace(job.run, seed=seed, seeds=1)
    run = config.identity(self.own)
    with processes.first_process_first('opened'):
      saved.newest_by_files(folder / TRAINING, report, run)
      # One more than a kill in the midst of saving all seeds' can spoil.
      keep = max(2, job.run.keep)
      self.states = checkpoint.Checkpoints(folder / TRAINING, keep, best=False, run=run)
      self.models = checkpoint.Checkpoints(folder / 'checkpoints', keep=2, run=run)
    self.best = -math.inf

  def begin(self, done: int) -> None:
    """Forgets what followed `done` updates: they are about to be done again."""
    if processes.first_process():
      _write_workdir(self.job, self.folder, self.own, done)
    self.states.forget_after(done)
    self.models.forget_after(done)
    metric = self.job.task.metrics[0]
    lines = [
      line
      for line in metrics_log.read_metrics(self.folder)
      if line['step'] <= done and metric in line
    ]
    self.best = max((line[metric] for line in lines), default=-math.inf)

  def judged(
    self, step: int, logits: np.ndarray, model: Callable[[], dict]
  ) -> dict[str, float]:
    """Returns the metrics of dev logits [examples, K], and keeps a best model.

    Args:
      logits: of the dev split.
      model: returns the tree of the model and its head, to keep.
    """
    job = self.job
    predicted = inputs.answers(job.task, logits)
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    scores = {'dev_nll': float(-(job.dev.targets * logp).sum(-1).mean())}
    for name in job.task.metrics:
      scores[name] = getattr(metrics, name)(predicted, job.labels)
    if math.isfinite(scores['dev_nll']) and scores[job.task.metrics[0]] > self.best:
      self.best = scores[job.task.metrics[0]]
      lines = ['prediction\tlabel\n']
      for p, label in zip(predicted.tolist(), job.labels.tolist(), strict=True):
        lines.append(f'{p!r}\t{label!r}\n')
      if processes.first_process():
        write_whole(self.folder / 'dev_predictions.tsv', ''.join(lines))
      self.models.save(State(model(), {}, np.int32(step)), -self.best)
      self.models.wait()
    return scores

  def close(self) -> None:
    """Closes the files."""
    self.states.close()
    self.models.close()
