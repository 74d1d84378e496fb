"""The GPT: token and position embeddings, L blocks; and `unembed`, its output.

One module covers the line; what differs is in `GPTConfig` (model/gpt_config.py), and
`config.papers` sets it for each published model.

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

from gpt_jax.model import gradients, quantize, update_kernels
from gpt_jax.model.attention import attend, attend_text
from gpt_jax.model.cache import Cache, Tree, in_band, put
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.model.gradients import Gradients
from gpt_jax.model.layers import (
  Dropout,
  LayerNorm,
  Linear,
  Normed,
  apply_dropout,
  drop_matrix,
  outputs,
)
from gpt_jax.model.update_norm import Stream, whole


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


def activation(name: str, gradient: Gradients) -> Callable[[jax.Array], jax.Array]:
  """Returns the activation function of an MLP."""
  return {
    'gelu': partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': gradients.of(gradients.gelu_tanh, gradient),
    'relu': jax.nn.relu,
  }[name]


class Attention(nn.Module):
  """Multi-head causal self-attention."""

  config: GPTConfig
  execution: Execution
  banded: bool

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array | Normed,
    add_BTD: jax.Array,
    seen_BTS: jax.Array | None = None,
    kv: tuple[jax.Array, jax.Array] | None = None,
    slot: jax.Array | None = None,
    drop: Dropout | None = None,
    first_BT: jax.Array | None = None,
  ) -> tuple[jax.Array | Stream, tuple[jax.Array, jax.Array] | None]:
    """Returns add + the branch, and keys and values of the cache once it is read.

    Args:
      x_BTD: the text, after its LayerNorm.
      add_BTD: the residual stream.
      seen_BTS: with a cache, bool: may token t see slot s? Without, a text is causal
        and sees itself alone.
      kv: keys and values of the cache, [B, N, S, H] each.
      slot: int32, where those of this text go: a scalar, or [B].
      first_BT: without a cache, as in `GPT`.
    """
    c, how = self.config, self.execution

    def linear(name, bias, residual=False, features=c.D):
      init = normal(c, residual)
      ways = how.dtype, how.gradients, how.fused, how.quantized
      ways += how.kernels, how.interpret
      return Linear(features, bias, init, *ways, name=name)

    def heads(y_BTD):
      return y_BTD.reshape(*y_BTD.shape[:2], c.N, c.H).swapaxes(1, 2)

    bias = c.bias and c.qkv_bias
    if self.has_variable('params', 'qkv'):  # of `model/decode_form.py`
      qkv = jnp.split(linear('qkv', bias, features=3 * c.D)(x_BTD), 3, axis=-1)
    else:
      layers = [linear(name, bias) for name in 'qkv']
      qkv = outputs(layers, x_BTD) if how.joined else [one(x_BTD) for one in layers]
    q_BNTH, k_BNSH, v_BNSH = map(heads, qkv)
    drop_weights = drop and drop.at(0)
    new_kv = k_BNSH, v_BNSH
    if kv is not None:
      k_BNSH, v_BNSH = kv = tuple(
        put(old, new.astype(old.dtype), jnp.asarray(slot), axis=2)
        for old, new in zip(kv, new_kv, strict=True)
      )
    if seen_BTS is None:
      read = partial(
        attend_text,
        scale=c.query_scale,
        band=c.band if self.banded else x_BTD.shape[1],
        kernel=how.kernel,
        by_heads=how.by_heads,
        gradients=how.gradients,
      )
      read = jax.checkpoint(read) if how.remat == 'attention' else read
      y_BNTH = read(q_BNTH, *new_kv, drop=drop_weights, first_BT=first_BT)
    else:
      q_BNTH = q_BNTH * c.query_scale
      y_BNTH = attend(
        q_BNTH, k_BNSH, v_BNSH, seen_BTS[:, None], drop_weights, how.gradients
      )
    y_BTD = y_BNTH.swapaxes(1, 2).reshape(x_BTD.shape)
    o = linear('o', c.bias, residual=True)
    if how.kernels and drop is None and o.joins:
      return update_kernels.ending(
        y_BTD, *o.parameters(c.D), add_BTD, how.interpret
      ), kv
    return add_BTD + apply_dropout(o(y_BTD), drop and drop.at(1)), kv


class MLP(nn.Module):
  """Two linear layers with the activation between."""

  config: GPTConfig
  execution: Execution

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array | Normed, add_BTD: jax.Array, drop: Dropout | None = None
  ) -> jax.Array | Stream:
    """Returns add [B, T, D] + the branch of a text x after its LayerNorm."""
    c, how = self.config, self.execution

    def linear(name, features, residual=False):
      init = normal(c, residual)
      ways = how.dtype, how.gradients, how.fused, how.quantized
      ways += how.kernels, how.interpret
      return Linear(features, c.bias, init, *ways, name=name)

    up, down = linear('up', c.F), linear('down', c.D, residual=True)
    if how.kernels and drop is None and up.joins and down.joins:
      pairs = up.parameters(c.D), down.parameters(c.F)
      return update_kernels.mlp(x_BTD, *pairs, add_BTD, c.activation, how.interpret)
    y_BTD = down(activation(c.activation, how.gradients)(up(x_BTD)))
    return add_BTD + apply_dropout(y_BTD, drop and drop.at(2))


class Block(nn.Module):
  """A layer: attention, then the MLP, each with its LayerNorm and a residual sum.

  'pre': x + attn(ln_1(x)), then x + mlp(ln_2(x)) (GPT-2, section 2.3).
  'post': ln_1(x + attn(x)), then ln_2(x + mlp(x)) (GPT-1, as Vaswani et al. 2017).
  """

  config: GPTConfig
  execution: Execution
  banded: bool

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array | Stream,
    seen_BTS: jax.Array | None = None,
    kv: tuple[jax.Array, jax.Array] | None = None,
    slot: jax.Array | None = None,
    drop: Dropout | None = None,
    first_BT: jax.Array | None = None,
  ) -> tuple[jax.Array | Stream, tuple[jax.Array, jax.Array] | None]:
    """Returns the residual stream [B, T, D] after the layer, and its cache.

    Arguments are those of `Attention`, but x is the residual stream before the layer.
    """
    c, how = self.config, self.execution
    attention = Attention(c, how, self.banded, name='attn')
    mlp = MLP(c, how, name='mlp')
    # After a sum the result is the residual stream, which stays float32.
    dtype = 'float32' if c.norm == 'post' else how.dtype
    ways = how.gradients, how.fused, c.norm == 'pre', how.kernels, how.interpret
    norm = partial(LayerNorm, c.bias, dtype, *ways)
    ln_1, ln_2 = (norm(name=f'ln_{i}') for i in (1, 2))
    if c.norm == 'post':
      x_BTD, kv = attention(x_BTD, x_BTD, seen_BTS, kv, slot, drop, first_BT)
      x_BTD = ln_1(x_BTD)
      return ln_2(mlp(x_BTD, x_BTD, drop)), kv
    x_BTD, y_BTD = ln_1.beside(x_BTD)
    x_BTD, kv = attention(y_BTD, x_BTD, seen_BTS, kv, slot, drop, first_BT)
    x_BTD, y_BTD = ln_2.beside(x_BTD)
    return mlp(y_BTD, x_BTD, drop), kv


class GPT(nn.Module):
  """A decoder-only transformer up to its last hidden states; see `unembed`.

  It has one collection, `params`; a collection 'lora' may stand beside it.
  """

  config: GPTConfig
  execution: Execution = Execution()

  @nn.compact
  def __call__(
    self,
    ids_BT: jax.Array,
    *,
    drop: Dropout | None = None,
    cache: Cache | Tree | None = None,
    length_B: jax.Array | None = None,
    first_BT: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | Tree | None]:
    """Returns the last hidden states [B, T, D] and the cache, extended.

    Args:
      ids_BT: tokens. Without a cache they are positions 0 .. T-1; with one they follow
        each row's tokens in it; with one that is branched, they are one for each beam.
      cache: keys and values of the tokens before; or a tree, whose tokens these are.
      length_B: with a cache and no beams: how many of each row's T tokens are real; the
        rest is padding that no later token sees.
      first_BT: without a cache, int32, where the document of each token begins: it sees
        no token before that, and has its position there; None: at 0 for all.
    """
    c, how = self.config, self.execution
    if cache is not None:
      how = dataclasses.replace(how, fused=False)
    B, T = ids_BT.shape
    wte_VD = self._matrix('wte')
    wpe_TD = self.param('wpe', _EMBEDDING, (c.T, c.D))
    if not c.tied:  # of `unembed`
      self._matrix('lm_head')
    if c.dropout_wte:
      wte_VD = drop_matrix(wte_VD, drop and drop.at(c.L))
      wpe_TD = drop_matrix(wpe_TD, drop and drop.at(c.L + 1))

    if cache is None:
      kv, slot, seen_BTS, near_BTS = (None,) * c.L, None, None, None
      x_BTD = wte_VD[ids_BT].astype(jnp.float32)
      if how.joined and first_BT is None:  # the gradient of wpe is one over rows
        x_BTD = x_BTD.reshape(B, -1) + wpe_TD[:T].reshape(-1)
        x_BTD = x_BTD.reshape(B, T, -1)
      else:
        pos = slice(T) if first_BT is None else jnp.arange(T) - first_BT
        x_BTD = x_BTD + wpe_TD[pos]
    else:
      kv, slot = cache.kv, cache.slot
      fresh = cache.fresh and how.kernel != 'plain'
      cache, pos_BT, seen_BTS = cache.written(T, length_B)
      if 'banded' in c.attention:
        near_BTS = seen_BTS & in_band(cache.pos_BS, pos_BT, c.band)
      if fresh:  # a text, and padding that it doesn't see: for a flash kernel
        seen_BTS = near_BTS = None
      x_BTD = wte_VD[ids_BT].astype(jnp.float32)
      x_BTD += wpe_TD[jnp.minimum(pos_BT, c.T - 1)]

    if not c.dropout_wte:
      x_BTD = apply_dropout(x_BTD, drop and drop.at(c.L))
    if how.scan and cache is None and not self.is_initializing():
      layers = [self.variables['params'][f'h_{layer}'] for layer in range(c.L)]
      x_BTD = _scanned(self, layers, x_BTD, drop, first_BT)
    else:
      new_kv = []
      make = nn.remat(Block) if how.remat == 'block' else Block
      for layer, kind in enumerate(c.attention):
        block = make(c, how, kind == 'banded', name=f'h_{layer}')
        allowed = near_BTS if kind == 'banded' else seen_BTS
        here = drop and drop.at(layer)
        x_BTD, layer_kv = block(
          how.spread(x_BTD), allowed, kv[layer], slot, here, first_BT
        )
        new_kv.append(layer_kv)
      if cache is not None:
        cache = cache.replace(kv=tuple(new_kv))
    x_BTD = how.spread(x_BTD)
    if c.norm == 'pre':
      ways = how.gradients, how.fused, False, how.kernels, how.interpret
      ln_f = LayerNorm(c.bias, how.dtype, *ways, name='ln_f')
      x_BTD = ln_f(x_BTD)
    return x_BTD, cache

  def _matrix(self, name: str) -> jax.Array | quantize.Rows:
    """Returns `wte` or `lm_head` [V, D], which may be stored in 8 bits."""
    if self.has_variable('params', f'{name}_int8'):
      return quantize.matrix(self.variables['params'], name)
    return self.param(name, _EMBEDDING, (self.config.V, self.config.D))


def _scanned(
  gpt: GPT,
  layers: list[dict],
  x_BTD: jax.Array,
  drop: Dropout | None,
  first_BT: jax.Array | None,
) -> jax.Array:
  """Returns x after all layers, whose parameters are stacked for a compiled loop.

  They are stacked here, in the program, so that state, optimizer and checkpoints know
  one form of parameters; the price is a copy of the weights and of their gradients. A
  turn of the loop takes one period of the attention's pattern.
  """
  c, how = gpt.config, gpt.execution
  period = next(
    p for p in range(1, c.L + 1) if c.attention[:p] * (c.L // p) == c.attention
  )

  def turn(x_BTD, first_and_params):
    first, params = first_and_params
    for i in range(period):
      block = Block(c, how, c.attention[i] == 'banded')
      here = drop and drop.at(first + i)
      own = params[i]
      if how.gathered and how.remat == 'block':  # or all would be kept, gathered
        own = how.gathered(own)
      x_BTD, _ = block.apply(
        {'params': own}, how.spread(x_BTD), drop=here, first_BT=first_BT
      )
    return whole(x_BTD), None

  if how.remat == 'block':
    turn = jax.checkpoint(turn, prevent_cse=False)
  stacked = [
    jax.tree.map(lambda *each: jnp.stack(each), *layers[i::period])
    for i in range(period)
  ]
  return jax.lax.scan(turn, x_BTD, (jnp.arange(0, c.L, period), stacked))[0]


def output_matrix(gpt: GPT, params: dict, drop: Dropout | None = None) -> jax.Array:
  """Returns the matrix that makes logits of hidden states, [V, D], float32.

  Args:
    drop: with `dropout_wte` it is on this matrix too.
  """
  c = gpt.config
  head_VD = quantize.matrix(params, _head(gpt))
  if isinstance(head_VD, quantize.Rows):
    head_VD = head_VD[:]
  if c.tied and c.dropout_wte:
    head_VD = drop_matrix(head_VD, drop and drop.at(c.L))
  return head_VD


def output_factors(
  gpt: GPT, params: dict, x: jax.Array, drop: Dropout | None = None
) -> tuple[jax.Array, jax.Array]:
  """Returns the factors of the logits in the compute dtype: x [..., D], head [V, D].

  Arguments are those of `output_matrix`.
  """
  dtype = gpt.execution.dtype
  head_VD = output_matrix(gpt, params, drop)
  return (x / gpt.config.width).astype(dtype), head_VD.astype(dtype)


def logits_of(x: jax.Array, head_VD: jax.Array, vocab: int) -> jax.Array:
  """Returns float32 logits x head', [..., V]; -inf for the entries from `vocab` on.

  Args:
    x: [..., D]; it and `head_VD` are those of `output_factors`.
  """
  if x.ndim == 2:
    # Decoding: with the large matrix first, a CPU reads it faster.
    logits = jnp.matmul(head_VD, x.T, preferred_element_type=jnp.float32).T
  else:
    logits = jnp.matmul(x, head_VD.T, preferred_element_type=jnp.float32)
  return _known(logits, vocab)


def _known(logits: jax.Array, vocab: int) -> jax.Array:
  """Returns the logits [..., V], those of V's padding at -inf."""
  return jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits, -jnp.inf)


def _head(gpt: GPT) -> str:
  """Returns the name of the output matrix."""
  return 'wte' if gpt.config.tied else 'lm_head'


def unembed(
  gpt: GPT, params: dict, x: jax.Array, drop: Dropout | None = None
) -> jax.Array:
  """Returns float32 logits of the next tokens, [..., V]; -inf for V's padding.

  Arguments are those of `output_factors`.
  """
  c, how = gpt.config, gpt.execution
  head_VD = quantize.matrix(params, _head(gpt))
  if isinstance(head_VD, quantize.Rows):
    x = (x / c.width).astype(how.dtype)
    return _known(quantize.head_logits(x, head_VD, how.quantized), c.vocab)
  return logits_of(*output_factors(gpt, params, x, drop), gpt.config.vocab)


def last_token(x_BTD: jax.Array, length_B: jax.Array) -> jax.Array:
  """Returns the states [B, D] of the last of each row's `length_B` tokens."""
  return jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]


def init_params(cfg: GPTConfig, seed: int) -> dict:
  """Returns freshly initialised parameters, float32."""
  ids_BT = jnp.zeros((1, 1), jnp.int32)
  return GPT(cfg).init(jax.random.key(seed), ids_BT)['params']


def empty_cache(gpt: GPT, B: int, S: int) -> Cache:
  """Returns a cache of S slots with no token in it, in the model's dtype."""
  c = gpt.config
  zeros = jnp.zeros((B, c.N, S, c.H), gpt.execution.dtype)
  return Cache(
    kv=((zeros, zeros),) * c.L,
    pos_BS=jnp.full((B, S), -1, jnp.int32),
    fill_B=jnp.zeros(B, jnp.int32),
    slot=jnp.int32(0),
    fresh=True,
  )
