"""Likelihoods: of held-out text, and of a continuation after a context."""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.batches import Batch
from gpt_jax.decoding.sample import power_of_two
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


class TokenScores(NamedTuple):
  """The likelihood of a continuation, token by token.

  Attributes:
    logp: log p of each token [nats].
    best: whether each was the likeliest token in its place.
  """

  logp: list[float]
  best: list[bool]


@partial(jax.jit, static_argnames='shape')
def _nll_and_best(params, ids_BT, y_BT, *, shape):
  logits_BTV, _ = GPT(shape).apply({'params': params}, ids_BT)
  return loss.nll_BT(logits_BTV, y_BT), logits_BTV.argmax(-1) == y_BT


def score_continuations(
  params: dict,
  shape: Shape,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  rows: int = 4,
) -> list[TokenScores]:
  """Returns the scores of many continuations, each after its own context, in order.

  Where the two outgrow the model's context, the beginning of the context is left out.

  Args:
    params: the parameters.
    shape: of the model.
    pairs: ids of contexts and of their continuations.
    rows: full contexts of a batch, which holds their logits: rows * T * V floats.
      Shorter texts go more to a batch.

  Raises:
    UserError: no context (end-of-text stands for an empty one), an empty continuation,
      or one longer than the model's context.
  """
  texts, by_width = [], collections.defaultdict(list)
  for i, (context, continuation) in enumerate(pairs):
    if not len(context) or not 1 <= len(continuation) <= shape.T:
      raise UserError(
        f'a context of {len(context)} tokens and a continuation of {len(continuation)} '
        f'cannot be scored: there must be 1 or more, and 1 .. {shape.T}'
      )
    texts.append((list(context) + list(continuation))[-shape.T - 1 :])
    # Padding to powers of two lets texts of many lengths, and batches, share programs.
    by_width[min(shape.T, power_of_two(len(texts[i]) - 1))].append(i)

  found = [TokenScores([], [])] * len(texts)
  for width, members in sorted(by_width.items()):
    B = min(rows * shape.T // width, power_of_two(len(members)))
    for some in (members[at : at + B] for at in range(0, len(members), B)):
      padded = np.zeros((B, width + 1), np.int32)
      for row, i in enumerate(some):
        padded[row, : len(texts[i])] = texts[i]
      scores = _nll_and_best(params, padded[:, :-1], padded[:, 1:], shape=shape)
      nll, best = map(np.asarray, scores)
      for row, i in enumerate(some):
        end = len(texts[i]) - 1
        new = slice(end - len(pairs[i][1]), end)
        found[i] = TokenScores((-nll[row, new]).tolist(), best[row, new].tolist())
  return found


def continuation_logp(
  params: dict, shape: Shape, context: list[int], continuation: list[int]
) -> list[float]:
  """Returns log p of each token of one continuation; see `score_continuations`."""
  return score_continuations(params, shape, [(context, continuation)])[0].logp
