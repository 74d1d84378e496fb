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
  contiguous update) and `pos_BS` says what they hold.

  Beams of one text share its row: a step writes a slot for each of them, and which
  slots a beam's own text is made of is all that has to follow it when beams are chosen.

  Attributes:
    kv: per layer, keys and values, each [B, N, S, H].
    pos_BS: int32, the position of the token in a slot; -1 where there is none.
    fill_B: int32, tokens of the row's text: the position of the next one.
    slot: int32 scalar, the next slot to write.
    seen_BKS: bool, the slots that are the text of each beam; None without beams.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  pos_BS: jax.Array
  fill_B: jax.Array
  slot: jax.Array
  seen_BKS: jax.Array | None = None

  def branch(self, K: int) -> 'Cache':
    """Returns the cache for K beams a row, all with the text so far.

    Every step of theirs takes K slots.
    """
    B, S = self.pos_BS.shape
    seen_BKS = jnp.broadcast_to(self.pos_BS[:, None] >= 0, (B, K, S))
    return self.replace(seen_BKS=seen_BKS)

  def follow(self, parent_BK: jax.Array) -> 'Cache':
    """Returns the cache where beam k has the text that beam parent_BK had."""
    seen_BKS = jnp.take_along_axis(self.seen_BKS, parent_BK[..., None], axis=1)
    return self.replace(seen_BKS=seen_BKS)

  def written(
    self, T: int, length_B: jax.Array | None
  ) -> tuple['Cache', jax.Array, jax.Array]:
    """Returns the cache once T tokens a row are in it, but for their keys and values.

    Args:
      T: tokens of a row: that follow each other, or, with beams, one for each.
      length_B: how many of them are real; None with beams.

    Returns:
      The cache; pos_BT, the position of each token; and bool [B, T, S]: may token t
      see slot s?
    """
    B, t = len(self.fill_B), jnp.arange(T)
    put = jax.lax.dynamic_update_slice_in_dim
    if self.seen_BKS is not None:
      pos_BT = jnp.broadcast_to(self.fill_B[:, None], (B, T))
      own_BTT = jnp.broadcast_to(jnp.eye(T, dtype=bool), (B, T, T))
      seen_BTS = put(self.seen_BKS, own_BTT, self.slot, axis=2)
      pos_BS = put(self.pos_BS, pos_BT, self.slot, axis=1)
      fill_B = self.fill_B + 1
    else:
      pos_BT = self.fill_B[:, None] + t
      real_BT = jnp.where(t < length_B[:, None], pos_BT, -1)
      pos_BS = put(self.pos_BS, real_BT, self.slot, axis=1)
      seen_BTS = (pos_BS >= 0)[:, None] & (pos_BS[:, None] <= pos_BT[..., None])
      fill_B = self.fill_B + length_B
    cache = self.replace(
      pos_BS=pos_BS,
      fill_B=fill_B,
      slot=self.slot + T,
      seen_BKS=None if self.seen_BKS is None else seen_BTS,
    )
    return cache, pos_BT, seen_BTS


def in_band(pos_BS: jax.Array, pos_BT: jax.Array, band: int) -> jax.Array:
  """Returns bool [B, T, S]: is slot s among the last `band` positions of t?"""
  return pos_BT[:, :, None] - pos_BS[:, None, :] < band


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
