"""The language-model loss, as sums: how they are divided is the caller's business."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.gpt import logits_of
from gpt_jax.model.gradients import Gradients


class Parts(NamedTuple):
  """Devices that divide the rows of a batch, and leave their sums to the compiler.

  Attributes:
    number: of them.
    placed: f(array [number, ...]) -> the same, a part on each.
  """

  number: int
  placed: Callable[[jax.Array], jax.Array]

  def zeros(self, shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 zeros of a shape for each."""
    return self.placed(jnp.zeros((self.number, *shape), jnp.float32))


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


def chunked_nll_sum(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  y_BT: jax.Array,
  w_BT: jax.Array,
  *,
  vocab: int,
  chunk: int,
  gradients: Gradients = 'written',
  parts: Parts | None = None,
) -> jax.Array:
  """Returns `nll_sum` of the logits x head', of which few exist at a time.

  Args:
    x_BTD: it and `head_VD` are the factors of the logits (`gpt.output_factors`).
    chunk: positions, a divisor of T, whose logits exist at a time.
    gradients: 'written' takes those of the logits in the same turn as the loss, and
      makes no product twice; 'plain' computes the logits again.
    parts: 'written' adds up the gradients of `head_VD` on each device, and sums them
      once. None: the compiler may sum them in each turn.
  """
  if gradients == 'written':
    return _chunked(x_BTD, head_VD, y_BT, w_BT, vocab, chunk, parts)
  return _over_chunks(x_BTD, head_VD, y_BT, w_BT, vocab, chunk)


def _over_chunks(x_BTD, head_VD, y_BT, w_BT, vocab, chunk, parts=None):
  del parts

  @jax.checkpoint
  def turn(nll, chunked):
    x, y, w = chunked
    return nll + nll_sum(logits_of(x, head_VD, vocab), y, w), None

  return jax.lax.scan(turn, jnp.float32(0), turns((x_BTD, y_BT, w_BT), chunk))[0]


def turns(arrays: tuple, chunk: int) -> tuple:
  """Returns arrays [B, T, ...] as [T // chunk, B, chunk, ...]."""
  return jax.tree.map(
    lambda a: a.reshape(a.shape[0], -1, chunk, *a.shape[2:]).swapaxes(0, 1), arrays
  )


# The gradients of the logits are right up to the scalar that arrives later, so they are
# taken with the loss, and no [B, T, V] array exists.
_chunked = jax.custom_vjp(_over_chunks, nondiff_argnums=(4, 5, 6))


def _chunked_forward(x_BTD, head_VD, y_BT, w_BT, vocab, chunk, parts):
  def turn(sums, chunked):
    x, y, w = chunked
    logits = logits_of(x, head_VD, vocab)
    nll = nll_sum(logits, y, w)
    hit = jnp.arange(logits.shape[-1]) == y[..., None]
    dlogits = ((jax.nn.softmax(logits) - hit) * w[..., None]).astype(x.dtype)
    if parts:
      dhead = summed_product(dlogits, x, parts)
    else:
      dhead = jax.lax.dot_general(
        dlogits, x, (((0, 1), (0, 1)), ((), ())), preferred_element_type=jnp.float32
      )
    return jax.tree.map(jnp.add, sums, (nll, dhead)), dlogits @ head_VD

  zero = jnp.float32(0), jnp.zeros(head_VD.shape, jnp.float32)
  if parts:
    zero = zero[0], parts.zeros(head_VD.shape)
  (nll, dhead), dx = jax.lax.scan(turn, zero, turns((x_BTD, y_BT, w_BT), chunk))
  dhead_VD = dhead.sum(0) if parts else dhead
  return nll, (dx.swapaxes(0, 1).reshape(x_BTD.shape), dhead_VD.astype(head_VD.dtype))


def summed_product(dlogits: jax.Array, x: jax.Array, parts: Parts) -> jax.Array:
  """Returns the gradients of the head that each of the parts has, [parts, V, D].

  Args:
    dlogits: gradients of logits, [..., V], the first axis that of rows.
    x: what they are products of, [..., D].
  """
  of_each = lambda a: parts.placed(a.reshape(parts.number, -1, a.shape[-1]))  # noqa: E731
  each = jax.lax.dot_general(
    of_each(dlogits),
    of_each(x),
    (((1,), (1,)), ((0,), (0,))),
    preferred_element_type=jnp.float32,
  )
  return parts.placed(each)


def _chunked_backward(vocab, chunk, parts, saved, dnll):
  del vocab, chunk, parts
  dx_BTD, dhead_VD = saved
  scaled = lambda d: d * dnll.astype(d.dtype)  # noqa: E731
  return scaled(dx_BTD), scaled(dhead_VD), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
