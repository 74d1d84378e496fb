"""What lm-eval asks, answered without it: as its own model answered, recorded."""

import json
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes import gpt2_of

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.inference import lm_eval_requests
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig

GOLDENS = pathlib.Path(__file__).resolve().parent / 'goldens'
sys.path.append(str(GOLDENS))
import make_generate  # noqa: E402
import make_lm_eval  # noqa: E402

GOLDEN = json.loads(make_lm_eval.PATH.read_text(encoding='utf-8'))
ANSWERS = {
  'loglikelihood': lm_eval_requests.likelihoods,
  'loglikelihood_rolling': lm_eval_requests.rolling_likelihoods,
  'generate_until': lm_eval_requests.written,
}


class Asked(NamedTuple):
  """What is read of lm-eval's Instance."""

  args: tuple


def answered(model, kind, *arguments) -> tuple[list, dict[str, Any]]:
  """Returns the answers, and what was kept of them for lm-eval's cache."""
  kept = {}

  def keep(name, args, answer):
    assert name == kind
    kept[json.dumps(args)] = answer

  requests = [Asked(tuple(args)) for args in arguments]
  return ANSWERS[kind](model, requests, keep), kept


@pytest.fixture(scope='module')
def model():
  merges = [tuple(pair) for pair in GOLDEN['merges']]
  tokenizer = tokenizers.ByteLevel(GOLDEN['vocab'], merges)
  weights = make_lm_eval.weights(GOLDEN['vocab'])
  return gpt2_of(weights, make_generate.L, make_generate.N, tokenizer)


def golden(kind):
  found = [each for each in GOLDEN['requests'] if each['kind'] == kind]
  assert len(found) >= 7
  return [each['args'] for each in found], [each['answer'] for each in found]


def test_likelihoods_are_those_of_lm_eval(model):
  arguments, wanted = golden('loglikelihood')
  found, kept = answered(model, 'loglikelihood', *arguments)
  logp, greedy = zip(*found, strict=True)
  their_logp, their_greedy = zip(*wanted, strict=True)
  np.testing.assert_allclose(logp, their_logp, atol=1e-3, rtol=0)
  assert greedy == their_greedy and {True, False} == set(greedy)
  for args, answer in zip(arguments, found, strict=True):
    assert kept[json.dumps(args)] == answer


def test_rolling_likelihoods_are_those_of_lm_eval(model):
  arguments, wanted = golden('loglikelihood_rolling')
  found, kept = answered(model, 'loglikelihood_rolling', *arguments)
  np.testing.assert_allclose(found, wanted, atol=3e-3, rtol=0)
  longest = max((text for (text,) in arguments), key=len)
  assert len(model.tokenizer.encode(longest)) > 2 * model.config.T
  assert kept[json.dumps([longest])] == found[arguments.index([longest])]


def test_what_is_written_is_what_lm_eval_writes(model):
  arguments, wanted = golden('generate_until')
  found, kept = answered(model, 'generate_until', *arguments)
  assert found == wanted
  assert len(set(found)) > 6
  assert {kept[json.dumps(args)] for args in arguments} == set(found)


def test_windows_predict_every_id_once_and_the_last_is_full():
  windows = list(lm_eval_requests.rolling_windows(range(10), 99, 4))
  assert windows == [
    ([99], [0, 1, 2, 3]),
    ([3], [4, 5, 6, 7]),
    ([5, 6, 7], [8, 9]),
  ]
  assert list(lm_eval_requests.rolling_windows([7], 99, 4)) == [([99], [7])]
  assert list(lm_eval_requests.rolling_windows([], 99, 4)) == []


@pytest.mark.parametrize('how', [{'do_sample': True}, {'temperature': 1.5}])
def test_a_request_that_is_repeated_is_drawn_anew(model, how):
  request = 'The ferry', how | {'until': [], 'max_gen_toks': 8, 'top_k': 40}
  found, _ = answered(model, 'generate_until', *[request] * 3)
  assert len(set(found)) == 3
  assert answered(model, 'generate_until', *[request] * 3)[0] == found


def test_answers_longer_than_the_context_are_written(model):
  request = make_lm_eval.TEXT, {'until': [], 'max_gen_toks': 70}
  (text,), _ = answered(model, 'generate_until', request)
  assert len(text) >= 70 > model.config.T


def test_an_empty_context_is_end_of_text(model):
  how = {'until': [], 'max_gen_toks': 9}
  (text,), _ = answered(model, 'generate_until', ('', how))
  eot = [model.tokenizer.eot]
  (wanted,) = model.generate_ids([eot], max_new_tokens=9, method='greedy')
  assert text == wanted.text


def test_a_setting_that_we_do_not_know_is_refused(model):
  with pytest.raises(UserError, match='no setting num_beams'):
    answered(model, 'generate_until', ('a', {'until': [], 'num_beams': 2}))


def test_no_text_is_lost_where_pieces_span_words(trained, text):
  tokenizer = trained['bpe']
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=32), tokenizer.vocab)
  model = LanguageModel(init_params(cfg, 0), GPT(cfg), tokenizer)
  spanned = 0
  for at in range(100, 3000, 17):
    context, option = text[at - 90 : at], text[at : at + 20]
    before, after = lm_eval_requests.encode_pair(tokenizer, context, option)
    assert after
    assert tokenizer.decode(before + after) == context + option
    spanned += before + after != tokenizer.encode(context + option)
  assert spanned  # or this shows nothing
  ((logp, _),), _ = answered(model, 'loglikelihood', (' ', 'a'))
  assert logp == pytest.approx(model.score('', ' a').logp, abs=1e-4)
