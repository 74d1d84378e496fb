"""Weights in the form that decoding reads, and a token read with them.

A token of a small batch costs a pass over the weights. So they are kept in the compute
dtype, or in few bits, made once and not at every token; and where `Execution.decode` is
'fused', in the form and by the kernels of `model/token_kernels.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gpt_jax.model import token_kernels
from gpt_jax.model.cache import Cache, in_band
from gpt_jax.model.gpt import GPT
from gpt_jax.model.quantize import Rows, matrix, transposed

_CAST = 'kernel', 'kernel_T', 'wte', 'wpe', 'lm_head'


def decode_form(params: dict, gpt: GPT) -> dict:
  """Returns the parameters as decoding reads them, of which `GPT` makes the same.

  Kernels and embeddings are of the compute dtype: products are of the same numbers, and
  embeddings are rounded as the output matrix is. Biases and LayerNorms stay float32.
  For the fused kernels, attn/{q,k,v} become attn/qkv, and kernels `kernel_T`, in few
  bits `kernel_T_int8` and so on; a GPU reads the latter without them, too. What is in
  this form already stays; float32 is else all as it was.
  """
  how = gpt.execution

  def cast(path, leaf):
    return leaf.astype(how.dtype) if path[-1].key in _CAST else leaf

  if how.dtype != 'float32' or how.decode != 'plain':
    params = jax.tree_util.tree_map_with_path(cast, params)
  attn = params['h_0']['attn']
  if how.decode != 'plain' and 'q' in attn:
    layers = [f'h_{layer}' for layer in range(gpt.config.L)]
    params = params | {name: _one_product(params[name]) for name in layers}
    return transposed(params, few_bits=True)
  if how.quantized == 'triton' and 'kernel_scale' in attn.get('q', {}):
    return transposed(params, few_bits=True)
  return params


def _one_product(block: dict) -> dict:
  """Returns a layer's parameters with q, k and v side by side."""
  attn = dict(block['attn'])
  each = [attn.pop(name) for name in 'qkv']
  attn['qkv'] = jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *each)
  return block | {'attn': attn}


def _embedded(wte_VD: jax.Array | Rows, ids: jax.Array) -> jax.Array:
  """Returns rows of the matrix as float32, [..., D]; a GPU takes single ones."""
  if isinstance(wte_VD, Rows):
    return wte_VD.values[ids] * wte_VD.scale[ids][..., None]
  return wte_VD[ids].astype(jnp.float32)


def is_fused(gpt: GPT, params: dict) -> bool:
  """Returns whether `read_tokens` takes these parameters."""
  return 'qkv' in params['h_0']['attn'] and gpt.execution.decode != 'plain'


def read_tokens(
  gpt: GPT, params: dict, cache: Cache, ids_BK: jax.Array
) -> tuple[jax.Array, Cache]:
  """Returns float32 logits of the next tokens [B, K, V], and the cache with these.

  It is `GPT` and `unembed` for a token of each text, by fused kernels.

  Args:
    params: in the fused form.
    cache: of a row for each text (K = 1), or of rows with K beams.
  """
  c, how = gpt.config, gpt.execution
  interpret = how.decode == 'interpreted'
  product = partial(token_kernels.product, factors=how.dtype, interpret=interpret)
  (B, K), slot = ids_BK.shape, cache.slot
  one_B = jnp.ones(B, jnp.int32) if cache.seen_BKS is None else None
  cache, pos_BK, seen_BKS = cache.written(K, one_B)
  seen = {'dense': seen_BKS}
  if 'banded' in c.attention:
    seen['banded'] = seen_BKS & in_band(cache.pos_BS, pos_BK, c.band)
  at_BK = jnp.minimum(pos_BK, c.T - 1)
  x_BKD = _embedded(matrix(params, 'wte'), ids_BK) + params['wpe'][at_BK]
  x_XD, kv = x_BKD.reshape(B * K, c.D), []
  for layer, kind in enumerate(c.attention):
    block = params[f'h_{layer}']
    attn, mlp = block['attn'], block['mlp']
    qkv_X3D = product(x_XD, attn['qkv'], norm=block['ln_1'], dtype=how.dtype)
    y_XD, *layer_kv = token_kernels.attention(
      qkv_X3D,
      *cache.kv[layer],
      seen[kind],
      slot,
      scale=c.query_scale,
      interpret=interpret,
    )
    kv.append(tuple(layer_kv))
    x_XD = product(y_XD, attn['o'], add_XO=x_XD, dtype='float32')
    y_XF = product(
      x_XD, mlp['up'], norm=block['ln_2'], activation=c.activation, dtype=how.dtype
    )
    x_XD = product(y_XF, mlp['down'], add_XO=x_XD, dtype='float32')
  head = matrix(params, 'wte' if c.tied else 'lm_head')
  head = head.linear if isinstance(head, Rows) else {'kernel_T': head}
  logits_XV = product(x_XD, head, norm=params['ln_f'], dtype='float32') / c.width
  logits_XV = jnp.where(jnp.arange(c.V) < c.vocab, logits_XV, -jnp.inf)
  return logits_XV.reshape(B, K, c.V), cache.replace(kv=tuple(kv))
