"""Explanations: attention sums to one over what may be seen; log p is that of score."""

import base64
import functools
import json
import re

import jax
import numpy as np
import pytest

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import explain

T, BAND = 24, 4
KINDS = {
  'pre': {},
  'post': {'norm': 'post'},
  'banded': {'attention': 'dense,banded', 'band': BAND},
  'scan': {'scan': True},
  'unscaled': {'attention_scale': False, 'tied': False, 'bias': False},
}


@functools.cache
def model(kind):
  tokenizer = tokenizers.Characters(' abcdefgh')
  cfg = GPTConfig.of(config.Model(L=2, D=16, N=2, T=T, **KINDS[kind]), tokenizer.vocab)
  like = jax.eval_shape(lambda: init_params(cfg, 0))
  draw = np.random.default_rng(0).standard_normal
  params = jax.tree.map(lambda x: 0.5 * draw(x.shape, np.float32), like)
  return LanguageModel(params, GPT(cfg), tokenizer)


@pytest.mark.parametrize('kind', KINDS)
def test_attention_is_a_distribution_over_what_may_be_seen(kind):
  found = model(kind).explain('abc de fgh ab')
  n = 1 + len('abc de fgh ab')
  assert found.attention.shape == (2, 2, n, n)
  np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-6)
  at = np.arange(n)
  allowed = np.broadcast_to(at[:, None] >= at, found.attention.shape).copy()
  if kind == 'banded':
    allowed[1] &= at[:, None] - at < BAND
  assert (found.attention[~allowed] == 0).all()
  assert (found.attention[allowed] > 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_log_probabilities_are_those_of_score(kind):
  text = 'abc de fgh ab'
  found = model(kind).explain(text)
  expected = model(kind).score('', text).token_logp
  np.testing.assert_allclose(found.logp, expected, atol=1e-4)
  np.testing.assert_allclose(np.exp(found.next_logp).sum(-1), 1, atol=1e-5)
  assert found.pieces == ['', *text] and len(found.ids) == 1 + len(text)


@pytest.mark.parametrize('kind', KINDS)
def test_attention_and_states_are_those_that_the_model_computes_with(kind):
  """What the last layer adds to its state follows from its attention and values."""
  one = model(kind)
  found = one.explain('abcdefgh ab')
  layer = one.params['h_1']
  x = found.hidden[1]
  norm = one.config.norm

  def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p['scale'] + p.get('bias', 0)

  def linear(x, p):
    return x @ p['kernel'] + p.get('bias', 0)

  read = layer_norm(x, layer['ln_1']) if norm == 'pre' else x
  v = linear(read, layer['attn']['v']).reshape(len(x), 2, 8)
  mixed = np.einsum('nts,snh->tnh', found.attention[1], v).reshape(len(x), 16)
  y = x + linear(mixed, layer['attn']['o'])
  y = layer_norm(y, layer['ln_1']) if norm == 'post' else y

  def mlp(x):
    up = linear(x, layer['mlp']['up'])
    return linear(np.asarray(jax.nn.gelu(up, approximate=True)), layer['mlp']['down'])

  z = y + mlp(layer_norm(y, layer['ln_2']) if norm == 'pre' else y)
  z = layer_norm(z, layer['ln_2']) if norm == 'post' else z
  np.testing.assert_allclose(found.hidden[2], z, rtol=1e-3, atol=1e-3)
  ids = np.array(found.ids)
  embedded = one.params['wte'][ids] + one.params['wpe'][: len(ids)]
  np.testing.assert_allclose(found.hidden[0], embedded, atol=1e-6)


@pytest.mark.parametrize('length', [0, T, 3 * T])
def test_a_text_that_does_not_fit_is_refused(length):
  with pytest.raises(UserError, match=f'a text of {length} tokens .* 1 .. {T - 1}'):
    model('pre').explain('a' * length)


def test_the_page_holds_what_it_shows(tmp_path):
  one, text = model('pre'), 'abc fgh de'
  explain.write(one, text, tmp_path / 'page.html')
  page = (tmp_path / 'page.html').read_text()
  found = one.explain(text)
  data = json.loads(re.search(r'const D = (\{.*\});', page)[1])
  n = len(found.ids)
  assert data['pieces'] == found.pieces and len(data['next']) == n
  weights = np.frombuffer(base64.b64decode(data['attention']), np.uint8)
  np.testing.assert_allclose(
    weights.reshape(2, 2, n, n) / 255, found.attention, atol=0.5 / 255 + 1e-6
  )
  np.testing.assert_allclose(data['bits'][1:], -found.logp / np.log(2), atol=1e-3)
  order = np.argsort(-found.next_logp[:-1], axis=1)
  ranks = [
    1 + row.tolist().index(i) for row, i in zip(order, found.ids[1:], strict=True)
  ]
  assert data['rank'] == [0, *ranks]
  for t, rows in enumerate(data['next'][:-1]):
    came = [(piece, p) for piece, p, came in rows if came]
    assert came == [(found.pieces[t + 1], pytest.approx(np.exp(found.logp[t])))]

  def ways(nodes, before=()):
    for node in nodes:
      own = (*before, node['token'])
      yield own, node['logp'], node['best']
      yield from ways(node['children'], own)

  best = [way for way in ways(data['tree']) if way[2]]
  (beam,) = one.generate_ids(
    [found.ids], beams=4, max_new_tokens=len(best), length_penalty=0
  )
  assert best[-1][0] == tuple(beam.ids)
  assert best[-1][1] == pytest.approx(beam.logp, abs=1e-4)


def test_a_text_cannot_break_out_of_the_page(tmp_path):
  tokenizer = tokenizers.Bytes()
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=40), tokenizer.vocab)
  like = jax.eval_shape(lambda: init_params(cfg, 0))
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
  one = LanguageModel(params, GPT(cfg), tokenizer)
  explain.write(one, '</script><b>x', tmp_path / 'page.html')
  page = (tmp_path / 'page.html').read_text()
  assert page.count('</script>') == 1 and '<b>' not in page.split('<script>')[1]


def test_half_a_character_is_shown_in_hex(tmp_path):
  tokenizer = tokenizers.Bytes()
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=40), tokenizer.vocab)
  like = jax.eval_shape(lambda: init_params(cfg, 0))
  params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
  one = LanguageModel(params, GPT(cfg), tokenizer)
  explain.write(one, 'aя', tmp_path / 'page.html')
  page = (tmp_path / 'page.html').read_text(encoding='utf-8')
  data = json.loads(re.search(r'const D = (\{.*\});', page)[1])
  assert data['pieces'] == ['', 'a', 'D1', '8F']
