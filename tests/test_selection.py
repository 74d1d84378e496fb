"""Selection: each step against its definition in numpy, and draws against both."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_logit_rules import EOT, RULES, V, history_of, naive_adjust, softmax

from gpt_jax.config import UserError
from gpt_jax.decoding import selection
from gpt_jax.decoding.logit_rules import NO_RULES, adjust
from gpt_jax.decoding.selection import Sampling

sys.path.append(str(pathlib.Path(__file__).resolve().parent / 'goldens'))
import make_selection

# Quantiles of chi-squared at 0.9999, by degrees of freedom: one test in 10,000 fails by
# chance, and seeds are fixed.
CHI2 = [0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88]
LOGITS = np.array([0.1, 2.0, -1.0, 1.0, 0.5, 0.0, -0.4, 0.7])


def kept(logits):
  return np.isfinite(np.asarray(logits)).tolist()


def naive_shaped(logits, s):
  """Temperature, then the sets of tokens to draw from, in their order; of one row."""
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


def test_steps_that_are_off_leave_no_operation_in_a_program():
  only = jax.make_jaxpr(lambda x: selection.shaped(x, Sampling()))(jnp.zeros((1, V)))
  assert len(only.jaxpr.eqns) <= 1  # the division by the temperature


@pytest.mark.parametrize(
  ('openai', 'mass', 'n'),
  [(False, 0.9, 3), (True, 0.9, 2), (False, 0.5, 1), (True, 0.4, 1)],
)
def test_the_nucleus_has_two_conventions(openai, mass, n):
  logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
  order = [1, 3, 2, 0]
  found = kept(selection.top_p(logits, mass, openai)[0])
  assert [i for i in order if found[i]] == order[:n]


def test_ties_are_kept():
  logits = jnp.array([[0.0, 3.0, 1.0, 1.0, -1.0]])
  assert kept(selection.top_k(logits, 2)[0]) == [False, True, True, True, False]
  assert all(kept(selection.top_k(logits, 99)[0]))
  even = jnp.zeros((1, 4))
  for rule in (selection.top_p, selection.min_p, selection.typical):
    assert all(kept(rule(even, 0.5)[0]))


# The worked example of locally typical sampling: the likeliest token is not typical.
def test_typical_sampling_can_leave_out_the_likeliest_token():
  logits = jnp.log(jnp.array([[0.3, *[0.07] * 10]]))
  assert kept(selection.typical(logits, 0.5)[0]) == [False] + [True] * 10


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
  found = selection.shaped(jnp.asarray(logits_BV, jnp.float32), sampling)
  for row, logits in zip(found, logits_BV, strict=True):
    assert kept(row) == kept(naive_shaped(logits, sampling))


def assert_those_of_hugging_face(kept_by_case):
  for (name, _, number), rows in zip(make_selection.CASES, kept_by_case, strict=True):
    logits_BV = jnp.array(make_selection.logits())
    left = selection.shaped(logits_BV, Sampling(**{name: number}))
    found = [np.flatnonzero(np.isfinite(row)).tolist() for row in left]
    assert found == rows, (name, number)
    np.testing.assert_array_equal(jnp.where(jnp.isfinite(left), logits_BV, left), left)


def test_sets_to_draw_from_are_those_of_hugging_face():
  golden = json.loads(make_selection.PATH.read_text('utf-8'))
  assert_those_of_hugging_face(golden['kept'])


def test_sets_to_draw_from_are_those_of_the_installed_hugging_face():
  for package in ('torch', 'transformers'):
    pytest.importorskip(package, reason=f'needs {package}')
  assert_those_of_hugging_face(make_selection.kept())


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
    return selection.draw(adjust(logits_BV, text, rule, EOT), key_B, sampling)

  counts = np.bincount(draws(logits_BV, text, key_B), minlength=V)
  assert (counts[p == 0] == 0).all()
  counts, p = counts[p > 0], p[p > 0]
  chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
  assert chi2 <= CHI2[len(p) - 1]


def test_all_settings_out_of_range_are_named_at_once():
  with pytest.raises(UserError) as raised:
    Sampling(temperature=-1, top_k=-2, top_p=0, min_p=2, typical_p=float('nan'))
  assert [line.partition(' (')[0] for line in str(raised.value).splitlines()] == [
    'temperature=-1 must be at least 0 and finite',
    'top_k=-2 must be at least 0',
    'top_p=0 must be in',
    'typical_p=nan must be in',
    'min_p=2 must be in [0, 1]',
  ]
