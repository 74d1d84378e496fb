"""Rules of decoding: each against its definition in numpy, and draws against both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.decoding import logit_rules
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules, Sampling, adjust

V, EOT = 8, 7
# Quantiles of chi-squared at 0.9999, by degrees of freedom: one test in 10,000 fails by
# chance, and seeds are fixed.
CHI2 = [0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88]
LOGITS = np.array([0.1, 2.0, -1.0, 1.0, 0.5, 0.0, -0.4, 0.7])


def softmax(x):
  p = np.exp(x - x.max())
  return p / p.sum()


def kept(logits):
  return np.isfinite(np.asarray(logits)).tolist()


# Definitions, for one row.


def naive_adjust(scores, text, prompt, rule):
  """The rules one by one, over plain lists."""
  scores, given, new = scores.copy(), scores.copy(), text[prompt:]
  for v in range(len(scores)):
    whole = [*text, v]
    if any(len(s) <= len(whole) and [*s] == whole[-len(s) :] for s in rule.forbidden):
      scores[v] = -np.inf
    n = rule.no_repeat_ngram
    if n and any(whole[i : i + n] == whole[-n:] for i in range(len(text) - n + 1)):
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
    scores[rule.forced[len(new)]] = given[rule.forced[len(new)]]
  return scores


def naive_shaped(logits, s):
  """Temperature, then the sets of tokens to draw from, in their order."""
  x = logits / s.temperature

  def only(keep):
    x[~np.isin(np.arange(len(x)), keep)] = -np.inf

  if s.top_k:
    only(np.argsort(-x)[: s.top_k])
  if s.top_p < 1:
    order, n = np.argsort(-x), 1
    mass = np.cumsum(softmax(x)[order])
    while n < len(x) and (
      mass[n] <= s.top_p if s.openai_top_p else mass[n - 1] < s.top_p
    ):
      n += 1
    only(order[:n])
  if s.min_p:
    only(np.flatnonzero(softmax(x) >= s.min_p * softmax(x).max()))
  if s.typical_p < 1:
    p = softmax(x)
    with np.errstate(divide='ignore', invalid='ignore'):
      off = np.abs(-np.log(p) - -np.nansum(p * np.log(p)))
    order, n = np.argsort(off), 1
    while p[order[:n]].sum() < s.typical_p:
      n += 1
    only(order[:n])
  return x


RULES = [
  Rules(forbidden=((3,), (1, 2), (2, 2, 5))),
  Rules(forced=(4, 2, 6)),
  Rules(min_new_tokens=3),
  Rules(no_repeat_ngram=1),
  Rules(no_repeat_ngram=2),
  Rules(no_repeat_ngram=3),
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
  only = jax.make_jaxpr(lambda x: logit_rules.shaped(x, Sampling()))(jnp.zeros((1, V)))
  assert len(only.jaxpr.eqns) <= 1  # the division by the temperature


@pytest.mark.parametrize(
  ('openai', 'mass', 'n'),
  [(False, 0.9, 3), (True, 0.9, 2), (False, 0.5, 1), (True, 0.4, 1)],
)
def test_the_nucleus_has_two_conventions(openai, mass, n):
  logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
  order = [1, 3, 2, 0]
  found = kept(logit_rules.top_p(logits, mass, openai)[0])
  assert [i for i in order if found[i]] == order[:n]


def test_ties_are_kept():
  logits = jnp.array([[0.0, 3.0, 1.0, 1.0, -1.0]])
  assert kept(logit_rules.top_k(logits, 2)[0]) == [False, True, True, True, False]
  assert all(kept(logit_rules.top_k(logits, 99)[0]))
  even = jnp.zeros((1, 4))
  for rule in (logit_rules.top_p, logit_rules.min_p, logit_rules.typical):
    assert all(kept(rule(even, 0.5)[0]))


# The worked example of locally typical sampling: the likeliest token is not typical.
def test_typical_sampling_can_leave_out_the_likeliest_token():
  logits = jnp.log(jnp.array([[0.3, *[0.07] * 10]]))
  assert kept(logit_rules.typical(logits, 0.5)[0]) == [False] + [True] * 10


@pytest.mark.parametrize(
  'sampling',
  [
    Sampling(top_k=40),
    Sampling(top_p=0.9),
    Sampling(top_p=0.9, openai_top_p=True),
    Sampling(top_p=0.01),
    Sampling(0.7, min_p=0.02),
    Sampling(typical_p=0.9),
    Sampling(1.2, 500, 0.95, 0.001, 0.8),
  ],
  ids=str,
)
def test_sets_to_draw_from_in_a_large_vocabulary(sampling):
  logits_BV = np.random.RandomState(0).standard_normal((8, 2000)) * 3
  logits_BV[:, ::7] = -np.inf  # what rules forbid stays out
  found = logit_rules.shaped(jnp.asarray(logits_BV, jnp.float32), sampling)
  for row, logits in zip(found, logits_BV, strict=True):
    assert kept(row) == kept(naive_shaped(logits, sampling))


def test_sets_to_draw_from_are_those_of_the_installed_hugging_face():
  torch = pytest.importorskip('torch', reason='needs torch')
  theirs = pytest.importorskip(
    'transformers.generation.logits_process', reason='needs transformers'
  )
  logits_BV = np.random.RandomState(1).standard_normal((8, 2000)).astype(np.float32) * 3
  for sampling, warper in (
    (Sampling(top_k=40), theirs.TopKLogitsWarper(40)),
    (Sampling(top_p=0.9), theirs.TopPLogitsWarper(0.9)),
    (Sampling(min_p=0.02), theirs.MinPLogitsWarper(0.02)),
    (Sampling(typical_p=0.9), theirs.TypicalLogitsWarper(0.9)),
  ):
    wanted = warper(None, torch.tensor(logits_BV)).numpy()
    np.testing.assert_allclose(
      logit_rules.shaped(jnp.array(logits_BV), sampling), wanted
    )


TEXT, PROMPT = [1, 1, 3, 4, 1, 1], 4
DRAWS = [
  (Sampling(), NO_RULES),
  (Sampling(0.5), NO_RULES),
  (Sampling(top_k=3), NO_RULES),
  (Sampling(top_p=0.8), NO_RULES),
  (Sampling(top_p=0.8, openai_top_p=True), NO_RULES),
  (Sampling(min_p=0.2), NO_RULES),
  (Sampling(typical_p=0.6), NO_RULES),
  (Sampling(1.3, 6, 0.9, 0.15, 0.9), NO_RULES),
  *((Sampling(), rule) for rule in RULES[:-1]),
  (Sampling(0.7, 5, 0.9), RULES[-2]),
]


@pytest.fixture(scope='module')
def key_B():
  return jax.random.split(jax.random.key(0), 100_000)


@pytest.mark.parametrize(('sampling', 'rule'), DRAWS, ids=str)
def test_draws_follow_the_softmax_after_each_rule(key_B, sampling, rule):
  p = softmax(naive_shaped(naive_adjust(LOGITS, TEXT, PROMPT, rule), sampling))
  plain = (sampling, rule) == (Sampling(), NO_RULES)
  assert plain == np.allclose(p, softmax(LOGITS))  # every rule has an effect here
  n = len(key_B)
  logits_BV = np.tile(LOGITS.astype(np.float32), (n, 1))
  text = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), history_of([TEXT], [PROMPT]))

  @jax.jit
  def draws(logits_BV, text, key_B):
    return logit_rules.draw(adjust(logits_BV, text, rule, EOT), key_B, sampling)

  counts = np.bincount(draws(logits_BV, text, key_B), minlength=V)
  assert (counts[p == 0] == 0).all()
  counts, p = counts[p > 0], p[p > 0]
  chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
  assert chi2 <= CHI2[len(p) - 1]


def test_all_settings_out_of_range_are_told_at_once():
  with pytest.raises(UserError) as told:
    Sampling(temperature=-1, top_k=-2, top_p=0, min_p=2, typical_p=float('nan'))
  assert len(str(told.value).splitlines()) == 5
  with pytest.raises(UserError) as told:
    Rules(((),), (), -1, -1, 0, float('inf'), float('nan'))
  assert len(str(told.value).splitlines()) == 6
