"""A Pallas kernel for TPUs: products of few rows with weights in 8 or 4 bits.

Such a product takes the time of reading the weights. The kernel reads their bytes block
by block of outputs and turns them into the compute dtype on the chip, so floats of a
whole matrix are never written. GPUs have `token_kernels.product`.
"""

import jax
import jax.numpy as jnp

from gpt_jax.model.kernels import stated_cost

_BLOCK_BYTES = 2**20  # of the weights in a TPU's memory on the chip, twice


def times(
  x: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  transposed: bool = False,
  interpret: bool = False,
) -> jax.Array:
  """Returns x [..., I] @ the weights, scaled: float32 [..., O].

  Args:
    weights: int8, [I, O] or, `transposed`, [O, I]; in 4 bits [I / 2, O], as
      `quantize._packed` makes them.
    scale: [O]; in 4 bits [groups, O].
    interpret: on a CPU, step by step.
  """
  groups = len(scale) if scale.ndim == 2 else 0
  rows = x.reshape(-1, x.shape[-1])
  s = scale if groups else scale[None]
  y = _product(rows, weights, s, groups, transposed=transposed, interpret=interpret)
  y = y if groups else y * scale
  return y.reshape(*x.shape[:-1], y.shape[-1])


def halves(stored: jax.Array) -> list[jax.Array]:
  """Returns the values in the low and in the high halves of bytes, float32."""
  wide = stored.astype(jnp.int32)  # no compiler of kernels shifts bytes
  return [half.astype(jnp.float32) for half in ((wide << 28) >> 28, wide >> 4)]


def _product(
  x: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  groups: int,
  *,
  transposed: bool,
  interpret: bool,
) -> jax.Array:
  """Returns the product of x [R, I], float32 [R, O]."""
  from jax.experimental import pallas as pl

  R, outputs = len(x), weights.shape[0 if transposed else 1]
  stored = weights.size // outputs
  sizes = [n for n in (512, 256, 128) if n * stored <= _BLOCK_BYTES]
  block_O = min([*sizes, 128][0], outputs)

  def kernel(x_ref, w_ref, s_ref, y_ref):
    w = w_ref[...]
    if groups:
      both = [half.reshape(groups, -1, block_O) for half in halves(w)]
      w = jnp.concatenate(both, axis=1) * s_ref[...][:, None]
      w = w.reshape(-1, block_O)
    y_ref[...] = jax.lax.dot_general(
      x_ref[...],
      w.astype(x.dtype),
      (((1,), (1 if transposed else 0,)), ((), ())),
      precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
      preferred_element_type=jnp.float32,
    )

  shape, place = (stored, block_O), lambda o: (0, o)
  if transposed:
    shape, place = shape[::-1], lambda o: (o, 0)
  out = jax.ShapeDtypeStruct((R, outputs), jnp.float32)
  moved = sum(a.size * a.dtype.itemsize for a in (x, weights, scale, out))
  return pl.pallas_call(
    kernel,
    out_shape=out,
    grid=(pl.cdiv(outputs, block_O),),
    in_specs=[
      pl.BlockSpec(x.shape, lambda o: (0, 0)),
      pl.BlockSpec(shape, place),
      pl.BlockSpec((len(scale), block_O), lambda o: (0, o)),
    ],
    out_specs=pl.BlockSpec((R, block_O), lambda o: (0, o)),
    interpret=interpret,
    name='quantized_product',
    **stated_cost(flops=2 * x.size * outputs, bytes_accessed=moved),
  )(x, weights, scale)
