"""Chat: turns, commands and Ctrl-C, with a model that says what the test wants."""

import pytest
from fakes import random_bytes_model

import launch
from gpt_jax.cli import chat
from gpt_jax.inference import dialogue
from gpt_jax.inference.chat import Chat


@pytest.fixture
def said(monkeypatch):
  """What the model was asked with; it answers `reply N`, N by the seed."""
  asked = []

  def stream(model, turns, **settings):
    asked.append((turns, settings))
    if turns[-1] == 'stop me':
      yield 'half'
      raise KeyboardInterrupt
    yield 'reply '
    yield str(settings['seed'])

  monkeypatch.setattr(dialogue, 'stream', stream)
  return asked


def talk(*lines, conversation=Chat()):  # noqa: B008 - it is immutable
  """Returns the conversation after lines, and what was written."""
  left, written = list(lines), []

  def read():
    if not left:
      raise EOFError
    line = left.pop(0)
    if line == 'Ctrl-C':
      raise KeyboardInterrupt
    return line

  ended = chat.talk(None, None, conversation, read, written.append)
  return ended, ''.join(written)


def test_turns_alternate_and_the_whole_history_is_read(said):
  ended, written = talk('hi', 'so', '')
  assert ended.turns == ('hi', 'reply 1', 'so', 'reply 3')
  assert [turns for turns, _ in said] == [('hi',), ('hi', 'reply 1', 'so')]
  assert written == 'reply 1\nreply 3\n'


def test_ctrl_c_stops_the_reply_and_not_the_program(said):
  ended, written = talk('stop me', 'Ctrl-C', 'so')
  assert ended.turns == ('stop me', 'half', 'so', 'reply 3')
  assert written.startswith('half (stopped)\n\n(Ctrl-D')


def test_retry_undo_reset_and_set(said):
  ended, _ = talk('hi', '/retry')
  assert ended.turns == ('hi', 'reply 3')
  ended, _ = talk('hi', 'so', '/undo', '/set top_k=3', 'yes')
  assert ended.turns[:3] == ('hi', 'reply 1', 'yes')
  assert said[-1][1]['top_k'] == 3
  ended, written = talk('hi', '/reset', '/undo', '/retry', '/zzzz', '/set x=1')
  assert ended.turns == ()
  assert [line.split(':')[0] for line in written.splitlines()[1:]] == [
    '/undo', '/retry', '/zzzz is no command; /help lists them.', '/set x=1',
  ]  # fmt: skip


def test_quit_leaves_and_help_lists(said):
  ended, written = talk('/help', '/quit', 'not read')
  assert ended == Chat()
  assert '/undo' in written


def test_conversations_are_saved_and_go_on(said, tmp_path):
  path = tmp_path / 'talks.jsonl'
  talk('hi', f'/save {path}', '/reset', 'other', '/set top_k=3', f'/save {path}')
  assert len(path.read_text().splitlines()) == 2
  ended, written = talk(f'/load {path}', 'more')
  assert ended.turns[0] == 'other'
  assert ended.turns[2] == 'more'
  assert ended.settings == {'top_k': 3}
  assert written.startswith('> other\n> reply')
  _, written = talk('/save', f'/save {path}', '/load nowhere.jsonl')
  assert written == (
    '/save : name a file\n'
    f'/save {path}: nothing was said yet\n'
    'nowhere.jsonl can not be read: No such file or directory\n'
  )


def test_a_real_model_streams_and_ranks():
  model, backward = random_bytes_model(T=64, seed=1), random_bytes_model(T=64, seed=2)
  settings = {'max_new_tokens': 5, 'seed': 7}
  parts = list(dialogue.stream(model, ['hi'], **settings))
  (one,) = model.generate_ids(
    [dialogue.context([model.tokenizer.encode('hi')], 256, 59)[0]], top_k=10, **settings
  )
  assert ''.join(parts) == one.text
  lines, written = iter(['hi']), []
  read = lambda: next(lines, None) or (_ for _ in ()).throw(EOFError)  # noqa: E731
  start = Chat(settings={'max_new_tokens': 5, 'num_return': 3})
  ended = chat.talk(model, backward, start, read, written.append)
  best, *_ = dialogue.replies(
    model, ['hi'], backward, max_new_tokens=5, num_return=3, seed=1
  )
  assert ''.join(written).strip() == best.text
  assert ended.turns in (('hi', best.text), ())


def test_settings_of_ranking_rank_without_a_backward_model_too():
  model = random_bytes_model(T=64, seed=1)
  beams, samples = {'max_new_tokens': 5, 'beams': 2}, {'max_new_tokens': 5}
  for settings, ranking in (
    (beams, {}),
    (beams, {'anti': 0.9, 'inside': True}),
    (samples, {'anti': 0.9}),
  ):
    lines, written = ['hi'], []
    read = lambda: lines.pop() if lines else (_ for _ in ()).throw(EOFError)  # noqa: E731, B023
    conversation = Chat(settings=settings | ranking)
    chat.talk(model, None, conversation, read, written.append)
    best, *_ = dialogue.replies(
      model, ['hi'], None, dialogue.Ranking(**ranking), seed=1, **settings
    )
    assert ''.join(written).strip() == best.text.strip()


def test_the_command_has_the_settings_of_ranking():
  arguments = ['--workdir=.', '--anti=0.3', '--first=4', '--inside', '--beams=4']
  values = launch._parse('chat', arguments)
  assert (values.anti, values.first, values.inside, values.fresh) == (
    0.3,
    4,
    True,
    None,
  )
  names = [name for name, _, _ in dialogue.FLAGS]
  assert tuple(names) == dialogue.Ranking._fields
