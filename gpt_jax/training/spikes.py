"""The guard against spikes of the loss: which updates to leave out."""

import flax.struct
import jax
import jax.numpy as jnp

_LEARNS = 50  # accepted updates before the guard judges
_MEMORY = 100  # updates that its running mean remembers


@flax.struct.dataclass
class SpikeDetector:
  """Statistics of the losses of accepted updates; scalars.

  Attributes:
    mean: their running mean [nats/token].
    seen: int32, how many.
    passed_over: int32, batches that roll-backs skipped: update number `step` reads
      batch `step + passed_over`.
  """

  mean: jax.Array
  variance: jax.Array
  seen: jax.Array
  passed_over: jax.Array

  @classmethod
  def new(cls) -> 'SpikeDetector':
    """Returns the guard before the first update."""
    return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0), jnp.int32(0))


def judge(
  guard: SpikeDetector, loss: jax.Array, grad_norm: jax.Array, sigmas: jax.Array
) -> tuple[SpikeDetector, jax.Array]:
  """Returns the guard after an update, and whether the update is a spike, bool.

  A spike is a loss or gradient that is not finite, or, after 50 updates, a loss above
  the running mean by `sigmas` standard deviations. Spikes do not enter the statistics.
  """
  far = loss > guard.mean + sigmas * jnp.sqrt(guard.variance)
  spike = ~jnp.isfinite(loss + grad_norm) | ((guard.seen >= _LEARNS) & far)
  share = jnp.maximum(1 / (guard.seen + 1), 1 / _MEMORY)
  off = loss - guard.mean
  variance = (1 - share) * (guard.variance + share * off**2)
  after = guard.replace(
    mean=guard.mean + share * off, variance=variance, seen=guard.seen + 1
  )
  return jax.tree.map(lambda old, new: jnp.where(spike, old, new), guard, after), spike
