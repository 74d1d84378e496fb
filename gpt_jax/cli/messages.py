"""What a user can mend ends in one sentence; launch.py and all scripts run so."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags

from gpt_jax.config import UserError
from gpt_jax.files import disk_error


@contextlib.contextmanager
def shown(places: Sequence[str] = ()) -> Iterator[None]:
  """Ends the process with a message and status 1 at an error that a user can mend.

  Any other exception is a bug of ours and goes on to be a traceback.

  Args:
    places: files and folders that the user named; more may be added meanwhile.
  """
  try:
    yield
  except UserError as error:
    sys.exit(f'error: {error}')
  except OSError as error:
    if not (text := disk_error(error, places)):
      raise
    sys.exit(f'error: {text}')
  except KeyboardInterrupt:
    sys.exit('interrupted')


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
