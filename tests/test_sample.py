"""Decoding: against naive loops, batch against single, rules against definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import rules, sample
from gpt_jax.decoding.rules import Sampling
from gpt_jax.model.gpt import GPT, Shape, init_params

SHAPE = Shape.of(config.Model(L=2, D=16, N=2, T=24), vocab=40)
EOT = 39
GREEDY = Sampling(temperature=0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


@pytest.fixture(scope='module')
def params():
  keys = iter(jax.random.split(jax.random.key(1), 100))
  return jax.tree.map(
    lambda p: p + 0.4 * jax.random.normal(next(keys), p.shape), init_params(SHAPE, 0)
  )


def generate(params, prompts, n, sampling=GREEDY, seed=0, eot=EOT):
  keys = jax.random.split(jax.random.key(seed), 8)[: len(prompts)]
  return sample.generate(
    params, SHAPE, prompts, keys, max_new_tokens=n, sampling=sampling, eot=eot
  )


def naive_greedy(params, prompt, n, eot=EOT):
  """The full forward pass for each token, over the last window where it outgrows."""
  forward = jax.jit(lambda ids: GPT(SHAPE).apply({'params': params}, ids)[0])
  text, ids, logp = list(prompt), [], []
  while len(ids) < n:
    padded = np.zeros((1, SHAPE.T), np.int32)
    padded[0, : len(text)] = text
    p = jax.nn.log_softmax(forward(padded)[0, len(text) - 1])
    ids.append(int(jnp.argmax(p)))
    logp.append(float(p[ids[-1]]))
    if ids[-1] == eot:
      break
    if len(text) == SHAPE.T:
      text = (text + [ids[-1]])[-SHAPE.T // 2 :]
    else:
      text.append(ids[-1])
  return ids, logp


@pytest.mark.parametrize('prompt', PROMPTS)
@pytest.mark.parametrize('n', [1, 12, 60])
def test_greedy_equals_a_full_forward_pass_a_token(params, prompt, n):
  found = generate(params, [prompt], n)[0]
  ids, logp = naive_greedy(params, prompt, n)
  assert found.ids == ids
  np.testing.assert_allclose(found.logp, logp, atol=1e-4)


@pytest.mark.parametrize('sampling', [GREEDY, Sampling(1.0), Sampling(0.7, 5, 0.9)])
@pytest.mark.parametrize('n', [15, 40])  # within the context, and beyond it
def test_a_row_is_the_same_alone_and_in_a_batch(params, sampling, n):
  together = generate(params, PROMPTS, n, sampling)
  keys = jax.random.split(jax.random.key(0), 8)
  for i, prompt in enumerate(PROMPTS):
    alone = sample.generate(
      params,
      SHAPE,
      [prompt],
      keys[i : i + 1],
      max_new_tokens=n,
      sampling=sampling,
      eot=EOT,
    )[0]
    assert alone.ids == together[i].ids
    np.testing.assert_allclose(alone.logp, together[i].logp, atol=1e-4)


@pytest.mark.parametrize('sampling', [GREEDY, Sampling(1.0)])
@pytest.mark.parametrize('n', [9, 50])
def test_streaming_yields_what_generate_returns(params, sampling, n):
  key = jax.random.split(jax.random.key(0), 8)[0]
  streamed = sample.stream(
    params, SHAPE, PROMPTS[0], key, max_new_tokens=n, sampling=sampling, eot=EOT
  )
  assert list(streamed) == generate(params, PROMPTS[:1], n, sampling)[0].ids


def test_end_of_text_ends_a_row_and_is_its_last_token(params):
  free = generate(params, PROMPTS, 12, eot=-1)
  eot = free[0].ids[4]
  for row, ended in zip(free, generate(params, PROMPTS, 12, eot=eot), strict=True):
    ids = row.ids
    wanted = ids[: ids.index(eot) + 1] if eot in ids else ids
    assert ended.ids == wanted and len(ended.logp) == len(wanted)


def test_prompts_of_one_bucket_share_one_compiled_program(params):
  generate(params, [[1, 2]], 5)
  before = sample._generate._cache_size()
  generate(params, [[1, 2, 3, 4, 5]], 5)
  generate(params, [[1]], 9)
  assert sample._generate._cache_size() == before


def numpy_top_p(p, mass):
  order = np.argsort(-p)
  n = np.searchsorted(np.cumsum(p[order]), mass - 1e-9) + 1
  kept = np.zeros_like(p)
  kept[order[:n]] = p[order[:n]]
  return kept / kept.sum()


def test_the_nucleus_holds_the_token_that_reaches_p():
  logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
  kept = np.isfinite(np.asarray(rules.top_p(logits, 0.9)))[0]
  assert kept.tolist() == [False, True, True, True]
  kept = np.isfinite(np.asarray(rules.top_p(logits, 0.5)))[0]
  assert kept.tolist() == [False, True, False, False]


def test_top_k_keeps_the_k_likeliest_and_ties():
  logits = jnp.array([[0.0, 3.0, 1.0, 1.0, -1.0]])
  kept = np.isfinite(np.asarray(rules.top_k(logits, 2)))[0]
  assert kept.tolist() == [False, True, True, True, False]
  assert np.isfinite(np.asarray(rules.top_k(logits, 99))).all()


@pytest.mark.parametrize(
  'sampling',
  [Sampling(1.0), Sampling(0.5), Sampling(1.0, top_k=3), Sampling(1.3, 4, 0.8)],
)
def test_draws_follow_the_distribution_of_the_rules(sampling):
  logits = np.array([0.1, 2.0, -1.0, 1.0, 0.5, 0.0])
  p = np.exp(logits / sampling.temperature)
  if sampling.top_k:
    p[p < np.sort(p)[-sampling.top_k]] = 0
  p = numpy_top_p(p / p.sum(), sampling.top_p)
  n = 100_000
  keys = jax.random.split(jax.random.key(0), n)
  rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (n, 6))
  drawn = np.asarray(jax.jit(rules.draw, static_argnums=2)(rows, keys, sampling))
  counts = np.bincount(drawn, minlength=6)
  assert (counts[p == 0] == 0).all()
  chi2 = ((counts - n * p)[p > 0] ** 2 / (n * p[p > 0])).sum()
  assert chi2 < 25  # 5 degrees of freedom: one seed in 7,000


@pytest.mark.parametrize('wrong', [{'temperature': -1}, {'top_k': -2}, {'top_p': 0}])
def test_settings_out_of_range_are_refused(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    Sampling(**wrong)
