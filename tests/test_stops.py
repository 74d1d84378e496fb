"""Stops: beam search against all continuations there are, and the text of them."""

import functools
import io
import itertools
import os
import random
import re

import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers as their_library
from tokenizers import decoders, models, pre_tokenizers, trainers

from gpt_jax import config, tokenizers
from gpt_jax.decoding import stops
from gpt_jax.inference.continued import Continued, first_stop
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.tokenizers.spelling import spelling
from gpt_jax.tokenizers.tokenizer_json import TokenizerJson


class Pieces:
  """A tokenizer of a few pieces, which join with nothing between; the last is eot."""

  kind, unknown = 'pieces', frozenset()

  def __init__(self, *pieces):
    self.entries = [*pieces, '']
    self.vocab, self.eot = len(self.entries), len(pieces)

  def decode(self, ids):
    return ''.join(self.entries[i] for i in ids)


class BytePieces(Pieces):
  """The same of bytes, among them parts of characters."""

  def __init__(self, *pieces):
    super().__init__(*pieces)
    self.entries[-1] = b''

  def decode_bytes(self, ids):
    return b''.join(self.entries[i] for i in ids)

  def decode(self, ids):
    return self.decode_bytes(ids).decode(errors='replace')


def gpt1():
  """GPT-1's BPE with five entries: words are parted by blanks."""
  entries = ['a', 'b', 'a</w>', 'b</w>', '<unk>']
  vocab = {entry: i for i, entry in enumerate(entries)}
  return tokenizers.GPT1(vocab, [], cleaning='basic')


def model_of(tokenizer, seed=1, ends=()):
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=16), tokenizer.vocab)
  draw = np.random.RandomState(seed)
  shapes = jax.eval_shape(lambda: init_params(cfg, 0))
  params = jax.tree.map(lambda p: np.float32(0.7 * draw.randn(*p.shape)), shapes)
  return LanguageModel(params, GPT(cfg), tokenizer, ends=ends)


@functools.partial(jax.jit, static_argnums=2)
def next_logp(params, ids_BT, gpt):
  x_BTD = gpt.apply({'params': params}, ids_BT)[0]
  return jax.nn.log_softmax(unembed(gpt, params, x_BTD))


def ended(model, prompt, stop):
  """Yields ids up to the end of every continuation, and its text."""
  decode, ends = model.tokenizer.decode, {model.tokenizer.eot, *model.ends}
  before = decode(prompt)
  for ids in itertools.product(range(model.tokenizer.vocab), repeat=NEW):
    for n in range(1, NEW + 1):
      written = n - (ids[n - 1] in ends)
      whole = decode([*prompt, *ids[:written]])
      text = whole[len(os.path.commonprefix([before, whole])) :]
      found = first_stop(text, stop)
      if found or ids[n - 1] in ends or n == NEW:
        yield ids[:n], text[: found[0]] if found else text
        break


def exhaustive(model, prompt, stop, alpha):
  """Returns (text, score) of every text there is: of those of one text the best."""
  each = dict(ended(model, prompt, stop))
  rows = np.zeros((len(each), model.config.T), np.int32)
  for row, ids in zip(rows, each, strict=True):
    row[: len(prompt) + len(ids)] = [*prompt, *ids]
  logp = np.asarray(next_logp(model.params, rows, model.gpt))
  best = {}
  for row, (ids, text) in zip(logp, each.items(), strict=True):
    total = sum(row[len(prompt) - 1 + t, i] for t, i in enumerate(ids))
    score = total / ((5 + len(ids)) / 6) ** alpha
    best[text] = max(best.get(text, -np.inf), score)
  return sorted(best.items(), key=lambda x: -x[1])


def assert_exhaustive(model, prompts, stop, alpha=0.6):
  """All beams find every text of each prompt, with its score, in order."""
  beams = model.tokenizer.vocab**NEW
  settings = {'beams': beams, 'num_return': beams, 'max_new_tokens': NEW}
  found = model.generate_ids(prompts, stop=stop, length_penalty=alpha, **settings)
  for number, prompt in enumerate(prompts):
    rows = [one for one in found if one.number == number]
    wanted = exhaustive(model, prompt, stop, alpha)
    scores = [score for _, score in wanted]
    assert sorted(one.text for one in rows) == sorted(dict(wanted))
    # Sums of the same float32 numbers in another order.
    np.testing.assert_allclose([one.score for one in rows], scores, atol=3e-5)
    for one in rows:
      assert one.score == pytest.approx(dict(wanted)[one.text], abs=3e-5)
      n = len(one.ids) + len(one.stop_logp)
      total = one.logp + sum(one.stop_logp)
      assert one.score == pytest.approx(total / ((5 + n) / 6) ** alpha, abs=3e-5)


NEW = 3
PIECES = Pieces('a', 'b', 'ab', 'xab', 'a\n')


@pytest.mark.parametrize(
  'stop',
  [
    ['\n'],
    ['b'],  # 'xab' holds it, with text before
    ['ba'],  # over the border of two tokens
    ['bab', 'aa'],
    ['abab', 'ba'],  # they overlap
    ['bxabx', 'b', 'xa'],  # one within the other, one that never comes first
    ['aaa', 'xabxabb', 'b\n'],  # of three tokens
  ],
)
def test_all_beams_find_every_text_up_to_a_stop(stop):
  assert_exhaustive(model_of(PIECES), [[0], [1, 0, 3]], stop)


@pytest.mark.parametrize('alpha', [0.0, 2.0, -1.0])
def test_stops_with_other_penalties_and_several_ends(alpha):
  assert_exhaustive(model_of(PIECES, 2, ends=(1,)), [[2, 2]], ['\n', 'aba'], alpha)


@pytest.mark.parametrize('stop', [['a'], ['a '], ['b a', 'bb'], [' '], ['ab']])
def test_stops_among_words_that_blanks_part(stop):
  assert_exhaustive(model_of(gpt1()), [[2], [0], [5]], stop)


@pytest.mark.parametrize('stop', [['Я'], ['aЯ', 'a€'], ['€'], ['aa', 'Яa']])
def test_stops_of_characters_that_are_several_tokens(stop):
  pieces = BytePieces(b'a', b'\xd0', b'\xaf', b'\xe2\x82', b'\xac')
  # The last two prompts begin a character, which the new tokens may complete.
  assert_exhaustive(model_of(pieces), [[0, 0], [0, 1], [3]], stop)


@pytest.mark.parametrize('groups', [1, 2])
def test_few_beams_give_distinct_texts_that_hold_no_stop(groups):
  for seed in range(6):
    model = model_of(PIECES, seed)
    settings = {'beams': 4, 'num_return': 4, 'max_new_tokens': 9, 'groups': groups}
    for stop in (['ba'], ['b', '\n'], ['aab', 'bb']):
      found = model.generate_ids([[0], [3, 1]], stop=stop, **settings)
      for number in range(2):
        rows = [one for one in found if one.number == number]
        texts, scores = [one.text for one in rows], [one.score for one in rows]
        # Two groups may find the same.
        assert len(set(texts)) == len(rows) >= (4 if groups == 1 else 2)
        assert scores == sorted(scores, reverse=True)
        assert not any(one in text for one in stop for text in texts)


def test_a_stop_that_never_comes_changes_nothing():
  model = model_of(Pieces('a', 'b', 'c', 'd'))
  settings = {'beams': 3, 'num_return': 3, 'max_new_tokens': 8}
  free = model.generate_ids([[0], [2, 1]], **settings)
  assert model.generate_ids([[0], [2, 1]], stop='xyz', **settings) == free


def sentencepiece_model(**settings):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['the function returns', 'a value of this', 'or of that']),
    model_writer=model,
    minloglevel=2,
    **settings,
  )
  return tokenizers.SentencePiece(model.getvalue())


def byte_level_with_an_added_token():
  """GPT-2's form as a tokenizer.json: é is two ids."""
  pipeline = their_library.Tokenizer(models.BPE())
  pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  pipeline.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=258,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  pipeline.train_from_iterator(['ab ab ab'], trainer)
  pipeline.add_special_tokens(['<|endoftext|>', '<|user|>'])
  vocab = pipeline.get_vocab_size()
  eot = pipeline.token_to_id('<|endoftext|>')
  return TokenizerJson(pipeline.to_str(), eot, vocab)


SPELLED = {
  'tokenizer_json': byte_level_with_an_added_token,
  'bytes': tokenizers.Bytes,
  'chars': lambda: tokenizers.train('chars', ['abc .'], 0),
  'byte_bpe': lambda: tokenizers.train('byte_bpe', ['ab ab abc'], 259),
  'bpe': lambda: tokenizers.train('bpe', ['ab ab abc \n' * 9], 264),
  'numbers': lambda: tokenizers.Numbers(20, 20),
  'gpt1': gpt1,
  'dummy': lambda: sentencepiece_model(vocab_size=24, model_type='bpe'),
  'blanks': lambda: sentencepiece_model(
    vocab_size=24, model_type='bpe', remove_extra_whitespaces=False
  ),
  'fallback': lambda: sentencepiece_model(
    vocab_size=280, model_type='bpe', byte_fallback=True
  ),
}


@pytest.mark.parametrize('name', SPELLED)
def test_what_ids_write_is_what_they_are_decoded_to(name):
  tokenizer, draw = SPELLED[name](), random.Random(0)
  plain = [i for i in range(tokenizer.vocab) if tokenizer.decode([i])]
  spelled = spelling(tokenizer)
  for n in range(300):
    ids = draw.choices(plain, k=n % 30)
    if not any(tokenizer.decode([i]) == '\ufffd' for i in ids) or name != 'fallback':
      wanted = tokenizer.decode(ids)
      found = spelled.spelled(ids).decode(errors='replace')
      # SentencePiece writes a mark for each byte of a broken character.
      assert re.sub('\ufffd+', '\ufffd', found) == re.sub('\ufffd+', '\ufffd', wanted)


@pytest.mark.parametrize('name', SPELLED)
def test_the_end_of_a_prompt_tells_what_is_written_after_it(name):
  tokenizer, draw = SPELLED[name](), random.Random(1)
  plain = [i for i in range(tokenizer.vocab) if i != tokenizer.eot]
  for n in range(200):
    prompt, new = draw.choices(plain, k=n % 50), draw.choices(plain, k=9)
    continued = Continued.of(tokenizer, prompt, ())
    assert len(continued.tail) <= 32
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + new)
    wanted = whole[len(os.path.commonprefix([before, whole])) :]
    assert continued.text(new) == wanted


def test_tokens_that_end_one_text_do_not_crowd_out_another():
  pieces = Pieces('\n', '\n\n', '\na', '\nb', 'a', 'b')
  model = model_of(pieces)
  params = jax.tree.map(np.zeros_like, model.params)
  # Whatever stands before, the logits are these: four ways to end are likeliest.
  params['ln_f']['bias'][0] = 1
  params['wte'][: pieces.vocab, 0] = 2, 2, 2, 2, 1, 0.9, -9
  model = LanguageModel(params, model.gpt, pieces)
  settings = {'beams': 3, 'num_return': 3, 'max_new_tokens': 2, 'length_penalty': 0}
  found = model.generate_ids([[4]], stop='\n', **settings)
  assert [one.text for one in found] == ['', 'a', 'b']
  p = np.exp([2, 2, 2, 2, 1, 0.9, -9])
  logp = np.log(p / p.sum())
  wanted = [logp[0], logp[4] + logp[0], logp[5] + logp[0]]
  np.testing.assert_allclose([one.score for one in found], wanted, atol=1e-4)


@pytest.mark.parametrize('make', [lambda: PIECES, gpt1])
@pytest.mark.parametrize('stop', [['b'], ['ba', 'aab'], ['abab', 'b\n', 'a a'], [' b']])
def test_hashes_are_equal_where_texts_are(make, stop):
  tokenizer = make()
  each = dict(ended(model_of(tokenizer), [0], stop))
  spelled, ends = spelling(tokenizer), (tokenizer.eot,)
  automaton = stops.automaton(tuple(stop), spelled, tokenizer.vocab, ends)
  at = np.full((1, len(each)), stops.start(stop, spelled, [0]))
  hashes = np.zeros((1, len(each), 2), np.uint32)
  for t in range(NEW):
    token = np.array([[ids[t] if t < len(ids) else tokenizer.eot for ids in each]])
    there = [[t < len(ids) for ids in each]]
    to, later = automaton.after(at, hashes, token)
    at = np.where(there, to, at)
    hashes = np.where(np.array(there)[..., None], later, hashes)
  pairs = {
    (tuple(one), text)
    for one, text in zip(hashes[0].tolist(), each.values(), strict=True)
  }
  assert len(pairs) == len(set(each.values())) == len({one for one, _ in pairs})


def test_parts_of_characters_are_spelled_by_a_tokenizer_json_too():
  tokenizer = byte_level_with_an_added_token()
  ids = tokenizer.encode('aé')
  assert len(ids) == 3
  ids.insert(2, tokenizer.added['<|user|>'])
  assert spelling(tokenizer).spelled(ids) == 'aé'.encode()
