"""Text to ids in parallel processes.

A process is this module run by itself: it reads texts from its standard input and
writes ids, or a UserError, to its standard output, all pickled. So it imports neither
the caller's script nor jax, and ends when the caller does, however that ends.
"""

import contextlib
import os
import queue
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.data.process import Process, serve

T = TypeVar('T')


def encode(
  tokenizer: tokenizers.Tokenizer,
  text: str | list[str],
  alpha: float = 0.0,
  seed: int = 0,
) -> np.ndarray | list[np.ndarray]:
  """Returns the ids of a text, unsigned; with alpha > 0 one of the ways to cut it.

  Of a list of texts, those of each.
  """
  if isinstance(text, list):
    return [encode(tokenizer, one, alpha, seed) for one in text]
  if alpha:
    return np.array(tokenizer.sample(text, alpha, seed), np.uint32)
  return tokenizer.encode_array(text)


def encoded(
  jobs: Iterable[tuple[T, str | list[str], float, int]],
  folder: Path,
  processes: int,
  tokenizer: tokenizers.Tokenizer | None = None,
) -> Iterator[tuple[T, np.ndarray | list[np.ndarray]]]:
  """Yields the ids of texts in their order.

  No more than two texts for each process are in memory at a time.

  Args:
    jobs: for each text a label to return with its ids, the text, and the alpha and
      seed of `encode`.
    folder: holds the tokenizer.
    processes: 1 encodes in this one.
    tokenizer: the one in `folder`, if it is loaded already.

  Raises:
    UserError: a text can't be encoded, or a process died.
  """
  if processes == 1:
    tokenizer = tokenizer or tokenizers.load(folder)
    for label, *job in jobs:
      yield label, encode(tokenizer, *job)
    return
  idle: queue.SimpleQueue[Process] = queue.SimpleQueue()

  def work(*job) -> np.ndarray | list[np.ndarray]:
    process = idle.get()
    try:
      return _encoded_by(process, *job)
    finally:
      idle.put(process)

  waiting: deque[tuple[Any, Future]] = deque()
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(ThreadPoolExecutor(processes))
    for _ in range(processes):
      process = _process(folder)
      stack.callback(process.end)  # before the pool, which waits for its jobs
      idle.put(process)
    for label, *job in jobs:
      waiting.append((label, pool.submit(work, *job)))
      if len(waiting) == 2 * processes:
        first, ids = waiting.popleft()
        yield first, ids.result()
    for label, ids in waiting:
      yield label, ids.result()


def _process(folder: Path) -> Process:
  """Returns a running process that encodes."""
  package = Path(__file__).resolve().parents[2]
  paths = [str(package), os.environ.get('PYTHONPATH', '')]
  return Process(
    ['-m', 'gpt_jax.data.encode', str(folder)],
    {'PYTHONPATH': os.pathsep.join(filter(None, paths))},
    'use fewer: --config.data.processes=1',
    pipesize=1 << 20,  # else 64 KiB, and as many changes from process to process
  )


def _encoded_by(process: Process, *job) -> np.ndarray | list[np.ndarray]:
  """Returns the ids of a text, or of each of a list."""
  answer = process.ask(job)
  if isinstance(answer, UserError):
    raise answer
  return answer


def _serve(folder: str) -> None:
  """Answers requests until the standard input ends."""

  def begin():
    tokenizer = tokenizers.load(folder)

    def answer(job: tuple) -> np.ndarray | list[np.ndarray] | UserError:
      try:
        return encode(tokenizer, *job)
      except UserError as e:
        return e

    return answer

  serve(begin)


if __name__ == '__main__':
  _serve(sys.argv[1])
