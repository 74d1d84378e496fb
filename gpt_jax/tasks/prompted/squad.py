"""SQuAD 2.0 (Rajpurkar et al. 2018): a span of a passage, or no answer at all.

The passage's questions before come first, with their answers. Underscores of titles are
blanks; transcriptions of GPT-3's figure G.28 disagree in that. GPT-3 does not say what
it wrote for those without one; 'unanswerable' is the word of EleutherAI's harness. An
empty answer is right there too.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

NO_ANSWER = 'unanswerable'


def _rows(path: Path) -> Iterator[Row]:
  """Yields the questions, each with those about its passage that come before."""
  for number, article in enumerate(
    part(files.read_json(path), str(path), 'data', kind=list), 1
  ):
    where = f'{path}: article {number}'
    title = part(article, where, 'title', kind=str).replace('_', ' ')
    for passage in part(article, where, 'paragraphs', kind=list):
      before = ''
      for question in part(passage, where, 'qas', kind=list):
        listed = part(question, where, 'answers', kind=list)
        given = [part(each, where, 'text', kind=str) for each in listed]
        answers = list(dict.fromkeys(given)) or [NO_ANSWER]
        asked = part(question, where, 'question', kind=str).strip()
        yield {
          'title': title,
          'passage': part(passage, where, 'context'),
          'before': before,
          'question': asked,
          'answers': answers,
          'id': part(question, where, 'id'),
          'where': f'{where}: question {files.shown(question["id"])}',
          'line': str(number),
        }
        before += f'Q: {asked}\n\nA: {answers[0]}\n\n'


def _question(row: Row) -> Question:
  answers = tuple(f' {answer}' for answer in prompted_files.texts(row, 'answers'))
  answers += ('',) if answers == (f' {NO_ANSWER}',) else ()
  passage = f'Title: {text(row, "title")}\n\nBackground: {text(row, "passage")}'
  return Question(
    f'{passage}\n\n{row["before"]}Q: {text(row, "question")}\n\nA:',
    answers,
    tuple(range(len(answers))),
    group=passage,
  )


SQUAD_V2 = PromptedTask(
  'squad_v2',
  'free',
  'beam',
  ('em', 'f1'),
  {'train': ('train-v2.0.json',), 'dev': ('dev-v2.0.json',)},
  'rajpurkar.github.io/SQuAD-explorer: dev-v2.0.json with data: title, paragraphs',
  _rows,
  ('title', 'passage', 'question', 'answers'),
  _question,
  shots=16,
)
