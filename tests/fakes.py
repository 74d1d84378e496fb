"""Models for tests: made of two functions, or of a golden's weights."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import config
from gpt_jax.decoding.sampling import Model
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.tokenizers import Bytes, Tokenizer


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


def random_bytes_model(T: int, seed: int) -> LanguageModel:
  """Returns a model of random bytes, among them halves of UTF-8 characters."""
  tokenizer = Bytes()
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=T), tokenizer.vocab)
  keys = iter(jax.random.split(jax.random.key(seed), 100))
  params = jax.tree.map(
    lambda p: p + 0.4 * jax.random.normal(next(keys), p.shape), init_params(cfg, 0)
  )
  return LanguageModel(params, GPT(cfg), tokenizer)


def gpt2_of(
  weights: Mapping[str, np.ndarray], L: int, N: int, tokenizer: Tokenizer
) -> LanguageModel:
  """Returns the GPT-2 of parameters by their names in model/gpt.py, joined by '/'."""
  (T, D), vocab = weights['wpe'].shape, len(weights['wte'])
  sizes = config.Model(L=L, D=D, N=N, T=T, activation='gelu_tanh')
  cfg = GPTConfig.of(sizes, vocab)
  params = {}
  for name, array in weights.items():
    *rooms, leaf = name.split('/')
    if name == 'wte':
      array = np.pad(array, ((0, cfg.V - vocab), (0, 0)))
    node = params
    for room in rooms:
      node = node.setdefault(room, {})
    node[leaf] = array
  return LanguageModel(params, GPT(cfg), tokenizer)
