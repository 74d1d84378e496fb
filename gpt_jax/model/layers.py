"""The pieces that blocks are made of: linear layers, LayerNorm and dropout."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from gpt_jax.model import fused, gradients, quantize, update_kernels, update_norm
from gpt_jax.model.gradients import Gradients


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

  @property
  def words(self) -> jax.Array:
    """uint32 [B, 3], the draw for kernels: a row's key, and the bits that keep."""
    words = jax.random.key_data(self.key_B)
    cut = jnp.broadcast_to(_cut(self.rate).astype(jnp.uint32), (len(words), 1))
    return jnp.concatenate([words, cut], axis=1)


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
  cut = _cut(rate)
  keep = bits.astype(jnp.float32) >= cut
  return jnp.where(keep, x * (65536 / (65536 - cut)).astype(x.dtype), 0)


def _cut(rate: jax.Array) -> jax.Array:
  """Returns the number that 16 random bits must reach to keep an entry, a float32."""
  return jnp.round(rate * 65536)


class Normed(NamedTuple):
  """A normalised text before scale and bias, which `outputs` applies.

  Attributes:
    unit: [..., D], mean 0 and variance 1 over D, in the compute dtype.
    scale: [D].
    bias: [D], or None.
  """

  unit: jax.Array
  scale: jax.Array
  bias: jax.Array | None

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the text."""
    return self.unit.shape

  def value(self) -> jax.Array:
    """Returns unit * scale + bias, in the dtype of unit."""
    y = self.unit * self.scale
    return (y if self.bias is None else y + self.bias).astype(self.unit.dtype)


class Linear(nn.Module):
  """x @ kernel + bias, computed in `dtype`; the kernel is stored [in, out]."""

  features: int
  bias: bool
  kernel_init: Callable
  dtype: str
  gradients: Gradients
  fused: bool = False
  quantized: str = 'plain'
  kernels: bool = False
  interpret: bool = False

  @nn.compact
  def parameters(self, width: int) -> tuple[jax.Array, jax.Array | None]:
    """Returns kernel [width, features] and bias [features], which may be None."""
    kernel = self.param('kernel', self.kernel_init, (width, self.features))
    bias = None
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return kernel, bias

  def __call__(self, x: jax.Array | Normed) -> jax.Array:
    """Returns [..., features] of x [..., I], in `dtype`.

    For decoding, the kernel may be stored in the forms of `model/quantize.py`; a
    collection 'lora' adds a low-rank product (`model/lora.py`).
    """
    if self.joins:
      return outputs([self], x)[0]
    x = x.value() if isinstance(x, Normed) else x
    matmul = gradients.of(gradients.matmul, self.gradients)
    x = x.astype(self.dtype)
    stored = partial(self.get_variable, 'params')
    if self.has_variable('params', 'kernel_T'):
      y = quantize.times_transposed(x, stored('kernel_T').astype(self.dtype))
    elif self.has_variable('params', 'kernel_int8'):
      weights = stored('kernel_int8'), stored('kernel_scale')
      y = quantize.times_int8(x, *weights, self.quantized)
    elif self.has_variable('params', 'kernel_int4'):
      weights = stored('kernel_int4'), stored('kernel_scale')
      y = quantize.times_int4(x, *weights, self.quantized)
    elif self.has_variable('params', 'kernel_T_scale'):
      names = [name for name in self.variables['params'] if name.startswith('kernel')]
      linear = {name: stored(name) for name in names}
      y = quantize.times_small(x, linear, self.quantized)
    else:
      y = matmul(x, self.parameters(x.shape[-1])[0])
    if self.has_variable('lora', 'a'):
      a, b = (self.get_variable('lora', name) for name in 'ab')
      y = y + matmul(matmul(x, a), b)
    if self.bias:
      # In float32, so that the bias's gradient is summed so; the compiler fuses it.
      y = (y.astype(jnp.float32) + stored('bias')).astype(self.dtype)
    return y

  @property
  def joins(self) -> bool:
    """Whether `fused.affine` computes this layer: it is a kernel and no more."""
    forms = 'T', 'int8', 'int4', 'T_scale'
    stored = [('params', f'kernel_{form}') for form in forms]
    return self.fused and not any(
      self.has_variable(*other) for other in [*stored, ('lora', 'a')]
    )


def outputs(layers: Sequence[Linear], x: jax.Array | Normed) -> Sequence[jax.Array]:
  """Returns what layers make of the same x."""
  if not all(layer.joins for layer in layers):
    return [layer(x) for layer in layers]
  pairs = [layer.parameters(x.shape[-1]) for layer in layers]
  parameters = zip(*pairs, strict=True)
  if isinstance(x, Normed):
    return fused.affine(*x, *parameters)
  x, first = x.astype(layers[0].dtype), layers[0]
  if first.kernels:
    return update_kernels.linear(x, *parameters, first.interpret)
  return fused.affine(x, None, None, *parameters)


class LayerNorm(nn.Module):
  """LayerNorm with eps 1e-5 and float32 statistics; the result is of `dtype`.

  Attributes:
    apart: with `fused`, whether to leave scale and bias to the layers that follow.
    kernels, interpret: of `Execution`; kernels leave nothing to what follows.
  """

  bias: bool
  dtype: str
  gradients: Gradients
  fused: bool = False
  apart: bool = False
  kernels: bool = False
  interpret: bool = False

  def __call__(self, x: jax.Array | update_norm.Stream) -> jax.Array | Normed:
    """Returns x [..., D] normalised over D, times scale [D], plus bias [D]."""
    return self._both(x, last=True)[1]

  def beside(
    self, x: jax.Array | update_norm.Stream
  ) -> tuple[jax.Array, jax.Array | Normed]:
    """Returns x, for the residual sum, and x normalised: see `update_norm`."""
    return self._both(x, last=False)

  @nn.compact
  def _both(self, x, last):
    normalize = gradients.of(gradients.normalize, self.gradients)
    D = jax.tree.leaves(x)[0].shape[-1]
    scale = self.param('scale', nn.initializers.ones, (D,))
    bias = None
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (D,))
    if self.kernels:
      ways = self.dtype, self.interpret, last
      return update_norm.normalize(x, scale, bias, *ways)
    if self.fused:
      normed = Normed(fused.unit(x.astype(jnp.float32), self.dtype), scale, bias)
      return x, normed if self.apart else normed.value()
    y = normalize(x.astype(jnp.float32), scale, bias)
    return x, y.astype(self.dtype)
