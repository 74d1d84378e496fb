"""Pallas kernels for products of few rows with weights in 8 or 4 bits.

Such a product takes the time of reading the weights. The kernels read their bytes tile
by tile and turn them into the compute dtype on the chip, so floats of a whole matrix
are never written. There are two forms: 'triton' for GPUs, which divides a product over
inputs as well as outputs, since the outputs of a small matrix are too few for all
processors; and 'mosaic' for TPUs, which go through the outputs one block after another.
"""

import jax
import jax.numpy as jnp

from gpt_jax.model.kernels import stated_cost

_PROGRAMS = (
  264  # of a GPU's product at least, where it is large enough: two a processor
)
_TILE = 64  # inputs, and outputs, that a GPU's program has at once
_BLOCK_BYTES = 2**20  # of the weights in a TPU's memory on the chip, twice


def fits(shape: tuple[int, int], how: str) -> bool:
  """Returns whether a form takes weights stored in this shape; a small one it may not.

  Args:
    how: 'triton' or 'mosaic'.
  """
  return how == 'mosaic' or all(n % 16 == 0 for n in shape)


def times(
  x: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  how: str,
  transposed: bool = False,
  interpret: bool = False,
) -> jax.Array:
  """Returns x [..., I] @ the weights, scaled: float32 [..., O].

  Args:
    weights: int8, [I, O] or, `transposed`, [O, I]; in 4 bits [I / 2, O], as
      `quantize._packed` makes them.
    scale: [O]; in 4 bits [groups, O].
    how: 'triton' or 'mosaic'.
    interpret: on a CPU, step by step.
  """
  product = _triton if how == 'triton' else _mosaic
  groups = len(scale) if scale.ndim == 2 else 0
  rows = x.reshape(-1, x.shape[-1])
  s = scale if groups else scale[None]
  y = product(rows, weights, s, groups, transposed=transposed, interpret=interpret)
  y = y if groups else y * scale
  return y.reshape(*x.shape[:-1], y.shape[-1])


def _call(kernel, x: jax.Array, operands: list[jax.Array], out, **how) -> jax.Array:
  """Returns what a kernel computes; says what it takes to whoever reads the program."""
  from jax.experimental import pallas as pl

  moved = sum(a.size * a.dtype.itemsize for a in (x, *operands, out))
  flops = 2 * x.size * out.shape[-1]
  call = pl.pallas_call(
    kernel,
    out_shape=out,
    **stated_cost(flops=flops, bytes_accessed=moved),
    name='quantized_product',
    **how,
  )
  return call(x, *operands)


def _halves(tile: jax.Array) -> list[jax.Array]:
  """Returns the values in the low and in the high halves of bytes, float32."""
  wide = tile.astype(jnp.int32)  # neither compiler shifts bytes
  return [half.astype(jnp.float32) for half in ((wide << 28) >> 28, wide >> 4)]


def _dot(x: jax.Array, w: jax.Array, transposed: bool) -> jax.Array:
  """Returns x @ w, or x @ w', summed in float32."""
  return jax.lax.dot_general(
    x,
    w,
    (((1,), (1 if transposed else 0,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )


def _triton(
  x: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  groups: int,
  *,
  transposed: bool,
  interpret: bool,
) -> jax.Array:
  """Returns the product, float32 [R, O].

  Whole numbers up to 127 are exact in bfloat16; a group's sum is scaled once it is
  there.
  """
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import triton

  (R, inputs), outputs = x.shape, weights.shape[0 if transposed else 1]
  parts = 2 if groups else 1  # values to a byte
  stored = inputs // parts
  # A group of 4-bit weights is a tile, so that a tile has one scale.
  tile_I = stored // groups if groups else min(stored & -stored, _TILE)
  tile_O = min(outputs & -outputs, _TILE)
  tiles, blocks = stored // tile_I, outputs // tile_O
  splits = [n for n in range(1, tiles + 1) if tiles % n == 0]
  splits = next((n for n in splits if n * blocks >= _PROGRAMS), tiles)
  turns = tiles // splits
  tile_R = max(16, 1 << (R - 1).bit_length())  # a tensor core takes 16 rows

  def kernel(x_ref, w_ref, s_ref, y_ref):
    row = jnp.arange(tile_R)[:, None]

    def add(turn, y):
      here = pl.ds(turn * tile_I, tile_I)
      tile = w_ref[:, here] if transposed else w_ref[here, :]
      new = jnp.zeros_like(y)
      for i, w in enumerate(_halves(tile) if groups else [tile]):
        column = (turn * parts + i) * tile_I + jnp.arange(tile_I)[None]
        at = [jnp.broadcast_to(index, (tile_R, tile_I)) for index in (row, column)]
        some = triton.load(x_ref.at[tuple(at)], mask=at[0] < R, other=0.0)
        new += _dot(some, w.astype(x.dtype), transposed)
      return y + (new * s_ref[pl.ds(turn, 1), :] if groups else new)

    y = jax.lax.fori_loop(0, turns, add, jnp.zeros((tile_R, tile_O), jnp.float32))
    at = [jnp.broadcast_to(i, y.shape) for i in (row, jnp.arange(tile_O)[None])]
    triton.store(y_ref.at[tuple(at)], y, mask=at[0] < R)

  shape, place = (turns * tile_I, tile_O), lambda o, s: (s, o)
  if transposed:
    shape, place = shape[::-1], lambda o, s: (o, s)
  y = _call(
    kernel,
    x,
    [weights, scale],
    jax.ShapeDtypeStruct((splits, R, outputs), jnp.float32),
    grid=(blocks, splits),
    in_specs=[
      pl.BlockSpec((R, inputs // splits), lambda o, s: (0, s)),
      pl.BlockSpec(shape, place),
      pl.BlockSpec(
        (turns if groups else 1, tile_O), lambda o, s: (s * bool(groups), o)
      ),
    ],
    out_specs=pl.BlockSpec((None, R, tile_O), lambda o, s: (s, 0, o)),
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    interpret=interpret,
  )
  return y.sum(0)


def _mosaic(
  x: jax.Array,
  weights: jax.Array,
  scale: jax.Array,
  groups: int,
  *,
  transposed: bool,
  interpret: bool,
) -> jax.Array:
  """Returns the product, float32 [R, O]."""
  from jax.experimental import pallas as pl

  R, outputs = len(x), weights.shape[0 if transposed else 1]
  stored = weights.size // outputs
  sizes = [n for n in (512, 256, 128) if n * stored <= _BLOCK_BYTES]
  block_O = min([*sizes, 128][0], outputs)

  def kernel(x_ref, w_ref, s_ref, y_ref):
    w = w_ref[...]
    if groups:
      halves = [half.reshape(groups, -1, block_O) for half in _halves(w)]
      w = jnp.concatenate(halves, axis=1) * s_ref[...][:, None]
      w = w.reshape(-1, block_O)
    y_ref[...] = _dot(x_ref[...], w.astype(x.dtype), transposed)

  shape, place = (stored, block_O), lambda o: (0, o)
  if transposed:
    shape, place = shape[::-1], lambda o: (o, 0)
  return _call(
    kernel,
    x,
    [weights, scale],
    jax.ShapeDtypeStruct((R, outputs), jnp.float32),
    grid=(pl.cdiv(outputs, block_O),),
    in_specs=[
      pl.BlockSpec(x.shape, lambda o: (0, 0)),
      pl.BlockSpec(shape, place),
      pl.BlockSpec((len(scale), block_O), lambda o: (0, o)),
    ],
    out_specs=pl.BlockSpec((R, block_O), lambda o: (0, o)),
    interpret=interpret,
  )
