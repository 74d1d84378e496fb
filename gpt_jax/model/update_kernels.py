"""Linear layers of an update on NVIDIA GPUs, by Pallas and Triton.

XLA fuses what follows a product into its kernel only if one array results, and sums
over rows not at all. So each function here is a few kernels that pass over memory once:

  linear  the product that gives the gradient of what layers read sums the gradients of
          their biases up
  ending  the product adds the bias and the residual stream
  mlp     the first product also writes the slope of the activation; the product that
          gives the gradient of the hidden units multiplies by it, and sums the gradient
          of their bias up

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
from gpt_jax.model.update_norm import Stream, parameters

_TILE = 128, 256, 64  # rows and columns of a product by a program, and of a step
_NEAR = 16  # tiles of rows at most that are computed at the same time

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu_tanh': partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
}


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
  dx_RI, *sums = _product(
    _whole,
    list(zip(dy, [kernel.astype(x.dtype) for kernel in kernels], strict=True)),
    {'bias': None, 'add': None},
    (jax.ShapeDtypeStruct((len(dy[0]), x.shape[-1]), x.dtype),),
    trans_b=True,
    sums=biases[0] is not None,
    interpret=interpret,
  )
  dbiases = fused.pieces(sums[0].sum(0), kernels) if sums else biases
  dy_RO = jnp.concatenate(dy, 1)
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
) -> Stream:
  """Returns add + x @ kernel + bias: the residual stream after a branch.

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
  return Stream.after(y_RO.reshape(add.shape), x.dtype), (x, kernel, bias)


def _ending_backward(interpret, saved, dy):
  del interpret
  x, kernel, bias = saved
  dy_RO = fused.rows(dy.narrow)
  dx_RI = dy_RO @ kernel.astype(x.dtype).T
  dbias = None if bias is None else dy.total
  return dx_RI.reshape(x.shape), fused.of_kernel(fused.rows(x), dy_RO), dbias, dy.x


ending.defvjp(_ending_forward, _ending_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def mlp(
  x: jax.Array,
  up: tuple[jax.Array, jax.Array | None],
  down: tuple[jax.Array, jax.Array | None],
  add: jax.Array,
  activation: str,
  interpret: bool,
) -> Stream:
  """Returns add + act(x @ up + bias) @ down + bias, for x [..., D].

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
  x_RD, dy_RD = fused.rows(x), fused.rows(dy.narrow)
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
  dbias_D = None if down[1] is None else dy.total
  ddown = fused.of_kernel(hidden_RF, dy_RD), dbias_D
  return dx_RD.reshape(x.shape), dup, ddown, dy.x


mlp.defvjp(_mlp_forward, _mlp_backward)


def _product(
  end, pairs, given, results, *, interpret, trans_b=False, transcendentals=0, sums=False
):
  """Returns what `end` makes of tiles of the sum of a @ b, or a @ b', float32.

  Args:
    pairs: a [R, I] and b [I, O], or [O, I], each.
    given: other arrays, by name.
    results: shapes.
    sums: whether to return each a summed over the rows of a tile too, in one array.
  """
  from jax.experimental import pallas as pl

  a_RI, b = pairs[0]
  R, O = len(a_RI), b.shape[0 if trans_b else 1]  # noqa: E741
  rows, columns, _ = _TILE
  near = math.gcd(_NEAR, pl.cdiv(R, rows))
  if sums:
    shape = pl.cdiv(R, rows), sum(a_RI.shape[1] for a_RI, _ in pairs)
    results += (jax.ShapeDtypeStruct(shape, jnp.float32),)
  moved = sum(array.nbytes for array in jax.tree.leaves((pairs, given)))
  moved += sum(each.size * each.dtype.itemsize for each in results)
  return pl.pallas_call(
    partial(_tile, end=end, trans_b=trans_b, sums=sums),
    results,
    # Programs that run at the same time share rows of a and columns of b.
    grid=(near, pl.cdiv(O, columns), pl.cdiv(R, rows) // near),
    interpret=interpret,
    name='product',
    compiler_params=parameters(8, 3),
    **stated_cost(
      flops=sum(2 * R * O * a_RI.shape[1] for a_RI, _ in pairs),
      transcendentals=transcendentals,
      bytes_accessed=moved,
    ),
  )(pairs, given)


def _tile(pairs, refs, *results, end, trans_b, sums):
  """The program of `_product` for a tile of the result."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  R, O = pairs[0][0].shape[0], pairs[0][1].shape[0 if trans_b else 1]  # noqa: E741
  rows, columns, step = _TILE
  tile = pl.program_id(2) * pl.num_programs(0) + pl.program_id(0)
  r, o = tile * rows, pl.program_id(1) * columns
  first = pl.program_id(1) == 0
  real_R = r + jnp.arange(rows) < R
  real_O = o + jnp.arange(columns) < O
  total = jnp.zeros((rows, columns), jnp.float32)
  before = 0
  for a_ref, b_ref in pairs:
    I = a_ref.shape[1]  # noqa: E741

    def add(i, total, a_ref=a_ref, b_ref=b_ref, I=I, before=before):  # noqa: E741
      at = pl.ds(i * step, step)
      real_I = i * step + jnp.arange(step) < I
      a = _load(a_ref.at[pl.ds(r, rows), at], real_R, real_I)
      if sums:

        @pl.when(first)  # of the programs of these rows
        def _():
          to = tile, pl.ds(before + i * step, step)
          triton.store(results[-1].at[to], a.astype(jnp.float32).sum(0), mask=real_I)

      if trans_b:
        b = _load(b_ref.at[pl.ds(o, columns), at], real_O, real_I)
      else:
        b = _load(b_ref.at[at, pl.ds(o, columns)], real_I, real_O)
      return total + triton.dot(a, b, trans_b=trans_b)

    total = jax.lax.fori_loop(0, pl.cdiv(I, step), add, total)
    before += I
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
