"""The language-model loss, as sums: how they are divided is the caller's business."""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model.gpt import output


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


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def chunked_nll_sum(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  y_BT: jax.Array,
  w_BT: jax.Array,
  vocab: int,
  chunk: int,
) -> jax.Array:
  """Returns `nll_sum` of the logits x head', of which few exist at a time.

  The logits of `chunk` positions of each row are made, used and forgotten. Their
  gradients are taken in the same turn, which is right up to the scalar that arrives
  later; so no product is done twice, and no [B, T, V] array exists.

  Args:
    x_BTD: the model's last hidden states.
    head_VD: its output matrix.
    y_BT: targets.
    w_BT: their weights.
    vocab: entries of V that are real.
    chunk: positions, a divisor of T.
  """

  def turn(nll, given):
    x, y, w = given
    return nll + nll_sum(output(x, head_VD, vocab), y, w), None

  return jax.lax.scan(turn, jnp.float32(0), _turns((x_BTD, y_BT, w_BT), chunk))[0]


def _turns(arrays: tuple, chunk: int) -> tuple:
  """Returns arrays [B, T, ...] as [T // chunk, B, chunk, ...]."""
  return jax.tree.map(
    lambda a: a.reshape(a.shape[0], -1, chunk, *a.shape[2:]).swapaxes(0, 1), arrays
  )


def _chunked_forward(x_BTD, head_VD, y_BT, w_BT, vocab, chunk):
  def turn(sums, given):
    x, y, w = given
    logits = output(x, head_VD, vocab)
    nll = nll_sum(logits, y, w)
    hit = jnp.arange(logits.shape[-1]) == y[..., None]
    dlogits = ((jax.nn.softmax(logits) - hit) * w[..., None]).astype(x.dtype)
    dhead_VD = jax.lax.dot_general(
      dlogits, x, (((0, 1), (0, 1)), ((), ())), preferred_element_type=jnp.float32
    )
    return jax.tree.map(jnp.add, sums, (nll, dhead_VD)), dlogits @ head_VD

  zero = jnp.float32(0), jnp.zeros(head_VD.shape, jnp.float32)
  (nll, dhead_VD), dx = jax.lax.scan(turn, zero, _turns((x_BTD, y_BT, w_BT), chunk))
  return nll, (dx.swapaxes(0, 1).reshape(x_BTD.shape), dhead_VD.astype(head_VD.dtype))


def _chunked_backward(vocab, chunk, saved, dnll):
  dx_BTD, dhead_VD = saved
  scaled = lambda d: d * dnll.astype(d.dtype)  # noqa: E731
  return scaled(dx_BTD), scaled(dhead_VD), None, None


chunked_nll_sum.defvjp(_chunked_forward, _chunked_backward)
