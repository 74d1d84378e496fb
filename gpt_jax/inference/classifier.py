"""A fine-tuned model: a language model with a head for one labelled task."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT
from gpt_jax.model.heads import task_logits
from gpt_jax.tasks import inputs
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.labelled_table import Task

_FORMS = {
  'classification': 'a text',
  'entailment': 'a pair (premise, hypothesis)',
  'similarity': 'a pair of texts',
  'multiple_choice': '(text, [choices]) or (passage, question, [choices])',
}


class Answer(NamedTuple):
  """The prediction for an example.

  Attributes:
    label: as the task's files write it, or a score.
    probabilities: of each label; empty for a score.
  """

  label: str | float
  probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Classifier(LanguageModel):
  """A language model whose vocabulary has the task's new tokens, and a head.

  Attributes:
    clf: the head's parameters (`model/heads.py`).
  """

  clf: dict = dataclasses.field(default_factory=dict)
  task: Task | None = None

  def classify(self, examples: Sequence) -> list[Answer]:
    """Returns an answer for each example.

    Args:
      examples: texts, pairs of texts, or texts with choices, whichever the task has.
        Texts that are too long are cut as in training.

    Raises:
      UserError: an example is of another form than the task's, or has an empty text.
    """
    if isinstance(examples, str):
      raise UserError('classify takes several examples; put the one into a list')
    read = [self._example(number, texts) for number, texts in enumerate(examples)]
    if not read:
      return []
    logits = self.task_logits(read)
    if self.task.scores:
      return [Answer(float(s), {}) for s in inputs.answers(self.task, logits)]
    labels = self.task.labels
    return [
      Answer(labels[row.argmax()], dict(zip(labels, row.tolist(), strict=True)))
      for row in inputs.probabilities(logits)
    ]

  def task_logits(
    self,
    examples: Sequence[Example],
    tell: Callable[[str], None] = lambda text: None,
    rows: int = 32,
  ) -> np.ndarray:
    """Returns float32 logits [examples, K] of classes or choices.

    Args:
      tell: called with a line about the examples that had to be cut.
    """
    vocab = self.config.vocab - inputs.NEW_TOKENS
    data = inputs.inputs(
      self.task, examples, self.tokenizer.encode, vocab, self.config.T
    )
    inputs.tell_truncated(str(self.task), data, self.config.T, tell)
    predict = functools.partial(
      _task_logits, self.params, self.clf, gpt=self.gpt, task=self.task
    )
    rows = min(rows, len(examples))
    return inputs.all_logits(data, rows, self.config.T, predict)

  def _example(self, number: int, example) -> Example:
    """Returns a user's texts as an example of the task."""
    kind = self.task.kind
    texts = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    choices = ()
    if kind == 'multiple_choice' and texts and not isinstance(texts[-1], str):
      *texts, choices = texts
    wanted = {'classification': (1,), 'multiple_choice': (1, 2)}.get(kind, (2,))
    fits = len(texts) in wanted and all(
      isinstance(t, str) and t.strip() for t in (*texts, *choices)
    )
    if not fits or (kind == 'multiple_choice' and len(choices) != self._choices):
      count = f' ({self._choices} choices)' if kind == 'multiple_choice' else ''
      raise UserError(
        f'example {number} is {example!r}; one of {self.task} is {_FORMS[kind]}'
        f'{count}, and no text of it is empty'
      )
    return Example(tuple(t.strip() for t in texts), tuple(c.strip() for c in choices))

  @property
  def _choices(self) -> int:
    return len(self.task.labels)


@functools.partial(jax.jit, static_argnames=('gpt', 'task'))
def _task_logits(params, clf, batch, *, gpt: GPT, task: Task):
  ids = batch.ids_BCT.reshape(-1, batch.ids_BCT.shape[-1])
  x = gpt.apply({'params': params}, ids)[0].astype(gpt.execution.dtype)
  return task_logits(clf, x, batch, task)
