"""A process that answers messages, one after the other, all pickled.

It runs a command of its own, so it imports nothing of the caller's script, and ends
when the caller does, however that ends.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt_jax.config import UserError


class Process:
  """A running Python that answers."""

  def __init__(
    self,
    arguments: Sequence[str],
    env: Mapping[str, str],
    died: str,
    pipesize: int = -1,
  ):
    """Starts it.

    Args:
      arguments: of Python.
      env: variables beside those of this process.
      died: what to do if it dies, for the error.
      pipesize: bytes of its pipes; -1: the system's.
    """
    self._died = died
    self._process = subprocess.Popen(
      [sys.executable, '-P', *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      pipesize=pipesize,
      env={**os.environ, **env},
    )

  def tell(self, message: Any) -> None:
    """Sends a message that has no answer."""
    _send(message, self._process.stdin)

  def ask(self, message: Any) -> Any:
    """Returns the answer to a message.

    Raises:
      UserError: the process died.
    """
    try:
      self.tell(message)
      return pickle.load(self._process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as e:
      raise UserError(
        f'a process died (exit {self._process.wait()}), perhaps for want of memory; '
        f'{self._died}'
      ) from e

  def end(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()


def serve(begin: Callable[[], Callable[[Any], Any]]) -> None:
  """Answers the messages of the standard input until it ends: in a `Process`.

  Args:
    begin: returns what answers a message.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
  answers = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what a library prints must not get among the answers
  answer = begin()
  while sys.stdin.buffer.peek(1):
    _send(answer(pickle.load(sys.stdin.buffer)), answers)


def _send(message: Any, stream) -> None:
  pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
  stream.flush()
