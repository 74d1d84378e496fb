"""The one entry: `python launch.py VERB --flags`; without a verb it lists them."""

import logging
import os
import pathlib
import re
import sys

import absl.logging
from absl import flags

from gpt_jax import config
from gpt_jax.cli import VERBS
from gpt_jax.cli.flags import has_fields, paths
from gpt_jax.cli.messages import shown
from gpt_jax.config import UserError
from gpt_jax.paths import expand_paths
from gpt_jax.training import xla_flags

_HELP = '--help', '-help', '-h'


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
  if wrong := _wrong_fields(arguments) if has_fields(values) else []:
    raise UserError('\n'.join(wrong))
  try:
    rest = values([verb, *arguments])
  except flags.UnrecognizedFlagError as error:
    why = _why_unknown(error.flagname, verb, values)
    raise UserError(f'--{error.flagname} is no flag of `{verb}`: {why}') from error
  except flags.Error as error:
    cause = own = error  # a UserError of ours, without absl's words around it
    while cause := cause.__context__:
      own = cause if isinstance(cause, UserError) else own
    text = str(own) if isinstance(own, UserError) else _in_words(error, values)
    raise UserError(text) from error
  if rest[1:]:
    raise UserError(f'{rest[1]!r} is not a flag; write --name=value')
  if has_fields(values):
    expand_paths(values.config)
  return values


def _wrong_fields(arguments: list[str]) -> list[str]:
  """Returns what is wrong about the fields that arguments name."""
  known, wrong = config.flat(config.Run()), []
  for argument in arguments:
    found = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if not found or found[1] in known:
      continue
    name = found[1]
    inside = [field for field in known if field.startswith(f'{name}.')]
    wrong.append(
      f'--config.{name} is a section; set its fields, such as --config.{inside[0]}'
      if inside
      else f'there is no --config.{name}.{config.nearest(name, known)}'
    )
  return wrong


def _why_unknown(name: str, verb: str, values: flags.FlagValues) -> str:
  """Returns why a verb does not have a flag, and what to write instead."""
  known = config.flat(config.Run())
  fields = [each for each in known if name in (each, each.rpartition('.')[2])]
  first = name.partition('.')[0]
  owners = [v for v in VERBS if v != verb and first in _values(v)]
  if first == 'config' and has_fields(values):
    return 'a field needs the experiment before it: --config=FILE'
  if fields and has_fields(values):
    choice = ' or '.join(f'--config.{each}' for each in fields)
    return f'a field of the config is set by {choice}'
  if owners:
    return f'it belongs to `{"`, `".join(owners)}`'
  others = [f'config.{each}' for each in known] if has_fields(values) else []
  return config.nearest(name, [*values, *others]).strip() or 'it is unknown'


def _in_words(error: flags.Error, values: flags.FlagValues) -> str:
  """Returns what absl says about a value, with the name, the value and the rule."""
  missing = re.findall(r'Flag --(\w+) must have a value other than None', str(error))
  if missing:
    return '\n'.join(f'--{name} is missing: {values[name].help}' for name in missing)
  found = re.match(r'flag --([\w.]+)=(.*)', str(error), re.DOTALL)
  if not found or found[1] not in values:
    return str(error)
  name, flag = found[1], values[found[1]]
  rule = flag.parser.syntactic_help or {'bool': 'true or false'}.get(flag.flag_type())
  value = found[2].removesuffix(f': {error.__context__}')
  return f'--{name}={value} must be {rule}' if rule else str(error)


def _keep_compiled() -> None:
  """Has jax keep compiled programs, so that the same command starts faster again.

  JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps none.
  """
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache / 'gpt_jax/compiled'))


def _version() -> str:
  """Returns the version of this code and of what computes its numbers."""
  from gpt_jax.runs import provenance

  commit = provenance.commit(provenance.git_state()) or 'outside of a git checkout'
  installed = provenance.versions()
  others = [f'{name} {installed[name]}' for name in ('jax', 'jaxlib', 'flax')]
  return ', '.join([f'gpt_jax {commit}', *others, f'Python {sys.version.split()[0]}'])


def main() -> None:
  """Runs the verb; what a user can mend is a message, anything else a traceback."""
  verb, *arguments = sys.argv[1:] or ['--help']
  if verb == '--version':
    print(_version())
    return
  if verb not in VERBS:
    lines = [
      f'  {name:10}{call.__doc__.splitlines()[0]}' for name, (_, call) in VERBS.items()
    ]
    print('python launch.py VERB --help, where VERB is\n' + '\n'.join(lines))
    if verb not in (*_HELP, 'help'):
      sys.exit(f'{verb!r} is no verb.{config.nearest(verb, VERBS)}')
    return
  if not set(_HELP).isdisjoint(arguments):
    print(_values(verb).get_help())
    return
  _keep_compiled()
  xla_flags.set_up(os.environ)
  # Orbax and asyncio log what its threads and tasks raise, with a traceback, and it is
  # raised again for us.
  absl.logging.set_verbosity(absl.logging.FATAL)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  places = []
  with shown(places):
    values = _parse(verb, arguments)
    places += paths(values)
    VERBS[verb][1](values)


if __name__ == '__main__':
  main()
