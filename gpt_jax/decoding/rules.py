"""Rules of sampling: functions from logits to logits, in a fixed order.

temperature -> top-k -> top-p, as in GPT-2's released sampler and in Hugging Face.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gpt_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is drawn.

  Attributes:
    temperature: divides the logits; 0 takes the likeliest token (greedy).
    top_k: only the k likeliest tokens, ties with the k-th kept; 0 means all.
    top_p: only the smallest set of likeliest tokens whose mass reaches p; 1 means all.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    wrong = []
    if not self.temperature >= 0:
      wrong.append(f'temperature={self.temperature} must be at least 0 (0 is greedy)')
    if not self.top_k >= 0:
      wrong.append(f'top_k={self.top_k} must be at least 0 (0 keeps all)')
    if not 0 < self.top_p <= 1:
      wrong.append(f'top_p={self.top_p} must be in (0, 1] (1 keeps all)')
    if wrong:
      raise UserError('\n'.join(wrong))


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
  """Returns the logits with all but the k largest of a row (and ties) at -inf."""
  kth_B1 = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
  return jnp.where(logits_BV >= kth_B1, logits_BV, -jnp.inf)


def top_p(logits_BV: jax.Array, p: float) -> jax.Array:
  """Returns the logits with all but the nucleus at -inf.

  The nucleus is the smallest set of likeliest tokens whose probability is at least p
  (Holtzman et al. 2020, section 3.1): the token that reaches p belongs to it.
  Differs: OpenAI's GPT-2 sampler stops one token earlier.
  """
  descending_BV = -jnp.sort(-logits_BV, axis=-1)
  p_BV = jax.nn.softmax(descending_BV)
  before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
  last_B1 = jnp.sum(before_BV < p, axis=-1, keepdims=True) - 1
  floor_B1 = jnp.take_along_axis(descending_BV, last_B1, axis=-1)
  return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)


def draw(logits_BV: jax.Array, key_B: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns a token for each row, drawn with the row's own key, int32 [B]."""
  if sampling.temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  logits_BV = logits_BV / sampling.temperature
  if sampling.top_k:
    logits_BV = top_k(logits_BV, sampling.top_k)
  if sampling.top_p < 1:
    logits_BV = top_p(logits_BV, sampling.top_p)
  return jax.vmap(jax.random.categorical)(key_B, logits_BV).astype(jnp.int32)
