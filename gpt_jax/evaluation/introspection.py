"""The inside of a model that reads a text: attention, states, likelihoods."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.model import quantize
from gpt_jax.model.gpt import GPT, unembed


class Explanation(NamedTuple):
  """A text as a model reads it: end-of-text, then the T - 1 tokens of the text.

  Attributes:
    ids: [T] tokens.
    pieces: [T] the text of each; that of end-of-text is ''.
    logp: [T - 1] log p of each token of the text [nats], as `LanguageModel.score`.
    next_logp: [T, vocab] log p of every token to come after each.
    attention: [L, N, T, T] the weights of each token (last axis but one) on each, by
      layer and head; they sum to one, and are zero on tokens that it can't see.
    hidden: [L + 1, T, D] the residual stream: the embeddings, then after each layer.
  """

  ids: list[int]
  pieces: list[str]
  logp: np.ndarray
  next_logp: np.ndarray
  attention: np.ndarray
  hidden: np.ndarray


def explained(
  params: dict, gpt: GPT, ids: Sequence[int], pieces: Sequence[str]
) -> Explanation:
  """Returns what a model does with a text, whose first token is read only.

  Raises:
    UserError: fewer than two tokens, or more than the context.
  """
  cfg = gpt.config
  if not 2 <= len(ids) <= cfg.T:
    raise UserError(
      f'a text of {len(ids) - 1} tokens cannot be explained: there must be 1 .. '
      f'{cfg.T - 1}, as the context is {cfg.T} and end-of-text is read first'
    )
  how = dataclasses.replace(
    gpt.execution, scan=False, kernel='plain', remat='none', fused=False
  )
  row = np.array(ids, np.int32)
  inside = _inside(params, row[None], gpt=GPT(cfg, how))
  next_logp, attention, hidden = (np.asarray(x) for x in inside)
  logp = next_logp[np.arange(len(ids) - 1), row[1:]]
  return Explanation(list(ids), list(pieces), logp, next_logp, attention, hidden)


@partial(jax.jit, static_argnames='gpt')
def _inside(params, ids_BT, *, gpt: GPT):
  """Returns next_logp, attention and hidden of one row, as in `Explanation`."""
  cfg = gpt.config
  (x_BTD, _), seen = gpt.apply(
    {'params': params}, ids_BT, capture_intermediates=True, mutable=['intermediates']
  )
  T = ids_BT.shape[1]
  blocks = [seen['intermediates'][f'h_{layer}'] for layer in range(cfg.L)]
  hidden = [quantize.matrix(params, 'wte')[ids_BT[0]] + params['wpe'][:T]]
  hidden += [block['__call__'][0][0][0] for block in blocks]
  at = jnp.arange(T)
  causal_TT = at[:, None] >= at
  near_TT = at[:, None] - at < cfg.band
  attention = []
  for block, kind in zip(blocks, cfg.attention, strict=True):
    q_NTH, k_NTH = (
      block['attn'][name]['__call__'][0][0].reshape(T, cfg.N, -1).swapaxes(0, 1)
      for name in ('q', 'k')
    )
    allowed_TT = causal_TT & near_TT if kind == 'banded' else causal_TT
    a_NTT = jnp.matmul(
      q_NTH * cfg.query_scale,
      k_NTH.swapaxes(1, 2),
      preferred_element_type=jnp.float32,
    )
    attention.append(jax.nn.softmax(jnp.where(allowed_TT, a_NTT, -jnp.inf)))
  logits_BTV = unembed(gpt, params, x_BTD)
  next_logp = jax.nn.log_softmax(logits_BTV[0, :, : cfg.vocab])
  return next_logp, jnp.stack(attention), jnp.stack(hidden)
