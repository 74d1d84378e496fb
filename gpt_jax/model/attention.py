"""Causal self-attention, dense or banded, and the cache that decoding reads."""

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


def in_band(valid_BS: jax.Array, pos_BT: jax.Array, band: int) -> jax.Array:
  """Returns bool [B, 1, T, S]: is key slot s among the last `band` positions of t?

  Counted in positions, not slots: padding between prompt and continuation takes no
  room in the band.
  """
  pos_BS = jnp.cumsum(valid_BS, axis=1) - 1
  return (pos_BT[:, :, None] - pos_BS[:, None, :] < band)[:, None]


def attend_banded(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  band: int,
  drop: Dropout | None,
) -> jax.Array:
  """Returns attention where a position sees the last `band` positions, its own too.

  The locally banded attention of the Sparse Transformer (Child et al. 2019), which
  GPT-3 alternates with dense layers (section 2.1). Queries go in blocks of `band`, each
  against its own block of keys and the one before: T * 2 band products of vectors
  instead of T * T, and no [T, T] array.
  """
  B, N, T, H = q_BNTH.shape
  n = -(-T // band)

  def blocks(x_BNTH):
    padded = jnp.pad(x_BNTH, ((0, 0), (0, 0), (0, n * band - T), (0, 0)))
    return padded.reshape(B, N, n, band, H)

  def with_block_before(x_BNTH):
    x = blocks(x_BNTH)
    before = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))[:, :, :-1]
    return jnp.concatenate([before, x], axis=3)

  i, j = jnp.arange(band)[:, None], jnp.arange(2 * band)
  real = (jnp.arange(n)[:, None, None] > 0) | (j >= band)  # none before the first block
  y = attend(
    blocks(q_BNTH),
    with_block_before(k_BNTH),
    with_block_before(v_BNTH),
    (i < j) & (j <= i + band) & real,
    drop,
  )
  return y.reshape(B, N, n * band, H)[:, :, :T]


def attend(
  q_BNTH: jax.Array,
  k_BNSH: jax.Array,
  v_BNSH: jax.Array,
  allowed: jax.Array,
  drop: Dropout | None,
) -> jax.Array:
  """Returns softmax(q k') v, [B, N, T, H], in the dtype of q.

  Heads come before positions, so that both products are plain batched matrix
  products; on a CPU that is faster than einsum over [B, T, N, H].

  Args:
    q_BNTH: queries, already scaled; more axes may stand between N and T.
    k_BNSH: keys.
    v_BNSH: values.
    allowed: bool, broadcasts against [B, N, T, S]; every query needs one key.
    drop: dropout on the attention weights, or None.
  """
  a_BNTS = jnp.matmul(
    q_BNTH, k_BNSH.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  a_BNTS = jnp.where(allowed, a_BNTS, jnp.finfo(jnp.float32).min)
  p_BNTS = apply_dropout(jax.nn.softmax(a_BNTS), drop).astype(q_BNTH.dtype)
  return jnp.matmul(p_BNTS, v_BNSH)
