"""Heads of labelled tasks: hidden states to logits of classes (GPT-1, section 3.2)."""

import jax
import jax.numpy as jnp

from gpt_jax.model.layers import Dropout, apply_dropout
from gpt_jax.tasks.inputs import TaskBatch, classes
from gpt_jax.tasks.labelled_table import Task


def new_head(task: Task, D: int, key: jax.Array) -> dict:
  """Returns a head for hidden states of D features, N(0, 0.02) (the release).

  kernel [D, classes], or [D, 1] of a multiple choice, and bias.
  """
  outputs = 1 if task.kind == 'multiple_choice' else classes(task)
  kernel = 0.02 * jax.random.normal(key, (D, outputs))
  return {'kernel': kernel, 'bias': jnp.zeros(outputs)}


def task_logits(
  clf: dict,
  x: jax.Array,
  batch: TaskBatch,
  task: Task,
  drop: Dropout | None = None,
) -> jax.Array:
  """Returns logits [B, K] of the classes or choices.

  Args:
    x: [B * C, T, D], hidden states of the batch's sequences.
    batch: leaves [B, ...].
    drop: before the head, by example: choices share a draw, as in the release.
  """
  B, C, _ = batch.ids_BCT.shape
  last = batch.length_BC.reshape(B * C, 1, 1) - 1
  h_BCD = jnp.take_along_axis(x, last, axis=1).reshape(B, C, -1).astype(jnp.float32)
  if task.kind == 'multiple_choice':
    if drop is not None:
      keep_BD = apply_dropout(jnp.ones((B, h_BCD.shape[-1])), drop)
      h_BCD = h_BCD * keep_BD[:, None]
    return (h_BCD @ clf['kernel'] + clf['bias'])[..., 0]
  h_BD = apply_dropout(h_BCD.sum(1), drop)  # the two orders of a similarity
  return h_BD @ clf['kernel'] + clf['bias']
