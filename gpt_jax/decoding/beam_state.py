"""Hypotheses: what beam searches keep of each continuation, and return.

Letters: R searches, K beams of a search, C candidates, X rows of the model's batch,
G new tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules
from gpt_jax.decoding.rows import padded, power_of_two, room_after

ROWS = 64  # of the model's batch; more prompts make more batches


class Hypothesis(NamedTuple):
  """A continuation of a prompt.

  Attributes:
    ids: new tokens; a last end-of-text is one of them.
    token_logp: the model's own log p of each, before rules [nats].
    score: what hypotheses are ranked by.
    text: a hash of its text, where stops are looked for; else None.
  """

  ids: list[int]
  token_logp: list[float]
  score: float
  text: tuple[int, ...] | None = None

  @property
  def logp(self) -> float:
    """log p of the whole continuation [nats]."""
    return sum(self.token_logp)


@flax.struct.dataclass
class Hypotheses:
  """K hypotheses of each search.

  Attributes:
    ids_RKG: int32, new tokens; only the first `length` of them count.
    logp_RKG: float32, the model's own log p of each, before rules [nats].
    length_RK: int32, new tokens so far.
    score_RK: float32; -inf where there is no hypothesis.
    text_RK2: uint32, hashes of the texts, where stops are looked for; else None.
  """

  ids_RKG: jax.Array
  logp_RKG: jax.Array
  length_RK: jax.Array
  score_RK: jax.Array
  text_RK2: jax.Array | None = None

  @classmethod
  def none(cls, R: int, K: int, G: int, texts: bool = False) -> 'Hypotheses':
    """Returns K places with no hypothesis in them.

    Args:
      texts: whether to keep hashes of texts.
    """
    return cls(
      ids_RKG=jnp.zeros((R, K, G), jnp.int32),
      logp_RKG=jnp.zeros((R, K, G)),
      length_RK=jnp.zeros((R, K), jnp.int32),
      score_RK=jnp.full((R, K), -jnp.inf),
      text_RK2=jnp.zeros((R, K, 2), jnp.uint32) if texts else None,
    )

  def pick(self, i_RC: jax.Array) -> 'Hypotheses':
    """Returns the hypotheses of these numbers of each search."""
    return jax.tree.map(
      lambda x: jnp.take_along_axis(
        x, i_RC.reshape(*i_RC.shape, *[1] * (x.ndim - 2)), 1
      ),
      self,
    )

  def listed(self, row: int) -> list[Hypothesis]:
    """Returns the hypotheses of a search in order, without empty places."""
    texts = [None] * len(self.score_RK[row])
    if self.text_RK2 is not None:
      texts = [tuple(text) for text in self.text_RK2[row].tolist()]
    each = self.ids_RKG, self.logp_RKG, self.length_RK, self.score_RK
    return [
      Hypothesis(ids[:n].tolist(), logp[:n].tolist(), float(score), text)
      for ids, logp, n, score, text in zip(*(x[row] for x in each), texts, strict=True)
      if np.isfinite(score)
    ]


@flax.struct.dataclass
class Searching:
  """The state of a batch's searches.

  Attributes:
    cache: the model's, of M K beams a prompt, with all but the last token of each.
    parent_RK: int32, the beam of its search that each live hypothesis continues.
    live: hypotheses to be continued; their score is log p under the rules.
    done: finished ones, best first; their score is that over the length penalty.
    at_RK: int32, states of live hypotheses in the automaton of a constraint or of
      stops; 0 without one.
    open_R: bool, searches in which a live hypothesis may still enter `done`.
    n: int32 scalar, tokens of every live hypothesis.
    history: X rows, the texts of live hypotheses; None if no rule needs it.
    alone: the model's cache of the same texts without their prompts, and back_RK: what
      a source has after live hypotheses; None where no guide asks for it.
  """

  cache: Any
  parent_RK: jax.Array
  live: Hypotheses
  done: Hypotheses
  at_RK: jax.Array
  open_R: jax.Array
  n: jax.Array
  history: History | None
  alone: Any = None
  back_RK: jax.Array | None = None


class Candidates(NamedTuple):
  """Continuations by one token, best first.

  Attributes:
    score_RC: log p under the rules; -inf is no candidate.
    parent_RC: number of the beam that is continued.
    at_RC: state of the automaton after it.
  """

  score_RC: jax.Array
  parent_RC: jax.Array
  token_RC: jax.Array
  at_RC: jax.Array


def rows_of(tree: Any, i_X: jax.Array) -> Any:
  """Returns a history with these rows."""
  return jax.tree.map(lambda x: x[i_X], tree)


def top_k(x_RKV: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns the k largest of V and their numbers, as `jax.lax.top_k`, but faster.

  The k largest are in those k blocks of 128 whose own largest are largest: on a CPU a
  maximum takes a tenth of the time of a top-k.
  """
  R, K, V = x_RKV.shape
  if V % 128 or k * 128 >= V:
    return jax.lax.top_k(x_RKV, k)
  x_RKmb = x_RKV.reshape(R, K, V // 128, 128)
  block_RKk = jax.lax.top_k(x_RKmb.max(axis=-1), k)[1]
  few_RKkb = jnp.take_along_axis(x_RKmb, block_RKk[..., None], axis=2)
  best_RKk, i_RKk = jax.lax.top_k(few_RKkb.reshape(R, K, -1), k)
  block_RKk = jnp.take_along_axis(block_RKk, i_RKk // 128, axis=2)
  return best_RKk, block_RKk * 128 + i_RKk % 128


def best_tokens(score_RKV: jax.Array, C: int) -> tuple[jax.Array, jax.Array]:
  """Returns the C best pairs of beam and token, best first: parent_RC, token_RC."""
  R, K, V = score_RKV.shape
  c = min(C, V)
  score_RKc, token_RKc = top_k(score_RKV, c)
  i_RC = jax.lax.top_k(score_RKc.reshape(R, -1), C)[1]
  return i_RC // c, jnp.take_along_axis(token_RKc.reshape(R, -1), i_RC, axis=1)


def best_candidates(
  score_RKV: jax.Array, ends_RKV: jax.Array | None = None, several: int = 1
) -> Candidates:
  """Returns 2 K candidates or more, best first.

  They are the best of all; or, if several tokens end a hypothesis, the best that end
  and the K best that do not: the best of all might all end, and leave none to continue.
  For the first K of all, and for the first K that do not end, it makes no difference.

  Args:
    ends_RKV: bool, the tokens that end a hypothesis, or [V]; None: one does.
    several: of those that end this times K, since some may have one text.
  """
  R, K, V = score_RKV.shape
  r = jnp.arange(R)[:, None]
  if ends_RKV is None:
    parent_RC, token_RC = best_tokens(score_RKV, 2 * K)
    score_RC = score_RKV[r, parent_RC, token_RC]
    return Candidates(score_RC, parent_RC, token_RC, jnp.zeros_like(token_RC))
  parts = []
  for kind_RKV, n in ((ends_RKV, several), (~ends_RKV, 1)):
    of_kind_RKV = jnp.where(kind_RKV, score_RKV, -jnp.inf)
    parent_Rn, token_Rn = best_tokens(of_kind_RKV, min(n, V) * K)
    parts.append((of_kind_RKV[r, parent_Rn, token_Rn], parent_Rn, token_Rn))
  both = [jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True)]
  order_RC = jnp.argsort(-both[0], axis=1)
  score_RC, parent_RC, token_RC = (
    jnp.take_along_axis(x, order_RC, axis=1) for x in both
  )
  return Candidates(score_RC, parent_RC, token_RC, jnp.zeros_like(token_RC))


def prepare(
  prompts: Sequence[Sequence[int]], T: int, max_new_tokens: int, rules: Rules
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, History | None], int]:
  """Returns (ids_BP, length_B, limit_B, history) of a batch of prompts, and G.

  The last token needs no position, for it is not read again. Shapes are rounded up, so
  that calls share programs.
  """
  B = power_of_two(len(prompts))
  ids_BP, length_B = padded(prompts, B)
  limit_B = np.minimum(max_new_tokens, T - length_B + 1).astype(np.int32)
  G = room_after(min(map(len, prompts)), max_new_tokens, T)
  history = None
  if rules != NO_RULES:
    history = History(padded(prompts, B, room=G)[0], length_B, length_B)
  return (ids_BP, length_B, limit_B, history), G
