"""Text to ids in parallel processes.

A process is this module run by itself: it reads texts from its standard input and
writes ids to its standard output. So it imports neither the caller's script nor jax,
and ends when the caller does, however that ends.
"""

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.config import UserError

_REQUEST = struct.Struct('<dqq')  # alpha, seed, bytes of text
_ANSWER = struct.Struct('<cq')  # kind of answer, its bytes
_IDS, _USER_ERROR = b'i', b'u'

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
    jobs: of each text what to give back with its ids, the text, and the alpha and
      seed of `encode`.
    folder: of the tokenizer.
    processes: how many; 1 encodes in this one.
    tokenizer: the one in the folder, where it is loaded already.

  Raises:
    UserError: a text can't be encoded, or a process died.
  """
  if processes == 1:
    tokenizer = tokenizer or tokenizers.load(folder)
    for label, text, alpha, seed in jobs:
      yield label, encode(tokenizer, text, alpha, seed)
    return
  idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
  started = []
  pool = ThreadPoolExecutor(processes)

  def work(text: str, alpha: float, seed: int) -> np.ndarray:
    process = idle.get()
    try:
      return process.encode(text, alpha, seed)
    finally:
      idle.put(process)

  waiting: deque[tuple[Any, Future]] = deque()
  try:
    for _ in range(processes):
      started.append(_Process(folder))
      idle.put(started[-1])
    for label, *job in jobs:
      waiting.append((label, pool.submit(work, *job)))
      if len(waiting) == 2 * processes:
        first, ids = waiting.popleft()
        yield first, ids.result()
    for label, ids in waiting:
      yield label, ids.result()
  finally:
    for process in started:
      process.end()
    pool.shutdown(cancel_futures=True)


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
    content = text.encode()
    try:
      self._process.stdin.write(_REQUEST.pack(alpha, seed, len(content)) + content)
      self._process.stdin.flush()
      kind, size = _ANSWER.unpack(_exactly(self._process.stdout, _ANSWER.size))
      answer = _exactly(self._process.stdout, size)
    except (EOFError, BrokenPipeError) as e:
      raise UserError(
        f'a process that encodes text died (exit {self._process.wait()}), perhaps for '
        'want of memory; use fewer: --config.data.processes=1'
      ) from e
    if kind == _USER_ERROR:
      raise UserError(answer.decode())
    return np.frombuffer(answer, '<u4')

  def end(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()


def _exactly(stream: BinaryIO, size: int) -> bytes:
  """Returns the next `size` bytes of a stream; raises EOFError if there are fewer."""
  content = stream.read(size)
  if len(content) < size:
    raise EOFError
  return content


def _serve(folder: str) -> None:
  """Answers requests until the standard input ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
  answers = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what a library prints must not get among the answers
  tokenizer = tokenizers.load(folder)
  while header := sys.stdin.buffer.read(_REQUEST.size):
    alpha, seed, size = _REQUEST.unpack(header)
    text = _exactly(sys.stdin.buffer, size).decode()
    try:
      ids = encode(tokenizer, text, alpha, seed).astype('<u4', copy=False)
      kind, answer = _IDS, ids.tobytes()
    except UserError as e:
      kind, answer = _USER_ERROR, str(e).encode()
    answers.write(_ANSWER.pack(kind, len(answer)))
    answers.write(answer)
    answers.flush()


if __name__ == '__main__':
  _serve(sys.argv[1])
