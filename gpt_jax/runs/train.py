"""Trains runs: the only place that puts members, program and loop together.

A run by itself is one member. The seeds of a fine-tuning, and runs of a sweep that
differ only in seeds and numbers, are several members of one program.
"""

import contextlib
import copy
import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.paths import expand_paths, user_path
from gpt_jax.runs import benchmark, cost, finetune, replay, shape
from gpt_jax.runs.setup import RunContext, ready, samples
from gpt_jax.runs.workdir import diverged, mark_diverged
from gpt_jax.training import loop, processes, saved, sharding
from gpt_jax.training.loop import Training
from gpt_jax.training.members import Alone, Together
from gpt_jax.training.step import State
from gpt_jax.training.throughput import free_memory

# Numbers that programs take as arguments; what they switch on or off is compiled.
_NUMBERS = config.fields_with('number')
_MOST = 64  # runs of a program: each has files open, and more gain no more


def train(
  run: config.Run,
  workdir: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  overrides: dict[str, Any] | None = None,
  profile: tuple[int, int] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Trains a run to its end, resuming from its workdir's last checkpoint.

  Args:
    run: a language model, or the seeds of a fine-tuning.
    profile: see `loop.train`.

  Raises:
    UserError: the config breaks a rule, the workdir is another run's or is in use, or
      training can't continue.
    loop.Interrupted: asked to stop; the state is saved.
  """
  workdir, run = user_path(workdir, 'workdir', workdir=True), copy.deepcopy(run)
  expand_paths(run)
  report = report if processes.first_process() else _say_nothing
  recorded = {'argv': argv, 'overrides': overrides, 'report': report}
  if run.is_finetuning:
    with finetune.opened(run, workdir, **recorded) as trainings:
      lost = []
      for training in trainings:

        def mark(i, step, folders=training.folders):
          lost.append(f'{folders[i].name}: the loss of update {step} is not finite')

        report(_trained(training, profile, mark))
      if lost:
        lost.append('lower optim.lr or optim.clip, in a new workdir')
        raise UserError('; '.join(lost))
    return
  run = shape.resolved(run, workdir)
  layout = sharding.Layout.of(run)
  with ready(run, workdir, layout, **recorded) as context:
    run, state = context.run, context.start(report)
    best = lambda: (  # noqa: E731
      f'The best checkpoint is that of update {context.checkpoints.best()}.'
    )
    if int(state.step) >= run.steps:
      report(
        f'finished: {int(state.step)} updates are done (steps={run.steps}). {best()}'
      )
      return
    like = context.layout.state_shapes(context.make)
    program = Alone(run, context.objective, context.layout, like)
    training = _language_models([context], program, state, report)
    training = training._replace(
      begin=lambda: context.begin(_say_nothing)[0],
      poisoned=partial(replay.keep, context),
    )
    report(_trained(training, profile))
    report(f'finished: {run.steps} updates. {best()}')


def _trained(
  training: Training,
  profile: tuple[int, int] | None = None,
  diverged: Callable[[int, int], None] = lambda member, step: None,
) -> str:
  """Trains members to their end; returns a line about the speed."""
  return loop.train(
    training,
    anywhere=processes.anywhere if processes.several_processes() else None,
    diverged=diverged,
    profile=profile,
    profile_folder=training.folders[0] / 'profile',
    shows=processes.first_process(),
  )


def _language_models(
  contexts: Sequence[RunContext],
  program: Alone | Together,
  state: State,
  report: Callable[[str], None],
) -> Training:
  """Returns the training of pre-training runs that share a program."""
  first, run = contexts[0], contexts[0].run
  eval_step = first.eval_step()
  asked = benchmark.during(run.exams)

  def evaluate(state, step):
    each = []
    for i, context in enumerate(contexts):
      params = program.weights(state, i)
      scores = context.held_out(eval_step, params)
      if _examines(run, step):
        model = context.model(params)
        scores |= asked(model) if processes.first_process() else {}
      each.append(scores)
    return each

  def sample(state):
    texts = []
    for i, context in enumerate(contexts):
      model = context.model(program.weights(state, i))
      texts.append(samples(model, context.run) if processes.first_process() else '')
    return texts

  return Training(
    run=run,
    state=state,
    program=program,
    folders=[context.workdir for context in contexts],
    checkpoints=[context.checkpoints for context in contexts],
    rows=lambda step: [context.rows(step) for context in contexts],
    evaluate=evaluate,
    sample=sample,
    restore=lambda step: first.checkpoints.restore(step, program.like),
    flops_per_token=sum(cost.flops_per_token(first.cfg).values()),
    report=report,
  )


def _examines(run: config.Run, step: int) -> bool:
  """Returns whether benchmarks are run after so many updates."""
  every = run.exams.every
  due = step == run.steps or (every and step % every == 0)
  return bool(run.exams.tasks and due)


def _say_nothing(text: str) -> None:
  pass


def kind(run: config.Run) -> tuple:
  """Returns a key that is equal for runs that can be trained together.

  They differ only in their seed and in numbers, each of which must be zero in both or
  in neither. A run that can't be trained with others has a key of its own: a
  fine-tuning (its seeds train together in their own way), or a run with a layout, a
  guard against spikes, or benchmarks during training.
  """
  flat = config.flat(run)
  same = {k: bool(v) if k in _NUMBERS else v for k, v in flat.items()}
  del same['seed']
  apart = run.is_finetuning or run.layout or run.exams.tasks
  apart = apart or run.optim.guard != 'off'
  return (*map(repr, same.items()), repr(flat) if apart else '')


class Member(NamedTuple):
  """A run of several that are trained together.

  Attributes:
    overrides: what a sweep sets in the config, for run.json.
  """

  run: config.Run
  workdir: pathlib.Path
  overrides: dict[str, Any] = {}


def train_together(
  members: Sequence[Member],
  *,
  argv: Sequence[str] = (),
  sharing: int = 1,
  report: Callable[[str], None] = print,
) -> dict[pathlib.Path, int]:
  """Trains runs of one kind to their end, resuming from their workdirs.

  Each run's results are those of training it by itself, but for rounding: another
  program, and under `vmap` products over several runs, may add in another order. Runs
  that stopped at different updates resume in one program for each update. A run that
  diverges is trained no further and marked in its workdir; the others continue.

  Args:
    sharing: programs like this one that share this machine's memory.

  Returns:
    The workdirs of the runs that diverged, and the updates at which they did.

  Raises:
    UserError: runs are of several kinds, or as `train`.
    loop.Interrupted: asked to stop; the states are saved.
  """
  members = [m._replace(run=shape.resolved(m.run, m.workdir)) for m in members]
  if len({kind(member.run) for member in members}) != 1:
    raise UserError(
      'these runs can not be trained together: they differ in more than their seed and '
      'numbers, or need a program of their own; train them one by one'
    )
  devices = sharding.Layout.of(members[0].run).devices
  standing: dict[int, list[Member]] = {}
  for member in members:
    saved.newest_by_files(member.workdir / 'checkpoints', report)
    done = saved.done(member.workdir)
    steps = member.run.steps or math.inf  # 0: they follow from the text, read below
    if not diverged(member.workdir) and done < steps:
      standing.setdefault(done, []).append(member)
  left = sum(map(len, standing.values()))
  report(f'{left} of {len(members)} runs, together')
  for at_update, alike in sorted(standing.items()):
    size = _most(alike, devices, sharing, argv, report)
    for at in range(0, len(alike), size):
      with contextlib.ExitStack() as stack:
        contexts = []
        for number, member in enumerate(alike[at : at + size]):
          tells = _say_nothing if number else report
          contexts.append(stack.enter_context(_ready(member, devices, argv, tells)))
        if at_update < contexts[0].run.steps:
          _train_stacked(contexts, devices, report)
  return {m.workdir: at for m in members if (at := diverged(m.workdir))}


def _ready(
  member: Member,
  devices: Sequence[jax.Device],
  argv: Sequence[str],
  report: Callable[[str], None],
) -> contextlib.AbstractContextManager[RunContext]:
  """Returns the context of a run on the first device."""
  layout = sharding.Layout(tuple(devices[:1]))
  overrides = member.overrides
  return ready(
    member.run, member.workdir, layout, argv=argv, overrides=overrides, report=report
  )


def _most(
  alike: list[Member],
  devices: Sequence[jax.Device],
  sharing: int,
  argv: Sequence[str],
  report: Callable[[str], None],
) -> int:
  """Returns how many of the runs to train together: as many as fit, 1 or more."""
  with _ready(alike[0], devices, argv, _say_nothing) as first:
    run, cfg = first.run, first.cfg
  rows = run.batch // run.accumulate
  kept = cost.activation_bytes(run, cfg, rows)
  each = kept['layers'] + kept['output']
  each += sum(cost.state_bytes(run, cfg).values())

  def needed(number):
    return each * -(-number // math.gcd(len(devices), number))

  free = free_memory(devices) / (sharing if devices[0].platform == 'cpu' else 1)
  most = min(len(alike), _MOST)
  return finetune.most_together(most, needed, free, report, 'runs')


def _train_stacked(
  contexts: list[RunContext],
  devices: Sequence[jax.Device],
  report: Callable[[str], None],
) -> None:
  """Trains runs that are not finished, marks those that diverge."""
  first = contexts[0]
  program = Together(
    [context.run for context in contexts],
    first.objective,
    devices,
    # One run keeps the cores of a CPU busy, and its arrays in their caches.
    in_turn=devices[0].platform == 'cpu',
  )
  starts = (c.start(_say_nothing, together=len(contexts)) for c in contexts)
  state = program.stack([jax.device_get(start) for start in starts])
  if done := int(state.step):
    report(f'going on from the checkpoints of update {done}')

  def mark(i, step):
    mark_diverged(contexts[i].workdir, step)

  with contextlib.suppress(loop.Diverged):  # all of them: each is marked
    training = _language_models(contexts, program, state, report)
    report(_trained(training, diverged=mark))
