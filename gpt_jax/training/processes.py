"""The processes of a run, several where it spans hosts."""

import contextlib
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt_jax.config import UserError


def start(distributed: str) -> None:
  """Joins the processes of a run, before anything else is done with jax.

  Args:
    distributed: 'auto' where a cluster tells each process its place (SLURM, TPU pods,
      Open MPI), or ADDRESS:PORT,PROCESSES,INDEX: the first process's address, how many
      there are, and which one this is.

  Raises:
    UserError: it is neither, or they could not be joined.
  """
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  place = {}
  if distributed != 'auto':
    address, *numbers = distributed.split(',')
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers):
      raise UserError(
        f"distributed={distributed!r} must be 'auto' or ADDRESS:PORT,PROCESSES,INDEX, "
        'like 10.0.0.1:1234,2,0 on the first of two'
      )
    place = {
      'coordinator_address': address,
      'num_processes': int(numbers[0]),
      'process_id': int(numbers[1]),
    }
  try:
    jax.distributed.initialize(**place)
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f'distributed={distributed!r}: the processes could not be joined ({error})'
    ) from error


def first_process() -> bool:
  """Returns whether this is the process that writes and prints."""
  return jax.process_index() == 0


def several_processes() -> bool:
  """Returns whether the run has several processes."""
  return jax.process_count() > 1


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
  """Runs its body in the first process, then in the others."""
  wait = partial(multihost_utils.sync_global_devices, name)
  if several_processes() and not first_process():
    wait()
  yield
  if several_processes() and first_process():
    wait()


def anywhere(value: int) -> int:
  """Returns the largest of the processes' values; every process must call it."""
  return int(multihost_utils.process_allgather(np.int32(value)).max())
