"""float32 parameters as two halves of 16 bits, of which products read the upper one.

A product reads bfloat16, so a parameter of float32 is first read and written again. The
upper half of its bits, rounded, is that bfloat16; with the lower half the float32 is
what it was. So a state between updates is as large as before, and nothing is cast.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Halves:
  """An array of float32 in two.

  Attributes:
    upper: bfloat16: the nearest, of two that are equally near the larger in size.
    lower: int16, what to add to the bits of the upper half and 16 zeros.
  """

  upper: jax.Array
  lower: jax.Array

  @classmethod
  def of(cls, x: jax.Array) -> 'Halves':
    """Returns the halves of an array of float32.

    Differs: of a NaN the bits may change; it stays one in both.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # With the bit that is set in quiet NaNs, as theirs may all be in the lower half.
    rounded = jnp.where(jnp.isnan(x), bits | 0x400000, bits + 0x8000) >> 16
    upper = jax.lax.bitcast_convert_type(rounded.astype(jnp.uint16), jnp.bfloat16)
    lower = jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.int16)
    return cls(upper, lower)

  @property
  def whole(self) -> jax.Array:
    """The array, float32."""
    upper = jax.lax.bitcast_convert_type(self.upper, jnp.uint16).astype(jnp.uint32)
    bits = (upper << 16) + self.lower.astype(jnp.int32).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _is_halves(value: Any) -> bool:
  return isinstance(value, Halves)


def whole(tree: Any) -> Any:
  """Returns a tree of parameters, all of them whole."""
  return _mapped(lambda halves: halves.whole, tree)


def upper(tree: Any) -> Any:
  """Returns a tree of parameters, of those in halves the upper ones."""
  return _mapped(lambda halves: halves.upper, tree)


def divided(tree: Any) -> bool:
  """Returns whether parameters of a tree are in halves."""
  return any(map(_is_halves, jax.tree.leaves(tree, is_leaf=_is_halves)))


def like(tree: Any, other: Any) -> Any:
  """Returns whole parameters in halves where those of another tree are."""
  return jax.tree.map(
    lambda of, leaf: Halves.of(leaf) if _is_halves(of) else leaf,
    other,
    tree,
    is_leaf=_is_halves,
  )


def _mapped(f, tree):
  return jax.tree.map(
    lambda leaf: f(leaf) if _is_halves(leaf) else leaf, tree, is_leaf=_is_halves
  )
