"""Likelihoods: of held-out text, and of a continuation after a context."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.batches import Batch
from gpt_jax.model.gpt import GPT, Shape
from gpt_jax.training import loss


def held_out_nll(
  eval_step: Callable, params: dict, batches: Iterator[Batch]
) -> tuple[float, int]:
  """Returns (sum of -log p [nats], number of targets) over all batches."""
  sums = [eval_step(params, batch) for batch in batches]
  nll, count = np.sum(np.array(sums, np.float64), axis=0)
  return float(nll), int(count)


def held_out_metrics(nll: float, count: int, bytes_per_token: float) -> dict:
  """Returns what is reported of held-out text.

  Args:
    nll: sum of -log p over the targets [nats].
    count: number of targets.
    bytes_per_token: UTF-8 bytes of the whole held-out text for each of its targets.

  Returns:
    valid_nll [nats/token], valid_ppl (its exponential) and valid_bpb [bits/byte],
    which alone compares models with different tokenizers.
  """
  mean = nll / count
  return {
    'valid_nll': mean,
    'valid_ppl': math.exp(min(mean, 700)),
    'valid_bpb': mean / math.log(2) / bytes_per_token,
  }


@partial(jax.jit, static_argnames='shape')
def _nll_BT(params, ids_BT, y_BT, *, shape):
  logits_BTV, _ = GPT(shape).apply({'params': params}, ids_BT)
  return loss.nll_BT(logits_BTV, y_BT)


def continuation_logp(
  params: dict, shape: Shape, context: list[int], continuation: list[int]
) -> list[float]:
  """Returns log p of each token of the continuation [nats] after the context.

  Where the two outgrow the model's context, the beginning of `context` is left out.

  Raises:
    UserError: no context (end-of-text stands for an empty one), an empty continuation,
      or one longer than the model's context.
  """
  if not context or not continuation or len(continuation) > shape.T:
    raise UserError(
      f'a context of {len(context)} tokens and a continuation of {len(continuation)} '
      f'cannot be scored: there must be 1 or more, and 1 .. {shape.T}'
    )
  ids = (list(context) + list(continuation))[-shape.T - 1 :]
  n = len(ids) - 1
  # Padding to a power of two lets texts of many lengths share a program.
  width = min(shape.T, 1 << (n - 1).bit_length())
  padded = np.zeros(width + 1, np.int32)
  padded[: n + 1] = ids
  nll = _nll_BT(params, padded[None, :-1], padded[None, 1:], shape=shape)[0]
  return (-np.asarray(nll)[n - len(continuation) : n]).tolist()
