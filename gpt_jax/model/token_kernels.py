"""Kernels that read one token a row on NVIDIA GPUs, by Pallas and Triton.

To read a token takes as long as its weights take to reach the processors, and each
kernel begins with a wait. So a layer is five kernels, and each weight is read once:

  product    LayerNorm, product, bias, activation and residual sum of a few rows
  attention  writes the token's key and value, and reads the slots that are filled

A program of `product` computes some outputs of all rows (or of 16 of them); it
normalises the rows by itself, which costs less than a kernel that does it for all.
Weights in 8 or 4 bits (`model/quantize.py`) are read as they are stored, and become
numbers in its registers. A
program of `attention` computes the texts of one head in one row of the cache, with the
softmax of FlashAttention (Dao et al. 2022, section 3.1); long caches are divided among
several programs, whose sums are added up.

`interpret` runs the kernels elsewhere, slowly: for tests.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model.kernels import stated_cost
from gpt_jax.model.quantized_kernels import halves

_ROWS = 16  # of a program; the least that tensor cores take
_FEW = 4  # rows up to which sums are faster than tensor cores
_SLOTS = 64  # of the cache that a program reads at once
_PART = 128  # slots of a part of a long cache, at least
_PROGRAMS = 128  # that a GPU runs at once, about
_HIDDEN = -2e38  # nearly the least float32

_STORED = 'kernel_T', 'kernel_T_int8', 'kernel_T_int4'

ACTIVATIONS = {
  'gelu_tanh': partial(jax.nn.gelu, approximate=True),
  'relu': jax.nn.relu,
}


def product(
  x_XI: jax.Array,
  linear: dict,
  *,
  norm: dict | None = None,
  activation: str = '',
  add_XO: jax.Array | None = None,
  factors: str,
  dtype: str,
  interpret: bool = False,
) -> jax.Array:
  """Returns act(LN(x) @ kernel + bias) + add, [X, O], in `dtype`.

  Sums are float32, and so is what follows them.

  Args:
    linear: kernel_T [O, I]; or kernel_T_int8 [O, I] and kernel_T_scale [O]; or
      kernel_T_int4 [O, I / 2] and kernel_T_scale [O, groups]; bias [O] or none.
    norm: scale [I] and bias or none, of a LayerNorm before the product.
    activation: of `ACTIVATIONS`; '' for none.
    add_XO: the residual stream that the result is added to.
    factors: the dtype that x and weights are multiplied in.
  """
  # Pallas takes a second to import, and only a GPU needs it.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  stored = next(name for name in linear if name in _STORED)
  (X, I), O = x_XI.shape, len(linear[stored])  # noqa: E741
  few = X <= _FEW
  rows = pl.next_power_of_2(X) if few else _ROWS
  outputs, inputs = (4, 2048 // rows) if few else (16, 256)
  inputs = min(inputs, max(2 * _ROWS, pl.next_power_of_2(I)))
  arrays = {'x': x_XI, **linear, 'norm': norm, 'add': add_XO}
  moved = sum(array.nbytes for array in jax.tree.leaves(arrays))
  sizes = {'rows': rows, 'outputs': outputs, 'inputs': inputs}
  how = {'few': few, 'activation': activation, 'factors': factors, 'stored': stored}
  return pl.pallas_call(
    partial(_product, **how, **sizes),
    jax.ShapeDtypeStruct((X, O), dtype),
    grid=(pl.cdiv(X, rows), pl.cdiv(O, outputs)),
    interpret=interpret,
    name='product',
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=4),
    **stated_cost(
      flops=2 * X * O * I,
      transcendentals=X * O if activation else 0,
      bytes_accessed=moved + X * O * jnp.dtype(dtype).itemsize,
    ),
  )(arrays)


def _product(refs, y_ref, *, rows, outputs, inputs, few, activation, factors, stored):
  """The program of `product` for some rows and outputs, `inputs` at a time."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (X, I), O, norm = refs['x'].shape, y_ref.shape[1], refs['norm']  # noqa: E741
  row_X1 = pl.program_id(0) * rows + jnp.arange(rows)[:, None]
  output_O = pl.program_id(1) * outputs + jnp.arange(outputs)
  real_X1, real_O, real_O1 = row_X1 < X, output_O < O, (output_O < O)[:, None]
  kernel, scale = refs[stored], refs.get('kernel_T_scale')
  parts = 2 if stored == 'kernel_T_int4' else 1  # numbers to one that is stored
  half = I // scale.shape[1] // 2 if parts > 1 else 0  # of a group
  size = inputs // parts

  def of_rows(column):
    x = _at(refs['x'], row_X1, column, real_X1 & (column < I))
    return x.astype(jnp.float32)

  if norm is not None:
    column = jnp.arange(pl.next_power_of_2(I))
    x = of_rows(column)
    mean_X1 = x.sum(1)[:, None] / I
    square = jnp.square(jnp.where(column < I, x - mean_X1, 0))
    rate_X1 = jax.lax.rsqrt(square.sum(1)[:, None] / I + 1e-5)

  def normalised(x, column):
    of_I = lambda name: triton.load(norm[name].at[column], mask=column < I, other=0)  # noqa: E731
    x = (x - mean_X1) * rate_X1 * of_I('scale')
    return x + of_I('bias') if 'bias' in norm else x

  def add(i, sums):
    place = i * size + jnp.arange(size)
    here = real_O1 & (place < kernel.shape[1])
    weights = _at(kernel, output_O[:, None], place, here)
    for part, w in enumerate(halves(weights) if parts > 1 else [weights]):
      column = place
      if parts > 1:
        group = jax.lax.div(place, half)
        column = place + (group + part) * half
        w *= _at(scale, output_O[:, None], group, here)
      x = of_rows(column)
      x = (x if norm is None else normalised(x, column)).astype(factors)
      if few:
        sums += x.astype(jnp.float32)[:, None] * w.astype(jnp.float32)
      else:
        sums += dot(x, w.astype(factors))
    return sums

  dot = partial(triton.dot, trans_b=True)
  if jnp.dtype(factors) == jnp.float32:
    dot = partial(dot, precision=jax.lax.Precision.HIGHEST)
  shape = (rows, outputs, inputs // parts) if few else (rows, outputs)
  turns = pl.cdiv(kernel.shape[1], size)
  sums = jax.lax.fori_loop(0, turns, add, jnp.zeros(shape, jnp.float32))
  y = sums.sum(2) if few else sums
  of_O = lambda ref: triton.load(ref.at[output_O], mask=real_O, other=0)  # noqa: E731
  if stored == 'kernel_T_int8':
    y *= of_O(scale)
  if 'bias' in refs:
    y += of_O(refs['bias']).astype(jnp.float32)
  y = ACTIVATIONS[activation](y) if activation else y
  if refs['add'] is not None:
    y += _at(refs['add'], row_X1, output_O, real_X1 & real_O)
  at = [jnp.broadcast_to(index, y.shape) for index in (row_X1, output_O[None])]
  triton.store(y_ref.at[tuple(at)], y.astype(y_ref.dtype), mask=real_X1 & real_O)


def _at(ref, row_R1: jax.Array, column_C: jax.Array, real_RC: jax.Array) -> jax.Array:
  """Returns entries [R, C] of a matrix, 0 where they are not real."""
  from jax.experimental.pallas import triton

  at = [jnp.broadcast_to(index, real_RC.shape) for index in (row_R1, column_C[None])]
  return triton.load(ref.at[tuple(at)], mask=real_RC, other=0)


def attention(
  qkv_X3D: jax.Array,
  k_BNSH: jax.Array,
  v_BNSH: jax.Array,
  seen_BKS: jax.Array,
  slot: jax.Array,
  *,
  scale: float,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns attention over the cache [X, D], and the cache with one token more a text.

  Args:
    qkv_X3D: queries, keys and values of the tokens of X = B K texts, of which K share a
      row of the cache.
    seen_BKS: bool, which slots before `slot` a text sees; besides it sees its token.
    slot: int32 scalar, where the K tokens of a row go; the slots before it are filled.
    scale: of the queries.
  """
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (B, N, S, H), K, X = k_BNSH.shape, seen_BKS.shape[1], len(qkv_X3D)
  parts = max(1, min(S // _PART, _PROGRAMS // (B * N)))
  arrays = (slot[None], qkv_X3D, seen_BKS.astype(jnp.int8), k_BNSH, v_BNSH)
  dtype = qkv_X3D.dtype if parts == 1 else jnp.float32
  results = [(parts, X, N * H), (parts, X, N), (parts, X, N)][: 3 if parts > 1 else 1]
  *results, k_BNSH, v_BNSH = pl.pallas_call(
    partial(_attention, K=K, scale=scale),
    (
      *(jax.ShapeDtypeStruct(shape, dtype) for shape in results),
      *(jax.ShapeDtypeStruct(old.shape, old.dtype) for old in (k_BNSH, v_BNSH)),
    ),
    grid=(B, N, parts),
    input_output_aliases={3: len(results), 4: len(results) + 1},
    interpret=interpret,
    name='attention',
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    **stated_cost(  # at most: how many slots are filled is known when it runs
      flops=4 * X * N * S * H,
      transcendentals=X * N * S,
      bytes_accessed=sum(array.nbytes for array in arrays) + 3 * X * N * H * 2,
    ),
  )(*arrays)
  if parts == 1:
    return results[0][0], k_BNSH, v_BNSH
  return _added_up(*results).astype(qkv_X3D.dtype), k_BNSH, v_BNSH


def _attention(
  slot_ref, qkv_ref, seen_ref, k_old_ref, v_old_ref, *results, K: int, scale: float
):
  """The program of `attention` for a row of the cache, a head and a part."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  y_ref, *stats, k_ref, v_ref = results
  (_, N, S, H), rows = k_ref.shape, max(_ROWS, pl.next_power_of_2(K))
  (b, n, part), slot = map(pl.program_id, range(3)), slot_ref[0]
  first = part == 0  # the part that the token belongs to
  real_K1 = (jnp.arange(rows) < K)[:, None]
  texts = pl.ds(b * K, rows)

  def of_token(which):
    place = texts, pl.ds((which * N + n) * H, H)
    return triton.load(qkv_ref.at[place], mask=real_K1, other=0)

  q, k, v = map(of_token, range(3))
  q = (q.astype(jnp.float32) * scale).astype(k.dtype)
  free_K1 = real_K1 & (slot + jnp.arange(rows) < S)[:, None] & first
  for ref, new in ((k_ref, k), (v_ref, v)):
    triton.store(ref.at[b, n, pl.ds(slot, rows)], new, mask=free_K1)

  def read(i, carry):
    most, total, y = carry
    here = pl.ds(i * _SLOTS, _SLOTS)
    real_S = i * _SLOTS + jnp.arange(_SLOTS) < slot
    slots = partial(triton.load, mask=real_S[:, None], other=0)
    seen = triton.load(
      seen_ref.at[b, pl.ds(0, rows), here], mask=real_K1 & real_S, other=0
    )
    a = triton.dot(q, slots(k_old_ref.at[b, n, here]), trans_b=True)
    a = jnp.where(seen != 0, a, _HIDDEN)
    more = jnp.maximum(most, a.max(1))
    e, keep = jnp.exp(a - more[:, None]), jnp.exp(most - more)
    y_more = triton.dot(e.astype(v.dtype), slots(v_old_ref.at[b, n, here]))
    return more, total * keep + e.sum(1), y * keep[:, None] + y_more

  own = (q.astype(jnp.float32) * k.astype(jnp.float32)).sum(1)
  own = jnp.where(first, own, _HIDDEN)  # elsewhere exp(own - most) is 0
  start = own, jnp.ones_like(own), v.astype(jnp.float32)
  turns = pl.cdiv(slot, _SLOTS)
  each = pl.cdiv(turns, pl.num_programs(2))
  last = jnp.minimum((part + 1) * each, turns)
  most, total, y = jax.lax.fori_loop(part * each, last, read, start)
  y = y if stats else y / total[:, None]
  place = part, texts, pl.ds(n * H, H)
  triton.store(y_ref.at[place], y.astype(y_ref.dtype), mask=real_K1)
  for ref, stat in zip(stats, (most, total), strict=False):
    triton.store(ref.at[part, texts, n], stat, mask=jnp.arange(rows) < K)


def _added_up(y_PXD: jax.Array, most_PXN: jax.Array, total_PXN: jax.Array) -> jax.Array:
  """Returns the attention [X, D] of parts: their sums y of exp(a - most) v, and total.

  One by one, since of a sum over an axis a compiler makes more than one kernel.
  """
  P, X, N = most_PXN.shape
  most_XN = most_PXN[0]
  for part in range(1, P):
    most_XN = jnp.maximum(most_XN, most_PXN[part])
  y_XNH, total_XN = 0, 0
  for part in range(P):
    share_XN = jnp.exp(most_PXN[part] - most_XN)
    total_XN += share_XN * total_PXN[part]
    y_XNH += share_XN[..., None] * y_PXD[part].reshape(X, N, -1)
  return (y_XNH / total_XN[..., None]).reshape(X, -1)
