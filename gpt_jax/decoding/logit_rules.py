"""Rules that change the scores of the next token by the text so far.

`adjust` applies them in a fixed order: forbidden sequences, repeated n-grams (two
rules), early end-of-text, penalties of repetition, presence and frequency, forced
tokens. Scores are logits in sampling and log p in beam search, as in Hugging Face. A
rule that is off leaves no operation in a program.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.decoding.selection import Sampling, bounded, draw


@dataclasses.dataclass(frozen=True)
class Rules:
  """Which tokens may follow the text so far, and which are made less likely.

  Attributes:
    forbidden: sequences of ids that no new token may complete.
    forced: ids of the first new tokens, whatever other rules say.
    min_new_tokens: none of the ids that end a text before so many new tokens.
    no_repeat_ngram: no sequence of so many tokens occurs twice in prompt and new
      tokens; 0 is off.
    repetition_penalty: of each token of prompt and new tokens (CTRL); 1 is off.
    presence_penalty: subtracted from the score of each token among the new ones.
    frequency_penalty: the same, times its count.
    fresh_ngram: as no_repeat_ngram, but of sequences without an id that ends a text:
      turns of a dialogue may end alike, and so may replies.
  """

  forbidden: tuple[tuple[int, ...], ...] = ()
  forced: tuple[int, ...] = ()
  min_new_tokens: int = 0
  no_repeat_ngram: int = 0
  repetition_penalty: float = 1.0
  presence_penalty: float = 0.0
  frequency_penalty: float = 0.0
  fresh_ngram: int = 0

  def __post_init__(self):
    wrong = []
    if not all(self.forbidden):
      wrong.append('a forbidden sequence is empty; leave it out')
    for name in ('min_new_tokens', 'no_repeat_ngram', 'fresh_ngram'):
      if not getattr(self, name) >= 0:
        wrong.append(f'{name}={getattr(self, name)} must be at least 0 (0 is off)')
    if not 0 < self.repetition_penalty < math.inf:
      wrong.append(
        f'repetition_penalty={self.repetition_penalty} must be above 0 and finite (1 '
        'is off, more makes repetition less likely)'
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
    """Returns the last n tokens of each row, [B, n]; valid if it has so many."""
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
  scores_BV: jax.Array,
  history: History | None,
  rules: Rules,
  eot: int,
  ends_V: jax.Array | None = None,
) -> jax.Array:
  """Returns the scores of the next token under the rules; -inf is impossible.

  Args:
    history: may be None if no rule is on.
    ends_V: bool, ids that end a text; None: `eot` alone.
  """
  original_BV = scores_BV
  if rules.forbidden:
    scores_BV = forbid(scores_BV, history, rules.forbidden)
  if rules.no_repeat_ngram:
    scores_BV = no_repeat(scores_BV, history, rules.no_repeat_ngram)
  if rules.fresh_ngram:
    end_V = jnp.arange(scores_BV.shape[-1]) == eot if ends_V is None else ends_V
    scores_BV = no_repeat(scores_BV, history, rules.fresh_ngram, end_V)
  if rules.min_new_tokens:
    early_B = history.length_B - history.prompt_B < rules.min_new_tokens
    if ends_V is None:
      scores_BV = scores_BV.at[:, eot].add(jnp.where(early_B, -jnp.inf, 0))
    else:
      scores_BV = jnp.where(early_B[:, None] & ends_V, -jnp.inf, scores_BV)
  if rules.repetition_penalty != 1:
    scores_BV = penalize_seen(scores_BV, history, bounded(rules.repetition_penalty))
  if rules.presence_penalty or rules.frequency_penalty:
    counts_BV = history.counts(scores_BV.shape[-1], new_only=True)
    scores_BV = scores_BV - bounded(rules.frequency_penalty) * counts_BV
    scores_BV = scores_BV - bounded(rules.presence_penalty) * (counts_BV > 0)
  if rules.forced:
    scores_BV = force(scores_BV, original_BV, history, rules.forced)
  return scores_BV


def next_tokens(
  logits_BV: jax.Array,
  key_B: jax.Array,
  history: History | None,
  ends_V: jax.Array | None,
  sampling: Sampling,
  rules: Rules,
  eot: int,
) -> jax.Array:
  """Returns the next token of each text under the rules, int32 [B].

  Where they leave no token at all, the text ends: it is `eot`. Arguments are those of
  `adjust` and of `selection.draw`.
  """
  scores_BV = adjust(logits_BV, history, rules, eot, ends_V)
  ids_B = draw(scores_BV, key_B, sampling)
  if history is None:
    return ids_B
  return jnp.where(jnp.isneginf(scores_BV.max(axis=-1)), eot, ids_B)


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


def no_repeat(
  scores_BV: jax.Array, history: History, n: int, spared_V: jax.Array | None = None
) -> jax.Array:
  """Returns the scores with each token that would repeat an n-gram at -inf.

  Hugging Face's `no_repeat_ngram_size` (Paulus et al. 2018, section 2.5): wherever the
  last n - 1 tokens stood before, what followed them there is forbidden.

  Args:
    spared_V: bool, tokens of n-grams that may be repeated; None: there are none.
  """
  (B, V), W = scores_BV.shape, history.ids_BW.shape[1]
  if n > W:
    return scores_BV
  end_X = jnp.arange(n - 1, W)  # of each n-gram
  same_BX = end_X < history.length_B[:, None]
  last_BN = history.last(n - 1)
  for i in range(n - 1):
    same_BX &= history.ids_BW[:, i : i + W - n + 1] == last_BN[:, i : i + 1]
  if spared_V is not None:
    same_BX &= ~spared_V[last_BN].any(axis=1, keepdims=True)
    same_BX &= ~spared_V[history.ids_BW[:, n - 1 :]]
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
  scores_BV: jax.Array, original_BV: jax.Array, history: History, ids: tuple[int, ...]
) -> jax.Array:
  """Returns the scores with all but the forced token at -inf, which keeps its own.

  Args:
    scores_BV: for the tokens after the forced ones.
    original_BV: the scores before other rules, which might have forbidden it.
  """
  new_B1 = (history.length_B - history.prompt_B)[:, None]
  forced_B1 = jnp.asarray(ids)[jnp.minimum(new_B1, len(ids) - 1)]
  is_forced_BV = jnp.arange(scores_BV.shape[-1]) == forced_B1
  only_BV = jnp.where(is_forced_BV, original_BV, -jnp.inf)
  return jnp.where(new_B1 < len(ids), only_BV, scores_BV)
