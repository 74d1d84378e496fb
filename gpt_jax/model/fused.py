"""Gradients written for compilers that fuse: those of GPUs.

A GPU's memory is what an update waits for beside its products, so each function here
passes over its arrays as often as it must and writes none in float32 that bfloat16
serves. They compute what those of `model/gradients.py` do, but for rounding, and are
taken where `Execution.fused` says so; benchmarks/README.md has what each saves.
Arrays are reshaped to rows in two axes, since XLA sums over rows of [B, T, D] by way of
a transposed copy.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp

# Rows that a first sum takes: XLA makes two of a long sum in any case. As these are
# written out, the first goes together with the kernel that makes the rows.
_GROUP = 256
_FEW = 32  # with fewer rows in a first sum the second is long


def rows(x: jax.Array) -> jax.Array:
  """Returns [..., D] as [R, D]."""
  return x.reshape(-1, x.shape[-1])


def sum_of_rows(x_RD: jax.Array, T: int = _GROUP) -> jax.Array:
  """Returns the float32 sum over R, [D].

  Args:
    T: rows that are on one device. First sums are of rows of one text, or devices would
      send each other rows.
  """
  R, D = x_RD.shape
  group = next(n for n in range(min(T, _GROUP), 0, -1) if T % n == 0)
  if R % group or group < _FEW:
    return x_RD.astype(jnp.float32).sum(0)
  part = x_RD.reshape(-1, group, D).astype(jnp.float32).sum(1)
  return jax.lax.optimization_barrier(part).sum(0)


@jax.custom_vjp
def affine(
  x: jax.Array,
  scale: jax.Array | None,
  shift: jax.Array | None,
  kernels: tuple[jax.Array, ...],
  biases: tuple[jax.Array | None, ...],
) -> tuple[jax.Array, ...]:
  """Returns (x * scale + shift) @ kernel + bias for each of some layers.

  The result is also x @ (scale * kernel) + (shift @ kernel + bias). So the gradients of
  scale and shift, those of a LayerNorm, are sums over kernels and not over all rows.
  A product is summed in float32 and rounded to the dtype of x once, after the bias.
  All kernels have their gradient by one product.

  Args:
    x: [..., I].
    scale: [I], or None for 1.
    shift: [I], or None for 0.
    kernels: [I, O] each, float32.
    biases: [O] each, or None for each.
  """
  return _affine_forward(x, scale, shift, kernels, biases)[0]


def pieces(joined, kernels):
  """Returns an array [..., sum of O] as one [..., O] for each kernel."""
  ends = list(itertools.accumulate(kernel.shape[1] for kernel in kernels))
  return tuple(jnp.split(joined, ends[:-1], axis=-1))


def _affine_forward(x, scale, shift, kernels, biases):
  x_RI = rows(x)
  if scale is not None:
    x_RI = x_RI * scale + (0 if shift is None else shift)
  y = []
  for kernel, bias in zip(kernels, biases, strict=True):
    y_RO = jnp.matmul(
      x_RI.astype(x.dtype),
      kernel.astype(x.dtype),
      preferred_element_type=jnp.float32,
    )
    y_RO = y_RO if bias is None else y_RO + bias
    y.append(y_RO.astype(x.dtype).reshape(*x.shape[:-1], -1))
  return tuple(y), (x, scale, shift, kernels, biases)


def _affine_backward(saved, dy):
  x, scale, shift, kernels, biases = saved
  dy = [rows(each) for each in dy]
  dy_RO, kernel_IO = jnp.concatenate(dy, 1), jnp.concatenate(kernels, 1)
  pairs = zip(dy, kernels, strict=True)
  dx = sum(each @ kernel.astype(x.dtype).T for each, kernel in pairs)
  if scale is not None:
    dx = (dx * scale).astype(x.dtype)
  dkernel_IO = of_kernel(rows(x), dy_RO)
  dscale, dshift, dbiases = None, None, biases
  if shift is not None or biases[0] is not None:
    dbias_O = sum_of_rows(dy_RO, *x.shape[-2:-1])
  if biases[0] is not None:
    dbiases = pieces(dbias_O, kernels)
  if scale is not None:
    dscale = (dkernel_IO * kernel_IO).sum(1)
    dkernel_IO = scale[:, None] * dkernel_IO
  if shift is not None:
    dshift = kernel_IO @ dbias_O
    dkernel_IO += shift[:, None] * dbias_O
  # One array, that the optimizer makes one pass over all kernels.
  dkernels = pieces(jax.lax.optimization_barrier(dkernel_IO), kernels)
  return dx.reshape(x.shape), dscale, dshift, dkernels, dbiases


affine.defvjp(_affine_forward, _affine_backward)


def of_kernel(x_RI: jax.Array, dy_RO: jax.Array) -> jax.Array:
  """Returns the gradient of a kernel [I, O], summed in float32."""
  return jax.lax.dot_general(
    x_RI, dy_RO, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def unit(x: jax.Array, dtype: str) -> jax.Array:
  """Returns x [..., D], float32, with mean 0 and variance 1 over D, in `dtype`.

  Differs: the variance is the mean of squares less the square of the mean, which takes
  one pass over x. Its relative error is that of float32 times 1 + mean^2 / variance;
  residual streams have means below their deviation.
  """
  return _unit_forward(x, dtype)[0]


def _unit_forward(x, dtype):
  x_RD = rows(x)
  # Kept apart from what follows, so that they come with the kernel that makes x.
  sums = jax.lax.optimization_barrier((x_RD.sum(1), jnp.square(x_RD).sum(1)))
  mean_R, square_R = (total_R / x_RD.shape[1] for total_R in sums)
  variance_R = jnp.maximum(square_R - jnp.square(mean_R), 0)
  rate = jax.lax.rsqrt(variance_R + 1e-5)[:, None]
  unit_RD = ((x_RD - mean_R[:, None]) * rate).astype(dtype)
  return unit_RD.reshape(x.shape), (unit_RD, rate)


def _unit_backward(dtype, saved, dunit):
  del dtype
  unit_RD, rate = saved
  d_RD, unit_RD = rows(dunit).astype(jnp.float32), unit_RD.astype(jnp.float32)
  along = (d_RD * unit_RD).mean(1, keepdims=True)
  dx_RD = rate * (d_RD - d_RD.mean(1, keepdims=True) - unit_RD * along)
  return (dx_RD.reshape(dunit.shape),)


unit.defvjp(_unit_forward, _unit_backward)
