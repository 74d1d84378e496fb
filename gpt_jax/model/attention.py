"""Causal self-attention, dense or banded.

Training and scoring read a text at once: `attend_text`, by the kernel chosen for the
devices (`model/kernels.py`). Decoding has a cache (`model/cache.py`), and a mask over
it: `attend`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model import kernels
from gpt_jax.model.gradients import Gradients, attention_logits, of, softmax_product
from gpt_jax.model.layers import Dropout, apply_dropout


def attend_text(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  *,
  band: int,
  kernel: str,
  scale: float = 1.0,
  drop: Dropout | None,
  first_BT: jax.Array | None = None,
  by_heads: Callable[[Callable], Callable] = lambda attend: attend,
  gradients: Gradients = 'written',
) -> jax.Array:
  """Returns causal attention of texts to themselves, [B, N, T, H].

  Args:
    q_BNTH: queries, already scaled.
    band: positions that a position sees, its own included; at least T for all.
    kernel: of `model.kernels`; 'plain' is taken where it can't compute this text.
    drop: dropout on the attention weights, or None.
    first_BT: as in `GPT`.
    by_heads: divides a flash kernel over devices (`Execution.by_heads`).
    gradients: of the plain kernel.
  """
  N, T, H = q_BNTH.shape[1:]
  needs = {'dropout': drop is not None, 'apart': first_BT is not None}
  if kernel != 'plain' and not kernels.lacking(kernel, T=T, H=H, **needs):
    flash = partial(_attend_flash, band=band, kernel=kernel, scale=scale)
    rows = drop and drop.words, first_BT
    return by_heads(flash)(q_BNTH, k_BNTH, v_BNTH, jnp.arange(N), *rows)
  q_BNTH = q_BNTH * scale
  if band < T:
    return attend_banded(q_BNTH, k_BNTH, v_BNTH, band, drop, gradients, first_BT)
  if drop is None:
    return attend_causal(q_BNTH, k_BNTH, v_BNTH, gradients, first_BT)
  seen = jnp.tril(jnp.ones((T, T), bool))
  if first_BT is not None:
    seen &= _in_document(first_BT, jnp.arange(T))
  return attend(q_BNTH, k_BNTH, v_BNTH, seen, drop)


def _in_document(first_BT: jax.Array, s: jax.Array) -> jax.Array:
  """Returns bool [B, 1, T, S]: is s in the document of t, or after it?"""
  return (s >= first_BT[..., None])[:, None]


def _attend_flash(
  q_BNTH, k_BNTH, v_BNTH, head_N, draw_B3, first_BT, *, band, kernel, scale
):
  """Returns `attend_text` of some rows and heads by a flash kernel."""
  if kernel == 'cudnn':
    return attend_cudnn(q_BNTH, k_BNTH, v_BNTH, band, scale)
  q_BNTH = q_BNTH * scale
  if kernel == 'splash':
    return attend_splash(q_BNTH, k_BNTH, v_BNTH, band, first_BT=first_BT)
  # Pallas takes a second to import, and only its kernels need it.
  from gpt_jax.model import flash

  return flash.attend(
    q_BNTH, k_BNTH, v_BNTH, head_N, draw_B3, first_BT, band=band, backend=kernel
  )


def attend_cudnn(
  q_BNTH: jax.Array, k_BNTH: jax.Array, v_BNTH: jax.Array, band: int, scale: float
) -> jax.Array:
  """Returns `attend_text` by cuDNN's fused attention."""
  y_BTNH = jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (q_BNTH, k_BNTH, v_BNTH)),
    scale=scale,
    is_causal=True,
    local_window_size=(band - 1, 0) if band < q_BNTH.shape[2] else None,
    implementation='cudnn',
  )
  return y_BTNH.swapaxes(1, 2)


def attend_splash(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  band: int,
  interpret: bool = False,
  first_BT: jax.Array | None = None,
) -> jax.Array:
  """Returns `attend_text` by jax's kernel for TPUs; `interpret` runs it elsewhere."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  N, T = q_BNTH.shape[1:3]
  mask = splash.CausalMask((T, T))
  if band < T:
    mask = splash.LocalMask((T, T), (band - 1, 0), 0)
  attention = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([mask] * N), interpret=interpret
  )
  if first_BT is None:
    return jax.vmap(attention)(q_BNTH, k_BNTH, v_BNTH)
  documents = splash.SegmentIds(first_BT, first_BT)  # one number for each will do
  return jax.vmap(attention)(q_BNTH, k_BNTH, v_BNTH, documents)


def attend_causal(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  gradients: Gradients = 'written',
  first_BT: jax.Array | None = None,
) -> jax.Array:
  """Returns causal attention, [B, N, T, H].

  Queries go in blocks, each against the keys up to its own end, so that most of what
  the mask would hide is never computed.
  """
  T = q_BNTH.shape[2]
  # With 4 blocks 5/8 of the products remain. Short texts gain less than the cuts cost.
  size = T // 4 if T >= 256 and T % 4 == 0 else T
  y = []
  for begin in range(0, T, size):
    end = begin + size
    seen = jnp.arange(begin, end)[:, None] >= jnp.arange(end)
    if first_BT is not None:
      seen &= _in_document(first_BT[:, begin:end], jnp.arange(end))
    k_BNSH, v_BNSH = k_BNTH[:, :, :end], v_BNTH[:, :, :end]
    y.append(attend(q_BNTH[:, :, begin:end], k_BNSH, v_BNSH, seen, None, gradients))
  return jnp.concatenate(y, axis=2)


def attend_banded(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  band: int,
  drop: Dropout | None,
  gradients: Gradients = 'written',
  first_BT: jax.Array | None = None,
) -> jax.Array:
  """Returns attention where a position sees the last `band` positions, its own too.

  The locally banded attention of the Sparse Transformer (Child et al. 2019), which
  GPT-3 alternates with dense layers (section 2.1). Queries go in blocks of `band`, each
  against its own block of keys and the one before: T * 2 band products of vectors
  instead of T * T, and no [T, T] array.
  """
  B, N, T, H = q_BNTH.shape
  n = -(-T // band)

  def blocks(x_BNTH):
    padded = jnp.pad(x_BNTH, ((0, 0), (0, 0), (0, n * band - T), (0, 0)))
    return padded.reshape(*padded.shape[:2], n, band, -1)

  def with_block_before(x_BNTH):
    x = blocks(x_BNTH)
    before = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))[:, :, :-1]
    return jnp.concatenate([before, x], axis=3)

  i, j = jnp.arange(band)[:, None], jnp.arange(2 * band)
  block = jnp.arange(n)[:, None, None]
  real = (block > 0) | (j >= band)  # none before the first block
  if first_BT is not None:
    first = blocks(first_BT[:, None, :, None])
    real &= (block - 1) * band + j >= first
  y = attend(
    blocks(q_BNTH),
    with_block_before(k_BNTH),
    with_block_before(v_BNTH),
    (i < j) & (j <= i + band) & real,
    drop,
    gradients,
  )
  return y.reshape(B, N, n * band, H)[:, :, :T]


def attend(
  q_BNTH: jax.Array,
  k_BNSH: jax.Array,
  v_BNSH: jax.Array,
  allowed: jax.Array,
  drop: Dropout | None,
  gradients: Gradients = 'written',
) -> jax.Array:
  """Returns softmax(q k') v, [B, N, T, H], in the dtype of q.

  Heads come before positions, so that both products are plain batched matrix
  products; on a CPU that is faster than einsum over [B, T, N, H].

  Args:
    q_BNTH: queries, already scaled; more axes may stand between N and T.
    allowed: bool, broadcasts against [B, N, T, S]; every query needs one key.
    drop: dropout on the attention weights, or None.
    gradients: without dropout, whether the gradient is the one written out.
  """
  if drop is None:
    return of(softmax_product, gradients)(q_BNTH, k_BNSH, v_BNSH, allowed)
  a_BNTS = attention_logits(q_BNTH, k_BNSH, allowed)
  p_BNTS = apply_dropout(jax.nn.softmax(a_BNTS), drop).astype(q_BNTH.dtype)
  return jnp.matmul(p_BNTS, v_BNSH)
