"""Flash attention by Pallas, with dropout on the weights and documents kept apart.

FlashAttention (Dao et al. 2022, algorithms 2 and 4; the loops' order is
FlashAttention-2's, Dao 2023): blocks of queries go against blocks of keys, the weights
of a block are computed, used and forgotten, in the backward pass again. Vendors'
kernels are faster where they will do (`model/kernels.py`). This one draws dropout as
`layers.apply_dropout` does, a function of (seed, step, layer, row, head, query, key),
so that neither the kernel nor the layout nor micro-batches change a run.

Letters: b a row, n a head, i and j blocks of queries and keys, t a query, s a key;
K keys of a block, Q its queries.
"""

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from gpt_jax.model import kernels

# Queries and keys of a block. Triton: what two warp groups hold in registers; Mosaic:
# a TPU's tile. Interpreted: small, so that tests cross blocks.
_BLOCK = {'triton': 64, 'mosaic': 128, 'interpret': 16}
_HIDDEN = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class _Form:
  """What a kernel is compiled for.

  Attributes:
    backend: 'triton', 'mosaic' or 'interpret'.
    T: tokens of a row, without padding.
    band: positions that a position sees, its own included.
    dropout: whether weights are dropped.
  """

  backend: str
  T: int
  band: int
  dropout: bool

  @property
  def block(self) -> int:
    """Queries, and keys, of a block."""
    return _BLOCK[self.backend]

  def call(self, kernel, **how):
    """Returns `pl.pallas_call` of a kernel for the backend."""
    if self.backend == 'triton':
      from jax.experimental.pallas import triton

      # Loads ahead of time, beside the bits, take Triton minutes to compile.
      stages = 1 if self.dropout else 2
      how['compiler_params'] = triton.CompilerParams(num_warps=4, num_stages=stages)
    return pl.pallas_call(
      partial(kernel, self), interpret=self.backend == 'interpret', **how
    )


def attend(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  head_N: jax.Array,
  draw_B3: jax.Array | None,
  first_BT: jax.Array | None = None,
  *,
  band: int,
  backend: str,
) -> jax.Array:
  """Returns causal attention of texts to themselves, [B, N, T, H], in the dtype of q.

  Args:
    q_BNTH: queries, already scaled.
    head_N: int32, the numbers of these heads among all: consecutive ones.
    draw_B3: of `Dropout.words`, for dropout on the attention weights; None for none.
    first_BT: int32, where the document of each token begins; None where a row is one.
    band: positions that a position sees, its own included; at least T for all.
    backend: 'triton' for GPUs, 'mosaic' for TPUs, 'interpret' for anything, slowly.
  """
  T, H = q_BNTH.shape[2:]
  form = _Form(backend, T, min(band, T), draw_B3 is not None)
  rest = -T % form.block
  features = pl.next_power_of_2(max(H, 16)) - H if backend == 'triton' else 0

  def padded(x_BNTH):
    return jnp.pad(x_BNTH, ((0, 0), (0, 0), (0, rest), (0, features)))

  if first_BT is not None:  # padding is a document of its own
    first_BT = jnp.pad(first_BT, ((0, 0), (0, rest)), constant_values=T)
  draw_B4 = None
  if draw_B3 is not None:
    head = jnp.broadcast_to(head_N[:1].astype(jnp.uint32), (len(draw_B3), 1))
    draw_B4 = jnp.concatenate([draw_B3, head], axis=1)
  y_BNTH = _attention(form, *map(padded, (q_BNTH, k_BNTH, v_BNTH)), draw_B4, first_BT)
  return y_BNTH[:, :, :T, :H]


def threefry(
  key: tuple[jax.Array, jax.Array],
  high: jax.Array,
  low: jax.Array,
  unroll: bool = False,
) -> jax.Array:
  """Returns the 32 random bits of a key and a 64-bit counter, uint32.

  Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3), and the two words of
  the result in one: entry c of `jax.random.bits` has counter c.

  Args:
    unroll: whether to write the loop out, which takes Triton minutes to compile.
  """
  a, b = key
  c = a ^ b ^ jnp.uint32(0x1BD11BDA)

  def turn(i, state):
    x, y, (a, b, c), (turns, others) = state
    for bits in turns:
      x = x + y
      y = (y << bits) | (y >> (jnp.uint32(32) - bits))
      y = y ^ x
    x = x + a
    y = y + b + jax.lax.convert_element_type(i + 1, jnp.uint32)
    return x, y, (b, c, a), (others, turns)

  turns = (
    tuple(map(jnp.uint32, (13, 15, 26, 6))),
    tuple(map(jnp.uint32, (17, 29, 16, 24))),
  )
  start = high + a, low + b, (b, c, a), turns
  x, y, *_ = jax.lax.fori_loop(0, 5, turn, start, unroll=unroll)
  return x ^ y


def _positions(form: _Form, i: jax.Array, j: jax.Array):
  """Returns t [Q, 1] and s [1, K], int32, of a block of queries and one of keys."""
  n = form.block
  t = i * n + jax.lax.broadcasted_iota(jnp.int32, (n, 1), 0)
  return t, j * n + jax.lax.broadcasted_iota(jnp.int32, (1, n), 1)


def _seen(form: _Form, t, s, first_Q1):
  """Returns bool [Q, K]: may t see s?"""
  seen = s <= t
  if form.band < form.T:
    seen &= t - s < form.band
  return seen if first_Q1 is None else seen & (s >= first_Q1)


class _Draw(NamedTuple):
  """Dropout of one row and head: scalars.

  Attributes:
    key: two uint32.
    cut: bits below it drop a weight.
    head: number of all heads' this is.
  """

  key: tuple[jax.Array, jax.Array]
  cut: jax.Array
  head: jax.Array

  @classmethod
  def of(cls, draw_ref) -> '_Draw | None':
    """Returns the draw of this program's row and head; None without dropout."""
    if draw_ref is None:
      return None
    b, n = pl.program_id(0), pl.program_id(1)
    key_0, key_1, cut, head = (draw_ref[b, i] for i in range(4))
    return cls((key_0, key_1), cut, head + n.astype(jnp.uint32))

  @property
  def scale(self) -> jax.Array:
    """What the kept weights are multiplied by."""
    return 65536 / (65536 - self.cut.astype(jnp.int32).astype(jnp.float32))


def _place(form: _Form, head, t, s):
  """Returns where the plain path draws a weight's bits, 64 bits as two uint32 [Q, K].

  That is the place of (head, query, key) in its array of weights: [N, T, T], or
  [N, blocks, band, 2 band] of a banded layer (`attention.attend_banded`).
  """
  rows, width, column = form.T, form.T, s
  if form.band < form.T:
    rows, width = -(-form.T // form.band) * form.band, 2 * form.band
    column = s - (jax.lax.div(t, form.band) - 1) * form.band
  row = head * jnp.uint32(rows) + t.astype(jnp.uint32)
  # row * width + column, by the halves of row: width is at most 2**16.
  upper = (row >> 16) * jnp.uint32(width)
  lower = (row & jnp.uint32(0xFFFF)) * jnp.uint32(width)
  begin = (upper << 16) + lower
  high = (upper >> 16) + (begin < lower).astype(jnp.uint32)
  low = begin + column.astype(jnp.uint32)
  return high + (low < begin).astype(jnp.uint32), low


def _kept(form: _Form, draw: _Draw, t, s):
  """Returns bool [Q, K], what dropout keeps, as `layers.apply_dropout` draws it."""
  place = _place(form, draw.head, t, s)
  bits = threefry(draw.key, *place, unroll=form.backend == 'mosaic')
  return bits & jnp.uint32(0xFFFF) >= draw.cut


def _product(a, b, over=(1, 0)):
  """Returns the float32 product of two matrices, summed over the axes named."""
  dims = (((over[0],), (over[1],)), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _from(form: _Form, first_ref, i):
  """Returns the first block of keys that block i of queries sees."""
  n = form.block
  begin = jnp.maximum(i * n - form.band + 1, 0)
  if first_ref is not None:
    begin = jnp.maximum(begin, first_ref[pl.ds(i * n, n), :].min())
  return jax.lax.div(begin, n)


def _forward_kernel(form, draw_ref, first_ref, q_ref, k_ref, v_ref, y_ref, lse_ref):
  """Writes y [Q, H] and the logarithm of the softmax's divisor [Q, 1] of a block."""
  n, i, draw = form.block, pl.program_id(2), _Draw.of(draw_ref)
  q = q_ref[...]
  first_Q1 = None if first_ref is None else first_ref[pl.ds(i * n, n), :]

  def turn(j, carry):
    y, high, total = carry
    keys = pl.ds(j * n, n)
    t, s = _positions(form, i, j)
    a = _product(q, k_ref[keys, :], (1, 1))
    a = jnp.where(_seen(form, t, s, first_Q1), a, _HIDDEN)
    new = jnp.maximum(high, a.max(1, keepdims=True))
    e, shrunk = jnp.exp(a - new), jnp.exp(high - new)
    total = total * shrunk + e.sum(1, keepdims=True)
    if draw is not None:
      e = jnp.where(_kept(form, draw, t, s), e, 0)
    y = y * shrunk + _product(e.astype(q.dtype), v_ref[keys, :])
    return y, new, total

  start = (
    jnp.zeros(q.shape, jnp.float32),
    jnp.full((n, 1), _HIDDEN, jnp.float32),
    jnp.zeros((n, 1), jnp.float32),
  )
  y, high, total = jax.lax.fori_loop(_from(form, first_ref, i), i + 1, turn, start)
  share = 1 / total if draw is None else draw.scale / total
  y_ref[...] = (y * share).astype(y_ref.dtype)
  lse_ref[...] = high + jnp.log(total)


def _dlogits(form, draw, t, s, seen, q, k, v, dy, lse, dy_y):
  """Returns weights after dropout and gradients of logits of a block, [Q, K] each."""
  a = _product(q, k, (1, 1))
  p = jnp.where(seen, jnp.exp(a - lse), 0)
  dp = _product(dy, v, (1, 1))
  if draw is None:
    return p, p * (dp - dy_y)
  share = jnp.where(_kept(form, draw, t, s), draw.scale, 0)
  return p * share, p * (dp * share - dy_y)


def _dq_kernel(
  form, draw_ref, first_ref, q_ref, k_ref, v_ref, dy_ref, lse_ref, dy_y_ref, dq_ref
):
  """Writes dq [Q, H] of a block of queries."""
  n, i, draw = form.block, pl.program_id(2), _Draw.of(draw_ref)
  q, dy, lse, dy_y = q_ref[...], dy_ref[...], lse_ref[...], dy_y_ref[...]
  first_Q1 = None if first_ref is None else first_ref[pl.ds(i * n, n), :]

  def turn(j, dq):
    keys = pl.ds(j * n, n)
    k, v = k_ref[keys, :], v_ref[keys, :]
    t, s = _positions(form, i, j)
    seen = _seen(form, t, s, first_Q1)
    _, da = _dlogits(form, draw, t, s, seen, q, k, v, dy, lse, dy_y)
    return dq + _product(da.astype(q.dtype), k)

  begin = _from(form, first_ref, i)
  dq = jax.lax.fori_loop(begin, i + 1, turn, jnp.zeros(q.shape, jnp.float32))
  dq_ref[...] = dq.astype(dq_ref.dtype)


def _dkv_kernel(
  form, draw_ref, first_ref, q_ref, k_ref, v_ref, dy_ref, lse_ref, dy_y_ref, dk_ref,
  dv_ref,
):  # fmt: skip
  """Writes dk and dv [K, H] of a block of keys."""
  n, j, draw = form.block, pl.program_id(2), _Draw.of(draw_ref)
  k, v = k_ref[...], v_ref[...]

  def turn(i, carry):
    dk, dv = carry
    rows = pl.ds(i * n, n)
    q, dy = q_ref[rows, :], dy_ref[rows, :]
    t, s = _positions(form, i, j)
    seen = _seen(form, t, s, None if first_ref is None else first_ref[rows, :])
    p, da = _dlogits(
      form, draw, t, s, seen, q, k, v, dy, lse_ref[rows, :], dy_y_ref[rows, :]
    )
    dk += _product(da.astype(q.dtype), q, (0, 0))
    dv += _product(p.astype(q.dtype), dy, (0, 0))
    return dk, dv

  end = jnp.minimum(jax.lax.div(j * n + n - 2 + form.band, n) + 1, q_ref.shape[0] // n)
  zero = jnp.zeros(k.shape, jnp.float32)
  dk, dv = jax.lax.fori_loop(j, end, turn, (zero, zero))
  dk_ref[...] = dk.astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


def _specs(form: _Form, shape: tuple[int, ...]):
  """Returns where a kernel finds draws, first positions, a block and a whole text."""
  B, N, T, H = shape

  def block(H):
    return pl.BlockSpec((None, None, form.block, H), lambda b, n, i: (b, n, i, 0))

  def whole(H):
    return pl.BlockSpec((None, None, T, H), lambda b, n, i: (b, n, 0, 0))

  first = pl.BlockSpec((None, T, 1), lambda b, n, i: (b, 0, 0))
  draw = pl.BlockSpec((B, 4), lambda b, n, i: (0, 0))
  if form.backend == 'mosaic':
    from jax.experimental.pallas import tpu

    draw = pl.BlockSpec(memory_space=tpu.SMEM)
  return draw, first, block, whole


class _Work(NamedTuple):
  """What a kernel does.

  Attributes:
    products: of [T, H] and [H, T] or their like.
    arrays: of the size of q that it reads or writes.
    columns: of float32 numbers of queries that it reads or writes.
    elements: operations for each pair of positions, besides products: the causal mask,
      softmax and its sums, or the gradient of logits.
  """

  products: int
  arrays: int
  columns: int
  elements: int


_WORK = {
  'flash_forward': _Work(2, 4, 1, 7),
  'flash_dq': _Work(3, 5, 2, 7),
  'flash_dkv': _Work(4, 6, 2, 8),
}


def _cost(form: _Form, name: str, q_BNTH: jax.Array, apart: bool) -> dict:
  """Returns the name of a kernel, and what it computes and moves.

  Of documents apart all pairs that causality leaves are counted: how many of them the
  documents leave is known when it runs.
  """
  (B, N, rows, H), T, band, work = q_BNTH.shape, form.T, form.band, _WORK[name]
  pairs = B * N * (band * (band + 1) // 2 + (T - band) * band)
  elements = work.elements + 2 * apart + 3 * (band < T)
  moved = work.arrays * math.prod(q_BNTH.shape) * q_BNTH.dtype.itemsize
  moved += 4 * (work.columns * B * N * rows + apart * B * rows)
  if form.dropout:
    # A weight's place and whether its bits drop it; backward two products more. 20
    # rounds: an addition, a rotation (NVIDIA's funnel shift; else two shifts and an or)
    # and a xor; the key's words before and after every four; one word of both.
    elements += 4 + 2 * (band < T) + 3 + 2 * (name != 'flash_forward')
    elements += 20 * (3 if form.backend == 'triton' else 5) + 2 + 5 * 3 + 1
    moved += 4 * 4 * B
  return {'name': name} | kernels.stated_cost(
    flops=2 * work.products * pairs * H,
    bytes_accessed=moved,
    transcendentals=pairs * elements,
  )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(form, q_BNTH, k_BNTH, v_BNTH, draw_B4, first_BT):
  return _forward(form, q_BNTH, k_BNTH, v_BNTH, draw_B4, first_BT)[0]


def _forward(form, q_BNTH, k_BNTH, v_BNTH, draw_B4, first_BT):
  B, N, T, H = q_BNTH.shape
  draw, first, block, whole = _specs(form, q_BNTH.shape)
  y_BNTH, lse_BNT1 = form.call(
    _forward_kernel,
    grid=(B, N, T // form.block),
    in_specs=[
      None if draw_B4 is None else draw,
      None if first_BT is None else first,
      block(H),
      whole(H),
      whole(H),
    ],
    out_specs=[block(H), block(1)],
    out_shape=[q_BNTH, jax.ShapeDtypeStruct((B, N, T, 1), jnp.float32)],
    **_cost(form, 'flash_forward', q_BNTH, first_BT is not None),
  )(draw_B4, _column(first_BT), q_BNTH, k_BNTH, v_BNTH)
  saved = q_BNTH, k_BNTH, v_BNTH, draw_B4, first_BT, y_BNTH, lse_BNT1[..., 0]
  return y_BNTH, saved


def _backward(form, saved, dy_BNTH):
  q_BNTH, k_BNTH, v_BNTH, draw_B4, first_BT, y_BNTH, lse_BNT = saved
  B, N, T, H = q_BNTH.shape
  draw, first, block, whole = _specs(form, q_BNTH.shape)
  dy_y_BNT = (dy_BNTH.astype(jnp.float32) * y_BNTH).sum(-1)
  args = draw_B4, _column(first_BT), q_BNTH, k_BNTH, v_BNTH, dy_BNTH
  args += _column(lse_BNT), _column(dy_y_BNT)
  shared = [None if draw_B4 is None else draw, None if first_BT is None else first]
  grid = B, N, T // form.block
  dq_BNTH = form.call(
    _dq_kernel,
    grid=grid,
    in_specs=[*shared, block(H), whole(H), whole(H), block(H), block(1), block(1)],
    out_specs=block(H),
    out_shape=q_BNTH,
    **_cost(form, 'flash_dq', q_BNTH, first_BT is not None),
  )(*args)
  dk_BNTH, dv_BNTH = form.call(
    _dkv_kernel,
    grid=grid,
    in_specs=[*shared, whole(H), block(H), block(H), whole(H), whole(1), whole(1)],
    out_specs=[block(H), block(H)],
    out_shape=[k_BNTH, v_BNTH],
    **_cost(form, 'flash_dkv', q_BNTH, first_BT is not None),
  )(*args)
  return dq_BNTH, dk_BNTH, dv_BNTH, None, None


def _column(x):
  """Returns [..., T, 1] of [..., T]: numbers of queries that go along rows."""
  return None if x is None else x[..., None]


_attention.defvjp(_forward, _backward)
