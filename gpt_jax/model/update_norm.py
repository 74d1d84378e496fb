"""LayerNorm of an update on NVIDIA GPUs, by Pallas and Triton.

Its gradient, in one pass, is also added to that of the residual stream, and leaves what
the branch before needs of the sum: rounded for products, and summed over rows for a
bias. `interpret` runs the kernels elsewhere, slowly: for tests.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model import fused
from gpt_jax.model.kernels import stated_cost

_ROWS = 4  # of a program that normalises
_GROUP = 32  # rows whose sums a program of the gradient adds up, two at a time


class Stream(NamedTuple):
  """The residual stream between the end of a branch and the LayerNorm that reads it.

  What no one computes with is there for its gradient, which LayerNorm gives and the
  branch reads: autodiff would derive the same from the gradient of x, in a pass each.

  Attributes:
    x: [..., D], float32.
    narrow: zeros like x in the compute dtype; its gradient is that of x, rounded.
    total: zeros [D]; its gradient is that of x, summed over rows.
  """

  x: jax.Array
  narrow: jax.Array | None
  total: jax.Array | None

  @classmethod
  def after(cls, x: jax.Array, dtype: str) -> 'Stream':
    """Returns the stream of a branch that computes in `dtype`."""
    return cls(x, jnp.zeros(x.shape, dtype), jnp.zeros(x.shape[-1:]))


def whole(x: jax.Array | Stream) -> jax.Array:
  """Returns a residual stream for those who know no `Stream`."""
  return _whole(x) if isinstance(x, Stream) else x


@jax.custom_vjp
def _whole(stream):
  return stream.x


def _whole_backward(narrow, dx):
  dnarrow = dx.astype(narrow.dtype)
  return (Stream(dx, dnarrow, fused.sum_of_rows(fused.rows(dnarrow))),)


_whole.defvjp(lambda stream: (stream.x, stream.narrow), _whole_backward)


def normalize(
  x: jax.Array | Stream,
  scale: jax.Array,
  shift: jax.Array | None,
  dtype: str,
  interpret: bool,
  last: bool = False,
) -> tuple[jax.Array | None, jax.Array]:
  """Returns x, to go on with, and LayerNorm(x) in `dtype`.

  Who reads the first instead of x has both gradients of x added up in one pass.

  Args:
    x: [..., D], float32.
    scale: [D].
    shift: [D], or None for 0.
    last: whether no one goes on with x, and None is returned for it.
  """
  stream = x if isinstance(x, Stream) else Stream(x, None, None)
  return _normalize(stream, scale, shift, dtype, interpret, last)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalize(stream, scale, shift, dtype, interpret, last):
  return _forward(stream, scale, shift, dtype, interpret, last)[0]


def _forward(stream, scale, shift, dtype, interpret, last):
  from jax.experimental import pallas as pl

  x_RD = fused.rows(stream.x)
  (R, D), size = x_RD.shape, jnp.dtype(dtype).itemsize
  y_RD, unit_RD, rate_R = pl.pallas_call(
    _normal,
    (
      jax.ShapeDtypeStruct((R, D), dtype),
      jax.ShapeDtypeStruct((R, D), dtype),
      jax.ShapeDtypeStruct((R,), jnp.float32),
    ),
    grid=(pl.cdiv(R, _ROWS),),
    interpret=interpret,
    name='normalize',
    compiler_params=parameters(4, 1),
    **stated_cost(flops=0, transcendentals=R, bytes_accessed=R * D * (4 + 2 * size)),
  )({'x': x_RD, 'scale': scale, 'shift': shift})
  # The gradient asks only whether there are places for it in the stream.
  apart = stream._replace(x=None)
  result = None if last else stream.x, y_RD.reshape(stream.x.shape)
  return result, (apart, unit_RD, rate_R, scale, shift)


def _normal(refs, y_ref, unit_ref, rate_ref):
  """The program of `normalize` for some rows."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  R, D = y_ref.shape
  here, real_R, real = _place(pl.program_id(0) * _ROWS, _ROWS, R, D)
  of_D = partial(_vector, D=D)
  x = triton.load(refs['x'].at[here], mask=real, other=0)
  mean_R1 = x.sum(1)[:, None] / D
  x = jnp.where(real, x - mean_R1, 0)
  rate_R = jax.lax.rsqrt(jnp.square(x).sum(1) / D + 1e-5)
  unit = x * rate_R[:, None]
  y = unit * of_D(refs['scale'])
  y = y if refs['shift'] is None else y + of_D(refs['shift'])
  triton.store(y_ref.at[here], y.astype(y_ref.dtype), mask=real)
  triton.store(unit_ref.at[here], unit.astype(unit_ref.dtype), mask=real)
  triton.store(rate_ref.at[here[0]], rate_R, mask=real_R)


def _backward(dtype, interpret, last, saved, given):
  from jax.experimental import pallas as pl

  apart, unit_RD, rate_R, scale, shift = saved
  dx, dy = given
  (R, D), programs = unit_RD.shape, pl.cdiv(len(unit_RD), _GROUP)
  narrow = [] if apart.narrow is None else [jax.ShapeDtypeStruct((R, D), dtype)]
  size = jnp.dtype(dtype).itemsize
  dx_RD, sums_XD, *narrow_RD = pl.pallas_call(
    _gradient,
    (
      jax.ShapeDtypeStruct((R, D), jnp.float32),
      jax.ShapeDtypeStruct((programs * 3, D), jnp.float32),
      *narrow,
    ),
    grid=(programs,),
    interpret=interpret,
    name='normalize_gradient',
    compiler_params=parameters(8, 2),
    **stated_cost(
      flops=0,
      bytes_accessed=R * D * (4 * (2 - last) + (2 + len(narrow)) * size)
      + programs * 12 * D,
    ),
  )(
    {
      'dx': None if last else fused.rows(dx),
      'dy': fused.rows(dy),
      'unit': unit_RD,
      'rate': rate_R,
      'scale': scale,
    }
  )
  dscale, dshift, total = sums_XD.reshape(programs, 3, D).sum(0)
  dstream = Stream(dx_RD.reshape(dy.shape), None, None)
  if narrow:
    dstream = Stream(dstream.x, narrow_RD[0].reshape(dy.shape), total)
  return dstream, dscale, None if shift is None else dshift


def _gradient(refs, dx_ref, sums_ref, *narrow_ref):
  """The program of the gradient of `normalize` for a group of rows."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (R, D), group = dx_ref.shape, pl.program_id(0)
  scale = _vector(refs['scale'], D)

  def add(i, sums):
    here, real_R, real = _place(group * _GROUP + 2 * i, 2, R, D)
    read = partial(triton.load, mask=real, other=0)
    dy, unit = (
      read(refs[name].at[here]).astype(jnp.float32) for name in ('dy', 'unit')
    )
    rate_R = triton.load(refs['rate'].at[here[0]], mask=real_R, other=0)
    d = dy * scale
    along_R1, mean_R1 = (d * unit).sum(1)[:, None] / D, d.sum(1)[:, None] / D
    dx = rate_R[:, None] * (d - mean_R1 - unit * along_R1)
    dx += 0 if refs['dx'] is None else read(refs['dx'].at[here])
    for ref in (dx_ref, *narrow_ref):
      triton.store(ref.at[here], dx.astype(ref.dtype), mask=real)
    return tuple(
      total + each.sum(0) for total, each in zip(sums, (dy * unit, dy, dx), strict=True)
    )

  sums = jax.lax.fori_loop(0, _GROUP // 2, add, (jnp.zeros_like(scale),) * 3)
  columns = pl.ds(0, len(scale))
  for i, total in enumerate(sums):
    real = jnp.arange(len(scale)) < D
    triton.store(sums_ref.at[3 * group + i, columns], total, mask=real)


_normalize.defvjp(_forward, _backward)


def _place(first, rows, R, D):
  """Returns slices of some rows, padded; which rows, and which entries, are real."""
  from jax.experimental import pallas as pl

  columns = pl.next_power_of_2(D)
  real_R = first + jnp.arange(rows) < R
  real = real_R[:, None] & (jnp.arange(columns) < D)
  return (pl.ds(first, rows), pl.ds(0, columns)), real_R, real


def _vector(ref, D):
  """Returns a vector [D], padded with zeros to a power of two."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  columns = pl.next_power_of_2(D)
  return triton.load(ref.at[pl.ds(0, columns)], mask=jnp.arange(columns) < D, other=0)


def parameters(warps: int, stages: int):
  """Returns how Triton compiles a kernel: `compiler_params` of `pallas_call`."""
  from jax.experimental.pallas import triton

  return triton.CompilerParams(num_warps=warps, num_stages=stages)
