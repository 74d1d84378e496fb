"""Labelled examples as GPT-1 reads them: token sequences, batches of them, targets.

Radford et al. 2018, section 3.3 and figure 1. Three tokens are new to the model: start,
delimiter and extract; the head reads the hidden state at the last. They follow the
model's own entries, in this order.

  classification   <s> text <e>
  entailment       <s> premise $ hypothesis <e>
  similarity       <s> a $ b <e>  and  <s> b $ a <e>, whose hidden states are summed
  multiple choice  <s> passage question $ choice <e>, for each choice

Letters: B examples, C sequences of an example, T positions, K classes or choices.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from gpt_jax.config.length import Stage, rows_read, stage_at, updates_for
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.labelled_table import Task

NEW_TOKENS = 3  # start, delimiter, extract


@flax.struct.dataclass
class TaskBatch:
  """Examples of a task.

  Attributes:
    ids_BCT: int32 tokens; after the extract token, any.
    length_BC: int32, real tokens of each sequence, the extract token being the last.
    target_BK: float32, the probability that each class or choice should have.
    w_B: float32, 1 for an example, 0 for a row that only fills the batch.
    row_B: int32, the example's number in the whole batch: dropout is drawn by it.
  """

  ids_BCT: jax.Array
  length_BC: jax.Array
  target_BK: jax.Array
  w_B: jax.Array
  row_B: jax.Array

  @property
  def tokens(self) -> int:
    """Tokens that are computed, padding included."""
    return self.ids_BCT.size


class Inputs(NamedTuple):
  """The examples of a split, as sequences.

  Attributes:
    sequences: of each example, C arrays of ids.
    targets: [examples, K], as in `TaskBatch`; zeros where there is no label.
    truncated: examples of which a text was cut.
  """

  sequences: list[tuple[np.ndarray, ...]]
  targets: np.ndarray
  truncated: int

  @property
  def lengths(self) -> np.ndarray:
    """The longest sequence of each example, tokens."""
    return np.array([max(map(len, each)) for each in self.sequences])


def classes(task: Task) -> int:
  """Returns K: how many classes or choices a task has.

  The scores of a regression are classes too: its whole numbers.
  """
  if task.scores:
    low, high = task.scores
    return round(high - low) + 1
  return len(task.labels)


def sequences_each(task: Task) -> int:
  """Returns C: how many sequences an example of a task is."""
  return {'similarity': 2, 'multiple_choice': len(task.labels)}.get(task.kind, 1)


def inputs(
  task: Task,
  examples: Sequence[Example],
  encode: Callable[[str], Sequence[int]],
  vocab: int,
  T: int,
) -> Inputs:
  """Returns examples as sequences of at most T tokens.

  Texts are cut as in openai/finetune-transformer-lm (train.py): of two, each to its
  first T // 2 - 2 tokens (254 of GPT-1's 512). Differs: a single text may have T - 2;
  of a passage with a question the passage is cut, so that the question stays.

  Args:
    encode: text -> ids, all below `vocab`.
    vocab: entries of the model; the new tokens are vocab .. vocab + 2.
    T: its context.
  """
  start, delimiter, extract = range(vocab, vocab + NEW_TOKENS)
  cut = 0

  def part(text: str, most: int, end: str = '') -> list[int]:
    """Returns at most `most` ids of a text; if it is cut, `end` is kept."""
    nonlocal cut
    ids = list(encode(f'{text} {end}' if end else text))
    if len(ids) <= most:
      return ids
    cut += 1
    kept = list(encode(f' {end}'))[:most] if end else []
    return ids[: most - len(kept)] + kept

  def joined(*parts: list[int]) -> np.ndarray:
    ids = [start]
    for each in parts:
      ids += each + [delimiter]
    return np.array(ids[:-1] + [extract], np.int32)

  sequences, truncated = [], 0
  for example in examples:
    cut = 0
    if task.kind == 'classification':
      sequence = (joined(part(example.texts[0], T - 2)),)
    elif task.kind == 'multiple_choice':
      passage, *question = example.texts
      context = part(passage, T // 2 - 2, ' '.join(question))
      sequence = tuple(joined(context, part(c, T // 2 - 2)) for c in example.choices)
    else:
      a, b = (part(text, T // 2 - 2) for text in example.texts)
      sequence = (joined(a, b), joined(b, a))[: sequences_each(task)]
    sequences.append(sequence)
    truncated += cut > 0
  targets = np.stack([_target(task, example.label) for example in examples])
  return Inputs(sequences, targets, truncated)


def tell_truncated(
  name: str, data: Inputs, T: int, tell: Callable[[str], None]
) -> None:
  """Reports how many examples had to be cut."""
  if data.truncated:
    tell(
      f'{name}: a text of {data.truncated:,} of {len(data.sequences):,} examples is '
      f'cut to fit into the context of {T} tokens'
    )


def _target(task: Task, label: int | float | None) -> np.ndarray:
  """Returns the probabilities [K] that stand for a label.

  A score is shared by the two whole numbers around it, so that it is their mean (Tai et
  al. 2015, section 4.2), as in the release (utils.py).
  """
  target = np.zeros(classes(task), np.float32)
  if label is None:
    return target
  at = label - task.scores[0] if task.scores else label
  low = math.floor(at)
  target[low] = 1 - (at - low)
  if at > low:
    target[low + 1] = at - low
  return target


def answers(task: Task, logits_EK: np.ndarray) -> np.ndarray:
  """Returns a model's prediction for each example: a label, or a score."""
  if not task.scores:
    return np.argmax(logits_EK, -1)
  p = probabilities(logits_EK)
  return p @ np.arange(p.shape[-1]) + task.scores[0]


def probabilities(logits_EK: np.ndarray) -> np.ndarray:
  """Returns the softmax of each example's logits, float64."""
  logits = np.asarray(logits_EK, np.float64)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def padded_length(length: int, T: int) -> int:
  """Returns the length that a sequence is padded to: 2^n or 3 * 2^n, at most T.

  So few programs are compiled, and little padding is computed.
  """
  size = 16
  while size < length:
    size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
  return min(size, T)


class Order:
  """The order in which a run reads its examples: a function of (seed, update).

  Every epoch has each example once. By 'length', examples are sorted into buckets by
  `padded_length`, and each batch comes from one bucket; examples that do not fill a
  batch join the next larger bucket. With `config.Run.batch_ramp`, batches have the size
  of the first updates, and a later update reads several, padded to the longest. Seeds
  differ in which examples of a bucket share a batch, never in the length of an update's
  batch, so they can train together. Differs: GPT-1's batches are of any lengths; that
  is 'random'. And what is left of an epoch's examples is a batch too, however small.
  """

  def __init__(self, lengths: np.ndarray, stages: list[Stage], T: int, by: str):
    """Divides examples into batches.

    Args:
      lengths: of the examples [tokens], at most T.
    """
    known, which = np.unique(lengths, return_inverse=True)
    sizes = np.array([padded_length(int(n), T) for n in known])[which]
    if by == 'random':
      sizes[:] = sizes.max()
    self.stages, self.unit = stages, stages[0].rows
    self.buckets = [
      (int(size), np.flatnonzero(sizes == size)) for size in np.unique(sizes)
    ]
    # The padded length of each batch of an epoch, before their order is drawn.
    self.sizes, left = [], 0
    for size, members in self.buckets:
      full, left = divmod(len(members) + left, self.unit)
      self.sizes += [size] * full
    self.sizes += [self.buckets[-1][0]] * (left > 0)
    self._known = {}  # groups by (epoch, seed), of few epochs

  def updates(self, epochs: int) -> int:
    """Returns the updates that read so many epochs."""
    rows = epochs * len(self.sizes) * self.unit
    return updates_for(self.stages, rows)

  def _groups(self, seed: int, epoch: int) -> list[np.ndarray]:
    if (epoch, seed) not in self._known:
      self._known = {k: v for k, v in self._known.items() if abs(k[0] - epoch) < 2}
      self._known[epoch, seed] = self._drawn(seed, epoch)
    return self._known[epoch, seed]

  def _drawn(self, seed: int, epoch: int) -> list[np.ndarray]:
    random = np.random.default_rng((seed, epoch))
    groups, left = [], np.array([], int)
    for _, members in self.buckets:
      members = random.permutation(np.concatenate([left, members]))
      full = len(members) // self.unit * self.unit
      groups += np.split(members[:full], full // self.unit) if full else []
      left = members[full:]
    return groups + [left] * (len(left) > 0)

  def at(self, seed: int, step: int) -> tuple[np.ndarray, int, int]:
    """Returns the examples of the update that follows `step`, its rows and length."""
    rows = stage_at(self.stages, step).rows
    first = rows_read(self.stages, step) // self.unit
    chosen, sizes = [], []
    for number in range(first, first + rows // self.unit):
      epoch, i = divmod(number, len(self.sizes))
      place = np.random.default_rng(epoch).permutation(len(self.sizes))[i]
      chosen.append(self._groups(seed, epoch)[place])
      sizes.append(self.sizes[place])
    return np.concatenate(chosen), rows, max(sizes)


def batch(data: Inputs, chosen: np.ndarray, rows: int, T: int) -> TaskBatch:
  """Returns chosen examples, padded to T tokens, and rows that fill the batch."""
  C, K = len(data.sequences[0]), data.targets.shape[1]
  padded = TaskBatch(
    ids_BCT=np.zeros((rows, C, T), np.int32),
    length_BC=np.ones((rows, C), np.int32),
    target_BK=np.zeros((rows, K), np.float32),
    w_B=(np.arange(rows) < len(chosen)).astype(np.float32),
    row_B=np.arange(rows, dtype=np.int32),
  )
  for row, example in enumerate(chosen):
    for c, ids in enumerate(data.sequences[example]):
      padded.ids_BCT[row, c, : len(ids)] = ids
      padded.length_BC[row, c] = len(ids)
  padded.target_BK[: len(chosen)] = data.targets[chosen]
  return padded


def all_batches(
  data: Inputs, rows: int, T: int
) -> Iterator[tuple[np.ndarray, TaskBatch]]:
  """Yields every example once, by length, for reading alone: (examples, batch)."""
  order = np.argsort(data.lengths, kind='stable')
  for at in range(0, len(order), rows):
    chosen = order[at : at + rows]
    size = padded_length(int(data.lengths[chosen].max()), T)
    yield chosen, batch(data, chosen, rows, size)


def all_logits(
  data: Inputs, rows: int, T: int, predict: Callable[[TaskBatch], np.ndarray]
) -> np.ndarray:
  """Returns logits [..., examples, K], where `predict` gives [..., B, K] of a batch."""
  order, logits = [], []
  for chosen, each in all_batches(data, rows, T):
    order.append(chosen)
    logits.append(np.asarray(predict(each))[..., : len(chosen), :])
  return np.concatenate(logits, axis=-2)[..., np.argsort(np.concatenate(order)), :]
