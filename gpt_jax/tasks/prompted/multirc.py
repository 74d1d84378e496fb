"""MultiRC (Khashabi et al. 2018), as in SuperGLUE: which answers are right?

Each answer is scored by itself; K counts questions, shown with all of their answers.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_WORDS = 'False', 'True'


def _rows(path: Path) -> Iterator[Row]:
  """Yields an answer at a time, with what an example of its question shows."""
  for row in prompted_files.table(path):
    where = row['where']
    passage = part(row, where, 'passage', 'text')
    questions = part(row, where, 'passage', 'questions', kind=list)
    for at, question in enumerate(questions):
      group = f'{row.get("idx", row["line"])}:{at}'
      answers = [
        {'answer': part(a, where, 'text'), 'label': part(a, where, 'label')}
        | {'where': f'{where}: question {at}', 'line': row['line']}
        for a in part(question, where, 'answers', kind=list)
      ]
      shows = ''.join(_said(each)[_right(each)] for each in answers)
      for number, answer in enumerate(answers):
        yield answer | {
          'passage': passage,
          'question': part(question, where, 'question'),
          'group': group,
          'id': f'{group}:{number}',
          'shows': shows,
        }


def _right(row: Row) -> int:
  return prompted_files.choice(row, 'label', 'false|0', 'true|1')


def _said(row: Row) -> tuple[str, str]:
  return tuple(f'\n- [{word}] {text(row, "answer")}' for word in _WORDS)


def _question(row: Row) -> Question:
  return Question(
    f'{text(row, "passage")}\n\n{text(row, "question")}',
    _said(row),
    (_right(row),),
    shows=row['shows'],
    group=row['group'],
  )


MULTIRC = PromptedTask(
  'multirc',
  'choices',
  'per_token',
  ('question_accuracy', 'f1'),
  {'train': ('train.jsonl',), 'dev': ('val.jsonl',)},
  'super.gluebenchmark.com/tasks: val.jsonl with passage: text, questions, answers',
  _rows,
  ('passage', 'question'),
  _question,
  fixed=True,
  shots=32,
  header='READING COMPREHENSION ANSWER KEY\n\n',
)
