"""Models for tests of decoding, made of two functions."""

import jax
import jax.numpy as jnp

from gpt_jax.decoding.sampling import Model


def model_by_rows(prefill, step) -> Model:
  """Returns a model whose beams are rows of a cache with B leading on every leaf."""

  def branch(cache, K):
    return jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), cache)

  def step_beams(cache, parent_BK, ids_BK):
    B, K = ids_BK.shape
    row_X = (jnp.arange(B)[:, None] * K + parent_BK).reshape(-1)
    cache = jax.tree.map(lambda x: x[row_X], cache)
    logits_XV, cache = step(cache, ids_BK.reshape(-1))
    return logits_XV.reshape(B, K, -1), cache

  return Model(prefill, step, branch, step_beams)
