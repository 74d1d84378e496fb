"""A conversation as a value: what was said, the settings, and commands on both.

Nothing here reads or writes: `cli/chat.py` and a server are its faces.
"""

import ast
import dataclasses
import json
from typing import Any

from gpt_jax.config import UserError, nearest
from gpt_jax.files import field, parse_json_line

HELP = {
  'reset': 'forget what was said',
  'undo': 'take back the last turn and its reply',
  'retry': 'another reply to the last turn',
  'save': '/save FILE: append the conversation to a .jsonl',
  'load': '/load FILE: go on with the last conversation of a .jsonl',
  'set': '/set NAME=VALUE: of generation or ranking, such as top_k=40 or anti=0.3',
  'help': 'these commands',
  'quit': 'leave',
}


@dataclasses.dataclass(frozen=True)
class Chat:
  """A conversation.

  Attributes:
    turns: texts, those of the user and the model by turns, the user first.
    settings: of `GenerationConfig` and of `dialogue.Ranking`.
    seed: of the next reply; each one has another.
  """

  turns: tuple[str, ...] = ()
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0

  def with_turn(self, text: str) -> 'Chat':
    """Returns the conversation with one turn more."""
    return dataclasses.replace(self, turns=(*self.turns, text), seed=self.seed + 1)

  def reset(self) -> 'Chat':
    """Returns it without any turn, with the same settings."""
    return dataclasses.replace(self, turns=())

  def undone(self) -> 'Chat':
    """Returns it without the user's last turn and what followed.

    Raises:
      UserError: nothing was said.
    """
    if not self.turns:
      raise UserError('/undo: nothing was said yet')
    last = (len(self.turns) - 1) // 2 * 2
    return dataclasses.replace(self, turns=self.turns[:last])

  def to_answer(self) -> 'Chat':
    """Returns it up to the user's last turn, and with another seed.

    Raises:
      UserError: nothing was said.
    """
    if not self.turns:
      raise UserError('/retry: nothing was said yet')
    last = (len(self.turns) - 1) // 2 * 2 + 1
    return dataclasses.replace(self, turns=self.turns[:last], seed=self.seed + 1)

  def with_setting(self, text: str) -> 'Chat':
    """Returns it with a setting like `top_k=40`.

    Raises:
      UserError: there is no such setting, or its value is of another kind.
    """
    from gpt_jax.decoding.generation_config import GenerationConfig  # imports jax
    from gpt_jax.inference.dialogue import Ranking

    name, equals, value = (part.strip() for part in text.partition('='))
    names = {each.name: each.default for each in dataclasses.fields(GenerationConfig)}
    names |= Ranking._field_defaults
    if not equals or name not in names:
      raise UserError(
        f'/set {text}: write NAME=VALUE, with a setting of generation or ranking as '
        f'NAME.{nearest(name, names)}'
      )
    try:
      parsed = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      parsed = value
    kind = type(names[name])
    if kind in (int, float) and (
      isinstance(parsed, bool)
      or not isinstance(parsed, (int, float) if kind is float else int)
    ):
      what = 'a number' if kind is float else 'a whole number'
      raise UserError(f'/set {text}: {name} must be {what}')
    if name in Ranking._fields and kind is bool and not isinstance(parsed, bool):
      raise UserError(f'/set {text}: {name} must be True or False')
    return dataclasses.replace(self, settings={**self.settings, name: parsed})

  def to_json(self) -> str:
    """Returns it as a line of .jsonl, which `tasks/dialogues.py` reads too."""
    return json.dumps(
      {'turns': list(self.turns), 'settings': self.settings}, ensure_ascii=False
    )

  @classmethod
  def from_json(cls, line: bytes, where: str) -> 'Chat':
    """Returns the conversation in a line.

    Args:
      where: names the line in an error.

    Raises:
      UserError: it is no conversation.
    """
    about = parse_json_line(line, where)
    turns = field(about, 'turns', list, where)
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
      raise UserError(f'{where} has a turn that is no text; mend the line')
    settings = field({'settings': {}, **about}, 'settings', dict, where)
    chat = cls(tuple(turns))
    for name, value in settings.items():
      chat = chat.with_setting(f'{name}={value!r}')
    return chat


def command(line: str) -> tuple[str, str]:
  """Returns the command in a line and what follows it; ('', line) for a turn.

  Raises:
    UserError: it begins with a / and names no command.
  """
  if not line.startswith('/'):
    return '', line
  name, _, rest = line[1:].partition(' ')
  if name not in HELP:
    raise UserError(f'/{name} is no command; /help lists them.{nearest(name, HELP)}')
  return name, rest.strip()
