"""The language-model loss for devices whose memory is what logits wait for.

`nll_sum` does what `training/loss.py` does, but its logits exist in the compute dtype
alone, and a pass over them gives all that the loss needs.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.training.loss import Parts, summed_product, turns


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def nll_sum(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  y_BT: jax.Array,
  w_BT: jax.Array,
  vocab: int,
  chunk: int,
  parts: Parts | None = None,
) -> jax.Array:
  """Returns the sum of -log p over the targets, weighted by w [nats], a scalar.

  The logits x head' are rounded to the dtype of x: in bfloat16 by 2^-9 of each. The
  softmax and the sums are float32.

  Args:
    x_BTD: hidden states over the width, in the compute dtype.
    head_VD: the output matrix, float32.
    vocab: entries of V that can be predicted.
    chunk: positions, a divisor of T, whose logits exist at a time. T keeps them for the
      backward pass; less takes the gradients with the loss, in one turn.
    parts: as in `loss.chunked_nll_sum`.
  """
  return _forward(x_BTD, head_VD, y_BT, w_BT, vocab, chunk, parts)[0]


def _forward(x_BTD, head_VD, y_BT, w_BT, vocab, chunk, parts):
  rows = _rows_of(x_BTD, y_BT, w_BT)
  if chunk == y_BT.shape[1]:
    nll, z_RV, lse_R = _nll(head_VD, *rows, vocab)
    return nll, (x_BTD, head_VD, y_BT, w_BT, z_RV, lse_R)

  def turn(sums, chunked):
    rows = _rows_of(*chunked)
    nll, z_RV, lse_R = _nll(head_VD, *rows, vocab)
    dx_RD, dhead = _gradients(head_VD, *rows, z_RV, lse_R, vocab, parts)
    dx = dx_RD.reshape(chunked[0].shape)
    return jax.tree.map(jnp.add, sums, (nll, dhead)), dx

  zero = jnp.float32(0), jnp.zeros_like(head_VD)
  if parts:
    zero = zero[0], parts.zeros(head_VD.shape)
  (nll, dhead), dx = jax.lax.scan(turn, zero, turns((x_BTD, y_BT, w_BT), chunk))
  dhead_VD = dhead.sum(0) if parts else dhead
  return nll, (dx.swapaxes(0, 1).reshape(x_BTD.shape), dhead_VD)


def _backward(vocab, chunk, parts, saved, dnll):
  del parts
  if len(saved) == 2:  # right up to the scalar that arrives here
    dx_BTD, dhead_VD = saved
    return dx_BTD * dnll.astype(dx_BTD.dtype), dhead_VD * dnll, None, None
  x_BTD, head_VD, y_BT, w_BT, z_RV, lse_R = saved
  rows = _rows_of(x_BTD, y_BT, w_BT * dnll)
  dx_RD, dhead_VD = _gradients(head_VD, *rows, z_RV, lse_R, vocab)
  return dx_RD.reshape(x_BTD.shape), dhead_VD, None, None


nll_sum.defvjp(_forward, _backward)


def _rows_of(x_BTD, y_BT, w_BT):
  return x_BTD.reshape(-1, x_BTD.shape[-1]), y_BT.reshape(-1), w_BT.reshape(-1)


def _nll(head_VD, x_RD, y_R, w_R, vocab):
  """Returns the sum of -log p, logits [R, V], and log sum exp of them, [R]."""
  z_RV = x_RD @ head_VD.astype(x_RD.dtype).T
  column_RV = jax.lax.broadcasted_iota(jnp.int32, z_RV.shape, 1)
  real_RV = jnp.where(column_RV < vocab, z_RV.astype(jnp.float32), -jnp.inf)
  target_RV = jnp.where(column_RV == y_R[:, None], real_RV, 0)

  def join(a, b):  # the largest, the sum of exp(z - largest), the target's logit
    largest = jnp.maximum(a[0], b[0])
    shift = jnp.where(largest == -jnp.inf, 0, largest)
    total = a[1] * jnp.exp(a[0] - shift) + b[1] * jnp.exp(b[0] - shift)
    return largest, total, a[2] + b[2]

  # One pass (Milakov and Gimelshein 2018, algorithm 3), where logsumexp makes two.
  largest_R, total_R, target_R = jax.lax.reduce(
    (real_RV, jnp.ones_like(real_RV), target_RV), (-jnp.inf, 0.0, 0.0), join, (1,)
  )
  lse_R = largest_R + jnp.log(total_R)
  return ((lse_R - target_R) * w_R).sum(), z_RV, lse_R


def _gradients(head_VD, x_RD, y_R, w_R, z_RV, lse_R, vocab, parts=None):
  """Returns the gradients of x, in its dtype, and of the head, float32, or its parts'.

  Those of the logits are rounded to the compute dtype before both products, which are
  else of float32, at half the speed or less.
  """
  column_RV = jax.lax.broadcasted_iota(jnp.int32, z_RV.shape, 1)
  p_RV = jnp.exp(z_RV.astype(jnp.float32) - lse_R[:, None])
  p_RV = jnp.where(column_RV < vocab, p_RV, 0) - (column_RV == y_R[:, None])
  dz_RV = (p_RV * w_R[:, None]).astype(z_RV.dtype)
  if parts:
    dhead = summed_product(dz_RV, x_RD, parts)
  else:
    dhead = jax.lax.dot_general(
      dz_RV, x_RD, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
  return dz_RV @ head_VD.astype(x_RD.dtype), dhead
