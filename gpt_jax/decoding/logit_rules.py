"""Rules of decoding: functions from scores to scores, in a fixed order.

`adjust` applies what depends on the text so far (`Rules`): forbid -> repetition,
presence and frequency penalty. `draw` goes on (`Sampling`): temperature -> top-k ->
top-p -> min-p -> typical. Scores are logits where tokens are drawn and log p in beam
search, as in Hugging Face. A rule that is off leaves no operation in a program.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Rules:
  """What may follow the text so far, and what is made less likely.

  Attributes:
    forbidden: sequences of ids that never come about, in prompt and new tokens.
    forced: ids of the first new tokens, whatever other rules say.
    min_new_tokens: no end-of-text before so many new tokens.
    no_repeat_ngram: no sequence of so many tokens occurs twice in prompt and new
      tokens; 0 is off.
    repetition_penalty: of each token of prompt and new tokens (CTRL); 1 is off.
    presence_penalty: subtracted from the score of each token among the new ones.
    frequency_penalty: the same, times its count.
  """

  forbidden: tuple[tuple[int, ...], ...] = ()
  forced: tuple[int, ...] = ()
  min_new_tokens: int = 0
  no_repeat_ngram: int = 0
  repetition_penalty: float = 1.0
  presence_penalty: float = 0.0
  frequency_penalty: float = 0.0

  def __post_init__(self):
    wrong = []
    if not all(self.forbidden):
      wrong.append('a forbidden sequence is empty; leave it out')
    for name in ('min_new_tokens', 'no_repeat_ngram'):
      if not getattr(self, name) >= 0:
        wrong.append(f'{name}={getattr(self, name)} must be at least 0 (0 is off)')
    if not 0 < self.repetition_penalty < math.inf:
      wrong.append(
        f'repetition_penalty={self.repetition_penalty} must be above 0 (1 is off, more '
        'makes repetition less likely)'
      )
    for name in ('presence_penalty', 'frequency_penalty'):
      if not math.isfinite(getattr(self, name)):
        wrong.append(f'{name}={getattr(self, name)} must be finite (0 is off)')
    if wrong:
      raise UserError('\n'.join(wrong))


NO_RULES = Rules()


@flax.struct.dataclass
class History:
  """The text so far, for rules that look at it.

  Attributes:
    ids_BW: int32, a row's prompt directly followed by its new tokens, then anything.
    length_B: int32, tokens in it.
    prompt_B: int32, how many of them are the prompt.
  """

  ids_BW: jax.Array
  length_B: jax.Array
  prompt_B: jax.Array

  def add(self, ids_B: jax.Array) -> 'History':
    """Returns the history with one more token a row."""
    rows = jnp.arange(len(ids_B))
    return self.replace(
      ids_BW=self.ids_BW.at[rows, self.length_B].set(ids_B, mode='drop'),
      length_B=self.length_B + 1,
    )

  def last(self, n: int) -> jax.Array:
    """Returns the last n tokens of each row, [B, n]; of use where it has so many."""
    at_Bn = self.length_B[:, None] - n + jnp.arange(n)
    return jnp.take_along_axis(self.ids_BW, jnp.maximum(at_Bn, 0), axis=1)

  def counts(self, V: int, *, new_only: bool = False) -> jax.Array:
    """Returns how often each token occurs in a row, float32 [B, V]."""
    B, W = self.ids_BW.shape
    w = jnp.arange(W)
    counted_BW = w < self.length_B[:, None]
    if new_only:
      counted_BW &= w >= self.prompt_B[:, None]
    ids_BW = jnp.where(counted_BW, self.ids_BW, V)  # V is outside, and dropped
    return jnp.zeros((B, V)).at[jnp.arange(B)[:, None], ids_BW].add(1, mode='drop')


def adjust(
  scores_BV: jax.Array, history: History | None, rules: Rules, eot: int
) -> jax.Array:
  """Returns the scores of the next token under the rules; -inf is impossible.

  Args:
    scores_BV: logits, or log p.
    history: the text before that token; None will do where no rule is on.
    rules: what to apply.
    eot: id of end-of-text.
  """
  given_BV = scores_BV
  if rules.forbidden:
    scores_BV = forbid(scores_BV, history, rules.forbidden)
  if rules.no_repeat_ngram:
    scores_BV = no_repeat(scores_BV, history, rules.no_repeat_ngram)
  if rules.min_new_tokens:
    early_B = history.length_B - history.prompt_B < rules.min_new_tokens
    scores_BV = scores_BV.at[:, eot].add(jnp.where(early_B, -jnp.inf, 0))
  if rules.repetition_penalty != 1:
    scores_BV = penalize_seen(scores_BV, history, rules.repetition_penalty)
  if rules.presence_penalty or rules.frequency_penalty:
    counts_BV = history.counts(scores_BV.shape[-1], new_only=True)
    scores_BV = scores_BV - rules.frequency_penalty * counts_BV
    scores_BV = scores_BV - rules.presence_penalty * (counts_BV > 0)
  if rules.forced:
    scores_BV = force(scores_BV, given_BV, history, rules.forced)
  return scores_BV


def forbid(
  scores_BV: jax.Array, history: History, sequences: tuple[tuple[int, ...], ...]
) -> jax.Array:
  """Returns the scores with each token that would complete a sequence at -inf.

  As Hugging Face's `bad_words_ids`. Differs: that lets a sequence pass which is one
  token longer than the text so far.
  """
  for n in sorted({len(s) for s in sequences}):
    ids_RN = np.array([s for s in sequences if len(s) == n])
    begun_BR = (history.last(n - 1)[:, None] == ids_RN[:, :-1]).all(axis=-1)
    begun_BR &= history.length_B[:, None] >= n - 1
    worth_BR = jnp.where(begun_BR, -jnp.inf, jnp.inf)
    scores_BV = scores_BV.at[:, ids_RN[:, -1]].min(worth_BR)
  return scores_BV


def no_repeat(scores_BV: jax.Array, history: History, n: int) -> jax.Array:
  """Returns the scores with each token that would repeat an n-gram at -inf.

  Hugging Face's `no_repeat_ngram_size` (Paulus et al. 2018, section 2.5): wherever the
  last n - 1 tokens stood before, what followed them there is forbidden.
  """
  (B, V), W = scores_BV.shape, history.ids_BW.shape[1]
  if n > W:
    return scores_BV
  end_X = jnp.arange(n - 1, W)  # of each n-gram
  same_BX = end_X < history.length_B[:, None]
  last_BN = history.last(n - 1)
  for i in range(n - 1):
    same_BX &= history.ids_BW[:, i : i + W - n + 1] == last_BN[:, i : i + 1]
  ids_BX = jnp.where(same_BX, history.ids_BW[:, n - 1 :], V)
  return scores_BV.at[jnp.arange(B)[:, None], ids_BX].set(-jnp.inf, mode='drop')


def penalize_seen(scores_BV: jax.Array, history: History, by: float) -> jax.Array:
  """Returns the scores, those of tokens in prompt or new tokens made worse.

  CTRL (Keskar et al. 2019, section 4.1), as in Hugging Face: a positive score is
  divided, a negative one multiplied.
  """
  seen_BV = history.counts(scores_BV.shape[-1]) > 0
  worse_BV = jnp.where(scores_BV < 0, scores_BV * by, scores_BV / by)
  return jnp.where(seen_BV, worse_BV, scores_BV)


def force(
  scores_BV: jax.Array, given_BV: jax.Array, history: History, ids: tuple[int, ...]
) -> jax.Array:
  """Returns the scores with all but the forced token at -inf, which keeps its own.

  Args:
    scores_BV: for the tokens after the forced ones.
    given_BV: the scores before other rules, which might have forbidden it.
    history: the text so far.
    ids: of the first new tokens.
  """
  new_B1 = (history.length_B - history.prompt_B)[:, None]
  forced_B1 = jnp.asarray(ids)[jnp.minimum(new_B1, len(ids) - 1)]
  is_forced_BV = jnp.arange(scores_BV.shape[-1]) == forced_B1
  only_BV = jnp.where(is_forced_BV, given_BV, -jnp.inf)
  return jnp.where(new_B1 < len(ids), only_BV, scores_BV)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is drawn.

  Attributes:
    temperature: divides the logits; 0 takes the likeliest token (greedy).
    top_k: only the k likeliest tokens, ties with the k-th kept; 0 means all.
    top_p: only the smallest set of likeliest tokens whose mass reaches p; 1 means all.
    min_p: only tokens at least min_p times as likely as the likeliest; 0 means all.
    typical_p: only the smallest set of the most typical tokens whose mass reaches it;
      1 means all.
    openai_top_p: top-p stops before the token that reaches p, as GPT-2's sampler did.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  typical_p: float = 1.0
  openai_top_p: bool = False

  def __post_init__(self):
    wrong = []
    if not 0 <= self.temperature < math.inf:
      wrong.append(f'temperature={self.temperature} must be at least 0 (0 is greedy)')
    if not self.top_k >= 0:
      wrong.append(f'top_k={self.top_k} must be at least 0 (0 keeps all)')
    for name in ('top_p', 'typical_p'):
      if not 0 < getattr(self, name) <= 1:
        wrong.append(f'{name}={getattr(self, name)} must be in (0, 1] (1 keeps all)')
    if not 0 <= self.min_p <= 1:
      wrong.append(f'min_p={self.min_p} must be in [0, 1] (0 keeps all)')
    if wrong:
      raise UserError('\n'.join(wrong))


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
  """Returns the logits with all but the k largest of a row (and ties) at -inf."""
  # The min, not the last of them: XLA turns that slice into a sort of all, which on a
  # CPU takes 90 times as long.
  kth_B = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0].min(axis=-1)
  return jnp.where(logits_BV >= kth_B[:, None], logits_BV, -jnp.inf)


def top_p(logits_BV: jax.Array, p: float, openai: bool = False) -> jax.Array:
  """Returns the logits with all but the nucleus at -inf.

  The nucleus is the smallest set of likeliest tokens whose probability is at least p
  (Holtzman et al. 2020, section 3.1): the token that reaches p belongs to it, and those
  as likely as that one. With `openai` it is the largest set whose probability is at
  most p, and never empty (GPT-2's released sampler).
  """
  p_BV = jax.nn.softmax(logits_BV)
  if not openai:
    return jnp.where(_reach(logits_BV, p_BV, p), logits_BV, -jnp.inf)
  largest_BV = logits_BV == logits_BV.max(axis=-1, keepdims=True)
  inside_BV = ~_reach(-logits_BV, p_BV, 1 - p) | largest_BV
  return jnp.where(inside_BV, logits_BV, -jnp.inf)


def min_p(logits_BV: jax.Array, p: float) -> jax.Array:
  """Returns the logits with all tokens less likely than p times the likeliest at -inf.

  Nguyen et al. 2024, section 3.
  """
  floor_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + math.log(p)
  return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)


def typical(logits_BV: jax.Array, p: float) -> jax.Array:
  """Returns the logits with all but the locally typical set (and ties) at -inf.

  The smallest set with probability at least p of those tokens whose -log p is closest
  to the entropy (Meister et al. 2023, section 4); the token that reaches p belongs
  to it.
  """
  logp_BV = jax.nn.log_softmax(logits_BV)
  p_BV = jnp.exp(logp_BV)
  entropy_B1 = -jnp.where(p_BV > 0, p_BV * logp_BV, 0).sum(axis=-1, keepdims=True)
  typical_BV = _reach(-jnp.abs(-logp_BV - entropy_B1), p_BV, p)
  return jnp.where(typical_BV, logits_BV, -jnp.inf)


def _reach(value_BV: jax.Array, p_BV: jax.Array, mass: float) -> jax.Array:
  """Returns the smallest set of largest values (and ties) with that mass, bool [B, V].

  Bisection, over integers in the order of float32: exact, and on a CPU 50 times as fast
  as to sort a vocabulary.
  """
  bits_BV = jax.lax.bitcast_convert_type(value_BV, jnp.int32)
  order_BV = bits_BV ^ ((bits_BV >> 31) & 0x7FFFFFFF)

  def halve(_, bounds):
    low_B1, high_B1 = bounds  # values from low on have the mass, from high on not
    middle_B1 = (low_B1 >> 1) + (high_B1 >> 1) + (low_B1 & high_B1 & 1)
    over_BV = jnp.where(order_BV >= middle_B1, p_BV, 0)
    enough_B1 = over_BV.sum(axis=-1, keepdims=True) >= mass
    return (
      jnp.where(enough_B1, middle_B1, low_B1),
      jnp.where(enough_B1, high_B1, middle_B1),
    )

  low_B1 = order_BV.min(axis=-1, keepdims=True)
  high_B1 = order_BV.max(axis=-1, keepdims=True) + 1
  return order_BV >= jax.lax.fori_loop(0, 32, halve, (low_B1, high_B1))[0]


def shaped(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns the logits whose softmax tokens are drawn from; temperature is not 0."""
  logits_BV = logits_BV / sampling.temperature
  if sampling.top_k:
    logits_BV = top_k(logits_BV, sampling.top_k)
  if sampling.top_p < 1:
    logits_BV = top_p(logits_BV, sampling.top_p, sampling.openai_top_p)
  if sampling.min_p:
    logits_BV = min_p(logits_BV, sampling.min_p)
  if sampling.typical_p < 1:
    logits_BV = typical(logits_BV, sampling.typical_p)
  return logits_BV


def draw(logits_BV: jax.Array, key_B: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns a token for each row, drawn with the row's own key, int32 [B].

  By the inverse of the cumulative distribution: on a CPU 4 times as fast as a Gumbel
  for each token.
  """
  if sampling.temperature == 0:
    return _first(logits_BV == logits_BV.max(axis=-1, keepdims=True))
  logits_BV = shaped(logits_BV, sampling)
  p_BV = jnp.exp(logits_BV - logits_BV.max(axis=-1, keepdims=True))
  # Rounded sums may fall where p is 0; so a token without p has none.
  below_BV = jnp.where(p_BV > 0, jnp.cumsum(p_BV, axis=-1), 0)
  u_B = jax.vmap(jax.random.uniform)(key_B) * below_BV.max(axis=-1)
  return _first(below_BV > u_B[:, None])


def _first(is_BV: jax.Array) -> jax.Array:
  """Returns the first true place of each row, or 0; argmax takes 3 times as long."""
  V = is_BV.shape[-1]
  v_B = jnp.where(is_BV, jnp.arange(V, dtype=jnp.int32), V).min(axis=-1)
  return jnp.where(v_B == V, 0, v_B)
