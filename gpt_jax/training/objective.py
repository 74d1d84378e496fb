"""What an update minimises: sums over a batch, divided by how much was summed.

A sum and its count are added over micro-batches and devices before the division, so
neither of them, nor a device that holds fewer targets, changes the loss.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, output_factors, output_matrix, unembed
from gpt_jax.model.heads import task_logits
from gpt_jax.model.layers import Dropout
from gpt_jax.tasks.inputs import TaskBatch
from gpt_jax.tasks.labelled_table import Task
from gpt_jax.training import loss, narrow_loss
from gpt_jax.training.optim import Hyper
from gpt_jax.training.transfer import assembled

_ALL_ROWS = 2**31 - 1  # the number of no row: the key of what all rows share


class Objective(Protocol):
  """What `step.train_step` needs of an objective."""

  gpt: GPT

  def count(self, batch) -> jax.Array:
    """Returns what the sums over a batch are divided by, a scalar."""

  def sums(
    self, trained: dict, fixed: dict, batch, hp: Hyper, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum to minimise, and the sums to log, among them 'loss'.

    Args:
      trained: the tree that gradients are for.
      fixed: the parameters that are not trained.
      batch: leaves [B, ...].
      step: updates done: dropout is drawn by it.
    """


def dropout(hp: Hyper, step: jax.Array, row_B: jax.Array) -> Dropout:
  """Returns the draw of an update: a function of (seed, step, row) and no more."""
  key = jax.random.fold_in(jax.random.key(hp.seed), step)
  rows = jax.vmap(jax.random.fold_in, (None, 0))(key, row_B)
  return Dropout(rows, hp.dropout, jax.random.fold_in(key, _ALL_ROWS))


@dataclasses.dataclass(frozen=True)
class LanguageModeling:
  """The mean of -log p over the targets of a batch [nats/token].

  Attributes:
    loss_chunk: as in `config.Run`.
  """

  gpt: GPT
  dropout: bool = False
  loss_chunk: int = 0

  @classmethod
  def of(cls, run: config.Run, gpt: GPT) -> 'LanguageModeling':
    """Returns the objective of a run."""
    return cls(gpt, run.model.dropout > 0, run.loss_chunk)

  def count(self, batch: Batch) -> jax.Array:
    """Returns the number of targets."""
    return batch.w_BT.sum()

  def sums(
    self, trained: dict, fixed: dict, batch: Batch, hp: Hyper, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the sum of -log p over the targets [nats], twice."""
    drop = dropout(hp, step, batch.row_B) if self.dropout else None
    narrow = self.gpt.execution.fused
    nll = self.nll_sum(trained | fixed, batch, drop, narrow)
    return nll, {'loss': nll}

  def nll_sum(
    self,
    params: dict,
    batch: Batch,
    drop: Dropout | None = None,
    narrow: bool = False,
  ) -> jax.Array:
    """Returns the sum of -log p over the targets of leaves [B, ...] [nats].

    Args:
      narrow: whether logits are rounded to the compute dtype. An update's may be; an
        evaluation's are float32.
    """
    gpt = self.gpt
    # Rows may be shorter than the context; gcd(0, T) = T: all of them.
    chunk = math.gcd(self.loss_chunk, batch.y_BT.shape[1])
    if gpt.execution.gathered:  # embeddings, for look-up and output at once
      layers = {name: leaf for name, leaf in params.items() if name.startswith('h_')}
      ends = {name: leaf for name, leaf in params.items() if name not in layers}
      params = gpt.execution.gathered(ends) | layers
    x_BTD, _ = gpt.apply(
      {'params': params}, batch.ids_BT, drop=drop, first_BT=batch.first_BT
    )
    how = gpt.execution
    parts = how.gathered.parts(how.rows) if how.gathered else None
    if narrow:
      return narrow_loss.nll_sum(
        (x_BTD / gpt.config.width).astype(gpt.execution.dtype),
        output_matrix(gpt, params, drop),
        batch.y_BT,
        batch.w_BT,
        gpt.config.vocab,
        chunk,
        parts,
      )
    if not self.loss_chunk:
      logits_BTV = unembed(gpt, params, x_BTD, drop)
      return loss.nll_sum(logits_BTV, batch.y_BT, batch.w_BT)
    x_BTD, head_VD = output_factors(gpt, params, x_BTD, drop)
    return loss.chunked_nll_sum(
      x_BTD,
      head_VD,
      batch.y_BT,
      batch.w_BT,
      vocab=gpt.config.vocab,
      chunk=chunk,
      gradients=how.gradients,
      parts=parts,
    )


@dataclasses.dataclass(frozen=True)
class LabelledTask:
  """L3 = L2 + lambda * L1 of GPT-1, section 3.2, with their signs changed.

  L2 is -log p(label), L1 the loss of the language model, lambda `config.Task.aux`; each
  example weighs 1 in either.

  Differs: the release's softmax over tokens runs over the rows of position embeddings
  too, which share its matrix (openai/finetune-transformer-lm, train.py); ours does not.

  Attributes:
    gpt: the model with the task's new tokens.
    tuning: which losses and parameters there are; numbers come from `Hyper`.
    loss_chunk: as in `config.Run`.
  """

  gpt: GPT
  task: Task
  tuning: config.Task
  dropout: bool = False
  loss_chunk: int = 0

  @classmethod
  def of(cls, run: config.Run, gpt: GPT, task: Task) -> 'LabelledTask':
    """Returns the objective of a run; `gpt` has the new tokens."""
    return cls(gpt, task, run.task, run.model.dropout > 0, run.loss_chunk)

  def count(self, batch: TaskBatch) -> jax.Array:
    """Returns the number of examples."""
    return batch.w_B.sum()

  def sums(
    self, trained: dict, fixed: dict, batch: TaskBatch, hp: Hyper, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns L3 summed over examples; and L2 ('loss') and L1 ('lm_loss')."""
    drop = clf_drop = None
    if self.dropout:
      C = batch.ids_BCT.shape[1]
      rows = batch.row_B[:, None] * C + jnp.arange(C)
      drop = dropout(hp, step, rows.reshape(-1))
    if self.tuning.dropout:
      place = self.gpt.config.L + 2  # behind those of the model
      clf_drop = dropout(hp, step, batch.row_B).at(place)
      clf_drop = clf_drop.replace(rate=hp.clf_dropout)
    nll, lm = self.losses(trained | fixed, batch, drop, clf_drop)
    return nll + hp.aux * lm, {'loss': nll, 'lm_loss': lm}

  def losses(
    self,
    tree: dict,
    batch: TaskBatch,
    drop: Dropout | None = None,
    clf_drop: Dropout | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns sums over examples: L2, and L1, which is 0 where lambda is.

    Args:
      tree: all parameters (`training/transfer.py`).
      batch: leaves [B, ...].
      drop: of the model, by sequence.
      clf_drop: before the head, by example.
    """
    gpt = self.gpt
    variables, clf = assembled(tree, self.tuning, gpt.config)
    x = self._states(variables, batch, drop)
    logits_BK = task_logits(clf, x, batch, self.task, clf_drop)
    nll_B = -(batch.target_BK * jax.nn.log_softmax(logits_BK)).sum(-1)
    nll = (nll_B * batch.w_B).sum()
    if not self.tuning.aux:
      return nll, jnp.float32(0)
    y, w = lm_targets(batch)
    lm = loss.chunked_nll_sum(
      *output_factors(gpt, variables['params'], x, drop),
      y,
      w,
      vocab=gpt.config.vocab,
      chunk=math.gcd(self.loss_chunk, y.shape[1]),  # gcd(0, T) = T: all of them
      gradients=gpt.execution.gradients,
    )
    return nll, lm / batch.ids_BCT.shape[1]

  def logits(self, tree: dict, batch: TaskBatch) -> jax.Array:
    """Returns logits [B, K] of a batch with leaves [B, ...], without dropout."""
    variables, clf = assembled(tree, self.tuning, self.gpt.config)
    return task_logits(clf, self._states(variables, batch), batch, self.task)

  def _states(self, variables, batch, drop=None):
    ids = batch.ids_BCT.reshape(-1, batch.ids_BCT.shape[-1])
    return self.gpt.apply(variables, ids, drop=drop)[0].astype(self.gpt.execution.dtype)


def lm_targets(batch: TaskBatch) -> tuple[jax.Array, jax.Array]:
  """Returns targets and weights of a task's language-model loss, [B * C, T].

  A sequence's targets are its tokens but the first, delimiter and extract tokens
  included; its loss is their mean, and the batch's that of its sequences, right and
  wrong choices alike (train.py of the release). So weights sum to 1 in a sequence.
  """
  B, C, T = batch.ids_BCT.shape
  ids = batch.ids_BCT.reshape(B * C, T)
  y = jnp.concatenate([ids[:, 1:], ids[:, :1]], axis=1)
  count = batch.length_BC.reshape(B * C, 1) - 1
  inside = jnp.arange(T) < count
  w_B = jnp.repeat(batch.w_B, C)
  return y, inside * (w_B / jnp.maximum(count[:, 0], 1))[:, None]
