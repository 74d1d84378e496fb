"""Greedy decoding and sampling with a KV cache, in one compiled loop.

Any model fits that offers the contract of `Model` below; `model_of` makes it of a GPT.
Prompts of different lengths share a batch without touching each other: padding follows
a prompt and is masked, positions count real tokens only.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.decoding.rules import Sampling, draw
from gpt_jax.model.gpt import GPT, Shape, empty_cache


class Model(NamedTuple):
  """What decoding asks of a model.

  Attributes:
    prefill: (ids_BT, length_B, S) -> (logits_BV, cache of S slots): logits of the
      token after each row's `length` real tokens.
    step: (cache, ids_B) -> (logits_BV, cache): one more token a row.
  """

  prefill: Callable[[jax.Array, jax.Array, int], tuple[jax.Array, Any]]
  step: Callable[[Any, jax.Array], tuple[jax.Array, Any]]


def model_of(params: dict, shape: Shape) -> Model:
  """Returns the decoding contract of a GPT."""

  def extend(cache, ids_BT, length_B):
    variables = {'params': params}
    return GPT(shape).apply(variables, ids_BT, cache=cache, length_B=length_B)

  def prefill(ids_BT, length_B, S):
    return extend(empty_cache(shape, ids_BT.shape[0], S), ids_BT, length_B)

  def step(cache, ids_B):
    return extend(cache, ids_B[:, None], jnp.ones_like(ids_B))

  return Model(prefill, step)


@flax.struct.dataclass
class Decoding:
  """Where a batch stands.

  Attributes:
    cache: the model's, with all tokens but the last one drawn.
    ids_BG: int32, new tokens; end-of-text from the first end-of-text on.
    logp_BG: float32, the model's own log p of each (before the rules) [nats]; 0 after
      the first end-of-text.
    done_B: bool, rows that drew end-of-text.
    key_B: each row's PRNG key; the token at n is drawn with its n-th fold.
    n: int32 scalar, tokens drawn a row.
  """

  cache: Any
  ids_BG: jax.Array
  logp_BG: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  n: jax.Array


def _add(state: Decoding, logits_BV, sampling: Sampling, eot: int) -> Decoding:
  """Returns the state with one more token a row, drawn from the logits."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  ids_B = draw(logits_BV, fold(state.key_B, state.n), sampling)
  ids_B = jnp.where(state.done_B, eot, ids_B)
  logp_BV = jax.nn.log_softmax(logits_BV)
  logp_B = jnp.take_along_axis(logp_BV, ids_B[:, None], axis=-1)[:, 0]
  logp_B = jnp.where(state.done_B, 0, logp_B)
  put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.n, axis=1)
  return state.replace(
    ids_BG=put(state.ids_BG, ids_B[:, None]),
    logp_BG=put(state.logp_BG, logp_B[:, None]),
    done_B=state.done_B | (ids_B == eot),
    n=state.n + 1,
  )


def begin(
  model: Model,
  ids_BP: jax.Array,
  length_B: jax.Array,
  key_B: jax.Array,
  *,
  G: int,
  sampling: Sampling,
  eot: int,
) -> Decoding:
  """Returns the state after the first new token of each row, with room for G."""
  B, P = ids_BP.shape
  logits_BV, cache = model.prefill(ids_BP, length_B, P + G)
  state = Decoding(
    cache=cache,
    ids_BG=jnp.full((B, G), eot, jnp.int32),
    logp_BG=jnp.zeros((B, G)),
    done_B=jnp.zeros(B, bool),
    key_B=key_B,
    n=jnp.int32(0),
  )
  return _add(state, logits_BV, sampling, eot)


def advance(model: Model, state: Decoding, *, sampling: Sampling, eot: int) -> Decoding:
  """Returns the state after one more token of each row."""
  last_B = jax.lax.dynamic_index_in_dim(state.ids_BG, state.n - 1, 1, keepdims=False)
  logits_BV, cache = model.step(state.cache, last_B)
  return _add(state.replace(cache=cache), logits_BV, sampling, eot)


@partial(jax.jit, static_argnames=('shape', 'G', 'sampling', 'eot'))
def _begin(params, ids_BP, length_B, key_B, *, shape, G, sampling, eot):
  model = model_of(params, shape)
  return begin(model, ids_BP, length_B, key_B, G=G, sampling=sampling, eot=eot)


@partial(jax.jit, static_argnames=('shape', 'sampling', 'eot'), donate_argnames='state')
def _advance(params, state, *, shape, sampling, eot):
  return advance(model_of(params, shape), state, sampling=sampling, eot=eot)


@partial(jax.jit, static_argnames=('shape', 'G', 'sampling', 'eot'))
def _generate(params, ids_BP, length_B, key_B, limit, *, shape, G, sampling, eot):
  model = model_of(params, shape)
  state = begin(model, ids_BP, length_B, key_B, G=G, sampling=sampling, eot=eot)
  state = jax.lax.while_loop(
    lambda state: (state.n < limit) & ~state.done_B.all(),
    partial(advance, model, sampling=sampling, eot=eot),
    state,
  )
  return state.ids_BG, state.logp_BG


def _bucket(n: int) -> int:
  """Returns the power of two, at least 16, that holds n: lengths share programs."""
  return max(16, 1 << (n - 1).bit_length())


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  length_B = np.array([len(p) for p in prompts], np.int32)
  ids_BP = np.zeros((len(prompts), _bucket(int(length_B.max()))), np.int32)
  for row, prompt in zip(ids_BP, prompts, strict=True):
    row[: len(prompt)] = prompt
  return ids_BP, length_B


def _room(length: int, wanted: int, T: int) -> int:
  """Returns how many tokens can follow `length` ones before the context is full.

  The last token drawn needs no position: it is not read again.
  """
  return min(wanted, T - length + 1)


class Continuation(NamedTuple):
  """New tokens of a row, up to and with end-of-text, and log p of each [nats]."""

  ids: list[int]
  logp: list[float]


def _until_eot(ids: np.ndarray, logp: np.ndarray, eot: int) -> Continuation:
  ends = np.flatnonzero(ids == eot)
  n = ends[0] + 1 if len(ends) else len(ids)
  return Continuation(ids[:n].tolist(), logp[:n].tolist())


def generate(
  params: dict,
  shape: Shape,
  prompts: Sequence[Sequence[int]],
  keys: jax.Array,
  *,
  max_new_tokens: int,
  sampling: Sampling,
  eot: int,
) -> list[Continuation]:
  """Returns the continuation of each prompt.

  A row's result does not depend on the other rows (up to rounding). Where a text
  outgrows the context, decoding goes on from its last T // 2 tokens, again and again.

  Args:
    params: of the model.
    shape: of the model.
    prompts: token ids, 1 .. T of them each.
    keys: a PRNG key for each prompt.
    max_new_tokens: at most so many; fewer where end-of-text is drawn.
    sampling: the rules.
    eot: id of end-of-text.
  """
  T = shape.T
  if max(map(len, prompts)) + max_new_tokens - 1 > T:
    # Rows whose contexts fill up at different tokens cannot share a batch.
    lengths = sorted({len(p) for p in prompts})
  else:
    lengths = [None]
  results = [Continuation([], []) for _ in prompts]
  for length in lengths:
    rows = [i for i, p in enumerate(prompts) if length in (None, len(p))]
    texts = {i: list(prompts[i]) for i in rows}
    drawn = 0
    while rows and drawn < max_new_tokens:
      if drawn:
        texts = {i: texts[i][-max(1, T // 2) :] for i in rows}
      ids_BP, length_B = _padded([texts[i] for i in rows])
      n = _room(int(length_B.max()), max_new_tokens - drawn, T)
      fold = jax.vmap(jax.random.fold_in, (0, None))
      ids_BG, logp_BG = _generate(
        params,
        ids_BP,
        length_B,
        fold(keys[np.array(rows)], drawn),
        n,
        shape=shape,
        G=_bucket(n),
        sampling=sampling,
        eot=eot,
      )
      ids_BG, logp_BG = np.asarray(ids_BG)[:, :n], np.asarray(logp_BG)[:, :n]
      for i, ids, logp in zip(rows, ids_BG, logp_BG, strict=True):
        new = _until_eot(ids, logp, eot)
        results[i].ids.extend(new.ids)
        results[i].logp.extend(new.logp)
        texts[i] += new.ids
      drawn += n
      rows = [i for i in rows if results[i].ids[-1] != eot]
  return results


def stream(
  params: dict,
  shape: Shape,
  prompt: Sequence[int],
  key: jax.Array,
  *,
  max_new_tokens: int,
  sampling: Sampling,
  eot: int,
) -> Iterator[int]:
  """Yields the tokens of `generate` for one prompt, each as soon as it is drawn."""
  T = shape.T
  static = {'shape': shape, 'sampling': sampling, 'eot': eot}
  text, drawn = list(prompt), 0
  while drawn < max_new_tokens:
    ids_BP, length_B = _padded([text])
    n = _room(len(text), max_new_tokens - drawn, T)
    key_B = jax.random.fold_in(key, drawn)[None]
    state = _begin(params, ids_BP, length_B, key_B, G=_bucket(n), **static)
    for i in range(n):
      token = int(state.ids_BG[0, i])
      text.append(token)
      yield token
      if token == eot:
        return
      if i + 1 < n:
        state = _advance(params, state, **static)
    text = text[-max(1, T // 2) :]
    drawn += n
