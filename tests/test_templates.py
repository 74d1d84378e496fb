"""Prompt files: fields are filled, and mistakes are named."""

import pathlib

import pytest

from gpt_jax.config import UserError
from gpt_jax.tasks import templates

ROOT = pathlib.Path(__file__).resolve().parent.parent


def written(tmp_path, text):
  path = tmp_path / 'prompt.txt'
  path.write_text(text, encoding='utf-8')
  return templates.read(path)


def test_fields_are_filled_and_braces_can_be_written(tmp_path):
  found = written(tmp_path, '{{a}} {name}: {what}\n{name}?\n\n')
  assert found.fields == ('name', 'what')
  values = {'name': 'Аня {x}', 'what': '2\n3'}
  assert found.fill(values) == '{a} Аня {x}: 2\n3\nАня {x}?\n'


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({}, 'no value for {question}'),
    ({'question': 'x', 'answer': 'y'}, 'there is no field {answer}'),
    ({'qestion': 'x'}, 'no value for {question}; .*{qestion}.*question'),
  ],
)
def test_a_missing_and_an_unknown_field_are_named(tmp_path, values, message):
  with pytest.raises(UserError, match=f'prompt.txt: {message}'):
    written(tmp_path, 'Q: {question}\nA:').fill(values)


@pytest.mark.parametrize(
  'text', ['a {', 'a }', '{}', '{a b}', '{a!r}', '{a:3}', '{a.b}']
)
def test_braces_that_are_no_field_are_refused(tmp_path, text):
  with pytest.raises(UserError, match='prompt.txt: .*write {{ for a brace'):
    written(tmp_path, text)


def test_an_answer_ends_the_prompt_and_what_follows_ends_the_answer(tmp_path):
  found = written(tmp_path, "'{word}' is  '{answer}' {{.\n")
  assert found.fields == ('word',) and found.fill({'word': 'x'}) == "'x' is  '"
  assert (found.gap, found.stop) == ('', "' {.")
  found = written(tmp_path, 'Q: {word}\nA:  {answer}')
  assert found.fill({'word': 'x'}) == 'Q: x\nA:' and found.gap == '  '
  assert found.stop == '' and written(tmp_path, 'Q: {word}').gap == ' '
  found = written(tmp_path, '{{{word}}} {{{answer}}}!')
  assert found.fill({'word': 'x'}) == '{x} {' and found.stop == '}!'


@pytest.mark.parametrize('text', ['{answer} {word}', '{answer} or {answer}'])
def test_an_answer_is_the_last_field_and_one(tmp_path, text):
  with pytest.raises(UserError, match='prompt.txt: {answer} must be the last field'):
    written(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(UserError, match='nowhere.txt can not be read'):
    templates.read(tmp_path / 'nowhere.txt')


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments/prompts').glob('*.txt')))
def test_the_prompts_that_come_with_the_project_can_be_filled(path):
  found = templates.read(path)
  filled = found.fill(dict.fromkeys(found.fields, 'tea'))
  assert found.fields and filled.count('tea') >= len(found.fields)
  assert not filled.endswith((' ', '\n'))  # tokens begin with the blank before a word


def test_a_field_with_an_empty_format_is_refused(tmp_path):
  path = tmp_path / 'a.txt'
  for text in '{answer:}', 'Q: {question:}\nA: {answer}', '{{answer}} {answer:}':
    path.write_text(text)
    with pytest.raises(UserError, match="' is no field: a name of letters"):
      templates.read(path)
  path.write_text('Say {{a}}: {answer}. {{answer}}')
  made = templates.read(path)
  assert (made.fill({}), made.stop) == ('Say {a}:', '. {answer}')
