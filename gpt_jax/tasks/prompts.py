"""Questions of prompted tasks, and prompts with solved examples.

The protocol is GPT-3's (Brown et al. 2020, section 2.4 and appendix G): K examples, a
separator of one or two newlines, a question; nothing is trained.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.tasks.readers import Row


class Question(NamedTuple):
  """One question of a task.

  Each text includes the space or newline before it, so that prompt + answer +
  completion is exactly what the model reads.

  Attributes:
    context: what the model reads before the answer.
    answers: 'choices' and 'partial': the options; else every accepted answer.
    gold: the numbers of the right ones; none if the right one is not among them.
    completion: 'partial': what follows every option.
    zero_shot: replaces `context` if there are no examples; '': the same.
    shows: follows `context` in an example, if it is not the first right answer.
    group: questions of one group (a passage's) are never examples of each other.
    id: in the file; where it has none, the line.
  """

  context: str
  answers: tuple[str, ...]
  gold: tuple[int, ...]
  completion: str = ''
  zero_shot: str = ''
  shows: str = ''
  group: str = ''
  id: str = ''

  def example(self) -> str:
    """Returns the question with its answer, as an example for others."""
    shown = self.shows or self.answers[self.gold[0]] + self.completion
    return self.context + shown


@dataclasses.dataclass(frozen=True, eq=False)  # the same only as itself, and hashable
class PromptedTask:
  """What a task asks, and how it is scored.

  Attributes:
    form: 'choices' (the most likely of several answers), 'partial' (the same for texts
      that differ in the middle), 'last_word', or 'free' (the model writes).
    rule: the paper's own: 'choices': how log P(answer | context) is compared, 'sum',
      'per_token', 'per_byte', 'per_character', or 'unconditional' (less log P(answer |
      `unconditional`)); 'partial': 'partial' compares P(completion | context + option),
      'full' P(option + completion | context); 'last_word': that name; 'free': how an
      answer is decoded: 'beam' (4 beams, length penalty 0.6) or 'top_k_2' (drawn from
      the best 2).
    metrics: by name, in the order of the paper.
    files: names of the file by split ('train', 'dev', 'test'); the first that exists,
      plain or with .gz appended, is read.
    columns: required in a row; 'a|b' is either, read as row['a'].
    folder: of the files; '' means `name`.
    examples: the split that examples come from; 'itself': that of the question.
    fixed: all questions share their examples, else each has its own.
    shots: K of the paper's few-shot column.
    header: text before the first example, or before the question if there are none.
    unconditional: the context of an answer alone.
    stop: 'free': texts that end an answer.
    limit: 'free': most tokens of an answer. Ours, but for CNN/DM.
  """

  name: str
  form: str
  rule: str
  metrics: tuple[str, ...]
  files: dict[str, tuple[str, ...]]
  home: str
  rows: Callable[[Path], Iterator[Row]]
  columns: tuple[str, ...]
  question: Callable[[Row], Question]
  folder: str = ''
  split: str = 'dev'
  examples: str = 'train'
  fixed: bool = False
  shots: int = 0
  header: str = ''
  separator: str = '\n\n'
  unconditional: str = 'Answer:'
  stop: tuple[str, ...] = ('\n',)
  limit: int = 32

  def __str__(self) -> str:
    return self.name


class Document(NamedTuple):
  """A text whose perplexity is measured.

  Attributes:
    text: what the model reads, de-tokenized.
    words: of the original, divided by white space.
    lines: line ends of the original, which many count as words too.
    bytes: of the original in UTF-8.
    characters: of the original.
  """

  id: str
  text: str
  words: int
  lines: int
  bytes: int
  characters: int


@dataclasses.dataclass(frozen=True, eq=False)
class TextSet:
  """A text on which perplexity is measured, per unit of the original.

  Attributes:
    metric: the paper's: 'word_perplexity', 'bits_per_byte' or 'bits_per_character'.
    files: as `PromptedTask.files`.
    documents: (file, split) -> its documents.
  """

  name: str
  metric: str
  files: dict[str, tuple[str, ...]]
  home: str
  documents: Callable[[Path, str], Iterator[Document]]
  folder: str = ''
  split: str = 'test'

  def __str__(self) -> str:
    return self.name


def prompt(
  task: PromptedTask, question: Question, examples: Sequence[Question] = ()
) -> str:
  """Returns what the model reads before an answer: header, examples and question.

  Args:
    examples: solved ones that come first, in their order.
  """
  if question.zero_shot and not examples:
    return question.zero_shot
  texts = [example.example() for example in examples]
  return task.header + task.separator.join([*texts, question.context])


def draw(
  task: PromptedTask,
  pool: Sequence[Question],
  question: Question,
  number: int,
  shots: int,
  seed: int = 0,
) -> list[Question]:
  """Returns the examples of a question: a pure function of the seed and its number.

  They exclude the question and its group, and no two are of one group. GPT-3 drew new
  ones for each question, but one set for all of WSC and of MultiRC.

  Args:
    pool: to draw from; it may hold the question.
    number: of the question in its file, from 0.

  Raises:
    UserError: shots is negative, or the pool has too few.
  """
  if shots < 0:
    raise UserError(f'shots={shots} must be 0 or more')
  if not shots:
    return []
  stream = 0 if task.fixed else 1 + number
  taken, examples = {_key(question)}, []
  for i in np.random.default_rng((seed, stream)).permutation(len(pool)):
    example = pool[i]
    if example.gold and _key(example) not in taken:
      taken.add(_key(example))
      examples.append(example)
      if len(examples) == shots:
        return examples
  raise UserError(
    f'shots={shots} of {task}: the examples that may stand before question '
    f'{question.id or number} are {len(examples)} of {len(pool)}; give fewer shots, or '
    'more examples'
  )


def _key(question: Question) -> Any:
  """Returns a key that questions share if they may not meet in a prompt."""
  return question.group or (question.context, question.zero_shot)
