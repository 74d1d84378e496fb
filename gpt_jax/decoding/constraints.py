"""Constraints of beam search: automata that say which continuations are allowed.

Two kinds are made here: `one_of` (a trie) and `including` (phrases that must occur).
Letters: Q states, E edges, R searches, K beams.
"""

from collections import deque
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.decoding.beam_state import Candidates, top_k
from gpt_jax.decoding.rows import bucket

_NEVER = np.int32(2**30)  # tokens
_PHRASES = 8


@flax.struct.dataclass
class Automaton:
  """A deterministic automaton over the new tokens; state 0 is the beginning.

  Attributes:
    from_E: int32, edges: the state; -1 is no edge.
    token_E: int32, the token.
    to_E: int32, the state after it.
    default_Q: int32, the state after a token without an edge; -1: it is forbidden.
    may_end_Q: bool, states in which end-of-text is allowed, which is never an edge.
    need_Q: int32, the least tokens after which a hypothesis of this state may be at
      its length limit.
    bank_Q: int32, the bank of the state: beams are shared evenly among banks.
  """

  from_E: jax.Array
  token_E: jax.Array
  to_E: jax.Array
  default_Q: jax.Array
  may_end_Q: jax.Array
  need_Q: jax.Array
  bank_Q: jax.Array
  banks: int = flax.struct.field(pytree_node=False)

  def check(self, limit: int) -> None:
    """Raises UserError if `limit` new tokens are too few."""
    if self.need_Q[0] > limit:
      raise UserError(
        f'the constraint takes {self.need_Q[0]} tokens at least, but there is room for '
        f'{limit}; allow more new tokens or shorten the prompt'
      )


def _automaton(edges, default, may_end, need, bank) -> Automaton:
  """Returns the automaton with its arrays rounded up, so that programs are shared."""

  def filled(values, fill):
    full = np.full(bucket(max(1, len(values))), fill, np.int32)
    full[: len(values)] = values
    return full

  start, token, to = zip(*edges, strict=True)
  return Automaton(
    from_E=filled(start, -1),
    token_E=filled(token, 0),
    to_E=filled(to, 0),
    default_Q=filled(default, -1),
    may_end_Q=filled(may_end, 0).astype(bool),
    need_Q=filled(need, _NEVER),
    bank_Q=filled(bank, 0),
    banks=max(bank) + 1,
  )


def _check(
  name: str, sequences: Sequence[Sequence[int]], vocab: int, ends: Sequence[int]
) -> None:
  wrong = []
  if not sequences:
    wrong.append(f'{name} is empty; give a sequence of token ids or more')
  for i, ids in enumerate(sequences):
    if not ids:
      wrong.append(f'{name}[{i}] is empty; leave it out')
    elif end := set(ends) & set(ids):
      wrong.append(
        f'{name}[{i}] holds end-of-text ({min(end)}), which only ends a text'
      )
    elif min(ids) < 0 or max(ids) >= vocab:
      wrong.append(f'{name}[{i}]={list(ids)} must be ids in 0 .. {vocab - 1}')
  if wrong:
    raise UserError('\n'.join(wrong))


def one_of(
  sequences: Sequence[Sequence[int]], *, vocab: int, ends: Sequence[int]
) -> Automaton:
  """Returns the constraint to one of these sequences, followed by end-of-text.

  So a result is exactly one of them and end-of-text; log p counts both.

  Args:
    sequences: of token ids, without end-of-text.
    ends: ids that end a text.
  """
  _check('sequences', sequences, vocab, ends)
  edges, need = {}, [_NEVER]
  for ids in sequences:
    path = [0]
    for token in ids:
      if (path[-1], token) not in edges:
        edges[path[-1], token] = len(need)
        need.append(_NEVER)
      path.append(edges[path[-1], token])
    for tokens_left, node in enumerate(reversed(path)):
      need[node] = min(need[node], tokens_left + 1)
  return _automaton(
    [(*start, to) for start, to in edges.items()],
    default=[-1] * len(need),
    may_end=[n == 1 for n in need],  # end-of-text is all that is missing
    need=need,
    bank=[0] * len(need),
  )


def including(
  phrases: Sequence[Sequence[int]], *, vocab: int, ends: Sequence[int]
) -> Automaton:
  """Returns the constraint that every phrase occurs among the new tokens.

  Each occurs as contiguous tokens, anywhere and in any order; they may overlap. Beams
  are shared among banks by the number of phrase tokens that a hypothesis has, as in
  Post & Vilar 2018 (dynamic beam allocation); so use more beams than the phrases have
  tokens. Differs: room is always kept for what is missing, so no result lacks a phrase.

  Args:
    phrases: of token ids, without end-of-text; 8 at most.
    ends: ids that end a text.
  """
  _check('phrases', phrases, vocab, ends)
  phrases = sorted({tuple(phrase) for phrase in phrases})
  if len(phrases) > _PHRASES:
    raise UserError(f'{len(phrases)} phrases are too many; give {_PHRASES} at most')
  alphabet = sorted({token for phrase in phrases for token in phrase})
  every = frozenset(phrases)

  def step(state, token):
    # A state is what could still become a phrase, and the phrases met.
    begun, met = state
    text = (*begun, token)
    met |= {p for p in every if text[-len(p) :] == p}
    if met == every:
      return full
    ends = [text[i:] for i in range(len(text) + 1)]
    begun = next(e for e in ends if any(p[: len(e)] == e for p in every - met))
    return begun, met

  # An empty `begun` starts every phrase; when all are met nothing has to be looked for.
  start, full = ((), frozenset()), ((), every)
  states, edges, queue = {start: 0}, [], deque([start])

  def number(state):
    if state not in states:
      states[state] = len(states)
      queue.append(state)
    return states[state]

  default = {}
  while queue:
    state = queue.popleft()
    here = states[state]
    if state == full:
      default[here] = here
      continue
    default[here] = number(((), state[1]))
    for token in alphabet:
      to = number(step(state, token))
      if to != default[here]:
        edges.append((here, token, to))
  before = {}
  for here, to in [*default.items(), *((here, to) for here, _, to in edges)]:
    before.setdefault(to, []).append(here)
  need, queue = {states[full]: 0}, deque([states[full]])
  while queue:
    to = queue.popleft()
    for here in before.get(to, ()):
      if here not in need:
        need[here] = need[to] + 1
        queue.append(here)
  need = [need[i] for i in range(len(states))]
  return _automaton(
    edges,
    default=[default[i] for i in range(len(states))],
    may_end=[n == 0 for n in need],
    need=need,
    bank=[len(begun) + sum(map(len, met)) for begun, met in states],
  )


def _allow(
  automaton: Automaton,
  score_RKV: jax.Array,
  at_RK: jax.Array,
  left_R: jax.Array,
  ends_V: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the scores of tokens without an edge and of edges, -inf if not allowed.

  Of several ends of a text each beam's likeliest is allowed: so no text comes twice.

  Args:
    at_RK: the beams' states.
    left_R: tokens that may follow the next one.
    ends_V: bool, tokens that end a text.

  Returns:
    score_RKV, tokens without an edge; edge_RKE.
  """
  left_R11 = left_R[:, None, None]
  is_edge_RKE = automaton.from_E == at_RK[..., None]
  edge_RKE = jnp.where(
    is_edge_RKE & (automaton.need_Q[automaton.to_E] <= left_R11),
    score_RKV[..., automaton.token_E],
    -jnp.inf,
  )
  default_RK1 = automaton.default_Q[at_RK][..., None]
  # default -1 reads need_Q[-1], which the first condition makes irrelevant.
  free_RK1 = (default_RK1 >= 0) & (automaton.need_Q[default_RK1] <= left_R11)
  rest_RKV = jnp.where(free_RK1, score_RKV, -jnp.inf)
  rest_RKV = rest_RKV.at[..., automaton.token_E].min(
    jnp.where(is_edge_RKE, -jnp.inf, jnp.inf)
  )
  end_RKV = jnp.where(ends_V, score_RKV, -jnp.inf)
  best_RKV = jnp.arange(len(ends_V)) == end_RKV.argmax(axis=-1)[..., None]
  may_RKV = best_RKV & automaton.may_end_Q[at_RK][..., None]
  rest_RKV = jnp.where(ends_V, jnp.where(may_RKV, score_RKV, -jnp.inf), rest_RKV)
  return rest_RKV, edge_RKE


def share(
  score_Rx: jax.Array, bank_Rx: jax.Array, *, C: int, banks: int
) -> tuple[jax.Array, jax.Array]:
  """Returns scores and numbers of C candidates, best first.

  The best C / 2 / banks of each bank come first (one at least), then others; in both
  parts the best first. If there are no more, scores are -inf.
  """
  if banks == 1:
    return jax.lax.top_k(score_Rx, C)
  of_bank_Rjx = bank_Rx[:, None] == jnp.arange(banks)[:, None]
  score_RjC, i_RjC = jax.lax.top_k(
    jnp.where(of_bank_Rjx, score_Rx[:, None], -jnp.inf), C
  )
  quota = max(1, C // 2 // banks)
  waits_RjC = ((jnp.arange(C) >= quota) | jnp.isneginf(score_RjC)).astype(jnp.int32)
  flat = (x.reshape(len(score_Rx), -1) for x in (waits_RjC, -score_RjC, i_RjC))
  _, minus_Rx, i_Rx = jax.lax.sort(tuple(flat), num_keys=2)
  return -minus_Rx[:, :C], i_Rx[:, :C]


def choice(
  automaton: Automaton,
  score_RKV: jax.Array,
  at_RK: jax.Array,
  left_R: jax.Array,
  ends_V: jax.Array,
) -> Candidates:
  """Returns 2 K candidates that the automaton allows, shared among its banks.

  Args:
    score_RKV: log p under the rules of each beam and its next token.
    at_RK: the beams' states.
    left_R: tokens that may follow the next one.
    ends_V: bool, tokens that end a text.
  """
  R, K, V = score_RKV.shape
  r, c = jnp.arange(R)[:, None], min(2 * K, V)
  score_RKV, edge_RKE = _allow(automaton, score_RKV, at_RK, left_R, ends_V)
  score_RKc, token_RKc = top_k(score_RKV, c)
  at_RKc = jnp.where(
    ends_V[token_RKc], at_RK[..., None], automaton.default_Q[at_RK, None]
  )
  edges = automaton.token_E, automaton.to_E
  token_RKE, to_RKE = (jnp.broadcast_to(x, edge_RKE.shape) for x in edges)
  beam_RKx = jnp.broadcast_to(jnp.arange(K)[:, None], (R, K, c + edge_RKE.shape[-1]))
  pairs = (score_RKc, edge_RKE), (token_RKc, token_RKE), (at_RKc, to_RKE)
  score, token, at = (jnp.concatenate(x, axis=2).reshape(R, -1) for x in pairs)
  bank = automaton.bank_Q[at]
  score_RC, i_RC = share(score, bank, C=2 * K, banks=automaton.banks)
  parent_RC = beam_RKx.reshape(R, -1)[r, i_RC]
  return Candidates(score_RC, parent_RC, token[r, i_RC], at[r, i_RC])
