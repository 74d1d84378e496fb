"""Beam search: against exhaustive search, Hugging Face and a naive beam search."""

import itertools
import json
import pathlib
import runpy
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from continuations import endings
from fakes import model_by_rows

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import beam, beam_state
from gpt_jax.decoding.beam import Beams
from gpt_jax.decoding.beam_state import Hypothesis
from gpt_jax.decoding.logit_rules import NO_RULES, History, Rules
from gpt_jax.decoding.sampling import Model
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

EOT = 3
V, NEW = 4, 4  # tokens, new tokens: 4^3 = 64 beams see everything
SHAPE = GPTConfig.of(config.Model(L=2, D=16, N=2, T=24), vocab=V)
PROMPTS = [[1, 2, 0], [2], [0, 1, 1, 2, 0, 0, 2], [1, 1]]
OFFSET = {'gnmt': 5, 'hf': 0}
STOPPING = [False, True, 'never']
# Sums of the same float32 numbers in another order.
CLOSE = {'rtol': 1e-5, 'atol': 1e-4}


@pytest.fixture(scope='module')
def params():
  draw = np.random.RandomState(1)
  shapes = jax.eval_shape(lambda: init_params(SHAPE, 0))
  return jax.tree.map(lambda p: np.float32(0.4 * draw.randn(*p.shape)), shapes)


def remembers_two(table_VVV) -> Model:
  """Returns a model whose logits depend on the last two tokens."""

  def prefill(ids_BP, length_B, S):
    b = jnp.arange(len(ids_BP))
    last_B = ids_BP[b, jnp.maximum(length_B - 1, 0)]
    before_B = ids_BP[b, jnp.maximum(length_B - 2, 0)]
    return table_VVV[before_B, last_B], {'before_B': last_B}

  def step(cache, ids_B):
    logits_BV = table_VVV[cache['before_B'], ids_B]
    return logits_BV, {'before_B': ids_B}

  return model_by_rows(prefill, step)


@partial(jax.jit, static_argnames=('K', 'M', 'rules'))
def _search_table(table_VVV, numbers, ends, *, K, M, rules):
  model = remembers_two(table_VVV)
  ids, length = jnp.array([[1, 2]]), jnp.array([2])
  history = History(jnp.pad(ids, ((0, 0), (0, NEW))), length, length)
  limit = jnp.array([NEW])
  static = {'K': K, 'M': M, 'G': NEW, 'rules': rules, 'eot': EOT}
  return beam.search(model, ids, length, limit, numbers, None, history, ends, **static)


def numbers(alpha=0.6, form='gnmt', stopping=False, diversity=0.0):
  return beam.Numbers(
    offset=np.float32(OFFSET[form]),
    alpha=np.float32(alpha),
    stopping=np.int32(beam._STOPPING[stopping]),
    diversity=np.float32(diversity),
  )


def search_table(table, K, M=1, rules=NO_RULES, ends=None, **settings):
  """Returns (ids, score) of each hypothesis of each group after the prompt 1 2."""
  found = _search_table(table, numbers(**settings), ends, K=K // M, M=M, rules=rules)
  return [[(x.ids, x.score) for x in found.listed(row)] for row in range(M)]


def random_table(seed):
  return 1.5 * np.random.RandomState(seed).randn(V, V, V).astype(np.float32)


def log_softmax(x):
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def table_logp(table, ids):
  logp, text = log_softmax(table.astype(np.float64)), [1, 2, *ids]
  return sum(logp[tuple(text[i : i + 3])] for i in range(len(ids)))


@partial(jax.jit, static_argnums=2)
def forward(params, ids_BT, cfg):
  x = GPT(cfg).apply({'params': params}, ids_BT)[0]
  return jax.nn.log_softmax(unembed(GPT(cfg), params, x))


def forward_logp(params, prompt, all_ids, cfg=SHAPE):
  """Returns log p of each token of each continuation: one full forward pass."""
  ids_BT = np.zeros((len(all_ids), cfg.T), np.int32)
  for row, ids in zip(ids_BT, all_ids, strict=True):
    row[: len(prompt) + len(ids)] = [*prompt, *ids]
  logp = np.asarray(forward(params, ids_BT, cfg))
  first = len(prompt) - 1
  return [
    [float(logp[row, first + i, token]) for i, token in enumerate(ids)]
    for row, ids in enumerate(all_ids)
  ]


def score(logp, n, alpha, form):
  return logp / ((OFFSET[form] + n) / (OFFSET[form] + 1)) ** alpha


def assert_same(found, wanted):
  """The same hypotheses in the same order, except where scores are equal."""
  np.testing.assert_allclose([x[1] for x in found], [x[1] for x in wanted], **CLOSE)
  wanted = {tuple(ids): s for ids, s in wanted}
  for ids, s in found:
    assert abs(wanted[tuple(ids)] - s) < 1e-3


@pytest.mark.parametrize('form', ['gnmt', 'hf'])
@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0, -0.5])
def test_all_beams_are_exhaustive_search_of_random_tables(alpha, form):
  for seed, stopping in itertools.product(range(4), STOPPING):
    table = random_table(seed)
    wanted = [
      (ids, score(table_logp(table, ids), len(ids), alpha, form))
      for ids in endings(V, NEW, EOT)
    ]
    wanted.sort(key=lambda x: -x[1])
    found = search_table(table, V**3, alpha=alpha, form=form, stopping=stopping)[0]
    assert len(found) == V**3
    assert_same(found, wanted[: V**3])


def test_any_of_several_tokens_may_end_a_hypothesis():
  ends = np.arange(V) >= EOT - 1  # end-of-text and another
  wanted_ids = [
    ids
    for n in range(1, NEW + 1)
    for ids in itertools.product(range(V), repeat=n)
    if not ends[list(ids[:-1])].any() and (n == NEW or ends[ids[-1]])
  ]
  for seed in range(3):
    table = random_table(seed)
    wanted = [
      (ids, score(table_logp(table, ids), len(ids), 0.6, 'gnmt')) for ids in wanted_ids
    ]
    wanted.sort(key=lambda x: -x[1])
    found = search_table(table, V**3, ends=jnp.asarray(ends))[0]
    assert_same(found, wanted[: len(found)])
    assert len(found) == min(V**3, len(wanted))


@pytest.mark.parametrize('K', [1, 2, 3, 4])
def test_a_set_of_ends_with_end_of_text_alone_changes_nothing(K):
  for seed in range(4):
    table = random_table(seed)
    found = search_table(table, K, ends=jnp.arange(V) == EOT)[0]
    assert_same(found, search_table(table, K)[0])


def test_a_search_lives_on_where_its_likeliest_tokens_all_end_it():
  table = random_table(0)
  table[..., :3] += 5  # three ways to end are likelier than to go on
  ends = jnp.arange(V) != EOT
  found = search_table(table, 2, ends=ends, alpha=0.0, stopping='never')[0]
  texts = [
    ids
    for n in range(1, NEW + 1)
    for ids in itertools.product(range(V), repeat=n)
    if not (np.array(ids[:-1]) != EOT).any() and (n == NEW or ids[-1] != EOT)
  ]
  best = sorted(((ids, table_logp(table, ids)) for ids in texts), key=lambda x: -x[1])
  assert_same(found, best[:2])


@pytest.mark.parametrize('form', ['gnmt', 'hf'])
@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0])
def test_all_beams_are_exhaustive_search_of_a_gpt(params, alpha, form):
  settings = Beams(V**3, length_penalty=alpha, penalty_form=form)
  found = beam.generate(
    params,
    GPT(SHAPE),
    PROMPTS[:2],
    max_new_tokens=NEW,
    beams=settings,
    num_return=V**3,
    eot=EOT,
  )
  for prompt, rows in zip(PROMPTS, found, strict=False):
    logp = forward_logp(params, prompt, endings(V, NEW, EOT))
    wanted = [
      (ids, score(sum(p), len(ids), alpha, form))
      for ids, p in zip(endings(V, NEW, EOT), logp, strict=True)
    ]
    wanted.sort(key=lambda x: -x[1])
    assert_same([(x.ids, x.score) for x in rows], wanted[: V**3])


def test_no_width_beats_exhaustive_search():
  for seed in range(12):
    table = random_table(seed)
    best = max(
      score(table_logp(table, ids), len(ids), 0.6, 'gnmt')
      for ids in endings(V, NEW, EOT)
    )
    for K in (1, 2, 3, 5):
      assert search_table(table, K)[0][0][1] <= best + 1e-4


def test_more_beams_can_be_worse():
  # A fact about beam search, not a bug. 0 is likelier than 1; but both best children
  # of 1 are likelier than that of 0, which alone leads somewhere.
  p = np.full((V, V, V), 0.25)
  p[1, 2] = 0.40, 0.35, 0.15, 0.10
  p[2, 0] = 0.20, 0.20, 0.40, 0.20
  p[2, 1] = 0.49, 0.49, 0.01, 0.01
  p[0, 2] = p[2, 2] = 0.001, 0.001, 0.997, 0.001
  one, two = (search_table(np.log(np.float32(p)), K, alpha=0.0)[0][0] for K in (1, 2))
  assert one[0] == [0, 2, 2, 2] and one[1] > two[1] + 0.5


def generate(params, prompts, num_return=1, max_new_tokens=NEW, eot=EOT, **settings):
  return beam.generate(
    params,
    GPT(SHAPE),
    prompts,
    max_new_tokens=max_new_tokens,
    beams=Beams(**settings),
    num_return=num_return,
    eot=eot,
  )


@pytest.mark.parametrize('stopping', STOPPING)
def test_lists_are_sorted_without_duplicates_and_end_once(params, stopping):
  found = generate(params, PROMPTS, 4, 12, length_penalty=1.0, early_stopping=stopping)
  for prompt, rows in zip(PROMPTS, found, strict=True):
    scores = [x.score for x in rows]
    assert len(rows) == 4 and scores == sorted(scores, reverse=True)
    assert len({tuple(x.ids) for x in rows}) == 4
    for x in rows:
      assert EOT not in x.ids[:-1] and (x.ids[-1] == EOT or len(x.ids) == 12)
      np.testing.assert_allclose(x.score, score(x.logp, len(x.ids), 1.0, 'gnmt'), 1e-5)
    exact = forward_logp(params, prompt, [x.ids for x in rows])
    for x, logp in zip(rows, exact, strict=True):
      np.testing.assert_allclose(x.token_logp, logp, atol=1e-4)


def test_the_first_results_do_not_depend_on_how_many_are_asked_for(params):
  all_four = generate(params, PROMPTS, 4, 12)
  for n in range(1, 4):
    few = generate(params, PROMPTS, n, 12)
    assert few == [rows[:n] for rows in all_four]


@pytest.mark.parametrize('groups', [1, 2])
def test_a_prompt_finds_the_same_alone_and_in_a_batch(params, groups):
  settings = {'groups': groups, 'early_stopping': 'never'}
  together = generate(params, PROMPTS, 4, 16, **settings)
  for prompt, rows in zip(PROMPTS, together, strict=True):
    alone = generate(params, [prompt], 4, 16, **settings)[0]
    assert [x.ids for x in alone] == [x.ids for x in rows]
    np.testing.assert_allclose(
      [x.score for x in alone], [x.score for x in rows], atol=1e-4
    )


def test_patience_never_hurts(params):
  by_stopping = [
    generate(params, PROMPTS, 1, 16, length_penalty=2, early_stopping=x)
    for x in (True, False, 'never')
  ]
  for found in zip(*by_stopping, strict=True):
    scores = [rows[0].score for rows in found]
    assert scores == sorted(scores)


def test_hypotheses_end_where_the_context_is_full(params):
  long = [0, 1, 2] * 7
  short, full = generate(params, [[1], long], 4, 100, eot=-1)
  assert {len(x.ids) for x in full} == {SHAPE.T - len(long) + 1}
  assert {len(x.ids) for x in short} == {SHAPE.T}
  exact = forward_logp(params, long, [x.ids[:-1] for x in full])
  for x, logp in zip(full, exact, strict=True):
    np.testing.assert_allclose(x.token_logp[:-1], logp, atol=1e-4)


def naive_groups(table, K, M, diversity, alpha, form, stopping):
  """Diverse beam search in plain Python; one group is beam search."""
  logp = log_softmax(table.astype(np.float64))
  live = [[((), 0.0)] for _ in range(M)]
  done, is_open = [[] for _ in range(M)], [True] * M
  for n in range(1, NEW + 1):
    taken = Counter()
    for g in range(M):
      if not is_open[g]:
        continue
      grown = [
        ((*ids, token), total + logp[(1, 2, *ids)[-2:]][token])
        for ids, total in live[g]
        for token in range(V)
      ]
      grown.sort(key=lambda x: diversity * taken[x[0][-1]] - x[1])
      grown = grown[: 2 * K]
      ended = [x[0][-1] == EOT or n == NEW for x in grown]
      done[g] += [
        (ids, score(total, n, alpha, form))
        for (ids, total), ends in zip(grown[:K], ended, strict=False)
        if ends
      ]
      done[g] = sorted(done[g], key=lambda x: -x[1])[:K]
      taken.update([x[0][-1] for x in grown if x[0][-1] != EOT][:K])
      live[g] = [x for x, ends in zip(grown, ended, strict=True) if not ends][:K]
      if len(done[g]) == K:
        worst = done[g][-1][1]
        length = NEW if stopping == 'never' and alpha > 0 else n
        hope = max((score(x[1], length, alpha, form) for x in live[g]), default=-1e9)
        is_open[g] = stopping is not True and hope > worst
  return done


@pytest.mark.parametrize(('K', 'M'), [(3, 1), (4, 2), (6, 3), (3, 3)])
def test_groups_equal_a_naive_diverse_search(K, M):
  # In some of these tables (28, 34, 40, 47) a group that has stopped matters to others.
  for seed, stopping in itertools.product(range(28, 48), STOPPING):
    table = random_table(seed)
    settings = {
      'diversity': 0.4 * (seed % 6),
      'alpha': (0.0, 1.0, -1.0)[seed % 3],
      'form': 'gnmt' if seed % 2 else 'hf',
      'stopping': stopping,
    }
    found = search_table(table, K, M, **settings)
    wanted = naive_groups(table, K // M, M, **settings)
    for group, want in zip(found, wanted, strict=True):
      assert_same(group, want)


def test_groups_merge_into_one_sorted_list_and_the_best_of_each_come_first():
  def group(*scores):
    return [Hypothesis([-x], [0.0], x) for x in scores]

  groups = [group(-1, -2, -5), group(-1, -7, -8)]
  merged = [[x.score for x in beam._merge(groups, n)] for n in (1, 2, 3, 5, 6)]
  assert merged == [
    [-1],
    [-1, -2],
    [-1, -2, -7],
    [-1, -2, -5, -7, -8],
    [-1, -2, -5, -7, -8],
  ]


def test_rules_change_scores_and_what_is_possible():
  table, rules = random_table(0), Rules(frequency_penalty=0.7, forbidden=((0, 1),))
  found = search_table(table, V**3, rules=rules, alpha=1.0, form='hf')[0]
  wanted = []
  for ids in endings(V, NEW, EOT):
    if (0, 1) not in itertools.pairwise(ids):
      cost = 0.7 * sum(ids[:i].count(token) for i, token in enumerate(ids))
      wanted.append((ids, (table_logp(table, ids) - cost) / len(ids)))
  wanted.sort(key=lambda x: -x[1])
  assert_same(found, wanted[: V**3])


GOLDEN = runpy.run_path(str(pathlib.Path(__file__).parent / 'goldens/make_beam.py'))
GPT2 = GPTConfig.of(
  config.Model(
    L=GOLDEN['L'],
    D=GOLDEN['D'],
    N=GOLDEN['N'],
    T=GOLDEN['T'],
    activation='gelu_tanh',
  ),
  vocab=GOLDEN['VOCAB'],
)


def from_hugging_face(weights):
  """Returns the parameter tree of GPT-2 weights."""

  def linear(name, columns=slice(None)):
    kernel, bias = (weights[f'{name}.{kind}'] for kind in ('weight', 'bias'))
    return {'kernel': kernel[:, columns], 'bias': bias[columns]}

  def norm(name):
    return {'scale': weights[f'{name}.weight'], 'bias': weights[f'{name}.bias']}

  def block(name):
    thirds = [slice(i * GPT2.D, (i + 1) * GPT2.D) for i in range(3)]
    qkv = [linear(f'{name}.attn.c_attn', third) for third in thirds]
    return {
      'ln_1': norm(f'{name}.ln_1'),
      'attn': dict(zip('qkvo', [*qkv, linear(f'{name}.attn.c_proj')], strict=True)),
      'ln_2': norm(f'{name}.ln_2'),
      'mlp': {'up': linear(f'{name}.mlp.c_fc'), 'down': linear(f'{name}.mlp.c_proj')},
    }

  padding = ((0, GPT2.V - GPT2.vocab), (0, 0))
  return {
    'wte': np.pad(weights['wte.weight'], padding),
    'wpe': weights['wpe.weight'],
    'ln_f': norm('ln_f'),
    **{f'h_{i}': block(f'h.{i}') for i in range(GPT2.L)},
  }


def assert_parity(params, case, wanted):
  """All prompts in one batch find what Hugging Face finds for each alone.

  Differs, in Hugging Face, from its own definitions: repetition_penalty is documented
  for logits, where a positive one is divided (CTRL); in beam search it meets log p,
  all of which are multiplied; and `sequences_scores`, "log probabilities" of the
  sequences, are then no log p. Ours agree as scores; `logp` stays the model's own.
  """
  case = dict(case)
  K = case.pop('num_beams')
  ends = case.pop('eos_token_id', [GOLDEN['EOT']])
  rules = Rules(
    no_repeat_ngram=case.pop('no_repeat_ngram_size', 0),
    repetition_penalty=case.pop('repetition_penalty', 1.0),
    min_new_tokens=case.pop('min_new_tokens', 0),
  )
  beams = Beams(K, penalty_form='hf', **{'length_penalty': 1.0, **case})
  found = beam.generate(
    params,
    GPT(GPT2),
    GOLDEN['PROMPTS'],
    max_new_tokens=GOLDEN['NEW'],
    beams=beams,
    num_return=K,
    rules=rules,
    eot=ends[0],
    ends_V=np.isin(np.arange(GPT2.V), ends) if len(ends) > 1 else None,
  )
  for rows, wanted_rows in zip(found, wanted, strict=True):
    assert [x.ids for x in rows] == [ids for ids, _ in wanted_rows]
    if K > 1:  # greedy has no score there
      np.testing.assert_allclose(
        [x.score for x in rows], [score for _, score in wanted_rows], atol=1e-4
      )


def case_name(case):
  return ' '.join(f'{name}={value}' for name, value in case.items())


@pytest.fixture(scope='module')
def gpt2():
  return jax.tree.map(jnp.asarray, from_hugging_face(GOLDEN['weights']()))


@pytest.mark.parametrize('i', range(len(GOLDEN['CASES'])))
def test_the_same_tokens_as_hugging_face(gpt2, i):
  golden = json.loads(GOLDEN['PATH'].read_text())
  assert_parity(gpt2, GOLDEN['CASES'][i], golden['found'][i])


def test_the_same_tokens_as_hugging_face_now(gpt2):
  pytest.importorskip('torch', reason='needs torch and transformers')
  pytest.importorskip('transformers', reason='needs torch and transformers')
  search = GOLDEN['hugging_face']()
  for case in GOLDEN['CASES']:
    assert_parity(gpt2, case, search(case))


@pytest.mark.parametrize('vocab', [100, 512, 128 * 40])
def test_the_best_tokens_are_those_of_a_full_sort(vocab):
  score = np.random.RandomState(0).randn(3, 4, vocab).astype(np.float32)
  score[0, :, 128:256] = -np.inf
  score[:, 1:] -= 2
  score[1, 2] = -np.inf
  parent, token = beam_state.best_tokens(jnp.array(score), 8)
  wanted = np.argsort(-score.reshape(3, -1), axis=1)[:, :8]
  assert (parent * vocab + token).tolist() == wanted.tolist()


def test_searches_that_differ_in_numbers_share_one_compiled_program(params):
  generate(params, [[1, 2]], 1, 5)
  before = beam.compiled_search._cache_size()
  generate(params, [[1, 2, 1]], 3, 9, length_penalty=2, penalty_form='hf')
  generate(params, [[0]], 2, 3, early_stopping='never')
  assert beam.compiled_search._cache_size() == before


@pytest.mark.parametrize(
  'wrong',
  [
    {'beams': 0},
    {'groups': 3},
    {'diversity': -1},
    {'length_penalty': float('nan')},
    {'penalty_form': 'google'},
    {'early_stopping': 'always'},
  ],
)
def test_settings_out_of_range_are_refused(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    Beams(**wrong)


def test_more_results_than_beams_are_refused(params):
  with pytest.raises(UserError, match='num_return=5'):
    generate(params, PROMPTS, 5)


def test_rules_that_allow_nothing_are_an_error_that_names_the_prompt(params):
  rules = Rules(forbidden=tuple((token,) for token in range(V)))
  with pytest.raises(UserError, match='prompt 0 has no continuation'):
    beam.generate(
      params,
      GPT(SHAPE),
      PROMPTS,
      max_new_tokens=3,
      beams=Beams(2),
      rules=rules,
      eot=EOT,
    )
