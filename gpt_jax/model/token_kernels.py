"""Kernels that read one token a row on NVIDIA GPUs, by Pallas and Triton.

To read a token takes as long as its weights take to reach the processors, and each
kernel begins with a wait. So a layer is five kernels, and each weight is read once:

  product    LayerNorm, product, bias, activation and residual sum of a few rows
  attention  writes the token's key and value, and reads the slots that are filled

A program of `product` computes some outputs of all rows (or of 16 of them); it
normalises the rows by itself, which costs less than a kernel that does it for all. A
program of `attention` computes the texts of one head in one row of the cache, with the
softmax of FlashAttention (Dao et al. 2022, section 3.1); long caches are divided among
several programs, whose sums are added up.

`interpret` runs the kernels elsewhere, slowly: for tests.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model.kernels import stated_cost

_ROWS = 16  # of a program; the least that tensor cores take
_FEW = 4  # rows up to which sums are faster than tensor cores
_SLOTS = 64  # of the cache that a program reads at once
_PART = 128  # slots of a part of a long cache, at least
_PROGRAMS = 128  # that a GPU runs at once, about
_HIDDEN = -2e38  # nearly the least float32

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
  dtype: str,
  interpret: bool = False,
) -> jax.Array:
  """Returns act(LN(x) @ kernel + bias) + add, [X, O], in `dtype`.

  Sums are float32, and so is what follows them.

  Args:
    linear: kernel_T [O, I] in the dtype of the product; bias [O] or none.
    norm: scale [I] and bias or none, of a LayerNorm before the product.
    activation: of `ACTIVATIONS`; '' for none.
    add_XO: the residual stream that the result is added to.
  """
  # Pallas takes a second to import, and only a GPU needs it.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (X, I), O = x_XI.shape, len(linear['kernel_T'])  # noqa: E741
  few = X <= _FEW
  rows = pl.next_power_of_2(X) if few else _ROWS
  outputs, inputs = (4, 2048 // rows) if few else (16, 256)
  inputs = min(inputs, max(_ROWS, pl.next_power_of_2(I)))
  arrays = {'x': x_XI, **linear, 'norm': norm, 'add': add_XO}
  moved = sum(array.nbytes for array in jax.tree.leaves(arrays))
  sizes = {'rows': rows, 'outputs': outputs, 'inputs': inputs}
  return pl.pallas_call(
    partial(_product, few=few, activation=activation, **sizes),
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


def _product(refs, y_ref, *, rows, outputs, inputs, few, activation):
  """The program of `product` for some rows and outputs, `inputs` at a time."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (X, I), O, norm = refs['x'].shape, y_ref.shape[1], refs['norm']  # noqa: E741
  x0, o0 = pl.program_id(0) * rows, pl.program_id(1) * outputs
  real_X1 = (x0 + jnp.arange(rows) < X)[:, None]
  real_O = o0 + jnp.arange(outputs) < O

  def read(at, size):
    """Returns some of x, float32, and which of them are real."""
    real_I = at + jnp.arange(size) < I
    here = pl.ds(x0, rows), pl.ds(at, size)
    x = triton.load(refs['x'].at[here], mask=real_X1 & real_I, other=0)
    return x.astype(jnp.float32), real_I

  if norm is not None:
    x, real_I = read(0, pl.next_power_of_2(I))
    mean_X1 = x.sum(1)[:, None] / I
    square = jnp.square(jnp.where(real_I, x - mean_X1, 0))
    rate_X1 = jax.lax.rsqrt(square.sum(1)[:, None] / I + 1e-5)

  def add(i, sums):
    at = i * inputs
    x, real_I = read(at, inputs)
    of_I = partial(triton.load, mask=real_I, other=0)
    if norm is not None:
      x = (x - mean_X1) * rate_X1 * of_I(norm['scale'].at[pl.ds(at, inputs)])
      x += of_I(norm['bias'].at[pl.ds(at, inputs)]) if 'bias' in norm else 0
    kernel = triton.load(
      refs['kernel_T'].at[pl.ds(o0, outputs), pl.ds(at, inputs)],
      mask=real_O[:, None] & real_I,
      other=0,
    )
    x = x.astype(kernel.dtype)
    if few:
      return sums + x.astype(jnp.float32)[:, None] * kernel.astype(jnp.float32)
    return sums + triton.dot(x, kernel, trans_b=True)

  shape = (rows, outputs, inputs) if few else (rows, outputs)
  sums = jax.lax.fori_loop(0, pl.cdiv(I, inputs), add, jnp.zeros(shape, jnp.float32))
  y = sums.sum(2) if few else sums
  if 'bias' in refs:
    bias = triton.load(refs['bias'].at[pl.ds(o0, outputs)], mask=real_O, other=0)
    y += bias.astype(jnp.float32)
  y = ACTIVATIONS[activation](y) if activation else y
  place = pl.ds(x0, rows), pl.ds(o0, outputs)
  if refs['add'] is not None:
    y += triton.load(refs['add'].at[place], mask=real_X1 & real_O, other=0)
  triton.store(y_ref.at[place], y.astype(y_ref.dtype), mask=real_X1 & real_O)


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
