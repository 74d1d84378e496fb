"""Beam search with a KV cache, in one compiled loop; diverse groups; constraints.

It is Hugging Face's beam search, so that results can be compared: the best 2 K of all
continuations of the K live hypotheses by one token are candidates. Those among the
first K that end compete for K places of finished hypotheses, by log p over a length
penalty; the best K that do not end stay live. At the length limit every hypothesis
ends.

Letters: R searches (M groups of each of B prompts), K beams of a search, C = 2 K
candidates, X = R K rows of the model's batch, G new tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.decoding.beam_choice import candidates, finished, survivors
from gpt_jax.decoding.beam_state import (
  ROWS,
  Hypotheses,
  Hypothesis,
  Searching,
  prepare,
  rows_of,
)
from gpt_jax.decoding.constraints import Automaton
from gpt_jax.decoding.contract import Model, model_of
from gpt_jax.decoding.guidance import Guidance, Guide
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, adjust
from gpt_jax.decoding.selection import bounded
from gpt_jax.decoding.stops import Stops
from gpt_jax.model.gpt import GPT

_STOPPING = {False: 0, True: 1, 'never': 2}
_STEEPEST = 8  # length penalty: float32 holds the power of thousands of tokens
_PENALTY_OFFSET = {'gnmt': 5, 'hf': 0}


@dataclasses.dataclass(frozen=True)
class Beams:
  """How to search.

  Attributes:
    beams: live hypotheses, over all groups. One beam a group is greedy: it ends with
      its first end-of-text.
    groups: searches that avoid each other's tokens (Vijayakumar et al. 2016).
    diversity: nats that a token costs in the choice of a step for each beam of earlier
      groups that took it at this step; no part of a score.
    length_penalty: alpha of `penalty_form`; below 0 prefers short ones.
    penalty_form: a finished hypothesis of n tokens, end-of-text included, scores log p
      over ((5 + n) / 6)^alpha ('gnmt': Wu et al. 2016, without coverage; GPT-3, T5) or
      over n^alpha ('hf').
    early_stopping: True ends a search when K hypotheses have finished; False when,
      moreover, no live one would be better if it ended now; 'never' when, moreover,
      none can become better.
  """

  beams: int = 4
  groups: int = 1
  diversity: float = 0.5
  length_penalty: float = 0.6
  penalty_form: str = 'gnmt'
  early_stopping: bool | str = False

  def __post_init__(self):
    wrong = []
    if not self.beams >= 1:
      wrong.append(f'beams={self.beams} must be at least 1')
    if not self.groups >= 1 or self.beams % self.groups:
      wrong.append(
        f'groups={self.groups} must divide beams={self.beams}: each gets as many'
      )
    if not 0 <= self.diversity < np.inf:
      wrong.append(
        f'diversity={self.diversity} must be at least 0 and finite (0 is off)'
      )
    if not -_STEEPEST <= self.length_penalty <= _STEEPEST:
      wrong.append(
        f'length_penalty={self.length_penalty} must be in -{_STEEPEST} .. {_STEEPEST} '
        '(0 is off)'
      )
    if self.penalty_form not in _PENALTY_OFFSET:
      wrong.append(f'penalty_form={self.penalty_form!r} must be one of gnmt, hf')
    if self.early_stopping not in _STOPPING:
      wrong.append(
        f"early_stopping={self.early_stopping!r} must be one of True, False, 'never'"
      )
    if wrong:
      raise UserError('\n'.join(wrong))


@flax.struct.dataclass
class Numbers:
  """The numbers of `Beams`, traced: searches that differ in them share a program.

  Attributes:
    offset: a of the length penalty ((a + n) / (a + 1))^alpha.
    alpha: its power.
    stopping: as numbered in `_STOPPING`.
  """

  offset: jax.Array
  alpha: jax.Array
  stopping: jax.Array
  diversity: jax.Array

  def penalty(self, n: jax.Array) -> jax.Array:
    """Returns what log p of n tokens is divided by."""
    return ((self.offset + n) / (self.offset + 1)) ** self.alpha


def _add(
  state: Searching,
  logits_XV: jax.Array,
  limit_R: jax.Array,
  numbers: Numbers,
  automaton: Automaton | None,
  ends_V: jax.Array | None,
  stops: Stops | None,
  guide: Guide | None,
  alone_XV: jax.Array | None = None,
  *,
  M: int,
  rules: Rules,
  eot: int,
) -> Searching:
  """Returns the state with one more token of each live hypothesis.

  At first history and logits have a row for each prompt, later for each beam.

  Args:
    alone_XV: logits without a source, if the guide asks for them.
  """
  R, K = state.live.score_RK.shape
  X = len(logits_XV)
  row_RK = (jnp.arange(R * K) // (R * K // X)).reshape(R, K)
  logp_XV = jax.nn.log_softmax(logits_XV)
  ruled_XV = adjust(logp_XV, state.history, rules, eot, ends_V)
  if guide is not None:
    ruled_XV += guide.added(alone_XV, state.n)
  ruled_RKV = jnp.repeat(ruled_XV, R * K // X, axis=0).reshape(R, K, -1)
  score_RKV = state.live.score_RK[..., None] + ruled_RKV

  n = state.n + 1
  left_R, diversity, which = limit_R - n, numbers.diversity, {'M': M, 'eot': eot}
  new, ends_RC, text_RC2 = candidates(
    state, score_RKV, left_R, diversity, automaton, ends_V, stops, **which
  )
  row_RC = jnp.take_along_axis(row_RK, new.parent_RC, axis=1)
  put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.n, axis=2)
  grown = state.live.pick(new.parent_RC)
  grown = Hypotheses(
    ids_RKG=put(grown.ids_RKG, new.token_RC[..., None]),
    logp_RKG=put(grown.logp_RKG, logp_XV[row_RC, new.token_RC][..., None]),
    length_RK=grown.length_RK + 1,
    score_RK=new.score_RC,
    text_RK2=text_RC2,
  )

  back_RC = None
  if guide is not None:
    grown, ends_RC, new, back_RC = guide.reordered(
      grown, ends_RC, new, state.back_RK, eot
    )
    row_RC = jnp.take_along_axis(row_RK, new.parent_RC, axis=1)

  at_limit_R = n >= limit_R
  ends_RC |= at_limit_R[:, None]
  i_RK = survivors(ends_RC, K)
  lives_on = grown.replace(score_RK=jnp.where(ends_RC, -jnp.inf, grown.score_RK))
  live = lives_on.pick(i_RK)
  done = finished(state, grown, ends_RC, numbers.penalty(n))
  open_R = _open(state, live, done, limit_R, numbers, guide is not None)

  row_X = jnp.take_along_axis(row_RC, i_RK, axis=1).reshape(-1)
  token_X = jnp.take_along_axis(new.token_RC, i_RK, axis=1).reshape(-1)
  return Searching(
    cache=state.cache,
    parent_RK=jnp.take_along_axis(new.parent_RC, i_RK, axis=1),
    live=live,
    done=done,
    at_RK=jnp.take_along_axis(new.at_RC, i_RK, axis=1),
    open_R=open_R,
    n=n,
    history=state.history and rows_of(state.history, row_X).add(token_X),
    alone=state.alone,
    back_RK=None if back_RC is None else jnp.take_along_axis(back_RC, i_RK, axis=1),
  )


def _open(
  state: Searching,
  live: Hypotheses,
  done: Hypotheses,
  limit_R: jax.Array,
  numbers: Numbers,
  guided: bool,
) -> jax.Array:
  """Returns the searches in which a live hypothesis may still be among the best."""
  n = state.n + 1
  full_R = jnp.isfinite(done.score_RK[:, -1])
  # log p only falls: the best that a live hypothesis can become depends on whether
  # the penalty rewards length. What guides may make a score rise.
  never = numbers.stopping == _STOPPING['never']
  length_R = jnp.where(never & (numbers.alpha > 0), limit_R, n)
  best_R = live.score_RK.max(axis=1)
  hope_R = best_R / numbers.penalty(length_R)
  worth_R = (hope_R > done.score_RK[:, -1]) & (numbers.stopping != _STOPPING[True])
  worth_R |= never & guided
  return state.open_R & jnp.isfinite(best_R) & (~full_R | worth_R)


def search(
  model: Model,
  ids_BP: jax.Array,
  length_B: jax.Array,
  limit_B: jax.Array,
  numbers: Numbers,
  automaton: Automaton | None = None,
  history: History | None = None,
  ends_V: jax.Array | None = None,
  stops: Stops | None = None,
  start_B: jax.Array | None = None,
  guide: Guide | None = None,
  *,
  K: int,
  M: int = 1,
  G: int,
  rules: Rules = NO_RULES,
  eot: int,
) -> Hypotheses:
  """Returns the finished hypotheses of each group of each prompt, best first.

  Args:
    length_B: tokens of each; a row of none is padding, nothing is searched for it.
    limit_B: new tokens of each at most.
    numbers: penalty, stopping, diversity.
    automaton: what hypotheses must be made of; not together with groups.
    history: of the prompts, with room for G more; needed if any rule is on.
    ends_V: bool, tokens that end a hypothesis; None: end-of-text alone.
    stops: texts that end a hypothesis; not together with an automaton.
    start_B: int32, the state of `stops` after each prompt.
    guide: what is added to log p; not together with groups.
    G: tokens to make room for.
  """
  B, P = ids_BP.shape
  R = B * M
  limit_R = jnp.repeat(limit_B, M)
  add = partial(
    _add,
    limit_R=limit_R,
    numbers=numbers,
    automaton=automaton,
    ends_V=ends_V,
    stops=stops,
    guide=guide,
    M=M,
    rules=rules,
    eot=eot,
  )
  logits_BV, cache = model.prefill(ids_BP, length_B, P + G * M * K)
  alone_BV, alone = guide.alone(model, P + G * K) if guide else (None, None)
  none = Hypotheses.none(R, K, G, texts=stops is not None)
  start_B = jnp.zeros(B, jnp.int32) if start_B is None else start_B
  state = Searching(
    cache=model.branch(cache, M * K),
    parent_RK=jnp.zeros((R, K), jnp.int32),
    live=none.replace(score_RK=none.score_RK.at[:, 0].set(0)),
    done=none,
    at_RK=jnp.repeat(start_B, M * K).reshape(R, K),
    open_R=jnp.repeat(length_B > 0, M),
    n=jnp.int32(0),
    history=history,
    alone=None if alone is None else model.branch(alone, K),
    back_RK=guide.none(K) if guide else None,
  )

  def advance(state):
    last_RK = jax.lax.dynamic_index_in_dim(
      state.live.ids_RKG, state.n - 1, axis=2, keepdims=False
    )
    parent_RK = state.parent_RK + (jnp.arange(R) % M * K)[:, None]
    of = parent_RK.reshape(B, M * K), last_RK.reshape(B, M * K)
    logits_BKV, cache = model.step_beams(state.cache, *of)
    logits_XV = logits_BKV.reshape(R * K, -1)
    if state.alone is None:
      return add(state.replace(cache=cache), logits_XV)
    alone_BKV, alone = model.step_beams(state.alone, *of)
    state = state.replace(cache=cache, alone=alone)
    return add(state, logits_XV, alone_XV=alone_BKV.reshape(R * K, -1))

  state = jax.lax.while_loop(
    lambda state: state.open_R.any(), advance, add(state, logits_BV, alone_XV=alone_BV)
  )
  return state.done


@partial(jax.jit, static_argnames=('gpt', 'K', 'M', 'G', 'rules', 'eot'))
def compiled_search(params, *arrays, gpt, **static):
  """Returns what `search` does, of a GPT; `arguments` gives them."""
  return search(model_of(params, gpt), *arrays, **static)


def arguments(
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  *,
  max_new_tokens: int,
  beams: Beams,
  rules: Rules = NO_RULES,
  constraint: Automaton | None = None,
  ends_V: np.ndarray | None = None,
  stops: Stops | None = None,
  starts: Sequence[int] = (),
  guide: Callable[[int], Guide] | None = None,
  eot: int,
) -> tuple[tuple, dict]:
  """Returns what `compiled_search` takes of a batch of prompts after the parameters.

  Its arrays, and its static arguments; those here are as in `generate`.

  Args:
    guide: rows of the batch -> their guide.

  Raises:
    UserError: the constraint needs more tokens than there are.
  """
  M, K = beams.groups, beams.beams // beams.groups
  # One beam is greedy: with its only place taken there is nothing to wait for.
  stopping = True if K == 1 else beams.early_stopping
  numbers = Numbers(
    offset=np.float32(_PENALTY_OFFSET[beams.penalty_form]),
    alpha=np.float32(beams.length_penalty),
    stopping=np.int32(_STOPPING[stopping]),
    diversity=np.float32(bounded(beams.diversity)),
  )
  arrays, G = prepare(prompts, gpt.config.T, max_new_tokens, rules)
  *arrays, history = arrays
  start_B = np.zeros(len(arrays[0]), np.int32)
  start_B[: len(starts)] = starts
  if constraint is not None:
    constraint.check(int(arrays[-1][: len(prompts)].min()))
  guided = guide(len(start_B)) if guide else None
  arrays = *arrays, numbers, constraint, history, ends_V, stops, start_B, guided
  return arrays, {'gpt': gpt, 'K': K, 'M': M, 'G': G, 'rules': rules, 'eot': eot}


def generate(
  params: dict,
  gpt: GPT,
  prompts: Sequence[Sequence[int]],
  *,
  max_new_tokens: int,
  beams: Beams = Beams(),
  num_return: int = 1,
  rules: Rules = NO_RULES,
  constraint: Automaton | None = None,
  ends_V: np.ndarray | None = None,
  stops: Stops | None = None,
  starts: Sequence[int] = (),
  guidance: Guidance | None = None,
  eot: int,
) -> list[list[Hypothesis]]:
  """Returns the best hypotheses of each prompt, best first, no two the same.

  A row's result does not depend on the other rows (up to rounding). Hypotheses end
  where the context is full. Of groups, the best of each are taken first.

  Args:
    prompts: token ids, 1 .. T of them each.
    num_return: hypotheses of each prompt; there are fewer where fewer were found.
    constraint: of `constraints.one_of` or `constraints.including`.
    ends_V: bool, tokens that end a hypothesis, `eot` among them; None: it alone.
    stops: texts that end a hypothesis where they are complete. Then no two have the
      same text: of those that would, the best is returned.
    starts: the state of `stops` after each prompt.
    guidance: what hypotheses are scored by besides log p.

  Raises:
    UserError: more hypotheses asked for than beams; no hypothesis obeys the rules.
  """
  if not 1 <= num_return <= beams.beams:
    raise UserError(
      f'num_return={num_return} must be in 1 .. beams={beams.beams}; use more beams'
    )
  if constraint is not None and beams.groups > 1:
    raise UserError(f'groups={beams.groups} must be 1 under a constraint')
  if guidance is not None and beams.groups > 1:
    raise UserError(f'groups={beams.groups} must be 1 where beams are guided')
  results = []
  size = max(1, ROWS // beams.beams)
  M = beams.groups
  for at in range(0, len(prompts), size):
    batch = prompts[at : at + size]
    arrays, static = arguments(
      gpt,
      batch,
      max_new_tokens=max_new_tokens,
      beams=beams,
      rules=rules,
      constraint=constraint,
      ends_V=ends_V,
      stops=stops,
      starts=starts[at : at + size],
      guide=guidance and partial(guidance.of, slice(at, at + size)),
      eot=eot,
    )
    done = compiled_search(params, *arrays, **static)
    done = jax.tree.map(np.asarray, done)
    for row in range(len(batch)):
      groups = [done.listed(row * M + group) for group in range(M)]
      best = _merge(groups, num_return)
      if not best:
        raise UserError(
          f'prompt {at + row} has no continuation of at most {max_new_tokens} tokens '
          'that obeys the rules; loosen them'
        )
      results.append(best)
  return results


def _merge(groups: list[list[Hypothesis]], n: int) -> list[Hypothesis]:
  """Returns n hypotheses, the best of each group first, best first, each once."""
  ranked = [
    (rank, -one.score, one) for group in groups for rank, one in enumerate(group)
  ]
  unique = {}
  for _, _, one in sorted(ranked, key=lambda x: x[:2]):
    unique.setdefault(one.text or tuple(one.ids), one)
  return sorted(list(unique.values())[:n], key=lambda one: -one.score)
