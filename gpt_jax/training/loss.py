"""The language-model loss, as sums: how they are divided is the caller's business."""

import jax
import jax.numpy as jnp


def nll_BT(logits_BTV: jax.Array, y_BT: jax.Array) -> jax.Array:
  """Returns -log p of each target under float32 logits [nats], [B, T]."""
  # A comparison instead of a gather: its gradient is not a scatter.
  V = logits_BTV.shape[-1]
  hit_BTV = jnp.arange(V) == y_BT[..., None]
  target_BT = jnp.where(hit_BTV, logits_BTV, 0).sum(-1)
  return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT


def nll_sum(logits_BTV: jax.Array, y_BT: jax.Array, w_BT: jax.Array) -> jax.Array:
  """Returns the sum of -log p over the targets, weighted by w [nats], a scalar."""
  return (nll_BT(logits_BTV, y_BT) * w_BT).sum()
