"""Prompt lookup: drafts, ids as without them, the distribution, and what a pass saves.

And beginnings that prompts share: texts as if every prompt was read whole.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_bytes_model

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import rows, sampling, speculation
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules
from gpt_jax.decoding.sampling import Model
from gpt_jax.decoding.selection import Sampling, shaped
from gpt_jax.model.gpt import GPT, empty_cache, init_params
from gpt_jax.model.gpt_config import GPTConfig

SHAPE = GPTConfig.of(
  config.Model(L=2, D=16, N=2, T=48, attention='dense,banded', band=9), vocab=12
)
EOT = 11
GREEDY = Sampling(temperature=0)


def random_params(seed, by=0.4):
  keys = iter(jax.random.split(jax.random.key(seed), 100))
  return jax.tree.map(
    lambda p: p + by * jax.random.normal(next(keys), p.shape), init_params(SHAPE, 0)
  )


def text_of(*texts, W=16):
  ids_BW, length_B = rows.filled(texts, len(texts), W)
  return History(jnp.array(ids_BW), jnp.array(length_B), jnp.array(length_B))


def looked_up(text, K, longest=3):
  """Returns the draft by a search for each n-gram, the longest first."""
  for n in range(longest, 0, -1):
    for start in range(len(text) - n - 1, -1, -1):
      if text[start : start + n] == text[-n:]:
        after = text[start + n :]
        return [after[i % len(after)] for i in range(K)]
  return [text[-1]] * K


def test_a_draft_is_what_followed_the_end_of_the_text_before():
  assert looked_up([1, 2, 3, 9, 2, 3], 3) == [9, 2, 3]
  rng = np.random.default_rng(0)
  texts = [rng.integers(0, 4, n).tolist() for n in [*range(1, 17)] * 4]
  texts += [[1, 2, 3, 1, 5, 2, 3, 7, 1, 2, 3], [5, 3, 4, 8, 6, 3, 4], [2, 2, 2]]
  for K in (1, 3, 20):
    drafts = np.asarray(speculation.drafted(text_of(*texts), K)).tolist()
    assert drafts == [looked_up(text, K) for text in texts]


REPEATED = [
  [1, 2, 3, 4, 5] * 4,
  [7],
  [3, 3, 3, 3],
  [1, 2, 1, 2, 1, 3, 1, 2],
  [6, 1, 8, 2, 6, 1],
]


def continued(params, prompts, n, K, how=GREEDY, rules=NO_RULES, **more):
  settings = {'rules': rules, 'eot': EOT, 'max_new_tokens': n, 'sampling': how} | more
  keys = sampling.keys_of(settings.pop('seed', 0), len(prompts))
  settings.setdefault('loop', speculation.loop(K) if K else None)
  return sampling.generate(params, GPT(SHAPE), prompts, keys, **settings)


def same(found, wanted):
  assert [one.ids for one in found] == [one.ids for one in wanted]
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one.logp, other.logp, atol=2e-4)


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('K', [1, 4])
@pytest.mark.parametrize('n', [1, 2, 17, 70])
def test_greedy_ids_are_those_without_drafts(seed, K, n):
  params = random_params(seed)
  found = continued(params, REPEATED, n, K)
  wanted = continued(params, REPEATED, n, 0)
  same(found, wanted)
  assert all(one.passes <= len(one.ids) for one in found)
  if n >= 17:  # random models soon repeat themselves
    most = 0.7 if K == 4 else 0.9
    assert min(one.passes / len(one.ids) for one in found) < most


@pytest.mark.parametrize('prompt', REPEATED[:3])
def test_a_single_row_and_one_that_outgrows_the_context(prompt):
  params = random_params(3)
  same(continued(params, [prompt], 100, 5), continued(params, [prompt], 100, 0))


def test_each_of_several_ends_ends_a_text():
  params = random_params(1)
  free = continued(params, REPEATED, 30, 0, eot=-1)
  ended = 0
  for token in sorted({token for one in free for token in one.ids}):
    ends_V = np.isin(np.arange(SHAPE.V), [EOT, token])
    both = [continued(params, REPEATED, 30, K, ends_V=ends_V) for K in (4, 0)]
    same(*both)
    ended += sum(one.ids[-1] == token and len(one.ids) < 30 for one in both[0])
  assert ended > 5
  common = max(range(11), key=lambda i: sum(one.ids.count(i) for one in free))
  same(*(continued(params, REPEATED, 30, K, eot=common) for K in (4, 0)))


def test_nothing_is_kept_behind_an_end_that_was_drafted():
  params, loop, states = random_params(1), speculation.loop(4), []

  def run(*args, **how):
    states.append(loop.run(*args, **how))
    return states[-1]

  # What follows is what stood before, also behind an end: there it is not kept.
  rules, ends_V = Rules(forced=(1, 2, 3) * 2), np.isin(np.arange(SHAPE.V), [EOT, 3])
  more = {'rules': rules, 'ends_V': ends_V, 'loop': sampling.Loop(run, loop.ahead)}
  (found,) = continued(params, [[1, 2, 3] * 3], 10, 0, **more)
  assert found.ids == [1, 2, 3] and states[-1].passes_B.tolist() == [2]
  assert states[-1].n.tolist() == [3]


@pytest.mark.parametrize(
  'how',
  [
    Sampling(),
    Sampling(temperature=0.6, top_k=3),
    Sampling(temperature=0.7, top_p=0.8),
  ],
)
def test_drawn_ids_are_those_of_the_seed_without_drafts(how):
  params = random_params(4)
  for seed in range(3):
    found, wanted = (continued(params, REPEATED, 60, K, how, seed=seed) for K in (3, 0))
    same(found, wanted)
  assert sum(one.passes for one in found) < 0.95 * sum(len(one.ids) for one in found)


RULES = [
  Rules(no_repeat_ngram=2),
  Rules(forbidden=((3,), (1, 2)), min_new_tokens=9, repetition_penalty=1.3),
  Rules(presence_penalty=0.4, frequency_penalty=0.2, forced=(1, 2, 3, 4)),
]


@pytest.mark.parametrize('rules', RULES)
def test_rules_look_at_the_text_of_each_drafted_place(rules):
  params = random_params(5)
  for how in (GREEDY, Sampling(temperature=0.8)):
    both = [continued(params, REPEATED, 25, K, how, rules) for K in (4, 0)]
    same(*both)


def test_stops_see_no_other_tokens():
  params = random_params(2)
  taken = {}
  for K in (4, 0):
    seen = {}

    def stopped(i, ids, seen=seen):
      seen[i] = list(ids)
      return len(ids) >= 20 + i

    found = continued(params, REPEATED, 60, K, stopped=stopped)
    assert all(found[i].ids == ids for i, ids in seen.items())
    taken[K] = [one.ids[:20] for one in found]
  assert taken[4] == taken[0]


def test_a_stream_yields_the_tokens_of_generate():
  params = random_params(2)
  for prompt in REPEATED[:2]:
    (wanted,) = continued(params, [prompt], 70, 0)
    found = sampling.stream(
      params,
      GPT(SHAPE),
      prompt,
      sampling.keys_of(0, 1)[0],
      max_new_tokens=70,
      sampling=GREEDY,
      eot=EOT,
      loop=speculation.loop(4),
    )
    assert list(found) == wanted.ids


def table_model(logits_VVV, V):
  """Returns a model whose next logits depend on the last two tokens: its cache."""

  def read(cache, ids_BT):
    two_BT = jnp.concatenate([cache['last'][:, None], ids_BT], axis=1)
    return logits_VVV[two_BT[:, :-1], two_BT[:, 1:]], two_BT

  def step_ahead(cache, ids_BT):
    logits_BTV, two_BT = read(cache, ids_BT)
    return logits_BTV, cache | {'read': two_BT}

  def forget(cache, last_B):
    at_B = cache['read'].shape[1] - 1 - last_B
    last_B = jnp.take_along_axis(cache['read'], at_B[:, None], axis=1)[:, 0]
    return cache | {'last': last_B}

  def prefill(ids_BT, length_B, S):
    read = jnp.zeros((len(ids_BT), 5), int)
    cache = {'last': ids_BT[:, 1], 'read': read}
    return logits_VVV[ids_BT[:, 0], ids_BT[:, 1]], cache

  return Model(
    prefill, None, None, None, ragged=lambda c: c, step_ahead=step_ahead, forget=forget
  )


@pytest.mark.parametrize(
  'how', [Sampling(temperature=0.7), Sampling(top_k=2), Sampling(top_p=0.6)]
)
def test_texts_are_as_likely_as_the_models_own(how):
  """Compares how often each text of 5 tokens is drawn with its probability.

  The prompt repeats itself, so drafts are accepted and refused; enumeration has every
  text, and the test is Pearson's.
  """
  V, G, N, prompt = 3, 5, 20_000, [0, 1]
  logits = jnp.array(np.random.default_rng(0).normal(size=(V, V, V)), jnp.float32)
  model = table_model(logits, V)
  static = {'sampling': how, 'rules': NO_RULES, 'eot': -1}

  @jax.jit
  def run(key_B, ids_BP):
    length_B = jnp.full(N, 2)
    # What is looked up is longer than what the model reads: more drafts are right.
    text = jnp.tile(jnp.array([0, 2, 1, 0, 0, 1, 1, 2, *prompt] + [0] * 8), (N, 1))
    history = History(text, jnp.full(N, 10), jnp.full(N, 10))
    state = sampling.begin(
      model, ids_BP, length_B, key_B, history, G=G, ahead=3, **static
    )
    for _ in range(G):
      state = speculation.advance(model, state, None, jnp.int32(G), K=3, **static)
    return state.ids_BG, state.passes_B

  ids, passes = run(
    jax.random.split(jax.random.key(0), N), np.tile(np.array(prompt), (N, 1))
  )
  assert 1.1 < G / float(passes.mean()) < 3
  p = np.asarray(jax.nn.softmax(shaped(logits.reshape(-1, V), how)), np.float64)
  p = p.reshape(V, V, V)
  expected = {}
  for text in itertools.product(range(V), repeat=G):
    whole = (*prompt, *text)
    expected[text] = np.prod([p[whole[i : i + 3]] for i in range(G)])
  assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
  counts = dict.fromkeys(expected, 0)
  for row in np.asarray(ids).tolist():
    counts[tuple(row)] += 1
  assert all(n == 0 for text, n in counts.items() if expected[text] < 1e-12)
  often = [text for text, q in expected.items() if q * N >= 5]
  rest = 1 - sum(expected[text] for text in often)
  found = np.array([counts[t] for t in often] + [N - sum(counts[t] for t in often)])
  wanted = N * np.array([expected[text] for text in often] + [max(rest, 1e-9)])
  if wanted[-1] < 5:
    found, wanted = found[:-1], wanted[:-1]
  chi2 = ((found - wanted) ** 2 / wanted).sum()
  free = len(wanted) - 1
  assert chi2 < free + 4 * (2 * free) ** 0.5  # 4 standard deviations


def test_a_language_model_counts_passes_and_refuses_drafts_of_beams():
  model = random_bytes_model(T=48, seed=1)
  prompts = ['abcabcabcabc', 'x']
  settings = {'max_new_tokens': 40, 'num_return': 2, 'top_k': 3, 'stop': 'zz'}
  plain = model.generate(prompts, **settings)
  ahead = model.generate(prompts, speculate=4, **settings)
  assert [row.ids for row in ahead] == [row.ids for row in plain]
  assert [row.text for row in ahead] == [row.text for row in plain]
  assert all(row.passes >= len(row.ids) for row in plain)
  (greedy,) = model.generate('abab', max_new_tokens=40, temperature=0, speculate=4)
  assert 1 <= greedy.passes < len(greedy.ids)
  settings = {'max_new_tokens': 40, 'temperature': 0}
  streamed = ''.join(model.stream('abab', speculate=4, **settings))
  assert streamed == greedy.text
  for method in ('beam', 'stochastic'):
    with pytest.raises(
      UserError, match=f"speculate=2 has no effect on method='{method}'"
    ):
      model.generate('a', method=method, beams=2, speculate=2)
  with pytest.raises(UserError, match=r'speculate=64 must be in 0 \.\. 63'):
    model.generate('a', speculate=64)


def test_rows_of_a_cache_forget_their_own_last_tokens():
  gpt, params = GPT(SHAPE), random_params(0)
  model = sampling.model_of(params, gpt)
  texts = [[1, 2, 3, 4], [5, 6]]
  ids, length = rows.filled(texts, 2, 4)
  _, cache = model.prefill(jnp.array(ids), jnp.array(length), 12)
  more = jnp.array([[5, 6, 7], [7, 8, 9]])
  logits, cache = model.step_ahead(model.ragged(cache), more)
  cache = model.forget(cache, jnp.array([2, 1]))
  assert cache.fill_B.tolist() == cache.slot.tolist() == [5, 3 + 1]
  assert (np.asarray(cache.pos_BS) >= 0).sum(axis=1).tolist() == [5, 4]
  wholes = [[1, 2, 3, 4, 5, 0], [5, 6, 7, 8, 0]]
  again, _ = model.step_ahead(cache, jnp.zeros((2, 1), int))
  for row, whole in enumerate(wholes):
    alone, _ = model.prefill(jnp.array([whole]), jnp.array([len(whole)]), 12)
    np.testing.assert_allclose(again[row, 0, :12], alone[0, :12], atol=1e-4)


@pytest.mark.parametrize('K', [0, 3])
def test_a_beginning_that_prompts_share_is_read_once(K, monkeypatch):
  monkeypatch.setattr(rows, '_SHARED', 32)
  read = []
  original = sampling.model_of

  def counting(params, gpt):
    model = original(params, gpt)

    def prefill(ids_BT, length_B, S):
      read.append(ids_BT.shape)
      return model.prefill(ids_BT, length_B, S)

    return model._replace(prefill=prefill)

  params = random_params(6)
  begin = np.random.default_rng(0).integers(0, 11, 20).tolist()
  prompts = [[*begin, *end] for end in ([1], [2, 3, 4], [5, 6], [1, 7, 8, 9, 2, 3, 1])]
  for how in (GREEDY, Sampling(temperature=0.8)):
    monkeypatch.setattr(sampling, 'model_of', counting)
    sampling.compiled_begin.clear_cache()
    found = continued(params, prompts, 15, K, how, RULES[1])
    assert read[0] == (1, 16)
    monkeypatch.setattr(rows, '_SHARED', 10**6)
    same(found, continued(params, prompts, 15, K, how, RULES[1]))
    assert read[-1][0] == 4
    monkeypatch.setattr(rows, '_SHARED', 32)
    read.clear()
  sampling.compiled_begin.clear_cache()


def test_what_is_shared_is_a_beginning_of_all_and_pays():
  rng = np.random.default_rng(0)
  begin = rng.integers(0, 9, 700).tolist()
  assert rows.shared([[*begin, 1], [*begin, 2, 3], [*begin, 1, 1]]) == 640
  assert rows.shared([[*begin, 1], [*begin, 2, 3]]) == 0  # 640 tokens are too few
  assert rows.shared([begin] * 9) == 640
  assert rows.shared([begin[:640]] * 9) == 512  # a token is left
  assert rows.shared([begin]) == 0
  assert rows.shared([begin[:90] + [9], begin] * 20) == 80
  assert rows.shared([[9, *begin], begin] * 20) == 0


def test_the_room_of_a_shared_cache_is_empty():
  cache = empty_cache(GPT(SHAPE), 1, 3).replace(fill_B=jnp.array([3]))
  wide = cache.shared(2, 5)
  assert wide.kv[0][0].shape[::2] == (2, 8) and wide.fill_B.tolist() == [3, 3]
  assert (np.asarray(wide.pos_BS)[:, 3:] == -1).all()
