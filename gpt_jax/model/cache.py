"""What decoding keeps of the tokens read so far: keys, values and who sees them."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens read so far.

  A slot is a place in the cache, a position is a place in the text. They differ when
  prompts of several lengths share a batch: every row writes the same slots (a cheap
  contiguous update) and `pos_BS` says what they hold.

  Beams of one text share its row: a step writes a slot for each of them, and which
  slots a beam's own text is made of is all that has to follow it when beams are chosen.

  Where rows grow by different numbers of tokens (`ragged`), every row has a next slot
  of its own, and slots are positions.

  Attributes:
    kv: per layer, keys and values, each [B, N, S, H].
    pos_BS: int32, the position of the token in a slot; -1 where there is none.
    fill_B: int32, tokens of the row's text: the position of the next one.
    slot: int32, the next slot to write: a scalar, or one for each row.
    seen_BKS: bool, the slots that are the text of each beam; None without beams.
    fresh: whether no token is in it.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  pos_BS: jax.Array
  fill_B: jax.Array
  slot: jax.Array
  seen_BKS: jax.Array | None = None
  fresh: bool = flax.struct.field(pytree_node=False, default=False)

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

  def ragged(self) -> 'Cache':
    """Returns the cache whose rows may grow by different numbers of tokens.

    Only padding may be between a row's tokens and the slots not yet written: it is
    written over.
    """
    return self.replace(slot=self.fill_B)

  def forget(self, last_B: jax.Array) -> 'Cache':
    """Returns the ragged cache without the last tokens of each row, [B] of them."""
    fill_B = self.fill_B - last_B
    pos_BS = jnp.where(self.pos_BS < fill_B[:, None], self.pos_BS, -1)
    return self.replace(pos_BS=pos_BS, fill_B=fill_B, slot=fill_B)

  def shared(self, B: int, S: int) -> 'Cache':
    """Returns the cache of B texts that begin as its one does, with S more slots."""

    def widened(x_1, axis, empty):
      shape = [*x_1.shape]
      shape[axis] = S
      x_1 = jnp.concatenate([x_1, jnp.full(shape, empty, x_1.dtype)], axis=axis)
      return jnp.broadcast_to(x_1, (B, *x_1.shape[1:]))

    return self.replace(
      kv=jax.tree.map(partial(widened, axis=2, empty=0), self.kv),
      pos_BS=widened(self.pos_BS, 1, -1),
      fill_B=jnp.broadcast_to(self.fill_B, (B,)),
    )

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
      fresh=False,
    )
    return cache, pos_BT, seen_BTS


def put(old: jax.Array, new: jax.Array, slot: jax.Array, axis: int) -> jax.Array:
  """Returns an array [B, ...] with `new` in place of what is at a slot of an axis.

  Args:
    slot: of all rows, or [B], of each.
  """
  write = jax.lax.dynamic_update_slice_in_dim
  if slot.ndim == 0:
    return write(old, new, slot, axis)
  return jax.vmap(partial(write, axis=axis - 1))(old, new, slot)


@flax.struct.dataclass
class Tree:
  """Tokens of many texts in one row, what they have in common only once.

  The row is a tree of tokens, written depth first: a token sees those on the way from
  the root to it. The slots that can see a token's follow it without a gap, so that one
  number says which they are.

  Attributes:
    kv: as in `Cache`; slots before `slot` are filled already.
    pos_BS: int32, the position of the token in a slot: how many stand above it.
    end_BS: int32, the first slot from its own on that cannot see it.
    slot: the first slot to write; the tokens take all the rest.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  pos_BS: jax.Array
  end_BS: jax.Array
  slot: int = flax.struct.field(pytree_node=False)
  fresh = False

  def written(self, T: int, length_B: None) -> tuple['Tree', jax.Array, jax.Array]:
    """Returns itself, pos_BT and the mask [B, T, S]; as `Cache.written`."""
    at_S = jnp.arange(self.pos_BS.shape[1])
    at_T = at_S[self.slot :, None]
    seen_BTS = (at_S <= at_T) & (at_T < self.end_BS[:, None])
    return self, self.pos_BS[:, self.slot :], seen_BTS


def in_band(pos_BS: jax.Array, pos_BT: jax.Array, band: int) -> jax.Array:
  """Returns bool [B, T, S]: is slot s among the last `band` positions of t?"""
  return pos_BT[:, :, None] - pos_BS[:, None, :] < band
