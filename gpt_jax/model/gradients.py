"""Gradients written out by hand, and the switch between them and autodiff.

XLA's CPU compiler fuses little across products, so each pass over memory that a
gradient saves is time saved (benchmarks/README.md). A `jax.custom_vjp` has no forward
derivative: `jax.jvp`, Hessian-vector products and `jax.linearize` need
`model.gradients=plain`, which gives every function here to autodiff. Both compute the
same values, bit for bit, and gradients that differ by rounding alone.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Gradients = Literal['written', 'plain']

product = partial(jnp.matmul, preferred_element_type=jnp.float32)


def of(function: Callable, gradients: Gradients) -> Callable:
  """Returns one of this module's functions, with its written gradient or without."""
  return function if gradients == 'written' else function.fun


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns x @ kernel for x [..., I] and kernel [I, O], in the dtype of x.

  Its gradient for the kernel is one product over all rows. XLA would derive the same
  sum through a transposed copy, of the incoming gradient or, where rows have several
  axes, of x; each costs a tenth of the training step on a CPU. It is summed in
  float32, over rows and over devices, also where x is of lower precision.
  """
  return x @ kernel.astype(x.dtype)


def _matmul_forward(x, kernel):
  return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved, dy):
  x, kernel = saved
  x_RI, dy_RO = (array.reshape(-1, array.shape[-1]) for array in (x, dy))
  dkernel = jax.lax.dot_general(
    x_RI, dy_RO, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )
  return dy @ kernel.astype(x.dtype).T, dkernel.astype(kernel.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def gelu_tanh(x: jax.Array) -> jax.Array:
  """Returns GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2).

  Only x is kept for the backward pass, not the tanh: one array less to write.
  """
  return jax.nn.gelu(x, approximate=True)


def _gelu_forward(x):
  return gelu_tanh(x), x


def _gelu_backward(x, dy):
  c, x32 = (2 / math.pi) ** 0.5, x.astype(jnp.float32)
  square = jnp.square(x32)
  t = jnp.tanh(c * x32 * (1 + 0.044715 * square))
  dt = c * (1 + 3 * 0.044715 * square) * (1 - jnp.square(t))
  return ((0.5 * (1 + t + x32 * dt) * dy).astype(x.dtype),)


gelu_tanh.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
  """Returns x [..., D], float32, with mean 0 and variance 1, times scale, plus bias.

  XLA's own gradient goes over the array twice as often.
  """
  return _normalize_forward(x, scale, bias)[0]


def _normalize_forward(x, scale, bias):
  mean = x.mean(-1, keepdims=True)
  y = x - mean
  rate = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)
  y = y * rate * scale
  return y if bias is None else y + bias, (x, mean, rate, scale, bias)


def _normalize_backward(saved, dy):
  x, mean, rate, scale, bias = saved
  unit, dunit = (x - mean) * rate, dy * scale
  dmean = dunit.mean(-1, keepdims=True)
  dx = rate * (dunit - dmean - unit * (dunit * unit).mean(-1, keepdims=True))
  rows = tuple(range(x.ndim - 1))
  return dx, (dy * unit).sum(rows), None if bias is None else dy.sum(rows)


normalize.defvjp(_normalize_forward, _normalize_backward)


def attention_logits(
  q_BNTH: jax.Array, k_BNSH: jax.Array, allowed: jax.Array
) -> jax.Array:
  """Returns q k', [B, N, T, S], float32, hardly anything where it isn't allowed."""
  a_BNTS = product(q_BNTH, k_BNSH.swapaxes(-1, -2))
  return jnp.where(allowed, a_BNTS, jnp.finfo(jnp.float32).min)


@jax.custom_vjp
def softmax_product(
  q_BNTH: jax.Array, k_BNSH: jax.Array, v_BNSH: jax.Array, allowed: jax.Array
) -> jax.Array:
  """Returns softmax(q k') v, [B, N, T, H], in the dtype of q.

  The weights stay unnormalised, exp(a - max); the result is divided by their sum. The
  gradient is FlashAttention's (Dao et al. 2022, appendix B.2), with the weights kept
  and not computed again: fewer passes over [T, S] than autodiff makes of softmax.
  """
  return _softmax_forward(q_BNTH, k_BNSH, v_BNSH, allowed)[0]


def _softmax_forward(q_BNTH, k_BNSH, v_BNSH, allowed):
  a_BNTS = attention_logits(q_BNTH, k_BNSH, allowed)
  e_BNTS = jnp.exp(a_BNTS - a_BNTS.max(-1, keepdims=True))
  share = 1 / e_BNTS.sum(-1, keepdims=True)
  e_BNTS = e_BNTS.astype(q_BNTH.dtype)
  y_BNTH = (product(e_BNTS, v_BNSH) * share).astype(q_BNTH.dtype)
  return y_BNTH, (q_BNTH, k_BNSH, v_BNSH, y_BNTH, e_BNTS, share)


def _softmax_backward(saved, dy_BNTH):
  q_BNTH, k_BNSH, v_BNSH, y_BNTH, e_BNTS, share = saved
  dtype = q_BNTH.dtype
  dy_y = (dy_BNTH.astype(jnp.float32) * y_BNTH).sum(-1, keepdims=True) * share
  dy_BNTH = (dy_BNTH * share).astype(dtype)
  da_BNTS = e_BNTS * (product(dy_BNTH, v_BNSH.swapaxes(-1, -2)) - dy_y)
  da_BNTS = da_BNTS.astype(dtype)
  dk_BNSH = jnp.matmul(da_BNTS.swapaxes(-1, -2), q_BNTH)
  dv_BNSH = jnp.matmul(e_BNTS.swapaxes(-1, -2), dy_BNTH)
  return jnp.matmul(da_BNTS, k_BNSH), dk_BNSH, dv_BNSH, None


softmax_product.defvjp(_softmax_forward, _softmax_backward)
