"""What decoding needs of a model, and that of a GPT."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.cache import Cache
from gpt_jax.model.decode_form import is_fused, read_tokens
from gpt_jax.model.gpt import GPT, empty_cache, last_token, unembed


class Model(NamedTuple):
  """What decoding needs of a model.

  Attributes:
    prefill: (ids_BT, length_B, S) -> (logits_BV, cache of S slots): logits of the
      token after each row's `length` real tokens.
    step: (cache, ids_B) -> (logits_BV, cache): one more token a row.
    branch: (cache, K) -> cache of K beams a row, for which a token takes K slots.
    step_beams: (cache, parent_BK, ids_BK) -> (logits_BKV, cache): beam k continues the
      text of beam parent_BK with a token.
    extend: (cache, ids_BT, length_B) -> as `prefill`, after the texts in the cache.
    share: (cache, B, S) -> cache of B texts that begin as its one, and S more slots.
    ragged: cache -> one whose rows may grow by different numbers of tokens.
    step_ahead: (cache, ids_BT) -> (logits_BTV, cache): T more tokens of each row of a
      ragged one, and logits after each.
    forget: (cache, last_B) -> cache without the last tokens of a row.
  """

  prefill: Callable[[jax.Array, jax.Array, int], tuple[jax.Array, Any]]
  step: Callable[[Any, jax.Array], tuple[jax.Array, Any]]
  branch: Callable[[Any, int], Any]
  step_beams: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
  extend: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]] | None = None
  share: Callable[[Any, int, int], Any] | None = None
  ragged: Callable[[Any], Any] | None = None
  step_ahead: Callable[[Any, jax.Array], tuple[jax.Array, Any]] | None = None
  forget: Callable[[Any, jax.Array], Any] | None = None


def model_of(params: dict, gpt: GPT) -> Model:
  """Returns the decoding contract of a GPT."""
  variables = {'params': params}

  def last_logits(cache, ids_BT, length_B):
    x_BTD, cache = gpt.apply(variables, ids_BT, cache=cache, length_B=length_B)
    return unembed(gpt, params, last_token(x_BTD, length_B)), cache

  def prefill(ids_BT, length_B, S):
    return last_logits(empty_cache(gpt, ids_BT.shape[0], S), ids_BT, length_B)

  def step(cache, ids_B):
    if is_fused(gpt, params):
      logits_B1V, cache = read_tokens(gpt, params, cache, ids_B[:, None])
      return logits_B1V[:, 0], cache
    return last_logits(cache, ids_B[:, None], jnp.ones_like(ids_B))

  def step_beams(cache, parent_BK, ids_BK):
    if is_fused(gpt, params):
      return read_tokens(gpt, params, cache.follow(parent_BK), ids_BK)
    x_BKD, cache = gpt.apply(variables, ids_BK, cache=cache.follow(parent_BK))
    return unembed(gpt, params, x_BKD), cache

  def step_ahead(cache, ids_BT):
    (B, T), V = ids_BT.shape, gpt.config.V
    length_B = jnp.full(B, T)
    x_BTD, cache = gpt.apply(variables, ids_BT, cache=cache, length_B=length_B)
    # One axis of rows, as `unembed` has a faster form for it.
    logits_XV = unembed(gpt, params, x_BTD.reshape(B * T, -1))
    return logits_XV.reshape(B, T, V), cache

  return Model(
    prefill=prefill,
    step=step,
    branch=Cache.branch,
    step_beams=step_beams,
    extend=last_logits,
    share=Cache.shared,
    ragged=Cache.ragged,
    step_ahead=step_ahead,
    forget=Cache.forget,
  )
