"""`generate` and `stream` of a language model: settings, stops, seeds, programs."""

import dataclasses
import importlib.util
import io
import itertools
import json
import logging
import pathlib
import re

import jax
import numpy as np
import pytest
import sentencepiece
from absl import flags
from fakes import gpt2_of, random_bytes_model

from gpt_jax import config, tokenizers
from gpt_jax.cli import models
from gpt_jax.config import UserError
from gpt_jax.decoding import sampling
from gpt_jax.decoding.generation_config import FLAGS, GenerationConfig
from gpt_jax.inference.continued import before_stop
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import load

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / 'tests/goldens'
PROMPTS = ['the', 'a', 'prompt, longer', '']


@pytest.fixture(scope='module')
def model():
  """A model of random bytes, among them halves of UTF-8 characters."""
  return random_bytes_model(T=32, seed=1)


def texts(made):
  return [row.text for row in made]


def test_results_carry_log_probabilities_whatever_the_rules(model):
  rows = model.generate(PROMPTS, max_new_tokens=9, repetition_penalty=1.5, top_k=9)
  for row in rows:
    logp = jax.nn.log_softmax(model.logits(row.prompt + row.ids[:-1]))
    start = len(row.prompt) - 1
    wanted = [float(logp[start + i, token]) for i, token in enumerate(row.ids)]
    np.testing.assert_allclose(row.token_logp, wanted, atol=1e-4)
    assert row.logp == pytest.approx(sum(wanted), abs=1e-3)
    assert row.perplexity == pytest.approx(np.exp(-np.mean(wanted)), rel=1e-3)


def test_one_row_in_its_faster_form_is_as_in_a_batch(model):
  settings = {'max_new_tokens': 12, 'seed': [5, 6], 'top_k': 20}
  both = model.generate(PROMPTS[:2], **settings)
  assert model._row_params is not None  # these tests run on a CPU
  for i, one in enumerate(both):
    (alone,) = model.generate(PROMPTS[i], **settings | {'seed': [5 + i]})
    assert alone.ids == one.ids
    np.testing.assert_allclose(alone.token_logp, one.token_logp, atol=1e-4)


def test_weights_in_8_bits_generate_nearly_the_same_log_probabilities(model):
  small = model.int8()
  exact = model.score('the', ' cat').logp
  assert small.score('the', ' cat').logp == pytest.approx(exact, rel=0.05)
  assert small.score('the', ' cat').logp != exact
  (row,) = small.generate('the', max_new_tokens=5, temperature=0)
  logp = jax.nn.log_softmax(small.logits(row.prompt + row.ids[:-1]))
  wanted = [float(logp[len(row.prompt) - 1 + i, t]) for i, t in enumerate(row.ids)]
  np.testing.assert_allclose(row.token_logp, wanted, atol=1e-4)


def test_methods_are_chosen_by_settings(model):
  greedy = texts(model.generate('the', max_new_tokens=9, temperature=0))
  assert texts(model.generate('the', max_new_tokens=9, method='greedy')) == greedy
  assert texts(model.generate('the', max_new_tokens=9, top_k=1)) == greedy
  assert texts(model.generate('the', max_new_tokens=9)) != greedy


def test_beams_of_every_kind_come_ranked_and_by_prompt(model):
  settings = {'max_new_tokens': 6, 'beams': 4, 'num_return': 2, 'banned': ['e']}
  for method in ('auto', 'stochastic'):
    rows = model.generate(PROMPTS, method=method, **settings)
    assert [row.number for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
      assert first.score >= second.score and first.ids != second.ids
      assert first.prompt == second.prompt
      if method == 'auto':
        penalty = ((5 + len(first.ids)) / 6) ** 0.6
        assert first.score == pytest.approx(first.logp / penalty)
    assert not any('e' in text for text in texts(rows))
  one = model.generate('the', one_of=['yes', [1, 2]])[0]
  assert one.ids in ([*b'yes', 256], [1, 2, 256])


def test_the_least_risky_sample_is_most_like_the_others(model):
  settings = {'max_new_tokens': 6, 'seed': 4}
  drawn = model.generate('the', num_return=8, **settings)
  ranked = model.generate(
    'the', method='minimum_risk', candidates=8, num_return=8, **settings
  )
  assert sorted(texts(ranked)) == sorted(texts(drawn))
  scores = [row.score for row in ranked]
  assert scores == sorted(scores, reverse=True)

  def f1(a, b):
    common = sum(min(a.count(x), b.count(x)) for x in set(a))
    return 2 * common / (len(a) + len(b))

  assert scores[0] == pytest.approx(np.mean([f1(ranked[0].ids, d.ids) for d in drawn]))


def test_the_flags_of_sample_are_the_settings():
  names = [field.name for field in dataclasses.fields(GenerationConfig)]
  assert sorted(name for name, *_ in FLAGS) == sorted(names)


def test_flags_give_several_ends_and_special_tokens(model, monkeypatch, capsys):
  def sampled(*args):
    values = flags.FlagValues()
    models.sample_flags(values)
    values(['sample', '--workdir=W', '--max_new_tokens=9', '--method=greedy', *args])
    models.sample(values)
    return capsys.readouterr()

  monkeypatch.setattr(load, 'load', lambda *args: model)
  text = 'hi<|endoftext|>'
  ids = model.generate(text, special=True, max_new_tokens=9, method='greedy')[0].ids
  (one,) = model.generate_ids(
    [[*b'hi', 256]], max_new_tokens=9, method='greedy', eos=[ids[4], ids[6]]
  )
  ends = f'--eos={ids[4]}', f'--eos={ids[6]}'
  said = sampled(f'--prompt={text}', '--special', *ends)
  assert said.out == f'{text}{one.text}\n' and not said.err
  assert (
    '<|endoftext|> in a prompt is read as plain text' in sampled(f'--prompt={text}').err
  )
  assert not sampled('--prompt=hi').err


def test_a_prompt_with_its_own_seed_does_not_depend_on_its_mates(model):
  seeds = [11, 12, 13, 14]
  rows = model.generate(PROMPTS, max_new_tokens=9, seed=seeds, num_return=2)
  for i, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
    alone = model.generate(prompt, max_new_tokens=9, seed=[seed], num_return=3)
    assert texts(alone)[:2] == texts(rows)[2 * i : 2 * i + 2]
    assert len(set(texts(alone))) == 3
  rows = model.generate(['the', 'the'], max_new_tokens=9, seed=3)
  assert rows[0].text != rows[1].text


@pytest.mark.parametrize('method', ['greedy', 'sample'])
@pytest.mark.parametrize('where', [2, 40])
def test_text_and_log_probability_are_cut_before_a_stop(model, method, where):
  settings = {'max_new_tokens': 60, 'method': method, 'min_new_tokens': 60}
  whole = model.generate('the', **settings)[0]
  written = model.tokenizer.decode(whole.ids)
  at = next(i for i in range(where, 60) if '\ufffd' not in written[i : i + 2])
  stop = written[at : at + 2]
  before = whole.text[: whole.text.index(stop)]
  cut = model.generate(['the', 'a'], stop=['nowhere', stop], **settings)[0]
  assert cut.text == before and stop not in cut.text
  assert cut.ids == whole.ids[: len(cut.ids)]
  assert model.tokenizer.decode(cut.ids) == before
  np.testing.assert_allclose(cut.token_logp, whole.token_logp[: len(cut.ids)], 1e-4)
  assert ''.join(model.stream('the', stop=stop, **settings)) == before


def test_a_stop_inside_a_token_cuts_the_text_but_not_the_token():
  pieces = ['ab', 'c.\n', '\nd', '']
  decode = lambda ids: ''.join(pieces[i] for i in ids)  # noqa: E731
  assert before_stop([0, 1, 2, 3], ('\n\n', 'zz'), decode) == (1, 3, 'abc.')
  assert before_stop([0, 1, 2], ('d', '.\n'), decode) == (1, 2, 'abc')
  assert before_stop([0, 1], ('ab',), decode) == (0, 1, '')
  assert before_stop([0, 1, 0, 3], ('abab',), decode) is None


@pytest.mark.parametrize('settings', [{}, {'temperature': 0}, {'stop': ['-*', 'e']}])
def test_a_stream_is_the_text_of_generate_in_parts(model, settings):
  for seed in range(3):
    settings = settings | {'seed': seed, 'max_new_tokens': 50}
    parts = list(model.stream('the', **settings))
    whole = model.generate('the', **settings)[0]
    assert ''.join(parts) == whole.text
    assert all(parts) and len(parts) > 5


def test_what_is_banned_and_forced(model):
  settings = {'max_new_tokens': 30, 'method': 'greedy', 'min_new_tokens': 30}
  free = model.generate('the', **settings)[0]
  banned = [free.ids[3:5], bytes(free.ids[8:9]).decode('latin-1')]
  made = model.generate('the', banned=banned, forced='<A', **settings)[0]
  assert made.text.startswith('<A') and len(made.ids) == 30
  assert banned[1] not in made.text
  assert bytes(free.ids[3:5]) not in bytes(made.ids)
  forced = model.generate_ids([[3]], forced=[250, 0], **settings)[0]
  assert forced.ids[:2] == [250, 0]


def test_another_end_of_text(model):
  settings = {'max_new_tokens': 30, 'method': 'greedy'}
  free = model.generate('the', **settings)[0]
  eos = free.ids[5]
  ended = model.generate('the', eos=eos, **settings)[0]
  assert ended.ids == free.ids[: free.ids.index(eos) + 1]
  later = model.generate('the', eos=eos, min_new_tokens=30, **settings)[0]
  assert len(later.ids) == 30 and eos not in later.ids[:29]


@pytest.mark.parametrize('method', ['greedy', 'sample', 'beam', 'stochastic'])
def test_any_of_several_ends_ends_a_text_and_writes_nothing(model, method):
  several = {'beam': {'beams': 3}, 'stochastic': {'beams': 3}}.get(method, {})
  settings = {'max_new_tokens': 12, 'method': method, 'seed': 2, **several}
  free = model.generate('the', eos=256, min_new_tokens=12, **settings)[0]
  ends = free.ids[3], free.ids[5]
  two = dataclasses.replace(model, ends=ends)
  made = two.generate(PROMPTS, num_return=3 if several else 1, **settings)
  assert any(one.ids[-1] in ends for one in made)
  for one in made:
    assert not {*ends, 256} & {*one.ids[:-1]}
    written = one.ids[:-1] if one.ids[-1] in (*ends, 256) else one.ids
    assert one.text == bytes(written).decode(errors='replace')
  # A setting takes the place of them all.
  assert model.generate(PROMPTS, eos=[256, *ends], **settings) == [
    one for i, one in enumerate(made) if not several or i % 3 == 0
  ]
  (alone,) = two.generate('the', eos=256, min_new_tokens=12, **settings)
  assert alone == free
  (late,) = two.generate('the', min_new_tokens=12, **settings)
  assert len(late.ids) == 12 and not {*ends, 256} & {*late.ids[:-1]}
  if not several:
    assert ''.join(two.stream('the', **settings)) == made[0].text


def test_a_constraint_ends_each_text_by_its_likeliest_end(model):
  two = dataclasses.replace(model, ends=(7, 9))
  settings = {'one_of': ['yes', 'no'], 'beams': 4}
  found = two.generate('the', num_return=4, **settings)
  assert sorted(texts(found)) == ['no', 'yes']
  by_end = [model.generate('the', eos=end, **settings) for end in (256, 7, 9)]
  for one in found:
    same = [o for rows in by_end for o in rows if o.text == one.text]
    assert not same or one.logp >= max(o.logp for o in same) - 1e-4
  with pytest.raises(UserError, match='holds end-of-text .7.'):
    two.generate('the', one_of=[[1, 7]])
  with pytest.raises(UserError, match='none of them end-of-text'):
    two.generate('the', forced=[1, 9])


def words():
  """GPT-1's BPE of a few words; blanks stand between words, none before the first."""
  texts = ['the', 'function', 'returns', 's', 'none', '.']
  entries = sorted({c for text in texts for c in text})
  entries += [f'{c}</w>' for c in entries]
  merges = []
  for text in texts:
    parts = [*text[:-1], f'{text[-1]}</w>']
    while len(parts) > 1:
      merges.append((parts[0], parts[1]))
      parts[:2] = [parts[0] + parts[1]]
  entries += [a + b for a, b in dict.fromkeys(merges)]
  vocab = {entry: i for i, entry in enumerate([*dict.fromkeys(entries), '<unk>'])}
  pairs = list(dict.fromkeys(merges))
  return tokenizers.GPT1(vocab, pairs, cleaning='basic')


def pieces():
  """A SentencePiece model that puts a blank before the first word."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['the function returns none', 's of the function'] * 9),
    model_writer=model,
    model_type='unigram',
    vocab_size=40,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return tokenizers.SentencePiece(model.getvalue())


def always(tokenizer, ids):
  """A model that writes these ids in turn, whatever stood before."""
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=32), tokenizer.vocab)
  like = jax.eval_shape(lambda: init_params(cfg, 0))
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
  return LanguageModel(params, GPT(cfg), tokenizer), {'forced': ids}


@pytest.mark.parametrize('make', [words, pieces])
@pytest.mark.parametrize('new', ['s s s', 'returns none', 'the s'])
def test_prompt_and_text_together_read_right(make, new):
  tokenizer = make()
  ids = tokenizer.encode(new)
  model, settings = always(tokenizer, ids)
  settings |= {'max_new_tokens': len(ids), 'method': 'greedy'}
  for prompt in ('the function returns', 'the'):
    one = model.generate(prompt, **settings)[0]
    assert one.text == f' {new}' and one.ids == ids
    assert ''.join(model.stream(prompt, **settings)) == f' {new}'
    # The blank is a part of what stops are looked for in.
    stop = f' {new.split()[1]}'
    before = f' {new}'[: f' {new}'.index(stop)]
    for how in ({}, {'method': 'beam', 'beams': 2}):
      cut = model.generate(prompt, stop=stop, **settings | how)[0]
      assert cut.text == before and tokenizer.decode(cut.ids) == before.strip()
    assert ''.join(model.stream(prompt, stop=stop, **settings)) == cut.text
  # A new document, by an empty prompt or in one: nothing stands before its first word.
  assert model.generate('', **settings)[0].text == new
  turns = 'the function<|endoftext|>'
  one = model.generate(turns, special=True, **settings)[0]
  assert one.text == new and one.prompt[-1] == tokenizer.eot


def test_new_ids_complete_the_characters_of_a_prompt(model):
  settings = {'max_new_tokens': 3, 'method': 'greedy', 'forced': [0xAF, 0xD1, 0x8F]}
  assert model.generate_ids([[97, 0xD0]], **settings)[0].text == 'Яя'
  cut = model.generate_ids([[97, 0xD0]], stop='я', **settings)[0]
  assert (cut.text, cut.ids, len(cut.stop_logp)) == ('Я', [0xAF], 2)
  assert model.generate_ids([[97, 0xD0, 98]], **settings)[0].text == '\ufffdя'
  long = [0xD0] * 20  # none of them a character
  assert model.generate_ids([long], **settings)[0].text == 'Яя'


def test_the_stop_that_is_complete_first_counts(model):
  settings = {'max_new_tokens': 5, 'method': 'greedy', 'forced': b'abcde'}
  for stop, text in (
    (['abcd', 'bc'], 'a'),
    (['bcd', 'cd', 'd'], 'a'),
    (['abcdef', 'e'], 'abcd'),
    (['x', 'abc'], ''),
  ):
    for how in ({}, {'method': 'beam', 'beams': 3}):
      (one,) = model.generate('the', stop=stop, **settings | how)
      assert one.text == text and bytes(one.ids) == text.encode()
    assert ''.join(model.stream('the', stop=stop, **settings)) == text


def test_names_of_special_tokens_are_tokens_only_where_asked(model):
  text = 'hi<|endoftext|>you'
  plain, named = (
    model.generate(text, special=special, max_new_tokens=1, truncate=True)[0].prompt
    for special in (False, True)
  )
  assert bytes(plain) == text.encode()
  assert named == [*b'hi', 256, *b'you'] == model.prompt_ids(text, special=True)
  banned = {'method': 'greedy', 'max_new_tokens': 4, 'banned': ['<|endoftext|>']}
  (one,) = model.generate('a', special=True, eos=5, **banned)
  assert 256 not in one.ids
  streamed = model.stream(text, special=True, max_new_tokens=5, seed=1)
  whole = model.generate(text, special=True, max_new_tokens=5, seed=1)
  assert ''.join(streamed) == whole[0].text


def test_a_long_prompt_is_an_error_or_read_from_its_end(model):
  with pytest.raises(UserError, match='prompt of 40 tokens does not fit.*is 32.*trunc'):
    model.generate('a' * 40)
  long = model.generate('b' * 8 + 'a' * 32, truncate=True, max_new_tokens=5, seed=1)[0]
  assert long.prompt == [ord('a')] * 32
  assert long == model.generate('a' * 32, max_new_tokens=5, seed=1)[0]


def test_everything_wrong_is_told_at_once(model):
  with pytest.raises(UserError) as told:
    model.generate_ids(
      [[1, 999], [], [0] * 33],
      temperatur=1,
      method='beem',
      max_new_tokens=0,
      num_return=0,
      beams=0,
      candidates=0,
      penalty_form='x',
      early_stopping='y',
      seed=[1],
      eos=-1,
      stop=['a', ''],
      top_p=2,
      banned=[[999]],
    )
  lines = str(told.value).splitlines()
  for name in (
    'no setting temperatur. Did you mean temperature',
    "method='beem'",
    'max_new_tokens=0',
    'num_return=0',
    'beams=0',
    'candidates=0',
    "penalty_form='x'",
    "early_stopping='y'",
    'seed has 1 numbers for 3',
    'eos=-1',
    "stop=''",
    'top_p=2',
    'banned must be ids in 0 .. 256, not [999]',
    'prompt 0 has ids outside 0 .. 256',
    'prompt 1 has no ids',
    'a prompt of 33 tokens',
  ):
    assert sum(name in line for line in lines) == 1, name


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (
      {'min_new_tokens': 9, 'max_new_tokens': 8},
      'min_new_tokens=9 must be at most max_new_tokens=8',
    ),
    (
      {'forced': [1, 2, 3], 'max_new_tokens': 2},
      'forced=[1, 2, 3] must be at most max_new_tokens=2 tokens',
    ),
    ({'forced': [256]}, 'forced=[256] must be at most max_new_tokens=128 tokens, none'),
    ({'beams': 2, 'num_return': 3}, 'num_return=3 must be at most beams=2'),
    ({'beams': 2, 'top_k': 3}, "top_k=3 has no effect on method='beam'"),
    ({'one_of': ['a'], 'stop': 'x'}, "stop='x' has no effect under a constraint"),
    ({'beams': 3, 'groups': 2}, 'groups=2 must divide beams=3'),
    ({'one_of': ['a'], 'including': ['b']}, 'one_of and including do not go together'),
    (
      {'method': 'minimum_risk', 'num_return': 17},
      'num_return=17 must be at most candidates=16',
    ),
    ({'seed': -1}, 'seed=-1 must be at least 0'),
    ({'method': 'greedy', 'beams': 2}, "beams=2 has no effect on method='greedy'"),
    ({'banned': ['']}, 'a forbidden sequence is empty; leave it out'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(model, settings, message):
  with pytest.raises(UserError, match=f'^{re.escape(message)}[^\n]*$'):
    model.generate('a', **settings)


NAN, INF = float('nan'), float('inf')
REFUSED = [
  *(('temperature', x) for x in (-1.0, INF, NAN, '1', None)),
  *(('top_p', x) for x in (0.0, -1.0, 1.5, NAN)),
  *(('typical_p', x) for x in (0.0, 1.5, NAN)),
  *(('min_p', x) for x in (-0.1, 1.1, NAN)),
  *(('top_k', x) for x in (-1, 2.5, 2**31)),
  *(('repetition_penalty', x) for x in (0.0, -1.0, INF, NAN)),
  *(('presence_penalty', x) for x in (INF, NAN)),
  *(('frequency_penalty', x) for x in (-INF, NAN)),
  *(('no_repeat_ngram', x) for x in (-1, 1.0)),
  *(('max_new_tokens', x) for x in (0, -1, 1.5, '9', 2**31, 2**80)),
  *(('min_new_tokens', x) for x in (-1, 129, 2**80)),
  *(('num_return', x) for x in (0, 2**31)),
  *(('seed', x) for x in (-1, 1.5, 'x', [], [1, 2], [-1])),
  *(('eos', x) for x in (-1, 257, [], [1, 257], 1.5, 'x')),
  *(('stop', x) for x in ('', ['a', ''], 5, [5], 'a\ufffd')),
  *((name, ['']) for name in ('one_of', 'including', 'banned')),
  *(('length_penalty', x) for x in (1e3, -1e3, 8.1, INF, NAN)),
  *(('diversity', x) for x in (-1.0, INF, NAN)),
  *(('groups', x) for x in (0, -1, 3)),
  *(('early_stopping', x) for x in ('sometimes', 2)),
  *(('beams', x) for x in (0, -1, 2.0)),
]
NAMES = {'one_of': 'sequences', 'including': 'phrases', 'banned': 'forbidden'}
OF_BEAMS = 'length_penalty', 'diversity', 'groups', 'early_stopping'


@pytest.mark.parametrize(('name', 'value'), REFUSED)
def test_a_setting_beyond_its_range_is_refused_by_name(model, name, value):
  with pytest.raises(UserError, match=NAMES.get(name, name)):
    model.generate('a', **{name: value}, **({'beams': 2} if name in OF_BEAMS else {}))


@pytest.mark.parametrize(
  ('settings', 'limit'),
  [
    *(({'temperature': x}, 'greedy') for x in (1e-30, 1e-300, 5e-324)),
    ({'top_p': 1e-9}, 'greedy'),
    ({'top_p': 5e-324, 'temperature': 1e30}, 'greedy'),
    ({'min_p': 1}, 'greedy'),
    ({'top_k': 1}, 'greedy'),
    ({'temperature': 1e30}, 'even'),
    ({'temperature': 1e300, 'banned': ['e']}, 'even'),
    ({'top_k': 2**31 - 1}, 'plain'),
    ({'top_p': 1}, 'plain'),
    ({'min_p': 1e-300}, 'plain'),
    ({'no_repeat_ngram': 2**31 - 1}, 'plain'),
    ({'forced': '', 'stop': [], 'banned': []}, 'plain'),
    ({'typical_p': 1e-9}, 'one'),
    ({'presence_penalty': 1e300}, 'new'),
    ({'frequency_penalty': 1e30, 'temperature': 1e-30}, 'new'),
    ({'no_repeat_ngram': 1}, 'new'),
    ({'presence_penalty': -1e300}, 'old'),
    ({'frequency_penalty': -1e300}, 'old'),
    ({'min_new_tokens': 12}, 'long'),
  ],
)
def test_a_setting_at_its_limit_gives_the_limit(model, settings, limit):
  fixed = {'max_new_tokens': 12, 'eos': [1, 256]}
  if limit == 'even':
    made = model.generate('the', num_return=64, **settings, **fixed | {'eos': 256})
    # Of 64 even draws from 257, 57 are different; all are numbers, none banned.
    assert len({one.ids[0] for one in made}) > 45
    assert all(np.isfinite(one.logp) for one in made)
    assert 'banned' not in settings or not any(101 in one.ids for one in made)
    return
  first, other = (model.generate('the', seed=n, **settings, **fixed)[0] for n in (1, 2))
  assert np.isfinite(first.token_logp).all()
  if limit == 'greedy':
    assert first == other == model.generate('the', method='greedy', **fixed)[0]
  elif limit == 'plain':
    assert first == model.generate('the', seed=1, **fixed)[0] != other
  elif limit == 'one':
    assert first == other
  elif limit == 'long':
    assert len(first.ids) == len(other.ids) == 12
  elif limit == 'new':
    assert len({*first.ids}) == len(first.ids)
  else:
    assert len({*first.ids}) == 1


def test_limits_of_lengths_seeds_and_beams(model):
  drawn = [
    model.generate('the', max_new_tokens=9, seed=seed)[0].ids
    for seed in (2**32 - 1, 2**32, 2**63, 2**200, [2**64])
  ]
  assert len(set(map(tuple, drawn))) == len(drawn)
  free = model.generate('the', max_new_tokens=9, method='greedy')[0]
  for rules in ({}, {'min_new_tokens': 2}):
    end = {'eos': free.ids[8], 'method': 'greedy', **rules}
    wanted = model.generate('the', max_new_tokens=9, **end)
    assert model.generate('the', max_new_tokens=2**31 - 1, **end) == wanted
  (long,) = model.generate('the', beams=2, max_new_tokens=2**31 - 1, eos=[256, 1])
  assert len(long.ids) <= 30  # where the context is full
  many = model.generate('the', beams=300, num_return=300, max_new_tokens=2)
  assert len({tuple(one.ids) for one in many}) == 300
  for alpha in (8, -8):
    some = {'beams': 3, 'num_return': 3, 'max_new_tokens': 25, 'length_penalty': alpha}
    scores = [one.score for one in model.generate('the', **some)]
    assert scores == sorted(scores, reverse=True) and np.isfinite(scores).all()
    assert len(set(scores)) == 3 and 0 not in scores
  apart = {'beams': 4, 'groups': 4, 'num_return': 4, 'max_new_tokens': 1}
  found = model.generate('the', diversity=1e300, **apart)
  assert len({one.ids[0] for one in found}) == 4
  cold = {'method': 'stochastic', 'beams': 2, 'max_new_tokens': 5, 'eos': 1}
  best = model.generate('the', method='greedy', max_new_tokens=5, eos=1)[0].ids
  for heat in (1e-30, 5e-324):
    assert model.generate('the', temperature=heat, **cold)[0].ids == best
  assert model.generate('the', temperature=1e300, **cold)[0].ids != best


def test_prompts_of_one_bucket_compile_once_and_a_second_call_nothing(model, caplog):
  def compiled(prompts, **settings):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
      model.generate(prompts, max_new_tokens=25, top_k=7, temperature=0.9, **settings)
    lines = [r.getMessage() for r in caplog.records]
    return [line.split(' with ')[0] for line in lines if line.startswith('Compiling')]

  before = sampling.compiled_begin._cache_size(), sampling.compiled_run._cache_size()
  assert len(compiled('a', seed=1)) >= 2  # so the test can see compilations
  for n in range(1, 16):  # among them those that outgrow the context
    assert compiled('b' * n, seed=n) == [], n
  after = sampling.compiled_begin._cache_size(), sampling.compiled_run._cache_size()
  assert after == (before[0] + 1, before[1] + 1)
  assert compiled('c' * 17)  # of another bucket
  # Batches are rounded up too.
  assert compiled(['a'] * 5)
  for n in (5, 6, 7, 8):
    assert compiled(['a'] * n, seed=9) == [], n
  compiled(['ab', 'a'], stop='zz', no_repeat_ngram=2)
  assert compiled(['abc', ''], stop='yy', no_repeat_ngram=2) == []


def maker():
  spec = importlib.util.spec_from_file_location(
    'make_generate', GOLDENS / 'make_generate.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def tiny_gpt2(make, seed):
  """The model of the goldens, with numbers for text."""
  tokenizer = tokenizers.Characters(''.join(map(chr, range(59))))  # 59 and eot
  return gpt2_of(make.weights(seed), make.L, make.N, tokenizer)


def assert_same_as_hugging_face(make, model, cases):
  names = {
    'no_repeat_ngram_size': 'no_repeat_ngram',
    'bad_words_ids': 'banned',
    'eos_token_id': 'eos',
  }
  for rules, group in itertools.groupby(cases, lambda case: case['rules']):
    group = list(group)
    made = model.generate_ids(
      [case['prompt'] for case in group],
      max_new_tokens=30,
      method='greedy',
      **{'eos': make.EOS} | {names.get(k, k): v for k, v in rules.items()},
    )
    for row, case in zip(made, group, strict=True):
      assert row.ids == case['ids'], case
      # Float32 in another order of summation.
      np.testing.assert_allclose(row.token_logp, case['logp'], atol=1e-4)


def test_greedy_search_under_rules_is_that_of_hugging_face():
  make = maker()
  golden = json.loads((GOLDENS / 'generate.json').read_text())
  model = tiny_gpt2(make, golden['seed'])
  assert_same_as_hugging_face(make, model, golden['cases'])


@pytest.mark.parametrize('seed', [1, 2])
def test_greedy_search_is_that_of_the_installed_hugging_face(seed):
  pytest.importorskip('torch', reason='needs torch')
  pytest.importorskip('transformers', reason='needs transformers')
  make = maker()
  assert_same_as_hugging_face(make, tiny_gpt2(make, seed), make.cases(seed))
