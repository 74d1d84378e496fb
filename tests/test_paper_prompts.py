"""Prompts beside the words that the papers print, task by task (paper_prompts.py)."""

import re

import paper_prompts
import prompt_files
import pytest

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted import TASKS

LANGUAGES = {'en': 'English', 'fr': 'French', 'de': 'German', 'ro': 'Romanian'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return prompt_files.write(tmp_path_factory.mktemp('tasks'))


def as_shown(text, figure):
  """Returns a text with only what the transcriptions of a figure show."""
  text = text if figure.breaks == 'blank' else re.sub(r'\n+', '\n', text)
  return re.sub('_{4,}', '____', text) if 'underscores' in figure.unsure else text


def test_every_task_is_quoted_or_said_to_be_published_nowhere():
  quoted, others = set(paper_prompts.SHOWN), set(paper_prompts.NOT_SHOWN)
  assert not quoted & others
  assert quoted | others == set(TASKS)
  numbers = [figure.name for figure in paper_prompts.SHOWN.values()]
  assert sorted(numbers) == sorted(f'G.{i}' for i in range(1, 52))
  assert all(each.said and each.ours for each in paper_prompts.NOT_SHOWN.values())


@pytest.mark.parametrize('name', paper_prompts.SHOWN)
def test_a_question_reads_as_its_figure(data, name):
  task, figure = TASKS[name], paper_prompts.SHOWN[name]
  found = []
  for question in prompted_files.read(task, data):
    contexts = {question.context}
    if task.form == 'partial':
      contexts = {question.context + each for each in question.answers}
    if as_shown(figure.context, figure) in (
      as_shown(task.header + each, figure) for each in contexts
    ):
      found.append(question)
  assert found, f'{figure.context!r} is not what any question of {name} reads'
  answers = [question for question in found if says(task, question, figure)]
  assert len(answers) == 1


def says(task, question, figure):
  """Returns whether right and wrong answers are those of a figure."""
  if task.form == 'partial':
    right, wrong = (
      question.context + question.answers[i]
      for i in sorted(range(2), key=lambda i: i not in question.gold)
    )
    texts = right, (wrong,), question.completion
    return texts == (figure.context, figure.wrong, f' {figure.right}')
  # Each begins with the blank, or the line end, that parts it from the context.
  before = '\n' if figure.right.startswith('- ') else ' '
  right = {question.answers[i] for i in question.gold}
  if f'{before}{figure.right}' not in right:
    return False
  # Some figures show the right one alone, where section 2.4 says that options compete.
  return not figure.wrong or set(question.answers) - right == {
    f'{before}{each}' for each in figure.wrong
  }


@pytest.mark.parametrize('name', [name for name in TASKS if name.startswith('wmt')])
def test_a_translation_without_examples_is_asked_as_the_caption_says(data, name):
  for question in prompted_files.read(TASKS[name], data):
    assert question.zero_shot == paper_prompts.ZERO_SHOT_TRANSLATION.format(
      language=LANGUAGES[name[-2:]], sentence=question.context.removesuffix(' =')
    )


def test_a_summary_follows_the_words_of_gpt2(data):
  (question,) = prompted_files.read(TASKS['cnn_dm'], data)
  assert question.context == 'It rained. It poured.\nTL;DR:'
  assert TASKS['cnn_dm'].limit == 100


def test_a_missing_word_is_scored_with_the_rest_of_its_sentence(data):
  story = ' '.join(['It was old.'] * 20)
  for name in ('cbt_cn', 'cbt_ne'):
    question = prompted_files.read(TASKS[name], data)[0]
    assert question.context == f'{story} "I don\'t see the'
    assert (question.answers[0], question.completion) == (' dog', '," said Ann.')
    assert TASKS[name].rule == 'full'
