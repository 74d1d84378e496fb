"""Beams guided by mutual information: by more than log P(T | S) of a reply T to S.

Li et al. 2016 ("A diversity-promoting objective function for neural conversation
models", section 4) have two forms. MMI-antiLM subtracts lambda log P(T) of the first
tokens, by the same model without S. MMI-bidi adds log P(S | T), by a backward model:
their beams rank finished replies by it. Differs: here beginnings of replies are scored
by it too, each as if it ended there, so that it is known which beams to keep. The best
2 K continuations by what is known without it are asked for; where there are no more,
nothing is left out. A step then takes a pass of the backward model over each of them.

Letters: R searches, which are B prompts, K beams, C candidates, X rows of the model's
batch, G new tokens, S tokens of a source, W tokens of a reply and its source.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.decoding.beam_state import Candidates, Hypotheses
from gpt_jax.decoding.contract import Model
from gpt_jax.decoding.rows import padded
from gpt_jax.model.gpt import GPT, unembed
from gpt_jax.training.loss import nll_BT

_ROWS = 4  # whose logits over a source exist at a time


@flax.struct.dataclass
class Guide:
  """What is added to log p of the hypotheses of a batch.

  Attributes:
    anti: lambda of - lambda log P(T); it counts where `alone_B1` is there.
    first: int32, tokens of T that it counts.
    length: added for each token.
    alone_B1: int32, what stands before a T without source; None: no P(T).
    weight: of log P(S | T); it counts where `source_BS` is there.
    source_BS: int32, what a backward model reads after T; None: none is asked.
    source_B: tokens of each.
  """

  anti: jax.Array
  first: jax.Array
  length: jax.Array
  alone_B1: jax.Array | None
  weight: jax.Array
  source_BS: jax.Array | None
  source_B: jax.Array | None
  params: dict | None
  backward: GPT | None = flax.struct.field(pytree_node=False, default=None)

  def alone(self, model: Model, slots: int) -> tuple[jax.Array | None, Any]:
    """Returns logits of the first tokens without a source, and a cache of them."""
    if self.alone_B1 is None:
      return None, None
    return model.prefill(self.alone_B1, jnp.ones(len(self.alone_B1), jnp.int32), slots)

  def added(self, alone_XV: jax.Array | None, n: jax.Array) -> jax.Array:
    """Returns what a next token adds besides its log p.

    Args:
      alone_XV: its logits without a source.
      n: tokens before it.
    """
    if alone_XV is None:
      return self.length
    logp_XV = jax.nn.log_softmax(alone_XV)
    logp_XV = jnp.where(jnp.isneginf(logp_XV), 0, logp_XV)  # no entry
    return self.length - jnp.where(n < self.first, self.anti, 0) * logp_XV

  def none(self, K: int) -> jax.Array | None:
    """Returns what no token yet has of its source, [R, K]."""
    if self.source_BS is None:
      return None
    return jnp.zeros((len(self.source_BS), K))

  def reordered(
    self,
    grown: Hypotheses,
    ends_RC: jax.Array,
    new: Candidates,
    back_RK: jax.Array | None,
    eot: int,
  ) -> tuple[Hypotheses, jax.Array, Candidates, jax.Array | None]:
    """Returns candidates with log P(S | T) of each in its score, the best first.

    Args:
      back_RK: log P(S | T) of the beams that they continue, in the scores so far.
    """
    if back_RK is None:
      return grown, ends_RC, new, None
    back_RC = self.source_logp(grown.ids_RKG, grown.length_RK, eot)
    before_RC = jnp.take_along_axis(back_RK, new.parent_RC, axis=1)
    value_RC = grown.score_RK + self.weight * (back_RC - before_RC)
    order_RC = jnp.argsort(-value_RC, axis=1, stable=True)
    grown = grown.replace(score_RK=value_RC).pick(order_RC)
    pick = lambda x: jnp.take_along_axis(x, order_RC, axis=1)  # noqa: E731
    new = new._replace(score_RC=value_RC)
    return grown, pick(ends_RC), Candidates(*map(pick, new)), pick(back_RC)

  def source_logp(
    self, ids_RCG: jax.Array, length_RC: jax.Array, eot: int
  ) -> jax.Array:
    """Returns log P(S | T) of each [nats], as if T ended here."""
    (R, C, G), S = ids_RCG.shape, self.source_BS.shape[1]
    W = min(G + 1 + S, self.backward.config.T)
    last_RC1 = jnp.take_along_axis(ids_RCG, length_RC[..., None] - 1, axis=2)
    n_RC1 = length_RC[..., None] - (last_RC1 == eot)  # without an end
    w = jnp.arange(W)
    own_RCW = ids_RCG[..., jnp.minimum(w, G - 1)]
    source_RCS = jnp.broadcast_to(self.source_BS[:, None], (R, C, S))
    at_RCW = jnp.clip(w - n_RC1 - 1, 0, S - 1)
    behind_RCW = jnp.take_along_axis(source_RCS, at_RCW, axis=2)
    row_RCW = jnp.where(w == n_RC1, eot, jnp.where(w < n_RC1, own_RCW, behind_RCW))
    variables = {'params': self.params}
    x_XWD, _ = self.backward.apply(variables, row_RCW.reshape(R * C, W))
    at_XS1 = jnp.minimum(n_RC1 + jnp.arange(S), W - 1).reshape(R * C, S, 1)
    x_XSD = jnp.take_along_axis(x_XWD, at_XS1, axis=1)
    counts_RCS = jnp.arange(S) < self.source_B[:, None, None]
    counts_XS = jnp.broadcast_to(counts_RCS, (R, C, S)).reshape(R * C, S)

    def summed(row):
      x_SD, y_S, w_S = row
      logits_1SV = unembed(self.backward, self.params, x_SD[None])
      return -(nll_BT(logits_1SV, y_S[None]) * w_S).sum()

    rows = x_XSD, source_RCS.reshape(R * C, S), counts_XS
    return jax.lax.map(summed, rows, batch_size=_ROWS).reshape(R, C)


@dataclasses.dataclass(frozen=True)
class Guidance:
  """How the beams of prompts are guided.

  Attributes:
    anti: lambda of - lambda log P(T), by the model itself after `alone`; 0: off.
    first: tokens of T that it counts; 0: all.
    length: added for each token of T.
    alone: the id that stands before a T without source.
    weight: of log P(S | T); 0: off.
    sources: ids of each prompt's source, as the backward model reads them after T and
      an end. They fit its context together with the longest T.
    params, backward: the backward model.
  """

  anti: float = 0.0
  first: int = 0
  length: float = 0.0
  alone: int = 0
  weight: float = 0.0
  sources: Sequence[Sequence[int]] = ()
  params: dict | None = None
  backward: GPT | None = None

  def of(self, rows: slice, B: int) -> Guide:
    """Returns the guide of a batch.

    Args:
      rows: prompts of it.
      B: rows of the batch, with padding.
    """
    source_BS = source_B = None
    if self.weight:
      source_BS, source_B = padded(self.sources[rows], B)
    return Guide(
      anti=np.float32(self.anti),
      first=np.int32(self.first or np.iinfo(np.int32).max),
      length=np.float32(self.length),
      alone_B1=np.full((B, 1), self.alone, np.int32) if self.anti else None,
      weight=np.float32(self.weight),
      source_BS=source_BS,
      source_B=source_B,
      params=self.params if self.weight else None,
      backward=self.backward if self.weight else None,
    )
