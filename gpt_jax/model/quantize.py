"""Weights in the forms that decode fastest: transposed, or in 8 or 4 bits.

A small weight is a whole number times a scale. The plain products here turn it into
floats and leave the rest to the compiler, which on an accelerator may write these
floats out; on those, kernels read the small bytes themselves: a TPU's that of
`model/quantized_kernels.py`, a GPU's `token_kernels.product`, which takes the weights
transposed.
"""

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from gpt_jax.config import UserError
from gpt_jax.model import quantized_kernels, token_kernels

_GROUP = 64  # inputs that share a scale, of kernels in 4 bits
_ROWS = 64  # most rows for which reading the weights is what takes time
# Of the largest value of a group, what the largest number stands for: one of these.
_CLIPS = 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7


def transposed(params: dict, few_bits: bool = False) -> dict:
  """Returns the parameters with each `kernel` as `kernel_T`, [out, in], for decoding.

  A CPU multiplies one vector with a matrix stored so about 1.4 times as fast.

  Args:
    few_bits: whether kernels in few bits become `kernel_T_int8` and so on, too.
  """
  small = 'kernel_int8', 'kernel_int4', 'kernel_scale'
  changed = {}
  for name, leaf in params.items():
    if isinstance(leaf, dict):
      changed[name] = transposed(leaf, few_bits)
    elif name == 'kernel' or (few_bits and name in small):
      changed[name.replace('kernel', 'kernel_T')] = jnp.array(leaf.T)
    else:
      changed[name] = leaf
  return changed


def quantized(params: dict, bits: int = 8) -> dict:
  """Returns the parameters with kernels and output matrix in few bits, for decoding.

  With 8 bits a `kernel` becomes `kernel_int8` [in, out] and `kernel_scale` [out],
  float32: the nearest of 255 evenly spaced values, symmetric, for each output
  (weight-only quantization, LLM.int8() without its outliers: Dettmers et al. 2022,
  section 2.1). With 4 bits it becomes `kernel_int4` [in / 2, out], bytes of two values
  each (`_packed`), and `kernel_scale` [groups, out]: the nearest of 15 values for
  each output and group of inputs, as in GPTQ's grouping (Frantar et al. 2023, section
  4); of a few widths of the grid the one of least squared error. The output matrix,
  `lm_head` or a tied `wte`, becomes `.._int8` [V, D] and `.._scale` [V] either way: it
  is what the choice of a token is most sensitive to. All else stays as it is.

  Raises:
    UserError: a kernel has an odd number of inputs, and bits is 4.
  """
  head = 'lm_head' if 'lm_head' in params else 'wte'
  values, scale = _nearest(params[head], axis=1)
  small = _each_kernel(params, _int8 if bits == 8 else _int4)
  del small[head]
  return small | {f'{head}_int8': values, f'{head}_scale': scale[:, 0]}


@flax.struct.dataclass
class Rows:
  """A matrix whose rows are in 8 bits: int8 values [V, D] and float32 scale [V]."""

  values: jax.Array
  scale: jax.Array

  def __getitem__(self, ids: jax.Array | slice) -> jax.Array:
    """Returns some rows as float32, [..., D]."""
    if isinstance(ids, slice) or ids.size > _ROWS:
      return self.values[ids] * self.scale[ids][..., None]
    # A TPU stores 32 rows of bytes together, and to take one would order all anew.
    blocks = self.values.reshape(-1, 32, self.values.shape[-1])[ids // 32]
    one = jnp.arange(32) == (ids % 32)[..., None]
    row = jnp.where(one[..., None], blocks, 0).astype(jnp.float32).sum(-2)
    return row * self.scale[ids][..., None]

  @property
  def linear(self) -> dict:
    """The matrix as a layer of D inputs and V outputs, for `token_kernels.product`."""
    return {'kernel_T_int8': self.values, 'kernel_T_scale': self.scale}


def matrix(params: dict, name: str) -> jax.Array | Rows:
  """Returns `wte` or `lm_head` as it is stored."""
  if f'{name}_int8' in params:
    return Rows(params[f'{name}_int8'], params[f'{name}_scale'])
  return params[name]


def _int8(kernel: jax.Array) -> dict:
  values, scale = _nearest(kernel, axis=0)
  return {'kernel_int8': values, 'kernel_scale': scale[0]}


def _nearest(
  matrix: jax.Array, axis: int, most: int = 127
) -> tuple[jax.Array, jax.Array]:
  """Returns whole numbers of -most .. most, and the scales they are times."""
  largest = jnp.abs(matrix).max(axis=axis, keepdims=True)
  scale = jnp.maximum(largest, 1e-30) / most
  return jnp.round(matrix / scale).astype(jnp.int8), scale


def _int4(kernel: jax.Array) -> dict:
  inputs, outputs = kernel.shape
  group = math.gcd(inputs, _GROUP)
  if group < 2:
    raise UserError(
      f'a kernel of {inputs} inputs can not be stored in 4 bits, two of them to a '
      'byte: their number must be even; take 8 bits'
    )
  groups = kernel.reshape(inputs // group, group, outputs)
  _, widest = _nearest(groups, axis=1, most=7)

  def rounded(clip):
    return jnp.clip(jnp.round(groups / (clip * widest)), -7, 7)

  def error(clip):
    return jnp.square(rounded(clip) * clip * widest - groups).sum(1, keepdims=True)

  errors = jnp.stack([error(clip) for clip in _CLIPS])
  clip = jnp.array(_CLIPS)[errors.argmin(0)]
  return {
    'kernel_int4': _packed(rounded(clip).astype(jnp.int8)).reshape(
      inputs // 2, outputs
    ),
    'kernel_scale': (clip * widest)[:, 0],
  }


def _packed(groups: jax.Array) -> jax.Array:
  """Returns int8 [G, group / 2, O] of values -7 .. 7 [G, group, O].

  A byte's low half is a value of the group's first half of inputs, its high half the
  one as far into the second: so a product needs no value between two others.
  """
  low, high = jnp.split(groups, 2, axis=1)
  return (high << 4) | (low & 15)


def unpacked(values: jax.Array, groups: int) -> jax.Array:
  """Returns the int8 values [I, O] of bytes [I / 2, O] that `_packed` made."""
  bytes_GIO = values.reshape(groups, -1, values.shape[-1])
  halves = jnp.concatenate([(bytes_GIO << 4) >> 4, bytes_GIO >> 4], axis=1)
  return halves.reshape(-1, values.shape[-1])


def _each_kernel(params: dict, change: Callable[[jax.Array], dict]) -> dict:
  """Returns the parameters with each `kernel` replaced by the entries it becomes."""
  changed = {}
  for name, leaf in params.items():
    if name == 'kernel':
      changed |= change(leaf)
    else:
      changed[name] = _each_kernel(leaf, change) if isinstance(leaf, dict) else leaf
  return changed


def times_transposed(x: jax.Array, kernel_T: jax.Array) -> jax.Array:
  """Returns x [..., I] @ kernel_T' [O, I]."""
  y = jnp.matmul(kernel_T, x.reshape(-1, x.shape[-1]).T).T
  return y.reshape(*x.shape[:-1], len(kernel_T))


def times_int8(
  x: jax.Array, kernel: jax.Array, scale: jax.Array, how: str = 'plain'
) -> jax.Array:
  """Returns x [..., I] @ kernel [I, O] * scale [O], in the dtype of x.

  Args:
    how: 'plain', or 'mosaic' for a kernel for few rows: `Execution.quantized`.
  """
  if how == 'mosaic' and _few(x):
    return quantized_kernels.times(x, kernel, scale).astype(x.dtype)
  if x.size == x.shape[-1]:
    # One vector. XLA fuses this sum, where before a product it would write out the
    # whole matrix as floats.
    y = (x.reshape(-1, 1) * kernel.astype(x.dtype)).sum(axis=0)
    return (y * scale.astype(x.dtype)).reshape(*x.shape[:-1], len(scale))
  return (x @ kernel.astype(x.dtype)) * scale.astype(x.dtype)


def times_int4(
  x: jax.Array, kernel: jax.Array, scale: jax.Array, how: str = 'plain'
) -> jax.Array:
  """Returns x [..., I] @ the kernel [I, O] whose bytes are [I / 2, O], in x's dtype.

  Args:
    scale: [groups, O].
    how: as in `times_int8`.
  """
  if how == 'mosaic' and _few(x):
    return quantized_kernels.times(x, kernel, scale).astype(x.dtype)
  values = unpacked(kernel, len(scale)).reshape(len(scale), -1, scale.shape[-1])
  floats = (values * scale[:, None]).astype(x.dtype)
  return x @ floats.reshape(x.shape[-1], -1)


def times_small(x: jax.Array, linear: dict, how: str = 'plain') -> jax.Array:
  """Returns x [..., I] @ a kernel in few bits that is transposed, in the dtype of x.

  Args:
    linear: as in `token_kernels.product`, without bias.
    how: 'triton' for that kernel, else plain: `Execution.quantized`.
  """
  if how == 'triton' and _few(x):
    return _by_product(x, linear).astype(x.dtype)
  scale = linear['kernel_T_scale'].T
  if 'kernel_T_int8' in linear:
    return times_int8(x, linear['kernel_T_int8'].T, scale)
  return times_int4(x, linear['kernel_T_int4'].T, scale)


def head_logits(x: jax.Array, head_VD: Rows, how: str = 'plain') -> jax.Array:
  """Returns float32 x [..., D] @ head' [V, D].

  Args:
    how: 'plain', or which kernel for few rows: `Execution.quantized`.
  """
  head, scale = head_VD.values, head_VD.scale
  if how == 'triton' and _few(x):
    return _by_product(x, head_VD.linear)
  if how == 'mosaic' and _few(x):
    return quantized_kernels.times(x, head, scale, transposed=True)
  rows = x.reshape(-1, x.shape[-1])
  if len(rows) == 1:
    y = (head.astype(x.dtype) * rows).sum(axis=1, dtype=jnp.float32)[None]
  else:
    floats = head.astype(x.dtype)
    y = jnp.matmul(floats, rows.T, preferred_element_type=jnp.float32).T
  return (y * scale).reshape(*x.shape[:-1], len(head))


def _few(x: jax.Array) -> bool:
  return x.size // x.shape[-1] <= _ROWS


def _by_product(x: jax.Array, linear: dict) -> jax.Array:
  """Returns a GPU's product, float32."""
  rows = x.reshape(-1, x.shape[-1])
  y = token_kernels.product(rows, linear, factors=x.dtype, dtype='float32')
  return y.reshape(*x.shape[:-1], y.shape[-1])
