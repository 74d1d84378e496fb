"""The GPT: token and position embeddings, L blocks, an output over the vocabulary.

One module covers the line; what differs is in `config.Model`, and `papers.py` sets it
for each published model.

Precision: parameters are float32. Linear layers and attention products compute in
`dtype`; LayerNorm statistics, the attention softmax, the logits and the loss are
float32, and so is the sum over residual branches that gradients flow through.

The parameter tree is a file format (checkpoints hold it as it is):

  wte [V, D]  wpe [T, D]  lm_head [V, D] where the output is not tied to wte
  h_0 .. h_{L-1}: ln_1, attn/{q,k,v,o}, ln_2, mlp/{up,down}
  ln_f, but for post-norm
  linear layers: kernel [in, out] and bias [out]; LayerNorms: scale [D] and bias [D]

V is the vocabulary rounded up to a multiple of 128; the logits of the padding are
-inf. Biases are absent when `bias` is off.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax import config
from gpt_jax.model.attention import Cache, Tree, attend, attend_text, in_band
from gpt_jax.model.layers import (
  Dropout,
  LayerNorm,
  Linear,
  apply_dropout,
  drop_matrix,
  gelu_tanh,
)

ACTIVATIONS = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_tanh': gelu_tanh,
  'relu': jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class GPTConfig:
  """What a compiled program needs to know of a model: `config.Model`, frozen.

  Attributes: as in `config.Model`, with vocab and F filled in; attention is one of
    'dense' and 'banded' for each layer.
  """

  vocab: int
  L: int
  D: int
  N: int
  F: int
  T: int
  norm: str
  activation: str
  attention: tuple[str, ...]
  band: int
  attention_scale: bool
  tied: bool
  bias: bool
  qkv_bias: bool
  scaled_init: bool
  dropout_wte: bool
  dtype: str
  remat: str
  flash: str
  scan: bool
  mup_base: int
  mup_base_N: int

  @classmethod
  def of(cls, model: config.Model, vocab: int) -> 'GPTConfig':
    """Returns the shape of `model` for a tokenizer of `vocab` entries."""
    fields = dataclasses.asdict(model)
    del fields['dropout']
    pattern = model.attention.split(',')
    filled = {
      'vocab': model.vocab or vocab,
      'F': model.F or 4 * model.D,
      'attention': tuple(pattern[i % len(pattern)] for i in range(model.L)),
    }
    return cls(**fields | filled)

  @property
  def V(self) -> int:
    """Rows of `wte`: the vocabulary rounded up to a multiple of 128."""
    return -(-self.vocab // 128) * 128

  @property
  def width(self) -> float:
    """The width over that of the base model; 1 in the standard parametrisation."""
    return self.D / (self.mup_base or self.D)

  @property
  def query_scale(self) -> float:
    """What queries are multiplied by: 1 / sqrt(H), or 1 where attention isn't scaled.

    Attention logits are to go as 1 / H (Tensor Programs V, section 4 and definition
    4.1), so that much more shrinks them where heads are larger than the base model's.
    """
    H = self.D // self.N
    base_H = self.mup_base // self.mup_base_N if self.mup_base_N else H
    return (base_H**-0.5 if self.attention_scale else 1.0) * (base_H / H)


def normal(cfg: GPTConfig, residual: bool = False):
  """Returns the initialiser of kernels: N(0, 0.02) (GPT-1, section 4.1).

  GPT-2 (section 2.3) scales weights that write to the residual stream by 1/sqrt(N)
  for N residual layers; as in nanoGPT, N = 2 L here, since a block has two.
  The variance of kernels goes as 1 / width from the base model on (Tensor Programs V,
  table 8), that of embeddings (`_EMBEDDING`) does not.
  """
  branches = 2 * cfg.L if residual and cfg.scaled_init else 1
  return nn.initializers.normal(0.02 / (branches * cfg.width) ** 0.5)


# Differs: GPT-2's released code draws `wpe` from N(0, 0.01).
_EMBEDDING = nn.initializers.normal(0.02)


class Attention(nn.Module):
  """Multi-head causal self-attention."""

  config: GPTConfig
  banded: bool

  @nn.compact
  def __call__(self, x_BTD, allowed, kv, slot, drop):
    c = self.config

    def heads(name):
      y_BTD = Linear(c.D, c.bias and c.qkv_bias, normal(c), c.dtype, name=name)(x_BTD)
      return y_BTD.reshape(*y_BTD.shape[:2], c.N, c.D // c.N).swapaxes(1, 2)

    q_BNTH, k_BNSH, v_BNSH = heads('q'), heads('k'), heads('v')
    q_BNTH = q_BNTH * c.query_scale
    if kv is not None:
      k_BNSH, v_BNSH = kv = tuple(
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=2)
        for old, new in zip(kv, (k_BNSH, v_BNSH), strict=True)
      )
    drop_weights = drop and drop.at(0)
    if kv is None:
      T = x_BTD.shape[1]
      band = c.band if self.banded else T
      read = partial(attend_text, band=band, flash=c.flash)
      read = jax.checkpoint(read) if c.remat == 'attention' else read
      y_BNTH = read(q_BNTH, k_BNSH, v_BNSH, drop=drop_weights)
    else:
      y_BNTH = attend(q_BNTH, k_BNSH, v_BNSH, allowed, drop_weights)
    y_BTD = y_BNTH.swapaxes(1, 2).reshape(x_BTD.shape)
    y_BTD = Linear(c.D, c.bias, normal(c, residual=True), c.dtype, name='o')(y_BTD)
    return apply_dropout(y_BTD, drop and drop.at(1)), kv


class MLP(nn.Module):
  """Two linear layers with the activation between."""

  config: GPTConfig

  @nn.compact
  def __call__(self, x_BTD, drop):
    c = self.config
    x_BTF = Linear(c.F, c.bias, normal(c), c.dtype, name='up')(x_BTD)
    x_BTF = ACTIVATIONS[c.activation](x_BTF)
    y_BTD = Linear(c.D, c.bias, normal(c, residual=True), c.dtype, name='down')(x_BTF)
    return apply_dropout(y_BTD, drop and drop.at(2))


class Block(nn.Module):
  """A layer: attention, then the MLP, each with its LayerNorm and a residual sum.

  'pre': x + attn(ln_1(x)), then x + mlp(ln_2(x)) (GPT-2, section 2.3).
  'post': ln_1(x + attn(x)), then ln_2(x + mlp(x)) (GPT-1, as Vaswani et al. 2017).
  """

  config: GPTConfig
  banded: bool

  @nn.compact
  def __call__(self, x_BTD, allowed, kv, slot, drop):
    c = self.config
    attention = Attention(c, self.banded, name='attn')
    mlp = MLP(c, name='mlp')
    # After a sum the result goes on as the residual stream, so it stays float32.
    dtype = 'float32' if c.norm == 'post' else c.dtype
    ln_1, ln_2 = (LayerNorm(c.bias, dtype, name=f'ln_{i}') for i in (1, 2))
    if c.norm == 'post':
      y_BTD, kv = attention(x_BTD, allowed, kv, slot, drop)
      x_BTD = ln_1(x_BTD + y_BTD)
      return ln_2(x_BTD + mlp(x_BTD, drop)), kv
    y_BTD, kv = attention(ln_1(x_BTD), allowed, kv, slot, drop)
    x_BTD = x_BTD + y_BTD
    return x_BTD + mlp(ln_2(x_BTD), drop), kv


def _as_it_is(x: jax.Array) -> jax.Array:
  return x


class GPT(nn.Module):
  """A decoder-only transformer; `params` is its only collection."""

  config: GPTConfig

  @nn.compact
  def __call__(
    self,
    ids_BT: jax.Array,
    *,
    drop: Dropout | None = None,
    cache: Cache | Tree | None = None,
    length_B: jax.Array | None = None,
    logits: bool = True,
    spread: Callable[[jax.Array], jax.Array] = _as_it_is,
  ) -> tuple[jax.Array, Cache | Tree | jax.Array | None]:
    """Returns logits of the next tokens and the cache, extended.

    Args:
      ids_BT: tokens. Without a cache they are positions 0 .. T-1; with one they follow
        each row's tokens in it; with one that is branched, they are one for each beam.
      drop: dropout, or None.
      cache: keys and values of the tokens before; or a tree, whose tokens these are.
      length_B: with a cache and no beams: how many of each row's T tokens are real; the
        rest is padding that no later token sees. The logits are then [B, V], of the
        last real token of each row; otherwise they are [B, T, V].
      logits: if not, returns their two factors, x_BTD and head_VD, of the compute dtype
        (for a loss that never holds all logits).
      spread: is applied to the residual stream before each layer and after the last:
        the identity, but for how its rows are spread over devices.
    """
    c = self.config
    T = ids_BT.shape[1]
    wte_VD = self.param('wte', _EMBEDDING, (c.V, c.D))
    wpe_TD = self.param('wpe', _EMBEDDING, (c.T, c.D))
    if c.dropout_wte:
      wte_VD = drop_matrix(wte_VD, drop and drop.at(c.L))
      wpe_TD = drop_matrix(wpe_TD, drop and drop.at(c.L + 1))

    if cache is None:
      kv, slot = (None,) * c.L, None
      dense = banded = jnp.tril(jnp.ones((T, T), bool))
      x_BTD = wte_VD[ids_BT] + wpe_TD[:T]
    else:
      kv, slot = cache.kv, cache.slot
      cache, pos_BT, seen_BTS = cache.written(T, length_B)
      dense = banded = seen_BTS[:, None]
      if 'banded' in c.attention:
        banded = dense & in_band(cache.pos_BS, pos_BT, c.band)[:, None]
      x_BTD = wte_VD[ids_BT] + wpe_TD[jnp.minimum(pos_BT, c.T - 1)]

    if not c.dropout_wte:
      x_BTD = apply_dropout(x_BTD, drop and drop.at(c.L))
    if c.scan and cache is None and not self.is_initializing():
      layers = [self.variables['params'][f'h_{layer}'] for layer in range(c.L)]
      x_BTD = _scanned(c, layers, x_BTD, dense, drop, spread)
    else:
      new_kv = []
      make = nn.remat(Block) if c.remat == 'block' else Block
      for layer, kind in enumerate(c.attention):
        block = make(c, kind == 'banded', name=f'h_{layer}')
        allowed = banded if kind == 'banded' else dense
        here = drop and drop.at(layer)
        x_BTD, layer_kv = block(spread(x_BTD), allowed, kv[layer], slot, here)
        new_kv.append(layer_kv)
    x_BTD = spread(x_BTD)
    if cache is not None:
      cache = cache.replace(kv=tuple(new_kv))
      if length_B is not None:
        x_BTD = jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]

    if c.norm == 'pre':
      x_BTD = LayerNorm(c.bias, c.dtype, name='ln_f')(x_BTD)
    head_VD = wte_VD if c.tied else self.param('lm_head', _EMBEDDING, (c.V, c.D))
    x_BTD, head_VD = (x_BTD / c.width).astype(c.dtype), head_VD.astype(c.dtype)
    if not logits:
      return x_BTD, head_VD
    return output(x_BTD, head_VD, c.vocab), cache


def _scanned(
  c: GPTConfig,
  layers: list[dict],
  x_BTD: jax.Array,
  causal_TT: jax.Array,
  drop: Dropout | None,
  spread: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Returns x after all layers, whose parameters are stacked for a compiled loop.

  They are stacked here, in the program, so that state, optimizer and checkpoints know
  one form of parameters; the price is a copy of the weights and of their gradients. A
  turn of the loop takes one period of the attention's pattern.
  """
  period = next(
    p for p in range(1, c.L + 1) if c.attention[:p] * (c.L // p) == c.attention
  )

  def turn(x_BTD, given):
    first, params = given
    for i in range(period):
      block = Block(c, c.attention[i] == 'banded')
      here = drop and drop.at(first + i)
      args = spread(x_BTD), causal_TT, None, None, here
      x_BTD, _ = block.apply({'params': params[i]}, *args)
    return x_BTD, None

  if c.remat == 'block':
    turn = jax.checkpoint(turn, prevent_cse=False)
  stacked = [
    jax.tree.map(lambda *each: jnp.stack(each), *layers[i::period])
    for i in range(period)
  ]
  return jax.lax.scan(turn, x_BTD, (jnp.arange(0, c.L, period), stacked))[0]


def output(x: jax.Array, head_VD: jax.Array, vocab: int) -> jax.Array:
  """Returns float32 logits x head', [..., V]; -inf for the entries from `vocab` on.

  Args:
    x: [..., D], what `GPT` returns where it gives the factors of its logits.
    head_VD: the other.
    vocab: entries of V that are real.
  """
  if x.ndim == 2:
    # Decoding: with the large matrix first, a CPU reads it faster.
    logits = jnp.matmul(head_VD, x.T, preferred_element_type=jnp.float32).T
  else:
    logits = jnp.matmul(x, head_VD.T, preferred_element_type=jnp.float32)
  return jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits, -jnp.inf)


def init_params(cfg: GPTConfig, seed: int) -> dict:
  """Returns freshly initialised parameters, float32."""
  ids_BT = jnp.zeros((1, 1), jnp.int32)
  return GPT(cfg).init(jax.random.key(seed), ids_BT)['params']


def empty_cache(cfg: GPTConfig, B: int, S: int) -> Cache:
  """Returns a cache of S slots with no token in it, in the model's dtype."""
  zeros = jnp.zeros((B, cfg.N, S, cfg.D // cfg.N), cfg.dtype)
  return Cache(
    kv=((zeros, zeros),) * cfg.L,
    pos_BS=jnp.full((B, S), -1, jnp.int32),
    fill_B=jnp.zeros(B, jnp.int32),
    slot=jnp.int32(0),
  )
