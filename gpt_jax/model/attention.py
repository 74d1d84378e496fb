"""Causal self-attention over a block of new tokens and, when decoding, a cache."""

import flax.struct
import jax
import jax.numpy as jnp

from gpt_jax.model.layers import Dropout, apply_dropout


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens read so far.

  A slot is a place in the cache, a position is a place in the text. They differ when
  prompts of several lengths share a batch: every row writes the same slots (a cheap
  contiguous update) and `valid_BS` says which of them hold its tokens.

  Attributes:
    kv: per layer, keys and values, each [B, N, S, H].
    valid_BS: bool, slots that hold a token of the row.
    fill_B: int32, tokens of the row in the cache: the position of its next token.
    slot: int32 scalar, the next slot to write.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  valid_BS: jax.Array
  fill_B: jax.Array
  slot: jax.Array


def allowed_keys(valid_BS: jax.Array, slot: jax.Array, T: int) -> jax.Array:
  """Returns bool [B, 1, T, S]: may query t, written to slot + t, see key slot s?"""
  s = jnp.arange(valid_BS.shape[1])
  causal_TS = s[None, :] <= (slot + jnp.arange(T))[:, None]
  return (causal_TS[None] & valid_BS[:, None, :])[:, None]


def attend(
  q_BNTH: jax.Array,
  k_BNSH: jax.Array,
  v_BNSH: jax.Array,
  allowed: jax.Array,
  drop: Dropout | None,
) -> jax.Array:
  """Returns softmax(q k' / sqrt(H)) v, [B, N, T, H], in the dtype of q.

  Heads come before positions, so that both products are plain batched matrix
  products; on a CPU that is faster than einsum over [B, T, N, H].

  Args:
    q_BNTH: queries.
    k_BNSH: keys.
    v_BNSH: values.
    allowed: bool, broadcasts against [B, N, T, S]; every query needs one key.
    drop: dropout on the attention weights, or None.
  """
  a_BNTS = jnp.matmul(
    q_BNTH * q_BNTH.shape[-1] ** -0.5,
    k_BNSH.swapaxes(-1, -2),
    preferred_element_type=jnp.float32,
  )
  a_BNTS = jnp.where(allowed, a_BNTS, jnp.finfo(jnp.float32).min)
  p_BNTS = apply_dropout(jax.nn.softmax(a_BNTS), drop).astype(q_BNTH.dtype)
  return jnp.matmul(p_BNTS, v_BNSH)
