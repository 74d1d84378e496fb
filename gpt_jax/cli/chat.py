"""The verb `chat`: a dialogue in the terminal, as `inference/chat.py` keeps it."""

import pathlib
import sys
from collections.abc import Callable, Iterator

from absl import flags

from gpt_jax.cli.flags import checkpoint, path_flag, weights, workdir
from gpt_jax.config import UserError
from gpt_jax.inference.chat import HELP, Chat, command

# Reads a line; EOFError ends the conversation.
Read = Callable[[], str]
Write = Callable[[str], None]


def chat_flags(values):
  from gpt_jax.decoding.generation_config import FLAGS
  from gpt_jax.inference import dialogue

  workdir(values)
  checkpoint(values)
  path_flag(
    values,
    'backward',
    '',
    'workdir of a model of dialogues from their last turn to the first: of several '
    "replies the one is said whose source it finds likeliest; '': none",
  )
  weights(values)
  for name, kind, what in (*FLAGS, *dialogue.FLAGS):
    define = getattr(flags, f'DEFINE_{kind}')
    define(name, None, what, flag_values=values)


def chat(values) -> None:
  """Answers what is typed, until the end of the input."""
  from gpt_jax.cli.flags import few_bits
  from gpt_jax.cli.models import settings_of
  from gpt_jax.inference import dialogue
  from gpt_jax.runs.load import load

  read = _terminal() if sys.stdin.isatty() else _piped
  model = load(values.workdir, values.checkpoint).quantized(few_bits(values))
  backward = load(values.backward) if values.backward else None
  ranking = {name: values[name].value for name, _, _ in dialogue.FLAGS}
  ranking = {name: value for name, value in ranking.items() if value is not None}
  conversation = Chat(settings=settings_of(values) | ranking)
  talk(model.for_decoding(), backward, conversation, read, _shown)


def talk(model, backward, conversation: Chat, read: Read, write: Write) -> Chat:
  """Returns the conversation when it ends; each line is a turn or a command.

  Ctrl-C while a reply is written stops the reply, and what was written is kept; at the
  prompt it forgets the line.

  Args:
    model: answers.
    backward: ranks replies; None: the reply is streamed as it is drawn.
  """
  while True:
    try:
      line = read().strip()
    except KeyboardInterrupt:
      write('\n(Ctrl-D or /quit leaves)\n')
      continue
    except EOFError:
      return conversation
    try:
      name, rest = command(line)
      if name == 'quit':
        return conversation
      conversation, answers = _after(conversation, name, rest, write)
    except UserError as error:
      write(f'{error}\n')
      continue
    if answers:
      conversation = _answered(model, backward, conversation, write)


def _after(conversation: Chat, name: str, rest: str, write: Write) -> tuple[Chat, bool]:
  """Returns the conversation after a line, and whether the model is to answer."""
  if name == 'help':
    write(''.join(f'  /{each:6} {what}\n' for each, what in HELP.items()))
  elif name == 'reset':
    return conversation.reset(), False
  elif name == 'undo':
    return conversation.undone(), False
  elif name == 'retry':
    return conversation.to_answer(), True
  elif name == 'set':
    return conversation.with_setting(rest), False
  elif name == 'save':
    _save(conversation, rest)
    write(f'appended {len(conversation.turns)} turns to {rest}\n')
  elif name == 'load':
    conversation = _load(rest)
    write(''.join(f'> {turn}\n' for turn in conversation.turns))
  elif rest:
    if len(conversation.turns) % 2:  # loaded, or stopped before the reply
      return conversation.undone().with_turn(rest), True
    return conversation.with_turn(rest), True
  return conversation, False


def _answered(model, backward, conversation: Chat, write: Write) -> Chat:
  """Returns the conversation with a reply, which is written as it comes."""
  said: list[str] = []
  try:
    for text in _reply(model, backward, conversation):
      write(text)
      said.append(text)
  except KeyboardInterrupt:
    write(' (stopped)')
  except UserError as error:
    write(f'{error}\n')
    return conversation.undone()
  write('\n')
  reply = ''.join(said).strip()
  return conversation.with_turn(reply) if reply else conversation.undone()


def _reply(model, backward, conversation: Chat) -> Iterator[str]:
  """Yields the parts of a reply."""
  from gpt_jax.inference import dialogue

  settings = {'seed': conversation.seed, **conversation.settings}
  names = settings.keys() & set(dialogue.Ranking._fields)
  ranking = dialogue.Ranking(**{name: settings.pop(name) for name in names})
  several = settings.get('num_return', 1) > 1 or settings.get('beams', 1) > 1
  if backward or names or several:
    turns = conversation.turns
    best, *_ = dialogue.replies(model, turns, backward, ranking, **settings)
    yield best.text
    return
  yield from dialogue.stream(model, conversation.turns, **settings)


def _save(conversation: Chat, path: str) -> None:
  if not path or not conversation.turns:
    what = 'name a file' if not path else 'nothing was said yet'
    raise UserError(f'/save {path}: {what}')
  try:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(conversation.to_json() + '\n')
  except OSError as error:
    raise UserError(f'{path} can not be written: {error.strerror or error}') from error


def _load(path: str) -> Chat:
  try:
    lines = pathlib.Path(path or '.').read_bytes().splitlines()
  except OSError as error:
    raise UserError(f'{path} can not be read: {error.strerror or error}') from error
  numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
  if not numbered:
    raise UserError(f'/load {path}: it has no conversation')
  number, line = numbered[-1]
  return Chat.from_json(line, f'{path}: line {number}')


def _piped() -> str:
  line = sys.stdin.readline()
  if not line:
    raise EOFError
  return line


def _terminal() -> Read:
  """Returns a reader that edits lines and remembers earlier ones."""
  try:
    import prompt_toolkit
  except ImportError as e:
    raise UserError(
      'chat in a terminal needs prompt_toolkit: `pip install prompt_toolkit`; or pipe '
      'lines into it'
    ) from e
  session = prompt_toolkit.PromptSession()
  return lambda: session.prompt('> ')


def _shown(text: str) -> None:
  print(text, end='', flush=True)
