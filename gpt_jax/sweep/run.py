"""Runs a sweep: on this machine, or one of its runs as a job of an array."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from gpt_jax.config import UserError
from gpt_jax.runs import train
from gpt_jax.runs.provenance import git_state
from gpt_jax.runs.tokens import prepared
from gpt_jax.runs.workdir import alone
from gpt_jax.sweep import plan, pool, status
from gpt_jax.sweep.board import Board
from gpt_jax.sweep.plan import Entry, Sweep, check_same, read, write
from gpt_jax.sweep.search_space import Search


def planned(sweep_file: str, **about: Any) -> Sweep:
  """Returns the sweep that a file describes.

  Args:
    **about: the other arguments of `plan.planned`.
  """
  points, search = read(sweep_file), None
  if isinstance(points, Search):
    from gpt_jax.sweep import optuna_search

    search, points = points, optuna_search.points(points)
  return plan.planned(points, sweep_file=sweep_file, search=search, **about)


@contextlib.contextmanager
def opened(sweep: Sweep, *, shared: bool) -> Iterator[None]:
  """Makes the sweep's folder, if it is missing, and locks it.

  Args:
    shared: whether jobs of the same sweep may be in it too.

  Raises:
    UserError: it is in use, or of another sweep.
  """
  check_same(sweep)
  sweep.folder.mkdir(parents=True, exist_ok=True)
  with alone(sweep.folder, shared=shared):
    check_same(sweep)
    write(sweep, git_state())
    yield


def prepare(entries: Sequence[Entry], report: Callable[[str], None] = print) -> None:
  """Makes the token files of runs, once for all that share them."""
  seen = set()
  for entry in entries:
    data = entry.run.data
    if not data.tokens:  # a fine-tuning reads none
      continue
    if (data.tokens, data.mixture) not in seen and not status.finished(entry):
      seen.add((data.tokens, data.mixture))
      entry.workdir.mkdir(parents=True, exist_ok=True)
      prepared(entry.run, entry.workdir, report)


def run(sweep: Sweep, *, workers_at_once: int, retries: int, together: int = 0) -> None:
  """Trains all runs of a sweep that are not finished; the same again continues it.

  Args:
    workers_at_once: see `pool.slots`.
    retries: how often a crashed run is started again.
    together: most runs in one program; 0: all of a kind, or one with halving.

  Raises:
    UserError: the folder is in use, or of another sweep, or was edited; or runs have
      failed, after the others are done.
    loop.Interrupted: asked to stop; the runs have saved.
  """
  # This process trains nothing: it must not take a device from those that do.
  jax.config.update('jax_platforms', 'cpu')
  with opened(sweep, shared=False):
    status.check_folders(sweep)
    prepare(sweep.entries)
    free = pool.slots(workers_at_once)
    if sweep.search and sweep.search.halving:
      if together > 1:
        raise UserError(
          f'--together={together} must be 1 or left out: halving='
          f'{sweep.search.halving} stops runs one by one'
        )
      together = 1
    workers = pool.Pool(
      sweep, free, retries=retries, together=together, early=_early(sweep)
    )
    written = dict(workers.states)

    def show() -> None:
      nonlocal written
      board.show()
      if workers.states != written:
        written = dict(workers.states)
        status.write_csv(sweep, workers.states)

    board = Board(sweep, workers.states)
    try:
      with board:
        workers.work(show)
    finally:
      path = status.write_csv(sweep, workers.states)
    count = sum(state == 'finished' for state in workers.states.values())
    print(f'{count} of {len(sweep.entries)} runs are finished; wrote {path}')
    if workers.ends:
      raise UserError(
        f'{len(workers.ends)} of {len(sweep.entries)} runs failed; the same command '
        'tries them again\n\n' + '\n\n'.join(workers.ends.values())
      )


def _early(sweep: Sweep) -> Callable[[Entry], bool]:
  """Returns a function that tells whether halving stops a run early."""
  if not (sweep.search and sweep.search.halving):
    return lambda entry: False
  from gpt_jax.sweep.optuna_search import Halving

  return Halving(sweep).early


def run_one(sweep: Sweep, index: int) -> None:
  """Trains one run of a sweep in this process; other jobs may train others.

  Raises:
    UserError: there is no such run, or as `run`.
    loop.Interrupted: asked to stop; the run has saved.
  """
  _check_no_halving(sweep)
  entry = _chosen(sweep, index)
  with opened(sweep, shared=True):
    status.check_folder(entry)
    prepare([entry])
    try:
      train.train(
        entry.run,
        entry.workdir,
        argv=['launch.py', *entry.arguments],
        overrides={**sweep.given, **entry.overrides},
      )
    finally:
      print(f'wrote {status.write_csv(sweep)}', file=sys.stderr)


def submit(sweep: Sweep, parameters: str) -> str:
  """Submits an array of SLURM jobs for the runs that are left; returns a report."""
  from gpt_jax.sweep import slurm

  _check_no_halving(sweep)
  asked = slurm.parameters(parameters)
  with opened(sweep, shared=True):
    status.check_folders(sweep)
    jobs = slurm.submit(sweep, asked)
  folder = sweep.folder / 'slurm'
  return f'submitted {len(jobs)} jobs, the first {jobs[0].job_id}; logs: {folder}'


def commands(
  sweep: Sweep, index: int | None = None, parameters: str | None = None
) -> str:
  """Returns the commands that train the runs, or what SLURM would be given.

  Args:
    index: of one run; None: all.
    parameters: of --slurm; None: no jobs.
  """
  if parameters is not None:
    from gpt_jax.sweep import slurm

    _check_no_halving(sweep)
    return slurm.sbatch(sweep, slurm.parameters(parameters))
  entries = sweep.entries if index is None else [_chosen(sweep, index)]
  return '\n'.join(entry.command for entry in entries)


def _chosen(sweep: Sweep, index: int) -> Entry:
  """Returns the run of a number, from 0."""
  if not 0 <= index < len(sweep.entries):
    raise UserError(
      f'--index={index} must be in 0..{len(sweep.entries) - 1}: {sweep.sweep_file} has '
      f'{len(sweep.entries)} runs'
    )
  return sweep.entries[index]


def _check_no_halving(sweep: Sweep) -> None:
  if sweep.search and sweep.search.halving:
    raise UserError(
      f'{sweep.sweep_file}: halving={sweep.search.halving} must be 0 with --index and '
      '--slurm, whose jobs can not compare their runs'
    )
