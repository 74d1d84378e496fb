"""Rules by the text so far: each against its definition in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, adjust

V, EOT = 8, 7


def softmax(x):
  p = np.exp(x - x.max())
  return p / p.sum()


def naive_adjust(scores, text, prompt, rule):
  """The rules one by one, over plain lists; of one row."""
  scores, original, new = scores.copy(), scores.copy(), text[prompt:]
  for v in range(len(scores)):
    whole = [*text, v]
    if any(len(s) <= len(whole) and [*s] == whole[-len(s) :] for s in rule.forbidden):
      scores[v] = -np.inf
    n = rule.no_repeat_ngram
    if n and any(whole[i : i + n] == whole[-n:] for i in range(len(text) - n + 1)):
      scores[v] = -np.inf
    n = rule.fresh_ngram
    again = any(whole[i : i + n] == whole[-n:] for i in range(len(text) - n + 1))
    if n and again and EOT not in whole[-n:]:
      scores[v] = -np.inf
    if v in text:
      by = rule.repetition_penalty
      scores[v] = scores[v] * by if scores[v] < 0 else scores[v] / by
    scores[v] -= rule.presence_penalty * (v in new)
    scores[v] -= rule.frequency_penalty * new.count(v)
  if len(new) < rule.min_new_tokens:
    scores[EOT] = -np.inf
  if len(new) < len(rule.forced):
    scores[:] = -np.inf
    scores[rule.forced[len(new)]] = original[rule.forced[len(new)]]
  return scores


RULES = [
  Rules(forbidden=((3,), (1, 2), (2, 2, 5))),
  Rules(forced=(4, 2, 6)),
  Rules(min_new_tokens=3),
  Rules(no_repeat_ngram=1),
  Rules(no_repeat_ngram=2),
  Rules(no_repeat_ngram=3),
  Rules(fresh_ngram=1),
  Rules(fresh_ngram=2),
  Rules(fresh_ngram=3),
  Rules(repetition_penalty=1.5),
  Rules(repetition_penalty=0.7),
  Rules(presence_penalty=0.8),
  Rules(frequency_penalty=0.5),
  Rules(((2,), (6, 1)), (), 2, 2, 1.2, 0.3, -0.2),
  Rules(((2,), (6, 1)), (2,), 2, 2, 1.2, 0.3, -0.2),
]


def history_of(texts, prompts):
  width = max(map(len, texts)) + 3  # what lies behind a text must not count
  ids_BW = np.full((len(texts), width), 1, np.int32)
  for row, text in zip(ids_BW, texts, strict=True):
    row[: len(text)] = text
  length_B = np.array([len(t) for t in texts], np.int32)
  return History(jnp.array(ids_BW), jnp.array(length_B), jnp.array(prompts, jnp.int32))


@pytest.mark.parametrize('rule', RULES, ids=str)
def test_a_rule_changes_scores_as_it_is_defined(rule):
  draw = np.random.RandomState(0)
  lengths = draw.randint(1, 12, 60)
  texts = [
    draw.randint(0, 4 if i % 2 else V, n).tolist() for i, n in enumerate(lengths)
  ]
  prompts = [draw.randint(1, n + 1) for n in lengths]
  scores_BV = draw.standard_normal((60, V)).astype(np.float32)
  found = jax.jit(adjust, static_argnums=(2, 3))(
    scores_BV, history_of(texts, prompts), rule, EOT
  )
  wanted = [
    naive_adjust(*row, rule) for row in zip(scores_BV, texts, prompts, strict=True)
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  assert not np.array_equal(found, scores_BV)


def test_a_history_that_grows_token_by_token_is_the_same():
  grown = history_of([[3, 1], [2, 2, 5, 6]], [2, 4])
  for ids in ([4, 1], [7, 7], [0, 2]):
    grown = grown.add(jnp.array(ids))
  at_once = history_of([[3, 1, 4, 7, 0], [2, 2, 5, 6, 1, 7, 2]], [2, 4])
  np.testing.assert_array_equal(grown.length_B, at_once.length_B)
  for new_only in (False, True):
    np.testing.assert_array_equal(
      grown.counts(V, new_only=new_only), at_once.counts(V, new_only=new_only)
    )
  np.testing.assert_array_equal(grown.last(3), [[4, 7, 0], [1, 7, 2]])


def test_rules_that_are_off_leave_no_operation_in_a_program():
  text = history_of([[1, 2]], [1])
  run = jax.make_jaxpr(lambda x: adjust(x, text, NO_RULES, EOT))(jnp.zeros((1, V)))
  assert not run.jaxpr.eqns


def test_all_rules_out_of_range_are_named_at_once():
  with pytest.raises(UserError) as raised:
    Rules(((),), (), -1, -1, 0, float('inf'), float('nan'), -1)
  said = [
    line.partition(';')[0].partition(' (')[0] for line in str(raised.value).splitlines()
  ]
  assert said == [
    'a forbidden sequence is empty',
    'min_new_tokens=-1 must be at least 0',
    'no_repeat_ngram=-1 must be at least 0',
    'fresh_ngram=-1 must be at least 0',
    'repetition_penalty=0 must be above 0 and finite',
    'presence_penalty=inf must be finite',
    'frequency_penalty=nan must be finite',
  ]
