"""Peers in processes of their own that work in turn, so that none disturbs another."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
  """A process that runs the jobs which `setup(*arguments)` returns by name.

  `setup` must be a function of a module; it is called in the process, by the first
  job.
  """

  def __init__(self, setup: Callable[..., dict[str, Callable]], *arguments: Any):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, setup, arguments), daemon=True
    )
    self._process.start()
    theirs.close()  # so that we notice when the process dies

  def start(self, job: str, *arguments: Any) -> None:
    """Begins a job."""
    with contextlib.suppress(BrokenPipeError):  # `wait` says so
      self._pipe.send((job, arguments))

  def wait(self) -> Any:
    """Returns the result of the job begun; raises RuntimeError if it failed."""
    try:
      failed, result = self._pipe.recv()
    except (EOFError, ConnectionResetError):
      failed, result = True, 'its process died'
    if failed:
      raise RuntimeError(result)
    return result

  def close(self) -> None:
    """Ends the process."""
    with contextlib.suppress(BrokenPipeError):
      self._pipe.send(None)
    self._process.join()


def _serve(pipe, setup, arguments) -> None:
  jobs = None
  while order := pipe.recv():
    job, given = order
    try:
      jobs = jobs or setup(*arguments)
      pipe.send((False, jobs[job](*given)))
    except Exception as e:
      pipe.send((True, f'{job}: {type(e).__name__}: {e}'))


def seconds(workers: Sequence[Worker], job: str, *arguments: Any) -> float:
  """Returns how long it takes until all workers have done a job, side by side."""
  begun = time.perf_counter()
  for worker in workers:
    worker.start(job, *arguments)
  for worker in workers:
    worker.wait()
  return time.perf_counter() - begun


def median_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
  """Returns the median over rounds of their time over ours: above 1, ours is faster."""
  return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
