"""CoQA (Reddy et al. 2019) and QuAC (Choi et al. 2018): questions of a conversation.

The turns before come first, with the first annotator's answers.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _coqa(path: Path) -> Iterator[Row]:
  """Yields the turns of the stories in order."""
  stories = part(files.read_json(path), str(path), 'data', kind=list)
  for number, story in enumerate(stories, 1):
    where = f'{path}: story {number}'
    turns, questions = [], part(story, where, 'questions', kind=list)
    others = []
    if 'additional_answers' in story:
      others += part(story, where, 'additional_answers', kind=dict).values()
    for at, question in enumerate(questions):
      given = [part(a, where, at) for a in (part(story, where, 'answers'), *others)]
      turns.append(
        (
          part(question, where, 'input_text', kind=str),
          [part(a, where, 'input_text', kind=str) for a in given],
        )
      )
    yield from _turns(part(story, where, 'story'), turns, where)


def _quac(path: Path) -> Iterator[Row]:
  """Yields the turns of the sections in order."""
  articles = part(files.read_json(path), str(path), 'data', kind=list)
  for number, article in enumerate(articles, 1):
    where = f'{path}: article {number}'
    for section in part(article, where, 'paragraphs', kind=list):
      context = part(section, where, 'context', kind=str)
      passage = context.strip().removesuffix('CANNOTANSWER')
      title = (
        f'{part(article, where, "title")} - {part(article, where, "section_title")}'
      )
      turns = [
        (
          part(q, where, 'question', kind=str),
          [
            part(a, where, 'text', kind=str)
            for a in part(q, where, 'answers', kind=list)
          ],
        )
        for q in part(section, where, 'qas', kind=list)
      ]
      yield from _turns(f'TITLE: {title}\nPARAGRAPH: {passage.strip()}', turns, where)


def _turns(passage: str, turns: list, where: str) -> Iterator[Row]:
  """Yields a conversation's turns, each with those before."""
  for at, (question, answers) in enumerate(turns):
    part(answers, f'{where}: turn {at + 1}', 0)  # later turns show it
    yield {
      'passage': passage,
      'before': turns[:at],
      'question': question,
      'answers': answers,
      'where': f'{where}: turn {at + 1}',
      'line': f'{where.rpartition(" ")[2]}:{at}',
    }


def _question(row: Row) -> Question:
  passage = text(row, 'passage')
  asked = ''.join(f'Q: {q.strip()}\n\nA: {a[0].strip()}\n\n' for q, a in row['before'])
  answers = prompted_files.texts(row, 'answers')
  return Question(
    f'{passage}\n\n{asked}Q: {text(row, "question")}\n\nA:',
    tuple(f' {answer}' for answer in answers),
    tuple(range(len(answers))),
    group=passage,
  )


def _task(name: str, train: str, dev: str, home: str, rows) -> PromptedTask:
  return PromptedTask(
    name,
    'free',
    'beam',
    ('coqa_f1',),
    {'train': (train,), 'dev': (dev,)},
    home,
    rows,
    ('passage', 'question', 'answers'),
    _question,
    shots=5,
  )


COQA = _task(
  'coqa',
  'coqa-train-v1.0.json',
  'coqa-dev-v1.0.json',
  'stanfordnlp.github.io/coqa: coqa-dev-v1.0.json with data: story, questions, answers',
  _coqa,
)
QUAC = _task(
  'quac',
  'train_v0.2.json',
  'val_v0.2.json',
  'quac.ai: val_v0.2.json with data: title, section_title, paragraphs',
  _quac,
)
