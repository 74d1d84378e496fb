"""Causal self-attention, dense or banded, and the cache that decoding reads.

Training and scoring read a text at once: `attend_text`, by the kernel that `kernel_for`
chooses. Decoding has a cache, and a mask over it: `attend`.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from gpt_jax.model.layers import Dropout, apply_dropout


@flax.struct.dataclass
class Cache:
  """Keys and values of the tokens read so far.

  A slot is a place in the cache, a position is a place in the text. They differ when
  prompts of several lengths share a batch: every row writes the same slots (a cheap
  contiguous update) and `pos_BS` says what they hold.

  Beams of one text share its row: a step writes a slot for each of them, and which
  slots a beam's own text is made of is all that has to follow it when beams are chosen.

  Attributes:
    kv: per layer, keys and values, each [B, N, S, H].
    pos_BS: int32, the position of the token in a slot; -1 where there is none.
    fill_B: int32, tokens of the row's text: the position of the next one.
    slot: int32 scalar, the next slot to write.
    seen_BKS: bool, the slots that are the text of each beam; None without beams.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  pos_BS: jax.Array
  fill_B: jax.Array
  slot: jax.Array
  seen_BKS: jax.Array | None = None

  def branch(self, K: int) -> 'Cache':
    """Returns the cache for K beams a row, all with the text so far.

    Every step of theirs takes K slots.
    """
    B, S = self.pos_BS.shape
    seen_BKS = jnp.broadcast_to(self.pos_BS[:, None] >= 0, (B, K, S))
    return self.replace(seen_BKS=seen_BKS)

  def follow(self, parent_BK: jax.Array) -> 'Cache':
    """Returns the cache where beam k has the text that beam parent_BK had."""
    seen_BKS = jnp.take_along_axis(self.seen_BKS, parent_BK[..., None], axis=1)
    return self.replace(seen_BKS=seen_BKS)

  def written(
    self, T: int, length_B: jax.Array | None
  ) -> tuple['Cache', jax.Array, jax.Array]:
    """Returns the cache once T tokens a row are in it, but for their keys and values.

    Args:
      T: tokens of a row: that follow each other, or, with beams, one for each.
      length_B: how many of them are real; None with beams.

    Returns:
      The cache; pos_BT, the position of each token; and bool [B, T, S]: may token t
      see slot s?
    """
    B, t = len(self.fill_B), jnp.arange(T)
    put = jax.lax.dynamic_update_slice_in_dim
    if self.seen_BKS is not None:
      pos_BT = jnp.broadcast_to(self.fill_B[:, None], (B, T))
      own_BTT = jnp.broadcast_to(jnp.eye(T, dtype=bool), (B, T, T))
      seen_BTS = put(self.seen_BKS, own_BTT, self.slot, axis=2)
      pos_BS = put(self.pos_BS, pos_BT, self.slot, axis=1)
      fill_B = self.fill_B + 1
    else:
      pos_BT = self.fill_B[:, None] + t
      real_BT = jnp.where(t < length_B[:, None], pos_BT, -1)
      pos_BS = put(self.pos_BS, real_BT, self.slot, axis=1)
      seen_BTS = (pos_BS >= 0)[:, None] & (pos_BS[:, None] <= pos_BT[..., None])
      fill_B = self.fill_B + length_B
    cache = self.replace(
      pos_BS=pos_BS,
      fill_B=fill_B,
      slot=self.slot + T,
      seen_BKS=None if self.seen_BKS is None else seen_BTS,
    )
    return cache, pos_BT, seen_BTS


@flax.struct.dataclass
class Tree:
  """Tokens of many texts in one row, what they have in common only once.

  The row is a tree of tokens, written depth first: a token sees those on the way from
  the root to it. The slots that can see a token's follow it without a gap, so that one
  number says which they are.

  Attributes:
    kv: as in `Cache`; slots before `slot` are filled already.
    pos_BS: int32, the position of the token in a slot: how many stand above it.
    end_BS: int32, the first slot from its own on that cannot see it.
    slot: the first slot to write; the tokens take all the rest.
  """

  kv: tuple[tuple[jax.Array, jax.Array], ...]
  pos_BS: jax.Array
  end_BS: jax.Array
  slot: int = flax.struct.field(pytree_node=False)

  def written(self, T: int, length_B: None) -> tuple['Tree', jax.Array, jax.Array]:
    """Returns itself, pos_BT and the mask [B, T, S]; as `Cache.written`."""
    at_S = jnp.arange(self.pos_BS.shape[1])
    at_T = at_S[self.slot :, None]
    seen_BTS = (at_S <= at_T) & (at_T < self.end_BS[:, None])
    return self, self.pos_BS[:, self.slot :], seen_BTS


def in_band(pos_BS: jax.Array, pos_BT: jax.Array, band: int) -> jax.Array:
  """Returns bool [B, T, S]: is slot s among the last `band` positions of t?"""
  return pos_BT[:, :, None] - pos_BS[:, None, :] < band


def kernel_for(
  flash: str,
  platform: str,
  *,
  capability: float,
  dtype: str,
  T: int,
  H: int,
  dropout: bool,
  devices: int,
) -> tuple[str, str]:
  """Returns the kernel for attention of a text to itself, and why, in words.

  'cudnn' and 'splash' never write the [T, T] weights (FlashAttention: Dao et al. 2022);
  'plain' is ours, for whatever they do not take.

  Args:
    flash: as in `config.Model`.
    platform: of the devices, as jax names it.
    capability: compute capability of an NVIDIA GPU; 0 elsewhere.
    dtype: of queries, keys and values.
    T: tokens of a text.
    H: features of a head.
    dropout: whether attention weights are dropped.
    devices: how many there are.
  """
  needs = {
    'gpu': (
      'cudnn',
      {
        'compute capability 8.0': capability >= 8,
        'bfloat16': dtype == 'bfloat16',
        'heads of 8, 16 .. 128 features': H % 8 == 0 and H <= 128,
        'no dropout': not dropout,
      },
    ),
    'tpu': (
      'splash',
      {
        'a context of whole blocks of 128': T % 128 == 0,
        'heads of 64 features or a multiple': H % 64 == 0,
        'no dropout': not dropout,
        # The compiler can not divide it over a mesh.
        'a single device': devices == 1,
      },
    ),
  }
  if flash == 'plain':
    return 'plain', 'model.flash=plain'
  if platform not in needs:
    return 'plain', f'no flash attention for {platform}'
  kernel, rules = needs[platform]
  lacking = [rule for rule, holds in rules.items() if not holds]
  if lacking:
    return 'plain', f'{kernel} needs {", ".join(lacking)}'
  return kernel, f'{dtype} on {platform}'


def chosen_kernel(
  flash: str, *, dtype: str, T: int, H: int, dropout: bool
) -> tuple[str, str]:
  """Returns `kernel_for` on the devices of this process."""
  device = jax.devices()[0]
  try:
    capability = float(getattr(device, 'compute_capability', 0))
  except ValueError:  # AMD's have names
    capability = 0.0
  return kernel_for(
    flash,
    device.platform,
    capability=capability,
    dtype=dtype,
    T=T,
    H=H,
    dropout=dropout,
    devices=jax.device_count(),
  )


def attend_text(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  *,
  band: int,
  flash: str,
  drop: Dropout | None,
) -> jax.Array:
  """Returns causal attention of texts to themselves, [B, N, T, H].

  Args:
    q_BNTH: queries, already scaled.
    k_BNTH: keys.
    v_BNTH: values.
    band: positions that a position sees, its own included; at least T for all.
    flash: as in `config.Model`.
    drop: dropout on the attention weights, or None.
  """
  T, H = q_BNTH.shape[2:]
  dtype, dropout = str(q_BNTH.dtype), drop is not None
  kernel, _ = chosen_kernel(flash, dtype=dtype, T=T, H=H, dropout=dropout)
  if kernel == 'cudnn':
    return attend_cudnn(q_BNTH, k_BNTH, v_BNTH, band)
  if kernel == 'splash':
    return attend_splash(q_BNTH, k_BNTH, v_BNTH, band)
  if band < T:
    return attend_banded(q_BNTH, k_BNTH, v_BNTH, band, drop)
  if drop is None:
    return attend_causal(q_BNTH, k_BNTH, v_BNTH)
  return attend(q_BNTH, k_BNTH, v_BNTH, jnp.tril(jnp.ones((T, T), bool)), drop)


def attend_cudnn(
  q_BNTH: jax.Array, k_BNTH: jax.Array, v_BNTH: jax.Array, band: int
) -> jax.Array:
  """Returns `attend_text` by cuDNN's fused attention."""
  y_BTNH = jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (q_BNTH, k_BNTH, v_BNTH)),
    scale=1.0,
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
) -> jax.Array:
  """Returns `attend_text` by jax's kernel for TPUs; `interpret` runs it elsewhere."""
  # Pallas takes a second to import, and only a TPU needs it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  N, T = q_BNTH.shape[1:3]
  mask = splash.CausalMask((T, T))
  if band < T:
    mask = splash.LocalMask((T, T), (band - 1, 0), 0)
  attention = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([mask] * N), interpret=interpret
  )
  return jax.vmap(attention)(q_BNTH, k_BNTH, v_BNTH)


def attend_causal(q_BNTH: jax.Array, k_BNTH: jax.Array, v_BNTH: jax.Array) -> jax.Array:
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
    k_BNSH, v_BNSH = k_BNTH[:, :, :end], v_BNTH[:, :, :end]
    y.append(attend(q_BNTH[:, :, begin:end], k_BNSH, v_BNSH, seen, None))
  return jnp.concatenate(y, axis=2)


def attend_banded(
  q_BNTH: jax.Array,
  k_BNTH: jax.Array,
  v_BNTH: jax.Array,
  band: int,
  drop: Dropout | None,
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
    return padded.reshape(B, N, n, band, H)

  def with_block_before(x_BNTH):
    x = blocks(x_BNTH)
    before = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))[:, :, :-1]
    return jnp.concatenate([before, x], axis=3)

  i, j = jnp.arange(band)[:, None], jnp.arange(2 * band)
  real = (jnp.arange(n)[:, None, None] > 0) | (j >= band)  # none before the first block
  y = attend(
    blocks(q_BNTH),
    with_block_before(k_BNTH),
    with_block_before(v_BNTH),
    (i < j) & (j <= i + band) & real,
    drop,
  )
  return y.reshape(B, N, n * band, H)[:, :, :T]


def attend(
  q_BNTH: jax.Array,
  k_BNSH: jax.Array,
  v_BNSH: jax.Array,
  allowed: jax.Array,
  drop: Dropout | None,
) -> jax.Array:
  """Returns softmax(q k') v, [B, N, T, H], in the dtype of q.

  Heads come before positions, so that both products are plain batched matrix
  products; on a CPU that is faster than einsum over [B, T, N, H].

  Args:
    q_BNTH: queries, already scaled; more axes may stand between N and T.
    k_BNSH: keys.
    v_BNSH: values.
    allowed: bool, broadcasts against [B, N, T, S]; every query needs one key.
    drop: dropout on the attention weights, or None.
  """
  if drop is None:
    return _softmax_product(q_BNTH, k_BNSH, v_BNSH, allowed)
  a_BNTS = _logits(q_BNTH, k_BNSH, allowed)
  p_BNTS = apply_dropout(jax.nn.softmax(a_BNTS), drop).astype(q_BNTH.dtype)
  return jnp.matmul(p_BNTS, v_BNSH)


_product = partial(jnp.matmul, preferred_element_type=jnp.float32)


def _logits(q_BNTH, k_BNSH, allowed):
  a_BNTS = _product(q_BNTH, k_BNSH.swapaxes(-1, -2))
  return jnp.where(allowed, a_BNTS, jnp.finfo(jnp.float32).min)


@jax.custom_vjp
def _softmax_product(q_BNTH, k_BNSH, v_BNSH, allowed):
  """Returns `attend` without dropout.

  The weights stay unnormalised, exp(a - max); the result is divided by their sum. The
  gradient is FlashAttention's (Dao et al. 2022, appendix B.2), with the weights kept
  and not computed again: fewer passes over [T, S] than autodiff makes of softmax.
  """
  return _softmax_forward(q_BNTH, k_BNSH, v_BNSH, allowed)[0]


def _softmax_forward(q_BNTH, k_BNSH, v_BNSH, allowed):
  a_BNTS = _logits(q_BNTH, k_BNSH, allowed)
  e_BNTS = jnp.exp(a_BNTS - a_BNTS.max(-1, keepdims=True))
  share = 1 / e_BNTS.sum(-1, keepdims=True)
  e_BNTS = e_BNTS.astype(q_BNTH.dtype)
  y_BNTH = (_product(e_BNTS, v_BNSH) * share).astype(q_BNTH.dtype)
  return y_BNTH, (q_BNTH, k_BNSH, v_BNSH, y_BNTH, e_BNTS, share)


def _softmax_backward(saved, dy_BNTH):
  q_BNTH, k_BNSH, v_BNSH, y_BNTH, e_BNTS, share = saved
  dtype = q_BNTH.dtype
  dy_y = (dy_BNTH.astype(jnp.float32) * y_BNTH).sum(-1, keepdims=True) * share
  dy_BNTH = (dy_BNTH * share).astype(dtype)
  da_BNTS = e_BNTS * (_product(dy_BNTH, v_BNSH.swapaxes(-1, -2)) - dy_y)
  da_BNTS = da_BNTS.astype(dtype)
  dk_BNSH = jnp.matmul(da_BNTS.swapaxes(-1, -2), q_BNTH)
  dv_BNSH = jnp.matmul(e_BNTS.swapaxes(-1, -2), dy_BNTH)
  return jnp.matmul(da_BNTS, k_BNSH), dk_BNSH, dv_BNSH, None


_softmax_product.defvjp(_softmax_forward, _softmax_backward)
