"""The candidates of a step of beam search, and which of them are kept.

Letters: R searches (M groups of each of B prompts), K beams, C candidates.
"""

import jax
import jax.numpy as jnp

from gpt_jax.decoding import constraints
from gpt_jax.decoding.beam_state import (
  Candidates,
  Hypotheses,
  Searching,
  best_candidates,
)
from gpt_jax.decoding.constraints import Automaton
from gpt_jax.decoding.stops import Stops, distinct

_SEVERAL = 4  # times K, candidates that end, where some may be one text


def survivors(ends_RC: jax.Array, K: int) -> jax.Array:
  """Returns numbers of the first K candidates that do not end (then of others)."""
  return jnp.argsort(ends_RC, axis=1, stable=True)[:, :K]


def _ends_of(ends_RKV: jax.Array, new: Candidates) -> jax.Array:
  """Returns which candidates end, bool [R, C]; `ends_RKV` may be [V]."""
  if ends_RKV.ndim == 1:
    return ends_RKV[new.token_RC]
  r = jnp.arange(len(new.token_RC))[:, None]
  return ends_RKV[r, new.parent_RC, new.token_RC]


def _diverse_choice(
  score_RKV: jax.Array,
  open_R: jax.Array,
  diversity: jax.Array,
  M: int,
  ends_RKV: jax.Array | None,
  several: int,
  eot: int,
) -> Candidates:
  """Returns each group's best candidates, with a penalty on earlier groups' tokens.

  Vijayakumar et al. 2016, algorithm 1, with Hamming diversity. Differs: Hugging Face's
  group search carried the penalty on in the score.

  Args:
    ends_RKV, several: as in `best_candidates`.
  """
  R, K, V = score_RKV.shape
  B = R // M
  b = jnp.arange(B)[:, None]
  score_BMKV, open_BM = score_RKV.reshape(B, M, K, V), open_R.reshape(B, M)
  taken_BV = jnp.zeros((B, V))
  groups = []
  for group in range(M):
    score_BKV, ends_BKV = score_BMKV[:, group], ends_RKV
    if ends_RKV is not None and ends_RKV.ndim > 1:
      ends_BKV = ends_RKV.reshape(B, M, K, V)[:, group]
    penalized_BKV = score_BKV - diversity * taken_BV[:, None]
    new = best_candidates(penalized_BKV, ends_BKV, several)
    own_BC = score_BKV[b, new.parent_RC, new.token_RC]
    score_BC = jnp.where(jnp.isneginf(new.score_RC), -jnp.inf, own_BC)
    new = new._replace(score_RC=score_BC)
    groups.append(new)
    ends_BC = new.token_RC == eot if ends_RKV is None else _ends_of(ends_BKV, new)
    i_BK = survivors(ends_BC, K)
    counts_BK = jnp.isfinite(score_BC[b, i_BK]) & open_BM[:, group, None]
    taken_BV = taken_BV.at[b, new.token_RC[b, i_BK]].add(counts_BK)
  return jax.tree.map(lambda *x: jnp.stack(x, axis=1).reshape(R, -1), *groups)


def candidates(
  state: Searching,
  score_RKV: jax.Array,
  left_R: jax.Array,
  diversity: jax.Array,
  automaton: Automaton | None,
  ends_V: jax.Array | None,
  stops: Stops | None,
  *,
  M: int,
  eot: int,
) -> tuple[Candidates, jax.Array, jax.Array | None]:
  """Returns candidates, which of them end, and hashes of their texts.

  Args:
    left_R: tokens that may follow the next one.
  """
  end_V = jnp.arange(score_RKV.shape[-1]) == eot if ends_V is None else ends_V
  ends, several = ends_V, 1
  if stops is not None:
    ends, several = stops.completes(state.at_RK) | end_V, _SEVERAL
  if automaton is not None:
    new = constraints.choice(automaton, score_RKV, state.at_RK, left_R, end_V)
  elif M > 1:
    new = _diverse_choice(
      score_RKV, state.open_R, diversity, M, ends, several=several, eot=eot
    )
  else:
    new = best_candidates(score_RKV, ends, several)
  ends_RC = _ends_of(end_V if ends is None else ends, new)
  if stops is None:
    return new, ends_RC, None
  at_RC = jnp.take_along_axis(state.at_RK, new.parent_RC, axis=1)
  text_RC2 = jnp.take_along_axis(state.live.text_RK2, new.parent_RC[..., None], axis=1)
  at_RC, text_RC2 = stops.after(at_RC, text_RC2, new.token_RC)
  once_RC = distinct(jnp.where(ends_RC, new.score_RC, -jnp.inf), text_RC2)
  score_RC = jnp.where(ends_RC, once_RC, new.score_RC)
  return new._replace(score_RC=score_RC, at_RC=at_RC), ends_RC, text_RC2


def finished(
  state: Searching, grown: Hypotheses, ends_RC: jax.Array, penalty: jax.Array
) -> Hypotheses:
  """Returns the K best finished hypotheses, those that end now among them.

  Args:
    grown: candidates, by log p.
    penalty: what log p of those is divided by.
  """
  K = state.live.score_RK.shape[1]
  place_RC = jnp.arange(ends_RC.shape[1])
  if grown.text_RK2 is not None:  # those of a text that is there already don't count
    place_RC = jnp.cumsum(jnp.isfinite(grown.score_RK), axis=1) - 1
  enters_RC = ends_RC & (place_RC < K) & state.open_R[:, None]
  score_RC = jnp.where(enters_RC, grown.score_RK / penalty, -jnp.inf)
  both = jax.tree.map(
    lambda x, y: jnp.concatenate((x, y), axis=1),
    state.done,
    grown.replace(score_RK=score_RC),
  )
  if grown.text_RK2 is not None:
    both = both.replace(score_RK=distinct(both.score_RK, both.text_RK2))
  return both.pick(jax.lax.top_k(both.score_RK, K)[1])
