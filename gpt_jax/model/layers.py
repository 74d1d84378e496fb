"""The pieces that blocks are made of: linear layers, LayerNorm, GELU, dropout."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Dropout:
  """One random draw of dropout.

  Attributes:
    key_B: a PRNG key for each row of the batch, so that a row's draw does not depend
      on its batch mates nor on the device it is on.
    rate: float32 scalar, share of entries set to zero.
    key: a PRNG key for what all rows share: the embedding matrices.
  """

  key_B: jax.Array
  rate: jax.Array
  key: jax.Array

  def at(self, place: int) -> 'Dropout':
    """Returns the draw of one place in the network; places must differ."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return self.replace(
      key_B=fold(self.key_B, place), key=jax.random.fold_in(self.key, place)
    )


def apply_dropout(x: jax.Array, drop: Dropout | None) -> jax.Array:
  """Returns x with entries zeroed at random and the rest scaled to keep the mean.

  Args:
    x: [B, ...].
    drop: the draw, or None for no dropout.
  """
  if drop is None:
    return x
  row = lambda key: jax.random.bits(key, x.shape[1:], jnp.uint16)  # noqa: E731
  return _zeroed(x, jax.vmap(row)(drop.key_B), drop.rate)


def drop_matrix(matrix: jax.Array, drop: Dropout | None) -> jax.Array:
  """Returns a parameter with entries zeroed, the same ones for all rows of a batch."""
  if drop is None:
    return matrix
  bits = jax.random.bits(drop.key, matrix.shape, jnp.uint16)
  return _zeroed(matrix, bits, drop.rate)


def _zeroed(x: jax.Array, bits: jax.Array, rate: jax.Array) -> jax.Array:
  """Returns x, zero where 16 random bits are below the rate, else scaled.

  16 bits an entry, half the cost of 32, round the rate to 1 / 65536; the scale is that
  of the rounded rate, so the mean is exact.
  """
  cut = jnp.round(rate * 65536)
  keep = bits.astype(jnp.float32) >= cut
  return jnp.where(keep, x * (65536 / (65536 - cut)).astype(x.dtype), 0)


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


class Linear(nn.Module):
  """x @ kernel + bias, computed in `dtype`; the kernel is stored [in, out]."""

  features: int
  bias: bool
  kernel_init: Callable
  dtype: str

  @nn.compact
  def __call__(self, x):
    x = x.astype(self.dtype)
    stored = partial(self.get_variable, 'params')
    if self.has_variable('params', 'kernel_T'):
      y = _times_transposed(x, stored('kernel_T').astype(self.dtype))
    elif self.has_variable('params', 'kernel_int8'):
      y = _times_int8(x, stored('kernel_int8'), stored('kernel_scale'))
    else:
      kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
      y = matmul(x, kernel)
    if self.has_variable('lora', 'a'):
      a, b = (self.get_variable('lora', name) for name in 'ab')
      y = y + matmul(matmul(x, a), b)
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      # In float32, so that the bias's gradient is summed so; the compiler fuses it.
      y = (y.astype(jnp.float32) + bias).astype(self.dtype)
    return y


def transposed(params: dict) -> dict:
  """Returns the parameters with each `kernel` as `kernel_T`, [out, in], for decoding.

  A CPU multiplies one vector with a matrix stored so about 1.4 times as fast.
  """
  return _each_kernel(params, lambda kernel: {'kernel_T': jnp.array(kernel.T)})


def quantized(params: dict) -> dict:
  """Returns the parameters with the kernels in 8 bits, for decoding.

  Each `kernel` becomes `kernel_int8` [in, out] and `kernel_scale` [out], float32: the
  nearest of 255 evenly spaced values, symmetric, for each output (weight-only
  quantization, LLM.int8() without its outliers: Dettmers et al. 2022, section 2.1).
  Embeddings, biases and LayerNorms stay as they are.
  """

  def int8(kernel):
    scale = jnp.maximum(jnp.abs(kernel).max(axis=0), 1e-30) / 127
    rounded = jnp.round(kernel / scale).astype(jnp.int8)
    return {'kernel_int8': rounded, 'kernel_scale': scale}

  return _each_kernel(params, int8)


def _each_kernel(params: dict, change: Callable[[jax.Array], dict]) -> dict:
  """Returns the parameters with each `kernel` replaced by the entries it becomes."""
  made = {}
  for name, leaf in params.items():
    if name == 'kernel':
      made |= change(leaf)
    else:
      made[name] = _each_kernel(leaf, change) if isinstance(leaf, dict) else leaf
  return made


def _times_transposed(x: jax.Array, kernel_T: jax.Array) -> jax.Array:
  y = jnp.matmul(kernel_T, x.reshape(-1, x.shape[-1]).T).T
  return y.reshape(*x.shape[:-1], len(kernel_T))


def _times_int8(x: jax.Array, kernel: jax.Array, scale: jax.Array) -> jax.Array:
  if x.size == x.shape[-1]:
    # One vector. XLA fuses this sum, where before a product it would write out the
    # whole matrix as floats.
    y = (x.reshape(-1, 1) * kernel.astype(x.dtype)).sum(axis=0)
    return (y * scale.astype(x.dtype)).reshape(*x.shape[:-1], len(scale))
  return (x @ kernel.astype(x.dtype)) * scale.astype(x.dtype)


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

  Its gradient is written out: XLA's own goes over the array twice as often.
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


class LayerNorm(nn.Module):
  """LayerNorm with eps 1e-5 and float32 statistics; the result is of `dtype`."""

  bias: bool
  dtype: str

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = None
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    y = normalize(x.astype(jnp.float32), scale, bias)
    return y.astype(self.dtype)
