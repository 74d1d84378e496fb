"""A conversation and its commands."""

import pytest

from gpt_jax.config import UserError
from gpt_jax.inference.chat import HELP, Chat, command
from gpt_jax.tasks import dialogues

TALK = Chat(('hi', 'hello', 'how are you', 'fine'))


def test_undo_takes_back_a_turn_and_its_reply():
  assert TALK.undone().turns == ('hi', 'hello')
  assert Chat(('hi', 'hello', 'so')).undone().turns == ('hi', 'hello')
  assert Chat(('hi',)).undone().turns == ()
  with pytest.raises(UserError, match='/undo: nothing was said'):
    Chat().undone()


def test_retry_answers_the_same_turn_with_another_seed():
  again = TALK.to_answer()
  assert again.turns == ('hi', 'hello', 'how are you')
  assert again.seed == TALK.seed + 1
  assert Chat(('hi',)).to_answer().turns == ('hi',)
  with pytest.raises(UserError, match='/retry: nothing was said'):
    Chat().to_answer()


def test_reset_keeps_the_settings():
  chat = TALK.with_setting('top_k=5').reset()
  assert (chat.turns, chat.settings) == ((), {'top_k': 5})


@pytest.mark.parametrize(
  'text, name, value',
  [
    ('top_k=40', 'top_k', 40),
    (' temperature = 0.5', 'temperature', 0.5),
    ('temperature=1', 'temperature', 1),
    ('stop=\n', 'stop', ''),
    ('method=beam', 'method', 'beam'),
    ('anti=0.3', 'anti', 0.3),
    ('first=4', 'first', 4),
    ('inside=True', 'inside', True),
    ('early_stopping=never', 'early_stopping', 'never'),
    ("stop=['a', 'b']", 'stop', ['a', 'b']),
  ],
)
def test_settings_are_values(text, name, value):
  assert Chat().with_setting(text).settings == {name: value}


@pytest.mark.parametrize(
  'text, message',
  [
    ('topk=3', 'Did you mean top_k'),
    ('top_k', 'write NAME=VALUE'),
    ('top_k=x', 'top_k must be a whole number'),
    ('top_k=1.5', 'top_k must be a whole number'),
    ('top_k=True', 'top_k must be a whole number'),
    ('antt=0.3', 'Did you mean anti'),
    ('inside=yes', 'inside must be True or False'),
    ('first=0.5', 'first must be a whole number'),
    ('temperature=hot', 'temperature must be a number'),
  ],
)
def test_wrong_settings_are_named(text, message):
  with pytest.raises(UserError, match=message):
    Chat().with_setting(text)


def test_a_conversation_comes_back_and_is_a_dialogue(tmp_path):
  chat = TALK.with_setting('top_k=5').with_setting("stop=['x']")
  path = tmp_path / 'a.jsonl'
  path.write_text(chat.to_json() + '\n')
  assert Chat.from_json(path.read_bytes(), 'a') == chat
  (turns,) = dialogues.read(path)
  assert tuple(turn.text for turn in turns) == chat.turns


@pytest.mark.parametrize(
  'line, message',
  [
    (b'{"turns": [1]}', 'a turn that is no text'),
    (b'{}', "lacks 'turns'"),
    (b'{"turns": [], "settings": {"a": 1}}', '/set a=1'),
  ],
)
def test_a_line_that_is_no_conversation_is_refused(line, message):
  with pytest.raises(UserError, match=message):
    Chat.from_json(line, 'a.jsonl: line 1')


def test_commands_begin_with_a_slash():
  assert command('hello /reset') == ('', 'hello /reset')
  assert command('/save a b.jsonl ') == ('save', 'a b.jsonl')
  assert all(command(f'/{name}') == (name, '') for name in HELP)
  with pytest.raises(UserError, match='/rest is no command.*Did you mean reset'):
    command('/rest')
