"""Likelihoods of held-out text and of continuations after contexts."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch, held_out_batches
from gpt_jax.evaluation import packing
from gpt_jax.model.cache import Tree
from gpt_jax.model.gpt import GPT, empty_cache, unembed
from gpt_jax.training import loss


def held_out_nll(
  eval_step: Callable, params: dict, batches: Iterator[Batch]
) -> tuple[float, int]:
  """Returns (sum of -log p [nats], number of targets) over all batches."""
  sums = [eval_step(params, batch) for batch in batches]
  nll, count = np.sum(np.array(sums, np.float64), axis=0)
  return float(nll), int(count)


def held_out_token_nll(
  params: dict,
  gpt: GPT,
  ids: np.ndarray,
  rows: int,
  documents: np.ndarray | None = None,
) -> np.ndarray:
  """Returns -log p of each target of a held-out text [nats], float64 [tokens - 1].

  The windows are those whose mean is `held_out_metrics`' valid_nll; `rows` of them make
  a batch.

  Args:
    documents: where each begins in `ids`, if they are kept apart.
  """
  parts = []
  windows = held_out_batches(ids, T=gpt.config.T, rows=rows, documents=documents)
  for batch in windows:
    nll_BT = np.asarray(_window_nll(params, batch, gpt=gpt), np.float64)
    parts.append(nll_BT[batch.w_BT > 0])
  return np.concatenate(parts)


@partial(jax.jit, static_argnames='gpt')
def _window_nll(params, batch, *, gpt: GPT):
  x_BTD, _ = gpt.apply({'params': params}, batch.ids_BT, first_BT=batch.first_BT)
  return loss.nll_BT(unembed(gpt, params, x_BTD), batch.y_BT)


def held_out_metrics(nll: float, count: int, bytes_per_token: float) -> dict:
  """Returns the metrics of held-out text.

  Args:
    nll: sum of -log p over the targets [nats].
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
    best: whether each was the most likely token in its place.
    best_allowed: the same among the ids that are not banned.
  """

  logp: list[float]
  best: list[bool]
  best_allowed: list[bool]


@partial(jax.jit, static_argnames=('gpt', 'S'))
def _read(params, ids_BT, length_B, *, gpt: GPT, S: int):
  cache = empty_cache(gpt, 1, S)
  variables = {'params': params}
  return gpt.apply(variables, ids_BT, cache=cache, length_B=length_B)[1]


@partial(jax.jit, static_argnames='gpt')
def _states(params, before, ids_BW, pos_BW, end_BW, *, gpt: GPT):
  """Returns x_BWD, the last hidden states of rows of trees.

  `before` is the cache of the text that all trees follow, of one row, or empty. The
  arrays are those of `packing.Row`.
  """
  B, W = ids_BW.shape
  P = before.pos_BS.shape[1]
  first = jnp.where(before.pos_BS >= 0, P + W, 0)  # padding is seen by nobody

  def behind(old_1PX, new_BWX, axis):
    old_BPX = jnp.broadcast_to(old_1PX, (B, *old_1PX.shape[1:]))
    return jnp.concatenate([old_BPX, new_BWX], axis=axis)

  tree = Tree(
    kv=jax.tree.map(
      lambda old, new: behind(old, new, 2), before.kv, empty_cache(gpt, B, W).kv
    ),
    pos_BS=behind(before.pos_BS, pos_BW, 1),
    end_BS=behind(first, end_BW + P, 1),
    slot=P,
  )
  return gpt.apply({'params': params}, ids_BW, cache=tree)[0]


@partial(jax.jit, static_argnames='gpt')
def _judged(params, x_BWD, at_BC, y_BC, banned_V, *, gpt: GPT):
  """Returns log p of tokens y after the places `at`, and whether they are the best.

  The third result is whether they are the best of the ids that are not `banned_V`
  (bool; None: no id is).
  """
  x_BCD = jnp.take_along_axis(x_BWD, at_BC[..., None], axis=1)
  logits_BCV = unembed(gpt, params, x_BCD)

  def logit(id_BC):
    return jnp.take_along_axis(logits_BCV, id_BC[..., None], axis=-1)[..., 0]

  # Two passes over the logits, no more: their memory is what takes time on a CPU.
  top_BC = logits_BCV.argmax(-1)
  own_BC, most_BC = logit(y_BC), logit(top_BC)
  sum_BC = jnp.exp(logits_BCV - most_BC[..., None]).sum(-1)
  best_BC = best_allowed_BC = top_BC == y_BC
  if banned_V is not None:
    best_allowed_BC = jnp.where(banned_V, -jnp.inf, logits_BCV).argmax(-1) == y_BC
  return own_BC - most_BC - jnp.log(sum_BC), best_BC, best_allowed_BC


def score_continuations(
  params: dict,
  gpt: GPT,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  banned: np.ndarray | None = None,
) -> list[TokenScores]:
  """Returns the scores of many continuations, each after its own context, in order.

  Arguments and errors are those of `scores`.
  """
  by_number = dict(scores(params, gpt, pairs, banned))
  return [by_number[i] for i in range(len(pairs))]


def scores(
  params: dict,
  gpt: GPT,
  pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
  banned: np.ndarray | None = None,
) -> Iterator[tuple[int, TokenScores]]:
  """Yields (number of a pair, the scores of its continuation), in any order.

  If the two outgrow the model's context, the beginning of the context is left out.
  Beginnings that several pairs share are read once (`packing`). Rows are spread over
  the devices.

  Args:
    pairs: ids of contexts and of their continuations.
    banned: bool [V], ids that `best_allowed` leaves out; None: none.

  Raises:
    UserError: no context (end-of-text stands for an empty one), an empty continuation,
      or one longer than the model's context.
  """
  T = gpt.config.T
  for context, continuation in pairs:
    if not len(context) or not 1 <= len(continuation) <= T:
      raise UserError(
        f'a context of {len(context)} tokens and a continuation of {len(continuation)} '
        f'cannot be scored: there must be 1 or more, and 1 .. {T}'
      )
  if pairs:
    yield from _scores(params, gpt, [_text(*p, T) for p in pairs], banned)


def _text(context: Sequence[int], continuation: Sequence[int], T: int) -> packing.Text:
  ids = np.array([*context, *continuation], np.int32)[-T - 1 :]
  return packing.Text(ids, len(ids) - len(continuation))


def _scores(
  params: dict,
  gpt: GPT,
  texts: list[packing.Text],
  banned: np.ndarray | None,
) -> Iterator[tuple[int, TokenScores]]:
  """Yields what `scores` does, of texts that fit."""
  W = _WIDTH if gpt.config.D < 768 else 2 * _WIDTH
  skip = packing.shared(texts)
  if skip * (len(texts) - 1) < 4 * W:
    skip = 0  # not worth a program of its own
  before = empty_cache(gpt, 1, 0)
  if skip:
    P = packing.round_up(skip)
    ids_BP = np.zeros((1, P), np.int32)
    ids_BP[0, :skip] = texts[0].ids[:skip]
    before = _read(params, ids_BP, np.array([skip], np.int32), gpt=gpt, S=P)
  rows = packing.packed(texts, W, skip)
  put, devices = _over_devices()
  if devices > 1:  # kernels of small weights are for one
    gpt = gpt.clone(execution=dataclasses.replace(gpt.execution, quantized='plain'))
  params, before = put(params, False), put(before, False)
  for some in _batches(rows, devices):
    B = -(-len(some) // devices) * devices
    some += [some[0]._replace(asked=[])] * (B - len(some))
    C = packing.round_up(max(row.predictions for row in some), 8)
    at_BC, y_BC = np.zeros((2, B, C), np.int32)
    for b, row in enumerate(some):
      n = row.predictions
      at_BC[b, :n] = np.concatenate([places for _, places in row.asked] or [[]])
      ends = [texts[i].ids[texts[i].known :] for i, _ in row.asked]
      y_BC[b, :n] = np.concatenate(ends or [[]])
    arrays = [np.stack([getattr(row, name) for row in some]) for name in _ARRAYS]
    x_BWD = _states(params, before, *map(put, arrays), gpt=gpt)
    judged = _judged(params, x_BWD, put(at_BC), put(y_BC), banned, gpt=gpt)
    judged = [np.asarray(x) for x in judged]
    for b, row in enumerate(some):
      at = 0
      for i, places in row.asked:
        here = b, slice(at, at := at + len(places))
        yield i, TokenScores(*(x[here].tolist() for x in judged))


_WIDTH = 256  # of a row of a model of less than 768 features
_TOKENS = 8192  # of a batch of rows on an accelerator; on a CPU one row is enough
_ARRAYS = 'ids', 'pos', 'end'


def _batches(rows: list[packing.Row], devices: int) -> Iterator[list[packing.Row]]:
  """Yields rows of one width, as many as go into a batch."""
  for width, members in itertools.groupby(rows, key=lambda row: len(row.ids)):
    members = list(members)
    each = 1 if jax.default_backend() == 'cpu' else max(1, _TOKENS // width)
    size = devices * each
    yield from (members[at : at + size] for at in range(0, len(members), size))


def _places(devices: Sequence[jax.Device], rows: bool) -> jax.sharding.NamedSharding:
  """Returns where the rows of a batch are, or copies of what all of them need."""
  spec = jax.sharding.PartitionSpec(*(['b'] if rows else []))
  return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), 'b'), spec)


def _over_devices() -> tuple[Callable, int]:
  """Returns a function that divides rows over devices (rows=False: copies), and n."""
  devices = jax.local_devices()
  if len(devices) == 1:
    return lambda tree, rows=True: tree, 1
  put = lambda tree, rows=True: jax.device_put(tree, _places(devices, rows))  # noqa: E731
  return put, len(devices)


class Lowered(NamedTuple):
  """The two programs of a batch of `scores`, not compiled.

  Attributes:
    states: reads rows of tokens.
    judged: scores a quarter of them.
    tokens: that are read.
  """

  states: jax.stages.Lowered
  judged: jax.stages.Lowered
  tokens: int


def lowered(params: dict, gpt: GPT, devices: Sequence[jax.Device]) -> Lowered:
  """Returns what `scores` runs for a full batch without a beginning that all share.

  Args:
    params: or their shapes.
    devices: accelerators, which may be absent.
  """
  W = _WIDTH if gpt.config.D < 768 else 2 * _WIDTH
  B = len(devices) * (_TOKENS // W)

  def shapes(tree, rows=True):
    at = _places(devices, rows)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree
    )

  params = shapes(params, False)
  before = shapes(jax.eval_shape(lambda: empty_cache(gpt, 1, 0)), False)
  ids_BW = shapes(jax.ShapeDtypeStruct((B, W), np.int32))
  at_BC = shapes(jax.ShapeDtypeStruct((B, packing.round_up(W // 4, 8)), np.int32))
  arrays = params, before, ids_BW, ids_BW, ids_BW
  x_BWD = shapes(_states.eval_shape(*arrays, gpt=gpt))
  return Lowered(
    _states.lower(*arrays, gpt=gpt),
    _judged.lower(params, x_BWD, at_BC, at_BC, None, gpt=gpt),
    B * W,
  )


def continuation_logp(
  params: dict, gpt: GPT, context: list[int], continuation: list[int]
) -> list[float]:
  """Returns log p of each token of one continuation; see `score_continuations`."""
  return score_continuations(params, gpt, [(context, continuation)])[0].logp
