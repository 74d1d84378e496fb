"""The one entry: `python launch.py VERB --flags`; without a verb it lists them."""

import errno
import os
import pathlib
import sys

from absl import flags, logging

from gpt_jax import config
from gpt_jax.cli import VERBS
from gpt_jax.config import UserError


def _values(verb: str) -> flags.FlagValues:
  """Returns the flags of a verb, not parsed: only its own, so others are errors."""
  values = flags.FlagValues()
  VERBS[verb][0](values)
  return values


def _parse(verb: str, arguments: list[str]) -> flags.FlagValues:
  """Returns the verb's flags with the values of the command line.

  Raises:
    UserError: an unknown flag or field (with the nearest names), a flag of another
      verb, a value of the wrong type, a missing flag.
  """
  values = _values(verb)
  try:
    rest = values([verb, *arguments])
  except KeyError as error:  # config_flags: a field that the schema does not have
    given = [a.split('=')[0].removeprefix('--config.') for a in arguments]
    known = config.flat(config.Run())
    wrong = [
      f'there is no --config.{name}.{config.nearest(name, known)}'
      for name in given
      if not name.startswith('-') and name not in known
    ]
    raise UserError('\n'.join(wrong) or str(error)) from error
  except flags.UnrecognizedFlagError as error:
    name = error.flagname
    owners = [v for v in VERBS if v != verb and name in _values(v)]
    if name.startswith('config.'):
      why = 'a field needs the experiment before it: --config=FILE'
    elif owners:
      why = f'it belongs to `{"`, `".join(owners)}`'
    else:
      why = config.nearest(name, list(values)).strip() or 'it is unknown'
    raise UserError(f'--{name} is no flag of `{verb}`: {why}') from error
  except (flags.Error, OSError) as error:
    cause = own = error  # a config file's own UserError, without its traceback
    while cause := cause.__context__:
      own = cause if isinstance(cause, UserError) else own
    raise UserError(str(own)) from error
  if rest[1:]:
    raise UserError(f'{rest[1]!r} is not a flag; write --name=value')
  return values


def _keep_compiled() -> None:
  """Has jax keep compiled programs, so that the same command starts faster again.

  JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps none.
  """
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache / 'gpt_jax/compiled'))


def main() -> None:
  """Runs the verb; what a user can mend is a message, anything else a traceback."""
  verb, *arguments = sys.argv[1:] or ['--help']
  if verb not in VERBS:
    lines = [
      f'  {name:10}{call.__doc__.splitlines()[0]}' for name, (_, call) in VERBS.items()
    ]
    print('python launch.py VERB --help, where VERB is\n' + '\n'.join(lines))
    if verb not in ('--help', '-h', 'help'):
      sys.exit(f'{verb!r} is no verb.{config.nearest(verb, VERBS)}')
    return
  if '--help' in arguments:
    print(_values(verb).get_help())
    return
  _keep_compiled()
  # Orbax logs what its threads raise, with a traceback, and raises it again for us.
  logging.set_verbosity(logging.FATAL)
  try:
    values = _parse(verb, arguments)
    VERBS[verb][1](values)
  except UserError as error:
    sys.exit(f'error: {error}')
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    sys.exit(
      f'error: {error.filename or "a file"} could not be written: {error.strerror}. '
      'Free disk space, then run the same command again'
    )
  except KeyboardInterrupt:
    sys.exit('interrupted')


if __name__ == '__main__':
  main()
