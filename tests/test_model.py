"""The GPT: shapes, causality, the cache, and a naive oracle."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.model import layers
from gpt_jax.model.gpt import GPT, Shape, empty_cache, init_params

# float32 sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}
TINY = Shape.of(config.Model(L=2, D=16, N=2, T=12), vocab=11)


def forward(params, ids, shape=TINY, **kwargs):
  return GPT(shape).apply({'params': params}, jnp.asarray(ids), **kwargs)


@pytest.fixture(scope='module')
def params():
  # Larger weights than at the start, so that every part matters.
  made = init_params(TINY, 0)
  keys = iter(jax.random.split(jax.random.key(1), 100))
  return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), made)


@pytest.fixture(scope='module')
def ids():
  return np.random.default_rng(0).integers(0, 11, (3, 12)).astype(np.int32)


def naive_gpt(params, ids, c):
  """One row, one head at a time, in float64 numpy."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

  def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p['scale'] + p['bias']

  def linear(x, p):
    return x @ p['kernel'] + p['bias']

  def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

  T, H = len(ids), c.D // c.N
  x = p['wte'][ids] + p['wpe'][:T]
  for layer in range(c.L):
    block = p[f'h_{layer}']
    n = norm(x, block['ln_1'])
    q, k, v = (linear(n, block['attn'][name]) for name in 'qkv')
    heads = []
    for head in range(c.N):
      part = slice(head * H, (head + 1) * H)
      out = np.zeros((T, H))
      for t in range(T):
        a = k[: t + 1, part] @ q[t, part] / math.sqrt(H)
        weights = np.exp(a - a.max())
        out[t] = weights / weights.sum() @ v[: t + 1, part]
      heads.append(out)
    x = x + linear(np.concatenate(heads, -1), block['attn']['o'])
    n = norm(x, block['ln_2'])
    x = x + linear(gelu(linear(n, block['mlp']['up'])), block['mlp']['down'])
  return norm(x, p['ln_f']) @ p['wte'].T


def test_logits_equal_a_naive_gpt_in_numpy(params, ids):
  logits, _ = forward(params, ids)
  for row, found in zip(ids, np.asarray(logits), strict=True):
    wanted = naive_gpt(params, row, TINY)
    np.testing.assert_allclose(found[:, :11], wanted[:, :11], **CLOSE)


def test_the_padding_of_the_vocabulary_is_never_predicted(params, ids):
  logits, _ = forward(params, ids)
  assert logits.shape == (3, 12, 128)
  assert np.all(np.asarray(logits[..., 11:]) == -np.inf)


def test_no_logit_depends_on_a_later_token(params, ids):
  changed = ids.copy()
  changed[:, 7] = (changed[:, 7] + 1) % 11
  before, after = forward(params, ids)[0], forward(params, changed)[0]
  np.testing.assert_array_equal(before[:, :7], after[:, :7])
  assert np.all(np.any(before[:, 7:, :11] != after[:, 7:, :11], axis=-1))


def test_the_parameter_tree_is_as_documented():
  tree = {
    '/'.join(key.key for key in path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(init_params(TINY, 0))
  }
  block = {
    'ln_1/scale': (16,),
    'ln_1/bias': (16,),
    'ln_2/scale': (16,),
    'ln_2/bias': (16,),
    **{f'attn/{n}/kernel': (16, 16) for n in 'qkvo'},
    **{f'attn/{n}/bias': (16,) for n in 'qkvo'},
    'mlp/up/kernel': (16, 64),
    'mlp/up/bias': (64,),
    'mlp/down/kernel': (64, 16),
    'mlp/down/bias': (16,),
  }
  wanted = {'wte': (128, 16), 'wpe': (12, 16), 'ln_f/scale': (16,), 'ln_f/bias': (16,)}
  for layer in range(2):
    wanted |= {f'h_{layer}/{name}': shape for name, shape in block.items()}
  assert tree == wanted


def test_without_biases_no_parameter_is_called_bias():
  shape = dataclasses.replace(TINY, bias=False)
  paths = [p for p, _ in jax.tree_util.tree_leaves_with_path(init_params(shape, 0))]
  assert not [p for p in paths if p[-1].key == 'bias']


def test_gpt2_has_124439808_parameters():
  shape = Shape.of(config.Model(L=12, D=768, N=12, T=1024), vocab=50257)
  tree = jax.eval_shape(lambda: init_params(shape, 0))
  total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  assert total - (shape.V - 50257) * 768 == 124_439_808


def test_weights_that_write_to_the_residual_stream_start_smaller():
  shape = Shape.of(config.Model(L=8, D=128, N=4, T=12), vocab=11)
  block = init_params(shape, 0)['h_0']
  assert np.std(block['attn']['q']['kernel']) == pytest.approx(0.02, rel=0.05)
  for kernel in (block['attn']['o']['kernel'], block['mlp']['down']['kernel']):
    assert np.std(kernel) == pytest.approx(0.02 / 4, rel=0.05)


def test_the_cache_gives_the_logits_of_the_full_forward_pass(params, ids):
  full, _ = forward(params, ids)
  length_B = jnp.array([5, 2, 4])
  logits, cache = forward(
    params, ids[:, :5], cache=empty_cache(TINY, 3, 15), length_B=length_B
  )
  for row, n in enumerate([5, 2, 4]):
    np.testing.assert_allclose(logits[row], full[row, n - 1], **CLOSE)
  for i in range(6):
    new = jnp.stack([ids[row, n + i] for row, n in enumerate([5, 2, 4])])
    logits, cache = forward(
      params, new[:, None], cache=cache, length_B=jnp.ones(3, int)
    )
    for row, n in enumerate([5, 2, 4]):
      np.testing.assert_allclose(logits[row], full[row, n + i], **CLOSE)
  np.testing.assert_array_equal(cache.fill_B, length_B + 6)


def test_bfloat16_computes_close_to_float32(params, ids):
  shape = dataclasses.replace(TINY, dtype='bfloat16')
  wanted, found = forward(params, ids)[0], forward(params, ids, shape)[0]
  assert found.dtype == jnp.float32
  p, q = jax.nn.softmax(wanted), jax.nn.softmax(found)
  # bfloat16 keeps 8 bits of a product.
  assert float(jnp.abs(p - q).max()) < 0.05


def test_the_gradient_of_matmul_is_that_of_a_plain_product():
  key = jax.random.key(0)
  x, w = jax.random.normal(key, (2, 3, 4)), jax.random.normal(key, (4, 5))

  def loss(product):
    return lambda x, w: jnp.sin(product(x, w)).sum()

  found = jax.grad(loss(layers.matmul), (0, 1))(x, w)
  wanted = jax.grad(loss(jnp.matmul), (0, 1))(x, w)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, **CLOSE)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
  keys = jax.random.split(jax.random.key(0), 4)
  drop = layers.Dropout(keys, jnp.float32(0.3))
  y = np.asarray(layers.apply_dropout(jnp.ones((4, 50_000)), drop))
  # 200,000 draws: a standard deviation of 0.001.
  assert np.mean(y == 0) == pytest.approx(0.3, abs=0.005)
  assert y.mean() == pytest.approx(1, abs=0.01)
  assert len(np.unique(y)) == 2


def test_a_row_draws_the_same_dropout_beside_other_rows():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 7, 5))

  def draw(keys, x):
    return layers.apply_dropout(x, layers.Dropout(keys, jnp.float32(0.5)).at(3))

  np.testing.assert_array_equal(draw(keys, x)[2:], draw(keys[2:], x[2:]))
