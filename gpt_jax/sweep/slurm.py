"""A sweep as an array of SLURM jobs, by submitit; an extra: pip install submitit."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

from gpt_jax.config import UserError, nearest
from gpt_jax.sweep.plan import LAUNCH, Sweep
from gpt_jax.sweep.status import finished


class Job:
  """A job of the array: trains one run, and is queued again if its time runs out."""

  def __init__(self, command: list[str]):
    """Takes the command of the sweep, without --index."""
    self.command = command

  def __call__(self, index: int) -> int:
    """Trains the run of a number, and returns 0.

    Raises:
      RuntimeError: it failed; the job's log says why.
    """
    self.process = subprocess.Popen([*self.command, f'--index={index}'])
    # Not `wait`, which would keep `checkpoint`, a signal's handler, from waiting too.
    while (code := self.process.poll()) is None:
      time.sleep(0.5)
    if code:
      raise RuntimeError(f'run {index} ended with exit status {code}')
    return 0

  def checkpoint(self, index: int) -> Any:
    """Makes the run save, and returns the job to queue, which resumes it."""
    from submitit.helpers import DelayedSubmission

    self.process.send_signal(signal.SIGTERM)
    self.process.wait()
    return DelayedSubmission(Job(self.command), index)


def parameters(text: str) -> dict[str, Any]:
  """Returns the parameters in --slurm, such as partition=gpu,time=60, for submitit.

  Raises:
    UserError: submitit is missing, or there is no such parameter.
  """
  known = _submitit().slurm.slurm._get_default_parameters()
  values = {}
  for part in text.split(','):
    name, equals, value = part.partition('=')
    if not equals or name not in known:
      raise UserError(
        f'--slurm: {part!r} must be NAME=VALUE with a name that submitit knows: '
        f'partition, time (minutes), gpus_per_node, cpus_per_task, mem, account, qos, '
        f'array_parallelism, ....{nearest(name, known)}'
      )
    values[name] = int(value) if value.isdecimal() else value
  return values


def sbatch(sweep: Sweep, asked: dict[str, Any]) -> str:
  """Returns the file that would be given to sbatch, and below it what a job runs."""
  slurm = _submitit().slurm.slurm
  folder = sweep.folder / 'slurm'
  left = _left(sweep)
  text = slurm._make_sbatch_string(
    command=f'{sys.executable} -u -m submitit.core._submit {shlex.quote(str(folder))}',
    folder=folder,
    map_count=len(left),
    **_all(sweep, asked),
  )
  each = shlex.join(['python', 'launch.py', *sweep.arguments])
  jobs = '\n'.join(f'# job {i}: {each} --index={index}' for i, index in enumerate(left))
  return f'{text}\n{jobs}'


def submit(sweep: Sweep, asked: dict[str, Any], executor: Any = None) -> list:
  """Submits the runs that are not finished, and returns submitit's jobs.

  Args:
    asked: from `parameters`.
    executor: one of submitit's; None: SLURM's.

  Raises:
    UserError: there is no SLURM here, or nothing is left to do.
  """
  left = _left(sweep)
  if not left:
    raise UserError(f'{sweep.folder}: all {len(sweep.entries)} runs are finished')
  if executor is None:
    try:
      executor = _submitit().SlurmExecutor(folder=sweep.folder / 'slurm')
    except RuntimeError as error:
      raise UserError(f'--slurm: {error}; submit from a machine that has it') from error
    executor.update_parameters(**_all(sweep, asked))
  command = [sys.executable, str(LAUNCH), *sweep.arguments]
  return executor.map_array(Job(command), left)


def _left(sweep: Sweep) -> list[int]:
  return [i for i, entry in enumerate(sweep.entries) if not finished(entry)]


def _all(sweep: Sweep, asked: dict[str, Any]) -> dict[str, Any]:
  """Returns the parameters, and our own where the user gave none."""
  root = shlex.quote(str(LAUNCH.parent))
  return {
    'job_name': pathlib.Path(sweep.sweep_file).stem,
    # Where jobs find this code, whatever folder they start in.
    'setup': [
      f'cd {shlex.quote(os.getcwd())}',
      f'export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}',
    ],
  } | asked


def _submitit() -> Any:
  try:
    import submitit
    import submitit.slurm.slurm
  except ImportError as error:
    raise UserError('--slurm needs submitit: pip install submitit') from error
  return submitit
