"""Kernels of an update on NVIDIA GPUs, by Pallas and Triton.

XLA fuses what follows a product into its kernel only if one array results, and sums
over rows not at all. So each function here is a few kernels that pass over memory once:

  normalize  LayerNorm; its gradient also adds that of the residual stream, and sums
             the gradients of scale and shift up
  mlp        the first product also writes the slope of the activation; the product
             that gives the gradient of the hidden units multiplies by it, and sums the
             gradient of their bias up

They compute what `model/layers.py` does, but for rounding. `interpret` runs the kernels
elsewhere, slowly: for tests.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model import fused
from gpt_jax.model.kernels import stated_cost

_ROWS = 4  # of a program that normalises
_GROUP = 32  # rows whose sums a program of the gradient adds up, two at a time
_TILE = 128, 256, 64  # rows and columns of a product by a program, and of a step
_NEAR = 16  # tiles of rows at most that are computed at the same time

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu_tanh': partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
}


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
  x: jax.Array, scale: jax.Array, shift: jax.Array | None, dtype: str, interpret: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns x, to go on with, and LayerNorm(x) in `dtype`.

  Who reads the first instead of x has both gradients of x added up in one pass.

  Args:
    x: [..., D], float32.
    scale: [D].
    shift: [D], or None for 0.
  """
  return _normalize_forward(x, scale, shift, dtype, interpret)[0]


def _normalize_forward(x, scale, shift, dtype, interpret):
  from jax.experimental import pallas as pl

  x_RD = x.reshape(-1, x.shape[-1])
  (R, D), size = x_RD.shape, jnp.dtype(dtype).itemsize
  y_RD, unit_RD, rate_R = pl.pallas_call(
    _normalize,
    (
      jax.ShapeDtypeStruct((R, D), dtype),
      jax.ShapeDtypeStruct((R, D), dtype),
      jax.ShapeDtypeStruct((R,), jnp.float32),
    ),
    grid=(pl.cdiv(R, _ROWS),),
    interpret=interpret,
    name='normalize',
    compiler_params=_parameters(4, 1),
    **stated_cost(flops=0, transcendentals=R, bytes_accessed=R * D * (4 + 2 * size)),
  )({'x': x_RD, 'scale': scale, 'shift': shift})
  return (x, y_RD.reshape(x.shape)), (unit_RD, rate_R, scale, shift)


def _normalize(refs, y_ref, unit_ref, rate_ref):
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


def _normalize_backward(dtype, interpret, saved, given):
  from jax.experimental import pallas as pl

  unit_RD, rate_R, scale, shift = saved
  dx, dy = given
  (R, D), programs = unit_RD.shape, pl.cdiv(len(unit_RD), _GROUP)
  dx_RD, sums_XD = pl.pallas_call(
    _normalize_gradient,
    (
      jax.ShapeDtypeStruct((R, D), jnp.float32),
      jax.ShapeDtypeStruct((programs * 2, D), jnp.float32),
    ),
    grid=(programs,),
    interpret=interpret,
    name='normalize_gradient',
    compiler_params=_parameters(8, 2),
    **stated_cost(
      flops=0,
      bytes_accessed=R * D * (8 + 2 * jnp.dtype(dtype).itemsize) + programs * 8 * D,
    ),
  )(
    {
      'dx': dx.reshape(R, D),
      'dy': dy.reshape(R, D),
      'unit': unit_RD,
      'rate': rate_R,
      'scale': scale,
    }
  )
  dscale, dshift = sums_XD.reshape(programs, 2, D).sum(0)
  return dx_RD.reshape(dx.shape), dscale, None if shift is None else dshift


def _normalize_gradient(refs, dx_ref, sums_ref):
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
    triton.store(dx_ref.at[here], read(refs['dx'].at[here]) + dx, mask=real)
    return sums[0] + (dy * unit).sum(0), sums[1] + dy.sum(0)

  sums = jax.lax.fori_loop(0, _GROUP // 2, add, (jnp.zeros_like(scale),) * 2)
  columns = pl.ds(0, len(scale))
  for i, total in enumerate(sums):
    real = jnp.arange(len(scale)) < D
    triton.store(sums_ref.at[2 * group + i, columns], total, mask=real)


normalize.defvjp(_normalize_forward, _normalize_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
  x: jax.Array,
  kernels: tuple[jax.Array, ...],
  biases: tuple[jax.Array | None, ...],
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Returns x @ kernel + bias for each of some layers, in the dtype of x.

  The gradient of x is one product, and so is that of all kernels.

  Args:
    x: [..., I].
    kernels: [I, O] each, float32.
    biases: [O] each, or None for each.
  """
  return _linear_forward(x, kernels, biases, interpret)[0]


def _linear_forward(x, kernels, biases, interpret):
  # XLA would add a bias in the kernel of a product where it is a parameter of the
  # program, and not where a compiled loop over layers takes it from their stack.
  y = []
  for kernel, bias in zip(kernels, biases, strict=True):
    (y_RO,) = _product(
      _whole,
      [(fused.rows(x), kernel.astype(x.dtype))],
      {'bias': bias, 'add': None},
      (jax.ShapeDtypeStruct((x.size // x.shape[-1], kernel.shape[1]), x.dtype),),
      interpret=interpret,
    )
    y.append(y_RO.reshape(*x.shape[:-1], -1))
  return tuple(y), (x, kernels, biases)


def _linear_backward(interpret, saved, dy):
  x, kernels, biases = saved
  dy = [fused.rows(each) for each in dy]
  (dx_RI,) = _product(
    _whole,
    list(zip(dy, [kernel.astype(x.dtype) for kernel in kernels], strict=True)),
    {'bias': None, 'add': None},
    (jax.ShapeDtypeStruct((len(dy[0]), x.shape[-1]), x.dtype),),
    trans_b=True,
    interpret=interpret,
  )
  dy_RO, dbiases = jnp.concatenate(dy, 1), biases
  if biases[0] is not None:
    dbiases = fused.pieces(fused.sum_of_rows(dy_RO), kernels)
  # One array, that the optimizer makes one pass over all kernels.
  dkernel_IO = jax.lax.optimization_barrier(fused.of_kernel(fused.rows(x), dy_RO))
  return dx_RI.reshape(x.shape), fused.pieces(dkernel_IO, kernels), dbiases


linear.defvjp(_linear_forward, _linear_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def ending(
  x: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None,
  add: jax.Array,
  interpret: bool,
) -> jax.Array:
  """Returns add + x @ kernel + bias, float32: the residual stream after a branch.

  Args:
    x: [..., I].
    kernel: [I, O], float32.
    bias: [O], or None for 0.
    add: [..., O], float32.
  """
  return _ending_forward(x, kernel, bias, add, interpret)[0]


def _ending_forward(x, kernel, bias, add, interpret):
  (y_RO,) = _product(
    _whole,
    [(fused.rows(x), kernel.astype(x.dtype))],
    {'bias': bias, 'add': fused.rows(add)},
    (jax.ShapeDtypeStruct(fused.rows(add).shape, jnp.float32),),
    interpret=interpret,
  )
  return y_RO.reshape(add.shape), (x, kernel, bias)


def _ending_backward(interpret, saved, dy):
  del interpret
  x, kernel, bias = saved
  dy_RO = fused.rows(dy).astype(x.dtype)
  dx_RI = dy_RO @ kernel.astype(x.dtype).T
  dbias = None if bias is None else fused.sum_of_rows(dy_RO)
  return dx_RI.reshape(x.shape), fused.of_kernel(fused.rows(x), dy_RO), dbias, dy


ending.defvjp(_ending_forward, _ending_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def mlp(
  x: jax.Array,
  up: tuple[jax.Array, jax.Array | None],
  down: tuple[jax.Array, jax.Array | None],
  add: jax.Array,
  activation: str,
  interpret: bool,
) -> jax.Array:
  """Returns add + act(x @ up + bias) @ down + bias, float32, for x [..., D].

  Args:
    up: kernel [D, F] and bias [F] or None, float32.
    down: kernel [F, D] and bias [D] or None, float32.
    add: [..., D], float32: the residual stream.
    activation: of `ACTIVATIONS`.
  """
  return _mlp_forward(x, up, down, add, activation, interpret)[0]


def _mlp_forward(x, up, down, add, activation, interpret):
  kernel_DF, bias_F = up
  x_RD = fused.rows(x)
  hidden_RF, slope_RF = _product(
    partial(_up, activation=activation),
    [(x_RD, kernel_DF.astype(x.dtype))],
    {'bias': bias_F},
    (jax.ShapeDtypeStruct((len(x_RD), kernel_DF.shape[1]), x.dtype),) * 2,
    transcendentals=len(x_RD) * kernel_DF.shape[1],
    interpret=interpret,
  )
  y, (*_, kernel_FD, bias_D) = _ending_forward(hidden_RF, *down, add, interpret)
  return y, (x, up, (kernel_FD, bias_D), hidden_RF, slope_RF)


def _mlp_backward(activation, interpret, saved, dy):
  from jax.experimental import pallas as pl

  del activation
  x, up, down, hidden_RF, slope_RF = saved
  x_RD, dy_RD = (fused.rows(array).astype(x.dtype) for array in (x, dy))
  R, F = hidden_RF.shape
  d_RF, sums_GF = _product(
    _hidden_gradient,
    [(dy_RD, down[0].astype(x.dtype))],
    {'slope': slope_RF},
    (
      jax.ShapeDtypeStruct((R, F), x.dtype),
      jax.ShapeDtypeStruct((pl.cdiv(R, _TILE[0]), F), jnp.float32),
    ),
    trans_b=True,
    interpret=interpret,
  )
  dx_RD = d_RF @ up[0].astype(x.dtype).T
  dup = fused.of_kernel(x_RD, d_RF), None if up[1] is None else sums_GF.sum(0)
  dbias_D = None if down[1] is None else fused.sum_of_rows(dy_RD)
  ddown = fused.of_kernel(hidden_RF, dy_RD), dbias_D
  return dx_RD.reshape(x.shape), dup, ddown, dy


mlp.defvjp(_mlp_forward, _mlp_backward)


def _product(
  end, pairs, given, results, *, interpret, trans_b=False, transcendentals=0
):
  """Returns what `end` makes of tiles of the sum of a @ b, or a @ b', float32.

  Args:
    pairs: a [R, I] and b [I, O], or [O, I], each.
    given: other arrays, by name.
    results: shapes.
  """
  from jax.experimental import pallas as pl

  a_RI, b = pairs[0]
  R, O = len(a_RI), b.shape[0 if trans_b else 1]  # noqa: E741
  rows, columns, _ = _TILE
  near = math.gcd(_NEAR, pl.cdiv(R, rows))
  moved = sum(array.nbytes for array in jax.tree.leaves((pairs, given)))
  moved += sum(each.size * each.dtype.itemsize for each in results)
  return pl.pallas_call(
    partial(_tile, end=end, trans_b=trans_b),
    results,
    # Programs that run at the same time share rows of a and columns of b.
    grid=(near, pl.cdiv(O, columns), pl.cdiv(R, rows) // near),
    interpret=interpret,
    name='product',
    compiler_params=_parameters(8, 3),
    **stated_cost(
      flops=sum(2 * R * O * a_RI.shape[1] for a_RI, _ in pairs),
      transcendentals=transcendentals,
      bytes_accessed=moved,
    ),
  )(pairs, given)


def _tile(pairs, refs, *results, end, trans_b):
  """The program of `_product` for a tile of the result."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  R, O = pairs[0][0].shape[0], pairs[0][1].shape[0 if trans_b else 1]  # noqa: E741
  rows, columns, step = _TILE
  tile = pl.program_id(2) * pl.num_programs(0) + pl.program_id(0)
  r, o = tile * rows, pl.program_id(1) * columns
  real_R = r + jnp.arange(rows) < R
  real_O = o + jnp.arange(columns) < O
  total = jnp.zeros((rows, columns), jnp.float32)
  for a_ref, b_ref in pairs:
    I = a_ref.shape[1]  # noqa: E741

    def add(i, total, a_ref=a_ref, b_ref=b_ref, I=I):  # noqa: E741
      at = pl.ds(i * step, step)
      real_I = i * step + jnp.arange(step) < I
      a = _load(a_ref.at[pl.ds(r, rows), at], real_R, real_I)
      if trans_b:
        b = _load(b_ref.at[pl.ds(o, columns), at], real_O, real_I)
      else:
        b = _load(b_ref.at[at, pl.ds(o, columns)], real_I, real_O)
      return total + triton.dot(a, b, trans_b=trans_b)

    total = jax.lax.fori_loop(0, pl.cdiv(I, step), add, total)
  here = pl.ds(r, rows), pl.ds(o, columns)
  end(total, refs, results, here, real_R[:, None] & real_O, real_O, tile)


def _whole(total, refs, results, here, real, real_O, _):
  """Writes the sum, the bias and the residual stream."""
  from jax.experimental.pallas import triton

  if refs['bias'] is not None:
    total += triton.load(refs['bias'].at[here[1]], mask=real_O, other=0)
  if refs['add'] is not None:
    total += triton.load(refs['add'].at[here], mask=real, other=0)
  triton.store(results[0].at[here], total.astype(results[0].dtype), mask=real)


def _load(ref, real_0, real_1):
  from jax.experimental.pallas import triton

  return triton.load(ref, mask=real_0[:, None] & real_1, other=0)


def _up(total, refs, results, here, real, real_O, _, *, activation):
  """Writes hidden units, and the slope of the activation."""
  from jax.experimental.pallas import triton

  if refs['bias'] is not None:
    total += triton.load(refs['bias'].at[here[1]], mask=real_O, other=0)
  pair = jax.jvp(ACTIVATIONS[activation], (total,), (jnp.ones_like(total),))
  for ref, value in zip(results, pair, strict=True):
    triton.store(ref.at[here], value.astype(ref.dtype), mask=real)


def _hidden_gradient(total, refs, results, here, real, real_O, tile):
  """Writes the gradient before the activation, and its sums over the tile's rows."""
  from jax.experimental.pallas import triton

  d_ref, sums_ref = results
  slope = triton.load(refs['slope'].at[here], mask=real, other=0)
  d = total * slope.astype(jnp.float32)
  triton.store(d_ref.at[here], d.astype(d_ref.dtype), mask=real)
  triton.store(sums_ref.at[tile, here[1]], d.sum(0), mask=real_O)


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


def _parameters(warps, stages):
  from jax.experimental.pallas import triton

  return triton.CompilerParams(num_warps=warps, num_stages=stages)
