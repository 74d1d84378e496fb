"""Natural Questions, TriviaQA and WebQuestions, asked without any text to read.

Kwiatkowski et al. 2019 (the open version of Lee et al. 2019), Joshi et al. 2017, Berant
et al. 2013. Any of the answers is right.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  asked = text(row, 'question')
  asked = f'{asked[0].upper()}{asked[1:]}{"" if asked.endswith("?") else "?"}'
  answers = tuple(dict.fromkeys(prompted_files.texts(row, 'answer')))
  return Question(
    f'Q: {asked}\n\nA:',
    tuple(f' {answer}' for answer in answers),
    tuple(range(len(answers))),
  )


def _trivia(path: Path) -> Iterator[Row]:
  """Yields the questions of the official .json, or of an export of the hub."""
  if '.json' not in path.suffixes:
    for row in prompted_files.table(path):
      answer = row.get('answer')
      value = part(answer, row['where'], 'value')
      aliases = part(answer, row['where'], 'aliases', kind=list)
      yield row | {'answer': [value, *aliases]}
    return
  rows = part(files.read_json(path), str(path), 'Data', kind=list)
  for number, row in enumerate(rows, 1):
    where = f'{path}: question {number}'
    answer = part(row, where, 'Answer')
    yield {
      'question': part(row, where, 'Question'),
      'answer': [
        part(answer, where, 'Value'),
        *part(answer, where, 'Aliases', kind=list),
      ],
      'id': part(row, where, 'QuestionId'),
      'where': where,
      'line': str(number),
    }


def _web(path: Path) -> Iterator[Row]:
  """Yields the questions of the official .json, or of an export of the hub."""
  if '.json' not in path.suffixes:
    yield from prompted_files.table(path)
    return
  for number, row in enumerate(files.read_json(path, list), 1):
    where = f'{path}: question {number}'
    listed = re.findall(
      r'\(description (?:"((?:[^"\\]|\\.)*)"|([^)]*))\)',
      part(row, where, 'targetValue', kind=str),
    )
    yield {
      'question': part(row, where, 'utterance'),
      'answer': [quoted.replace('\\"', '"') or bare for quoted, bare in listed],
      'where': where,
      'line': str(number),
    }


def _task(name, names, home, rows, **more) -> PromptedTask:
  return PromptedTask(
    name,
    'free',
    'beam',
    ('em', 'f1'),
    names,
    home,
    rows,
    ('question', 'answer|answers'),
    _question,
    shots=64,
    **more,
  )


NATURAL_QUESTIONS = _task(
  'natural_questions',
  {
    'train': ('NQ-open.train.jsonl', 'train.jsonl'),
    'dev': ('NQ-open.dev.jsonl', 'validation.jsonl'),
  },
  'github.com/google-research-datasets/natural-questions/tree/master/nq_open: '
  'NQ-open.dev.jsonl with question, answer',
  prompted_files.table,
  folder='nq_open',
)
TRIVIAQA = _task(
  'triviaqa',
  {
    'train': ('unfiltered-web-train.json', 'wikipedia-train.json', 'train.jsonl'),
    'dev': ('unfiltered-web-dev.json', 'wikipedia-dev.json', 'validation.jsonl'),
  },
  'nlp.cs.washington.edu/triviaqa: unfiltered-web-dev.json with Data: Question, Answer',
  _trivia,
)
WEBQUESTIONS = _task(
  'webquestions',
  {
    'train': ('webquestions.examples.train.json', 'train.jsonl'),
    'test': ('webquestions.examples.test.json', 'test.jsonl'),
  },
  'nlp.stanford.edu/software/sempre: webquestions.examples.test.json with utterance, '
  'targetValue',
  _web,
  split='test',
)
