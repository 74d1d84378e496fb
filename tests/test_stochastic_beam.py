"""Stochastic beams: against the exact distribution of draws without replacement."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import model_by_rows

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import sampling, stochastic_beam
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules
from gpt_jax.decoding.sampling import Model
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

V, NEW, DRAWS = 3, 3, 30_000
EOT = V - 1
TABLE = np.random.RandomState(0).randn(V, V).astype(np.float32)
ENDINGS = [
  ids
  for n in range(1, NEW + 1)
  for ids in itertools.product(range(V), repeat=n)
  if EOT not in ids[:-1] and (n == NEW or ids[-1] == EOT)
]


def bigrams(table_VV) -> Model:
  """Returns a model whose logits depend on the last token."""

  def prefill(ids_BP, length_B, S):
    return table_VV[ids_BP[jnp.arange(len(ids_BP)), length_B - 1]], None

  return model_by_rows(prefill, lambda cache, ids_B: (table_VV[ids_B], None))


@partial(jax.jit, static_argnames=('K', 'rules'))
def _search(table_VV, key_B2, temperature, *, K, rules=NO_RULES):
  B = len(key_B2)
  ids, length = jnp.zeros((B, 1), jnp.int32), jnp.ones(B, jnp.int32)
  history = History(jnp.zeros((B, 1 + NEW), jnp.int32), length, length)
  limit = jnp.full(B, NEW)
  arrays = ids, length, limit, history, key_B2, temperature
  return stochastic_beam.search(
    bigrams(table_VV), *arrays, K=K, G=NEW, rules=rules, eot=EOT
  )


def search(K, temperature=1.0, draws=DRAWS, **rules):
  """Returns numbers of ENDINGS that were drawn [draws, K], -1 for none, and logp."""
  keys = np.random.RandomState(3).randint(2**32, size=(draws, 2), dtype=np.uint32)
  found = _search(jnp.array(TABLE), keys, np.float32(temperature), K=K, **rules)
  found = jax.tree.map(np.asarray, found)
  # A number for each text: its tokens as digits, with V for none.
  real = np.arange(NEW) < found.length_RK[..., None]
  digits = np.where(real, found.ids_RKG, V) @ (V + 1) ** np.arange(NEW)
  known = {
    sum((ids[i] if i < len(ids) else V) * (V + 1) ** i for i in range(NEW)): number
    for number, ids in enumerate(ENDINGS)
  }
  numbers = np.vectorize(lambda x: known.get(x, -1))(digits)
  return np.where(np.isfinite(found.score_RK), numbers, -1), found


def probabilities(temperature=1.0):
  table = np.exp(TABLE.astype(np.float64) / temperature)
  table /= table.sum(axis=1, keepdims=True)
  return np.array(
    [np.prod([table[a, b] for a, b in itertools.pairwise((0, *x))]) for x in ENDINGS]
  )


def chi_squared(counts, p):
  """Returns the statistic and its degrees of freedom."""
  assert (counts[p == 0] == 0).all()
  wanted = counts.sum() * p[p > 0]
  return ((counts[p > 0] - wanted) ** 2 / wanted).sum(), (p > 0).sum() - 1


@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_the_first_two_are_drawn_without_replacement(temperature):
  p = probabilities(temperature)
  np.testing.assert_allclose(p.sum(), 1)
  joint = p[:, None] * p / (1 - p[:, None])
  np.fill_diagonal(joint, 0)
  numbers, _ = search(4, temperature)
  for given, wanted in (
    (np.bincount(numbers[:, 0], minlength=len(p)), p),
    (np.histogram2d(*numbers[:, :2].T, bins=[np.arange(len(p) + 1)] * 2)[0], joint),
  ):
    statistic, freedom = chi_squared(given.ravel(), wanted.ravel())
    # Five standard deviations: the rarest pairs are expected less than five times.
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_each_text_is_among_the_beams_as_often_as_it_should_be():
  p, K = probabilities(), 3
  wanted = np.zeros(len(p))
  for first in itertools.permutations(range(len(p)), K):
    left, joint = 1.0, 1.0
    for i in first:
      joint *= p[i] / left
      left -= p[i]
    wanted[list(first)] += joint
  numbers, _ = search(4)
  found = np.bincount(numbers[:, :K].ravel(), minlength=len(p)) / DRAWS
  off = np.abs(found - wanted) / np.sqrt(wanted * (1 - wanted) / DRAWS)
  assert off.max() < 4.5  # standard deviations


def test_beams_for_all_texts_draw_each_once_with_its_log_p():
  numbers, found = search(len(ENDINGS) + 2, draws=50)
  logp = np.log(probabilities())
  real = np.arange(NEW) < found.length_RK[..., None]
  sums = np.where(real, found.logp_RKG, 0).sum(axis=-1)
  for row, scores, each in zip(numbers, found.score_RK, sums, strict=True):
    assert sorted(row) == [-1, -1, *range(len(ENDINGS))]
    assert (np.diff(scores[:-2]) <= 0).all()
    np.testing.assert_allclose(each[:-2], logp[row[:-2]], rtol=1e-4)


def test_rules_hold_and_draws_follow_what_they_leave():
  table = np.exp(TABLE.astype(np.float64))
  table[:, 1] = 0
  table /= table.sum(axis=1, keepdims=True)
  p = np.array(
    [np.prod([table[a, b] for a, b in itertools.pairwise((0, *x))]) for x in ENDINGS]
  )
  numbers, _ = search(2, rules=Rules(forbidden=((1,),)))
  statistic, freedom = chi_squared(np.bincount(numbers[:, 0], minlength=len(p)), p)
  assert statistic < freedom + 5 * (2 * freedom) ** 0.5


SHAPE = GPTConfig.of(config.Model(L=2, D=16, N=2, T=16), vocab=8)
PROMPTS = [[1, 2, 0], [2], [0, 1, 1, 2, 0, 0, 2]]


def test_texts_of_a_gpt_are_distinct_and_the_same_alone_and_in_a_batch():
  draw = np.random.RandomState(1)
  shapes = jax.eval_shape(lambda: init_params(SHAPE, 0))
  params = jax.tree.map(lambda p: np.float32(0.4 * draw.randn(*p.shape)), shapes)
  keys = sampling.keys_of(0, len(PROMPTS))
  settings = {'max_new_tokens': 12, 'beams': 4, 'eot': 7}
  found = stochastic_beam.generate(params, GPT(SHAPE), PROMPTS, keys, **settings)
  for i, (prompt, rows) in enumerate(zip(PROMPTS, found, strict=True)):
    alone = stochastic_beam.generate(
      params, GPT(SHAPE), [prompt], keys[i : i + 1], **settings
    )
    assert [x.ids for x in alone[0]] == [x.ids for x in rows]
    assert len({tuple(x.ids) for x in rows}) == len(rows) == 4
    room = min(12, SHAPE.T - len(prompt) + 1)
    texts = [[*prompt, *x.ids] for x in rows]
    ids_BT = np.array([(text + [0] * SHAPE.T)[: SHAPE.T] for text in texts])
    x = GPT(SHAPE).apply({'params': params}, ids_BT)[0]
    logp = jax.nn.log_softmax(unembed(GPT(SHAPE), params, x))
    logp = np.asarray(logp)[:, len(prompt) - 1 :]
    for x, exact in zip(rows, logp, strict=True):
      assert 7 not in x.ids[:-1] and (x.ids[-1] == 7 or len(x.ids) == room)
      exact = exact[range(len(x.ids)), x.ids]
      np.testing.assert_allclose(x.token_logp, exact, atol=1e-4)


@pytest.mark.parametrize('wrong', [{'beams': 0}, {'beams': 2, 'temperature': 0}])
def test_settings_out_of_range_are_refused(wrong):
  with pytest.raises(UserError, match=list(wrong)[-1]):
    stochastic_beam.generate(
      {}, GPT(SHAPE), PROMPTS, sampling.keys_of(0, 3), max_new_tokens=2, eot=7, **wrong
    )
