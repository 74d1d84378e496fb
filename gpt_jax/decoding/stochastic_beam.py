"""Stochastic beam search: continuations drawn without replacement.

Kool, van Hoof & Welling 2019, section 4. A hypothesis scores its log p plus Gumbel
noise, drawn top-down: the score of a beginning is the largest of its continuations'. So
the K largest beginnings of each length lead to the K largest of all texts, and these
are a sample without replacement, in order: the first is a plain sample, the second one
of what is left, and so on.

Letters: B prompts (each is one search), K beams, X rows of the model's batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.decoding.beam_state import (
  ROWS,
  Hypotheses,
  Hypothesis,
  best_tokens,
  prepare,
  rows_of,
)
from gpt_jax.decoding.contract import Model, model_of
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, adjust
from gpt_jax.decoding.selection import bounded
from gpt_jax.model.gpt import GPT


@flax.struct.dataclass
class Drawing:
  """The state of a batch's searches.

  Attributes:
    cache: the model's, of K beams a prompt, with all but the last token of each.
    parent_BK: int32, the beam that each hypothesis continues.
    hypotheses: R = B, best first; their score is phi + noise.
    phi_BK: float32, log of the probability that they are drawn with.
    ended_BK: bool, finished hypotheses.
    n: int32 scalar, tokens of each that has not ended.
    history: X rows, the texts of hypotheses; None if no rule needs it.
  """

  cache: Any
  parent_BK: jax.Array
  hypotheses: Hypotheses
  phi_BK: jax.Array
  ended_BK: jax.Array
  n: jax.Array
  history: History | None


def conditional_gumbel(g_BKV: jax.Array, max_BK: jax.Array) -> jax.Array:
  """Returns Gumbel variables given that the largest over V is max_BK.

  Appendix B.3 of the paper, in its numerically stable form.
  """
  below_BKV = g_BKV - g_BKV.max(axis=-1, keepdims=True)
  # log(1 - exp(below)), in the branch that keeps digits.
  log_BKV = jnp.where(
    below_BKV > -0.693, jnp.log(-jnp.expm1(below_BKV)), jnp.log1p(-jnp.exp(below_BKV))
  )
  v_BKV = max_BK[..., None] - g_BKV + log_BKV
  shifted_BKV = (
    max_BK[..., None] - jnp.maximum(v_BKV, 0) - jnp.log1p(jnp.exp(-jnp.abs(v_BKV)))
  )
  return jnp.where(jnp.isneginf(g_BKV), -jnp.inf, shifted_BKV)


def _add(
  state: Drawing,
  logits_XV: jax.Array,
  limit_B: jax.Array,
  key_B: jax.Array,
  temperature: jax.Array,
  ends_V: jax.Array | None,
  *,
  rules: Rules,
  eot: int,
) -> Drawing:
  """Returns the state with one more token of each hypothesis that has not ended."""
  B, K = state.phi_BK.shape
  (X, V), n = logits_XV.shape, state.n + 1
  logp_XV = jax.nn.log_softmax(logits_XV)
  ruled_XV = adjust(logp_XV, state.history, rules, eot, ends_V)
  drawn_XV = jax.nn.log_softmax(ruled_XV / temperature)
  # Where the rules leave no token at all, log_softmax is no number.
  drawn_XV = jnp.where(jnp.isneginf(ruled_XV), -jnp.inf, drawn_XV)
  drawn_BKV = jnp.repeat(drawn_XV, B * K // X, axis=0).reshape(B, K, V)
  phi_BKV = state.phi_BK[..., None] + drawn_BKV

  key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, n)
  noise_BKV = jax.vmap(lambda key: jax.random.gumbel(key, (K, V)))(key_B)
  score_BKV = conditional_gumbel(phi_BKV + noise_BKV, state.hypotheses.score_RK)
  # A finished hypothesis has one continuation, itself, in the place of token 0.
  stays_BKV = jnp.where(
    jnp.arange(V) == 0, state.hypotheses.score_RK[..., None], -jnp.inf
  )
  score_BKV = jnp.where(state.ended_BK[..., None], stays_BKV, score_BKV)

  b = jnp.arange(B)[:, None]
  parent_BK, token_BK = best_tokens(score_BKV, K)
  was_BK = state.ended_BK[b, parent_BK]
  row_BK = (jnp.arange(B * K) // (B * K // X)).reshape(B, K)[b, parent_BK]
  put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.n, axis=2)
  hypotheses = state.hypotheses.pick(parent_BK)
  hypotheses = Hypotheses(
    ids_RKG=put(hypotheses.ids_RKG, token_BK[..., None]),
    logp_RKG=put(hypotheses.logp_RKG, logp_XV[row_BK, token_BK][..., None]),
    length_RK=hypotheses.length_RK + ~was_BK,
    score_RK=score_BKV[b, parent_BK, token_BK],
  )
  phi_BK = jnp.where(
    was_BK, state.phi_BK[b, parent_BK], phi_BKV[b, parent_BK, token_BK]
  )
  row_X = row_BK.reshape(-1)
  history = state.history and rows_of(state.history, row_X).add(token_BK.reshape(-1))
  return Drawing(
    cache=state.cache,
    parent_BK=parent_BK,
    hypotheses=hypotheses,
    phi_BK=phi_BK,
    ended_BK=was_BK
    | (token_BK == eot if ends_V is None else ends_V[token_BK])
    | (n >= limit_B)[:, None]
    | jnp.isneginf(hypotheses.score_RK),
    n=n,
    history=history,
  )


def search(
  model: Model,
  ids_BP: jax.Array,
  length_B: jax.Array,
  limit_B: jax.Array,
  history: History | None,
  key_B2: jax.Array,
  temperature: jax.Array,
  ends_V: jax.Array | None = None,
  *,
  K: int,
  G: int,
  rules: Rules = NO_RULES,
  eot: int,
) -> Hypotheses:
  """Returns K continuations of each prompt, in the order in which they were drawn.

  Args:
    length_B: tokens of each; nothing is searched for a row of none.
    limit_B: new tokens of each at most.
    history: of the prompts, with room for G more; needed if any rule is on.
    key_B2: data of a PRNG key for each.
    temperature: divides log p, under the rules, of every token.
    ends_V: bool, tokens that end a text; None: end-of-text alone.
    G: tokens to make room for.
  """
  B, P = ids_BP.shape
  key_B = jax.random.wrap_key_data(key_B2, impl='threefry2x32')
  add = partial(
    _add,
    limit_B=limit_B,
    key_B=key_B,
    temperature=temperature,
    ends_V=ends_V,
    rules=rules,
    eot=eot,
  )
  logits_BV, cache = model.prefill(ids_BP, length_B, P + G * K)
  none = Hypotheses.none(B, K, G)
  root_B = jax.vmap(jax.random.gumbel)(key_B)
  state = Drawing(
    cache=model.branch(cache, K),
    parent_BK=jnp.zeros((B, K), jnp.int32),
    hypotheses=none.replace(score_RK=none.score_RK.at[:, 0].set(root_B)),
    phi_BK=none.score_RK.at[:, 0].set(0),
    ended_BK=jnp.broadcast_to((length_B == 0)[:, None], (B, K)),
    n=jnp.int32(0),
    history=history,
  )

  def advance(state):
    last_BK = jax.lax.dynamic_index_in_dim(
      state.hypotheses.ids_RKG, state.n - 1, axis=2, keepdims=False
    )
    logits_BKV, cache = model.step_beams(state.cache, state.parent_BK, last_BK)
    return add(state.replace(cache=cache), logits_BKV.reshape(B * K, -1))

  state = jax.lax.while_loop(
    lambda state: ~state.ended_BK.all(), advance, add(state, logits_BV)
  )
  return state.hypotheses


@partial(jax.jit, static_argnames=('gpt', 'K', 'G', 'rules', 'eot'))
def _search(params, *arrays, gpt, **static):
  return search(model_of(params, gpt), *arrays, **static)


def generate(
  params: dict,
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  keys: np.ndarray,
  *,
  max_new_tokens: int,
  beams: int,
  temperature: float = 1.0,
  rules: Rules = NO_RULES,
  eot: int,
  ends_V: np.ndarray | None = None,
) -> list[list[Hypothesis]]:
  """Returns continuations of each prompt, drawn without replacement, in order.

  Their score is log p, under rules and temperature, plus Gumbel noise. They end where
  the context is full. A row's result does not depend on the other rows (up to
  rounding).

  Args:
    prompts: token ids, 1 .. T of them each.
    keys: of `sampling.keys_of`, one for each prompt.
    beams: how many to draw; fewer if no more texts are possible.
    temperature: divides log p of every token.
    ends_V: bool, ids that end a text, `eot` among them; None: it alone.
  """
  if not beams >= 1:
    raise UserError(f'beams={beams} must be at least 1')
  if not temperature > 0:
    raise UserError(
      f'temperature={temperature} must be above 0; for the most likely texts use beams'
    )
  static = {'gpt': gpt, 'K': beams, 'rules': rules, 'eot': eot}
  results = []
  size = max(1, ROWS // beams)
  for at in range(0, len(prompts), size):
    batch = prompts[at : at + size]
    arrays, G = prepare(batch, gpt.config.T, max_new_tokens, rules)
    key_B2 = np.resize(keys[at : at + size], (len(arrays[0]), 2))
    heat = np.float32(bounded(temperature))
    drawn = _search(params, *arrays, key_B2, heat, ends_V, G=G, **static)
    drawn = jax.tree.map(np.asarray, drawn)
    results += [drawn.listed(row) for row in range(len(batch))]
  return results
