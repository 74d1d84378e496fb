"""What a user can mend ends in one sentence; launch.py and all scripts run so."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags

from gpt_jax.config import UserError
from gpt_jax.paths import disk_error, hide_closed_loops


@contextlib.contextmanager
def shown(places: Sequence[str] = ()) -> Iterator[None]:
  """Ends the process with a message and status 1 at an error that a user can mend.

  Any other exception is a bug of ours and goes on to be a traceback.

  Args:
    places: files and folders that the user named; more may be added meanwhile.
  """
  hide_closed_loops()
  try:
    with _refused_threads(places) as refused:
      yield
    if refused:  # where nobody waits for a thread, its error is raised nowhere else
      raise refused[0]
  except UserError as error:
    sys.exit(f'error: {error}')
  except OSError as error:
    if not (text := disk_error(error, places)):
      raise
    sys.exit(f'error: {text}')
  except KeyboardInterrupt:
    sys.exit('interrupted')


@contextlib.contextmanager
def _refused_threads(places: Sequence[str]) -> Iterator[list[OSError]]:
  """Yields a list of what the disk refused to threads, instead of their tracebacks."""
  refused, before = [], threading.excepthook

  def hear(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    if isinstance(error, OSError) and disk_error(error, places):
      refused.append(error)
    else:
      before(args)

  threading.excepthook = hear
  try:
    yield refused
  finally:
    threading.excepthook = before


def run_script(main: Callable[[list[str]], int | None]) -> None:
  """Runs a script's `main(argv)` with its flags, as absl's app.run does."""

  def run(argv: list[str]) -> int | None:
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    given = [value for each in own for value in _texts(each.value)]
    with shown(given):
      return main(argv)

  app.run(run)


def _texts(value: object) -> list[str]:
  """Returns the texts in a flag's value, which may be paths."""
  values = value if isinstance(value, list) else [value]
  return [each for each in values if each and isinstance(each, str)]
