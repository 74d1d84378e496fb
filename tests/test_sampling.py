"""The compiled loop: against naive loops, batch against single, streams, programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.decoding import rows, sampling
from gpt_jax.decoding.logit_rules import NO_RULES, Rules
from gpt_jax.decoding.selection import Sampling
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

SHAPE = GPTConfig.of(config.Model(L=2, D=16, N=2, T=24), vocab=40)
EOT = 39
GREEDY = Sampling(temperature=0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


@pytest.fixture(scope='module')
def params():
  keys = iter(jax.random.split(jax.random.key(1), 100))
  return jax.tree.map(
    lambda p: p + 0.4 * jax.random.normal(next(keys), p.shape), init_params(SHAPE, 0)
  )


def generate(params, prompts, n, how=GREEDY, *, rules=NO_RULES, seed=0, eot=EOT):
  return sampling.generate(
    params,
    GPT(SHAPE),
    prompts,
    sampling.keys_of(seed, len(prompts)),
    max_new_tokens=n,
    sampling=how,
    rules=rules,
    eot=eot,
  )


@jax.jit
def forward(params, ids_BT):
  x = GPT(SHAPE).apply({'params': params}, ids_BT)[0]
  return unembed(GPT(SHAPE), params, x)


def naive_greedy(params, prompt, n, eot=EOT):
  """The full forward pass for each token, over the last window where it outgrows."""
  text, ids, logp = list(prompt), [], []
  while len(ids) < n:
    padded = np.zeros((1, SHAPE.T), np.int32)
    padded[0, : len(text)] = text
    p = jax.nn.log_softmax(forward(params, padded)[0, len(text) - 1])
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


MANY_RULES = Rules(((3,), (5, 6)), (2, 2), 9, 3, 1.3, 0.4, 0.2)


@pytest.mark.parametrize(
  ('how', 'rules', 'n'),
  [
    (GREEDY, NO_RULES, 15),  # within the context
    (Sampling(1.0), NO_RULES, 40),  # beyond it
    (Sampling(0.7, 5, 0.9), MANY_RULES, 15),
    (Sampling(0.7, 5, 0.9), MANY_RULES, 40),
  ],
)
def test_a_row_is_the_same_alone_and_in_a_batch(params, how, rules, n):
  together = generate(params, PROMPTS, n, how, rules=rules, seed=[5, 6, 7, 8])
  for prompt, seed, row in zip(PROMPTS, [5, 6, 7, 8], together, strict=True):
    alone = generate(params, [prompt], n, how, rules=rules, seed=[seed])[0]
    assert alone.ids == row.ids
    np.testing.assert_allclose(alone.logp, row.logp, atol=1e-4)


@pytest.mark.parametrize(
  ('how', 'rules', 'n'),
  [(GREEDY, NO_RULES, 9), (Sampling(0.7, 5, 0.9), MANY_RULES, 50)],
)
def test_streaming_yields_what_generate_returns(params, how, rules, n):
  streamed = sampling.stream(
    params,
    GPT(SHAPE),
    PROMPTS[0],
    sampling.keys_of(0, 1)[0],
    max_new_tokens=n,
    sampling=how,
    rules=rules,
    eot=EOT,
  )
  wanted = generate(params, PROMPTS[:1], n, how, rules=rules)[0].ids
  assert list(streamed) == wanted


def test_rules_see_the_whole_text_where_it_outgrows_the_context(params):
  rules = Rules(no_repeat_ngram=2, min_new_tokens=100)
  for prompt, row in zip(
    PROMPTS, generate(params, PROMPTS, 100, rules=rules), strict=True
  ):
    text = prompt + row.ids
    pairs = list(zip(text, text[1:], strict=False))
    assert len(row.ids) == 100 and len(set(pairs)) == len(pairs)


def test_a_text_ends_where_the_rules_leave_no_token(params):
  rules = Rules(no_repeat_ngram=1, min_new_tokens=200)
  row = generate(params, [[1, 2]], 200, rules=rules)[0]
  assert sorted([1, 2] + row.ids) == list(range(SHAPE.vocab)) and row.ids[-1] == EOT


def test_a_stop_is_noticed_within_16_tokens_and_ends_only_its_row(params):
  free = generate(params, PROMPTS, 60, eot=-1)
  wanted = next(x for x in free[1].ids[17:] if any(x not in r.ids for r in free))
  stopped = sampling.generate(
    params,
    GPT(SHAPE),
    PROMPTS,
    sampling.keys_of(0, len(PROMPTS)),
    max_new_tokens=60,
    sampling=GREEDY,
    eot=-1,
    stopped=lambda row, ids: wanted in ids,
  )
  for row, whole in zip(stopped, free, strict=True):
    assert row.ids == whole.ids[: len(row.ids)]
    np.testing.assert_allclose(row.logp, whole.logp[: len(row.ids)], atol=1e-4)
    if wanted in whole.ids:
      assert 1 <= len(row.ids) - whole.ids.index(wanted) <= 16
    else:
      assert len(row.ids) == 60
  assert len({len(row.ids) for row in stopped}) > 1


def test_more_prompts_than_fit_a_batch_take_turns(params, monkeypatch):
  prompts = [[1 + i % 30] for i in range(7)]
  whole = generate(params, prompts, 5, Sampling(1.0))
  monkeypatch.setattr(rows, '_ROWS', 3)
  assert [r.ids for r in generate(params, prompts, 5, Sampling(1.0))] == [
    r.ids for r in whole
  ]


def test_end_of_text_ends_a_row_and_is_its_last_token(params):
  free = generate(params, PROMPTS, 12, eot=-1)
  eot = free[0].ids[4]
  for row, ended in zip(free, generate(params, PROMPTS, 12, eot=eot), strict=True):
    ids = row.ids
    wanted = ids[: ids.index(eot) + 1] if eot in ids else ids
    assert ended.ids == wanted and len(ended.logp) == len(wanted)


def test_no_token_is_drawn_once_all_rows_have_ended(params):
  (free,) = generate(params, PROMPTS[:1], 12, eot=-1)
  ends = np.isin(np.arange(SHAPE.V), [EOT, free.ids[4]])
  ids, length = sampling.padded(PROMPTS[:1], 1)
  static = {'gpt': GPT(SHAPE), 'sampling': GREEDY, 'rules': NO_RULES, 'eot': EOT}
  arrays = ids, length, sampling.keys_of(0, 1), 0, None, ends
  state = sampling.compiled_begin(params, *arrays, G=16, **static)
  state = sampling.compiled_run(params, state, 12, ends, **static)
  assert state.n == free.ids.index(free.ids[4]) + 1
