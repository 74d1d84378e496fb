"""Several runs in one program: those that differ only in seeds and numbers.

What has to be compiled is the same for runs that share their choices, so one program
updates them all, under `vmap` or on a CPU in turn, each with its own parameters,
batches and numbers. Each has a workdir like that of a run by itself, and `train` can go
on with it.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch
from gpt_jax.files import write_whole
from gpt_jax.runs import cost, finetune
from gpt_jax.runs.setup import RunContext, ready, samples
from gpt_jax.training import checkpoint, checksums, loop, optim, sharding, step
from gpt_jax.training.metrics_log import CLOCK_FIELDS, MetricsLog
from gpt_jax.training.step import State
from gpt_jax.training.throughput import Throughput, free_memory

# Numbers that programs take as arguments; what they switch on or off is compiled.
_NUMBERS = config.fields_with('number')
_DIVERGED = 'diverged.json'
_MOST = 64  # runs of a program: each has files open, and more gain no more


def kind(run: config.Run) -> tuple:
  """Returns what a run has in common with those that it can be trained together with.

  Equal for runs that differ only in their seed and in numbers, each of which must be
  zero in both or in neither. A run that can't be trained with others has a kind of its
  own: a fine-tuning (its seeds train together in their own way), one that is spread by
  a layout, guarded against spikes, or takes exams on the way.
  """
  flat = config.flat(run)
  same = {k: bool(v) if k in _NUMBERS else v for k, v in flat.items()}
  del same['seed']
  apart = run.task.name or run.layout or run.optim.guard != 'off' or run.exams.tasks
  return (*map(repr, same.items()), repr(flat) if apart else '')


class Group:
  """The compiled update of several runs, spread over devices as far as they go."""

  def __init__(self, members: Sequence[RunContext], devices: Sequence[jax.Device]):
    first = members[0]
    self.run = first.run
    self.devices = devices[: math.gcd(len(devices), len(members))]
    mesh = Mesh(np.array(self.devices), ('run',))
    self.each, self.all = NamedSharding(mesh, P('run')), NamedSharding(mesh, P())
    ema = 0 if self.run.optim.ema else None
    self.axes = State(0, 0, None, ema)  # one number of updates for all
    self.places = State(
      self.each, self.each, self.all, self.each if self.run.optim.ema else None
    )
    hps = [optim.Hyper.of(member.run) for member in members]
    self.hp = jax.device_put(
      jax.tree.map(lambda *leaf: np.stack(leaf), *hps), self.each
    )

    one = partial(step.train_step, run=first.run, cfg=first.cfg)
    at_once = jax.vmap(one, (self.axes, 0, 0), (self.axes, 0))

    def in_turn(state, batch, hp):
      def each(given):
        params, opt_state, ema, rows, numbers = given
        new, found = one(State(params, opt_state, state.step, ema), rows, numbers)
        return (new.params, new.opt_state, new.ema), found

      whole = state.params, state.opt_state, state.ema, batch, hp
      (params, opt_state, ema), found = jax.lax.map(each, whole)
      return State(params, opt_state, state.step + 1, ema), found

    # One run keeps the cores of a CPU busy, and its arrays in their caches.
    turns = len(self.devices) == 1 and self.devices[0].platform == 'cpu'
    updated = in_turn if turns else at_once

    def update(state, batch, hp, lost_R):
      state, found = updated(state, batch, hp)
      lost_R = jnp.where(
        (lost_R == 0) & ~jnp.isfinite(found['loss']), state.step, lost_R
      )
      return state, found, lost_R

    self.update = jax.jit(
      update,
      in_shardings=(self.places, self.each, self.each, self.each),
      out_shardings=(self.places, self.each, self.each),
      donate_argnums=0,
    )

  def stack(self, states: Sequence[State]) -> State:
    """Returns the states of all runs, on the host after as many updates, as one."""
    host = jax.tree.map(lambda *leaf: np.stack(leaf), *states)
    return jax.device_put(host.replace(step=host.step[0]), self.places)

  def member(self, state: State, i: int) -> State:
    """Returns the state of one run."""
    one = lambda leaf: leaf[i]  # noqa: E731
    return State(
      jax.tree.map(one, state.params),
      jax.tree.map(one, state.opt_state),
      state.step,
      state.ema and jax.tree.map(one, state.ema),
    )

  def put(self, rows: Sequence[Batch]) -> Batch:
    """Returns the batches of all runs on their devices, [runs, A, B, ...]."""

    def split(*leaf):
      whole = np.stack(leaf)
      return whole.reshape(len(leaf), self.run.accumulate, -1, *whole.shape[2:])

    return jax.device_put(jax.tree.map(split, *rows), self.each)


class _Kept:
  """What the loop writes and saves, told apart into the workdirs of the runs.

  It stands where the loop has the record and the checkpoints of one run.
  """

  def __init__(self, members: Sequence[RunContext], group: Group, done: int):
    self.members, self.group = members, group
    self.records = [MetricsLog(member.workdir, done) for member in members]
    self.folder = members[0].saved.folder
    self.found: dict[int, dict] = {}  # of updates whose metrics were not written yet
    self.lost_R = np.zeros(len(members), np.int32)
    self.evaluated: list[dict[str, float]] = []
    self.texts: list[str] = []

  def lost(self) -> dict[pathlib.Path, int]:
    """Returns the runs that diverged and the updates at which; marks their workdirs."""
    ends = zip(self.members, np.asarray(self.lost_R).tolist(), strict=True)
    found = {member.workdir: end for member, end in ends if end}
    for workdir, end in found.items():
      if not diverged(workdir):
        write_whole(workdir / _DIVERGED, json.dumps({'step': end}) + '\n')
    return found

  def _alive(self, step: int) -> list[int]:
    """Returns the runs whose loss was finite up to an update."""
    lost = self.lost()
    at = [lost.get(member.workdir, 0) for member in self.members]
    return [i for i in range(len(at)) if not 0 < at[i] <= step]

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes an update, or an evaluation, into each run's record."""
    own = self.evaluated
    if 'loss' in values:
      clock = {k: v for k, v in values.items() if k in CLOCK_FIELDS}
      # The program's rate, and a run's share of the time, so that times add up.
      clock['seconds'] = round(clock['seconds'] / len(self.records), 3)
      found = jax.device_get(self.found[step])
      own = [
        {name: float(value[i]) for name, value in found.items()} | clock
        for i in range(len(self.records))
      ]
    for i in self._alive(step):
      finite = {k: v for k, v in own[i].items() if math.isfinite(v)}
      self.records[i].write(step, finite)

  def write_samples(self, step: int, text: str) -> None:
    """Writes each run's samples; those of the loop are of no run."""
    del text
    for i in self._alive(step):
      self.records[i].write_samples(step, self.texts[i])

  def save(self, state: State, nll: float | None) -> None:
    """Saves the state of each run, with its own held-out loss where there is one."""
    now = int(state.step)
    for i in self._alive(now):
      member = self.group.member(state, i)
      if nll is not None:  # not of a stop's checkpoint, as in the loop
        self.records[i].write_fingerprint(now, checksums.of(member))
      own = None if nll is None else self.evaluated[i]['valid_nll']
      self.members[i].saved.save(member, own)

  def write_fingerprint(self, step: int, found: dict) -> None:
    """Writes none: that of the loop is of no run; `save` knows the runs' states."""

  def wait(self) -> None:
    """Returns when all saves are on disk."""
    for member in self.members:
      member.saved.wait()

  def latest(self) -> int | None:
    """Returns the number of updates of the first run's latest checkpoint."""
    return self.members[0].saved.latest()

  def close(self) -> None:
    """Writes out what is buffered."""
    for each in self.records:
      each.close()


class Member(NamedTuple):
  """A run of a group.

  Attributes:
    run: its config.
    workdir: its folder.
    overrides: what a sweep sets in the config, for run.json.
  """

  run: config.Run
  workdir: pathlib.Path
  overrides: dict[str, Any] = {}


def train(
  members: Sequence[Member],
  *,
  argv: Sequence[str] = (),
  sharing: int = 1,
  report: Callable[[str], None] = print,
) -> dict[pathlib.Path, int]:
  """Trains runs of one kind to their end, or goes on where their workdirs stand.

  Each gives what it gives by itself, but for rounding: another program, and under
  `vmap` products over several runs, may add in another order. Runs that stand at
  different updates, after a kill, go on in a program for each update. A run whose loss
  is no longer finite is left where it was, marked in its workdir, and the others go on.

  Args:
    members: the runs.
    argv: the command, for run.json.
    sharing: programs like this one that share this machine's memory.
    report: is told how it goes.

  Returns:
    The workdirs of the runs that diverged, with the number of the update at which.

  Raises:
    UserError: runs are of several kinds, or what `runs.train` raises of any of them.
    loop.Interrupted: asked to stop; the states reached are saved.
  """
  if len({kind(member.run) for member in members}) != 1:
    raise UserError(
      'these runs can not be trained together: they differ in more than their seed and '
      'numbers, or need a program of their own; train them one by one'
    )
  devices = sharding.Layout.of(members[0].run).devices
  lost = {m.workdir: at for m in members if (at := diverged(m.workdir))}
  standing: dict[int, list[Member]] = {}
  for member in members:
    done = checkpoint.done(member.workdir)
    if member.workdir not in lost and done < member.run.steps:
      standing.setdefault(done, []).append(member)
  left = sum(map(len, standing.values()))
  report(f'{left} of {len(members)} runs, together')
  for _, alike in sorted(standing.items()):
    size = _most(alike, devices, sharing, argv, report)
    for at in range(0, len(alike), size):
      with contextlib.ExitStack() as stack:
        opened = []
        for number, member in enumerate(alike[at : at + size]):
          told = report if not number else lambda text: None
          opened.append(stack.enter_context(_ready(member, devices, argv, told)))
        lost |= _train(opened, devices, report)
  return lost


def _ready(
  member: Member,
  devices: Sequence[jax.Device],
  argv: Sequence[str],
  report: Callable[[str], None],
) -> contextlib.AbstractContextManager[RunContext]:
  """Gives a run on the first device, for what is done run by run."""
  layout = sharding.Layout(tuple(devices[:1]))
  overrides = member.overrides
  return ready(
    member.run, member.workdir, layout, argv=argv, overrides=overrides, report=report
  )


def diverged(workdir: pathlib.Path) -> int:
  """Returns the update at which a run diverged; 0 if it did not."""
  path = workdir / _DIVERGED
  return json.loads(path.read_text(encoding='utf-8'))['step'] if path.exists() else 0


def _most(
  alike: list[Member],
  devices: Sequence[jax.Device],
  sharing: int,
  argv: Sequence[str],
  report: Callable[[str], None],
) -> int:
  """Returns how many of the runs to train together: as many as fit, 1 or more."""
  with _ready(alike[0], devices, argv, lambda text: None) as first:
    run, cfg = first.run, first.cfg
  rows = run.batch // run.accumulate
  kept = cost.activation_bytes(cfg, rows, loss_chunk=run.loss_chunk)
  each = kept['layers'] + kept['output']
  each += sum(cost.state_bytes(run, cfg).values())

  def needed(number):
    return each * -(-number // math.gcd(len(devices), number))

  free = free_memory(devices) / (sharing if devices[0].platform == 'cpu' else 1)
  most = min(len(alike), _MOST)
  return finetune.most_together(most, needed, free, report, 'runs')


def _train(
  members: list[RunContext],
  devices: Sequence[jax.Device],
  report: Callable[[str], None],
) -> dict[pathlib.Path, int]:
  """Trains runs that are not finished; returns those that diverged."""
  first, group = members[0], Group(members, devices)
  # On the host, as they may not fit on a device beside their stack.
  starts = (m.start(lambda text: None, together=len(members)) for m in members)
  state = group.stack([jax.device_get(start) for start in starts])
  done = int(state.step)
  if done:
    report(f'going on from the checkpoints of update {done}')
  kept = _Kept(members, group, done)
  eval_step = first.layout.eval_step(first.run, first.cfg)
  steps = iter(range(done + 1, first.run.steps + 1))

  def update(state, rows, _):
    now = next(steps)
    state, found, kept.lost_R = group.update(state, rows, group.hp, kept.lost_R)
    kept.found = {now - 1: kept.found.get(now - 1), now: found}
    finite = jnp.where(jnp.isfinite(found['loss']), found['loss'], jnp.nan)
    return state, {'loss': jnp.nanmean(finite)}

  def own(params, i):
    mine = jax.tree.map(lambda leaf: leaf[i], params)
    return jax.device_put(mine, devices[0])

  def evaluate(params, _):
    kept.evaluated = [
      member.held_out(eval_step, own(params, i)) for i, member in enumerate(members)
    ]
    known = [e for e in kept.evaluated if math.isfinite(e['valid_nll'])]
    known = known or kept.evaluated[:1]
    return {k: float(np.mean([e[k] for e in known])) for k in kept.evaluated[0]}

  def draw(params):
    kept.texts = [
      samples(member.model(own(params, i)), member.run)
      for i, member in enumerate(members)
    ]
    return kept.texts[0]

  meter = Throughput(
    flops_per_token=sum(cost.flops_per_token(first.cfg).values()),
    devices=group.devices,
    dtype=first.cfg.dtype,
  )
  try:
    loop.train(
      first.run,
      state,
      update=update,
      batch=lambda step: group.put([member.rows(step) for member in members]),
      evaluate=evaluate,
      sample=draw,
      record=kept,
      meter=meter,
      checkpoints=kept,
      restore=lambda step: state,
    )
    report(meter.summary())
  except UserError:
    if not np.all(kept.lost_R):  # else it says that no loss is finite
      raise
  finally:
    lost = kept.lost()
    kept.close()
  return lost
