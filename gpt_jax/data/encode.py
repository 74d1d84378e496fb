"""Text to ids in parallel processes.

A process is this module run by itself: it reads texts from its standard input and
writes ids, or a UserError, to its standard output, all pickled. So it imports neither
the caller's script nor jax, and ends when the caller does, however that ends.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.config import UserError

T = TypeVar('T')


def encode(
  tokenizer: tokenizers.Tokenizer, text: str, alpha: float = 0.0, seed: int = 0
) -> np.ndarray:
  """Returns the ids of a text, unsigned; with alpha > 0 one of the ways to cut it."""
  if alpha:
    return np.array(tokenizer.sample(text, alpha, seed), np.uint32)
  return tokenizer.encode_array(text)


def encoded(
  jobs: Iterable[tuple[T, str, float, int]],
  folder: Path,
  processes: int,
  tokenizer: tokenizers.Tokenizer | None = None,
) -> Iterator[tuple[T, np.ndarray]]:
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
  idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

  def work(*job) -> np.ndarray:
    process = idle.get()
    try:
      return process.encode(*job)
    finally:
      idle.put(process)

  waiting: deque[tuple[Any, Future]] = deque()
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(ThreadPoolExecutor(processes))
    for _ in range(processes):
      process = _Process(folder)
      stack.callback(process.end)  # before the pool, which waits for its jobs
      idle.put(process)
    for label, *job in jobs:
      waiting.append((label, pool.submit(work, *job)))
      if len(waiting) == 2 * processes:
        first, ids = waiting.popleft()
        yield first, ids.result()
    for label, ids in waiting:
      yield label, ids.result()


class _Process:
  """A running process that encodes."""

  def __init__(self, folder: Path):
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), os.environ.get('PYTHONPATH', '')]
    self._process = subprocess.Popen(
      [sys.executable, '-P', '-m', 'gpt_jax.data.encode', str(folder)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      pipesize=1 << 20,  # else 64 KiB, and as many changes from process to process
      env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, paths))},
    )

  def encode(self, text: str, alpha: float, seed: int) -> np.ndarray:
    """Returns the ids of a text."""
    try:
      _send((text, alpha, seed), self._process.stdin)
      answer = pickle.load(self._process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as e:
      raise UserError(
        f'a process that encodes text died (exit {self._process.wait()}), perhaps for '
        'want of memory; use fewer: --config.data.processes=1'
      ) from e
    if isinstance(answer, UserError):
      raise answer
    return answer

  def end(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()


def _send(message: Any, stream) -> None:
  pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
  stream.flush()


def _serve(folder: str) -> None:
  """Answers requests until the standard input ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
  answers = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what a library prints must not get among the answers
  tokenizer = tokenizers.load(folder)
  while sys.stdin.buffer.peek(1):
    job = pickle.load(sys.stdin.buffer)
    try:
      answer = encode(tokenizer, *job)
    except UserError as e:
      answer = e
    _send(answer, answers)


if __name__ == '__main__':
  _serve(sys.argv[1])
