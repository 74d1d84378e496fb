"""The GPT: shapes, causality, the cache, and a naive oracle."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.model import attention, gradients, layers, quantize
from gpt_jax.model.gpt import GPT, empty_cache, init_params, last_token, unembed
from gpt_jax.model.gpt_config import Execution, GPTConfig

# float32 sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}
HOW = Execution()
TINY = GPTConfig.of(config.Model(L=2, D=16, N=2, T=12), vocab=11)


# Compiled as a whole: one program instead of one for each operation.
initial = jax.jit(init_params, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(2, 3))
def forward(params, ids, cfg=TINY, how=HOW, drop=None, **cached):
  """Returns logits, of the last token of each row where there is a cache; the cache."""
  gpt = GPT(cfg, how)
  x, cache = gpt.apply({'params': params}, ids, drop=drop, **cached)
  x = last_token(x, cached['length_B']) if cached else x
  return unembed(gpt, params, x, drop), cache


def enlarged(params):
  """Returns larger weights than at the start, so that every part matters."""
  draw = np.random.default_rng(1).normal
  return jax.tree.map(
    lambda p: p + np.float32(0.3) * draw(size=p.shape).astype(np.float32),
    jax.device_get(params),
  )


@pytest.fixture(scope='module')
def params():
  return enlarged(initial(TINY, 0))


@pytest.fixture(scope='module')
def ids():
  return np.random.default_rng(0).integers(0, 11, (3, 12)).astype(np.int32)


def naive_gpt(params, ids, c):
  """One row, one head at a time, in float64 numpy."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

  def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p['scale'] + p.get('bias', 0)

  def linear(x, p):
    return x @ p['kernel'] + p.get('bias', 0)

  def activation(x):
    if c.activation == 'relu':
      return np.maximum(x, 0)
    if c.activation == 'gelu':
      return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

  def attention(x, p, kind):
    q, k, v = (linear(x, p[name]) for name in 'qkv')
    heads = []
    for head in range(c.N):
      part = slice(head * H, (head + 1) * H)
      out = np.zeros((T, H))
      for t in range(T):
        first = max(0, t + 1 - c.band) if kind == 'banded' else 0
        a = k[first : t + 1, part] @ q[t, part]
        if c.mup_base_N:
          a = a * math.sqrt(c.mup_base / c.mup_base_N) / H
        else:
          a = a / math.sqrt(H) if c.attention_scale else a
        weights = np.exp(a - a.max())
        out[t] = weights / weights.sum() @ v[first : t + 1, part]
      heads.append(out)
    return linear(np.concatenate(heads, -1), p['o'])

  def mlp(x, p):
    return linear(activation(linear(x, p['up'])), p['down'])

  T, H = len(ids), c.D // c.N
  x = p['wte'][ids] + p['wpe'][:T]
  for layer, kind in enumerate(c.attention):
    block = p[f'h_{layer}']
    if c.norm == 'post':
      x = norm(x + attention(x, block['attn'], kind), block['ln_1'])
      x = norm(x + mlp(x, block['mlp']), block['ln_2'])
    else:
      x = x + attention(norm(x, block['ln_1']), block['attn'], kind)
      x = x + mlp(norm(x, block['ln_2']), block['mlp'])
  x = norm(x, p['ln_f']) if c.norm == 'pre' else x
  x = x * c.mup_base / c.D if c.mup_base else x
  return x @ (p['wte'] if c.tied else p['lm_head']).T


VARIANTS = {
  'GPT-2': {},
  'GPT-1': {'norm': 'post', 'scaled_init': False},
  'GPT-3': {'attention': 'dense,banded', 'band': 3},
  'all layers banded': {'attention': 'banded', 'band': 4},
  'a band of one': {'attention': 'banded', 'band': 1},
  'GPT-Neo': {
    'attention': 'dense,banded',
    'band': 5,
    'attention_scale': False,
    'qkv_bias': False,
  },
  'untied, no biases, ReLU': {'tied': False, 'bias': False, 'activation': 'relu'},
  'maximal update, wider heads': {'mup_base': 4, 'mup_base_N': 2},
  'maximal update, more heads': {'mup_base': 8, 'norm': 'post'},
  'exact GELU, odd heads': {'activation': 'gelu', 'D': 15, 'N': 3, 'F': 7},
}


def variant(name):
  """Returns a small shape and parameters of it, large enough to matter."""
  fields = {'L': 3, 'D': 16, 'N': 2, 'T': 12} | VARIANTS[name]
  cfg = GPTConfig.of(config.Model(**fields), vocab=11)
  return cfg, enlarged(initial(cfg, 0))


@pytest.mark.parametrize('name', VARIANTS)
def test_logits_equal_a_naive_gpt_in_numpy(name, ids):
  cfg, params = variant(name)
  logits, _ = forward(params, ids, cfg)
  for row, found in zip(ids, np.asarray(logits), strict=True):
    wanted = naive_gpt(params, row, cfg)
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
    for path, leaf in jax.tree_util.tree_leaves_with_path(initial(TINY, 0))
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
  cfg = dataclasses.replace(TINY, bias=False)
  paths = [p for p, _ in jax.tree_util.tree_leaves_with_path(initial(cfg, 0))]
  assert not [p for p in paths if p[-1].key == 'bias']


def test_weights_that_write_to_the_residual_stream_start_smaller():
  cfg = GPTConfig.of(config.Model(L=8, D=128, N=4, T=12), vocab=11)
  block = initial(cfg, 0)['h_0']
  assert np.std(block['attn']['q']['kernel']) == pytest.approx(0.02, rel=0.05)
  for kernel in (block['attn']['o']['kernel'], block['mlp']['down']['kernel']):
    assert np.std(kernel) == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize('name', ['GPT-2', 'GPT-1', 'GPT-3', 'GPT-Neo'])
def test_the_cache_gives_the_logits_of_the_full_forward_pass(name, ids):
  cfg, params = variant(name)
  full, _ = forward(params, ids, cfg)
  length_B = jnp.array([5, 2, 4])
  logits, cache = forward(
    params, ids[:, :5], cfg, cache=empty_cache(GPT(cfg), 3, 15), length_B=length_B
  )
  for row, n in enumerate([5, 2, 4]):
    np.testing.assert_allclose(logits[row], full[row, n - 1], **CLOSE)
  for i in range(6):
    new = jnp.stack([ids[row, n + i] for row, n in enumerate([5, 2, 4])])
    logits, cache = forward(
      params, new[:, None], cfg, cache=cache, length_B=jnp.ones(3, int)
    )
    for row, n in enumerate([5, 2, 4]):
      np.testing.assert_allclose(logits[row], full[row, n + i], **CLOSE)
  np.testing.assert_array_equal(cache.fill_B, length_B + 6)


def test_a_band_as_wide_as_the_text_is_dense(ids):
  cfg, params = variant('GPT-3')
  dense = dataclasses.replace(cfg, attention=('dense',) * 3)
  wide = dataclasses.replace(cfg, attention=('banded',) * 3, band=12)
  np.testing.assert_array_equal(
    forward(params, ids, wide)[0], forward(params, ids, dense)[0]
  )


@pytest.mark.parametrize('T, band', [(12, 3), (12, 5), (7, 4), (9, 8), (6, 1)])
def test_a_position_of_a_banded_layer_sees_exactly_its_band(T, band):
  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (jax.random.normal(key, (1, 2, T, 4)) for key in keys)

  def output(v):
    return attention.attend_banded(q, k, v, band, None).sum((0, 1, 3))

  seen_TT = np.asarray(jax.jit(jax.jacobian(output))(v)).any((1, 2, 4))
  t, s = np.arange(T)[:, None], np.arange(T)
  np.testing.assert_array_equal(seen_TT, (s <= t) & (s > t - band))


def test_a_banded_layer_builds_no_array_of_all_pairs_of_positions():
  T, band = 512, 32
  shape = jax.ShapeDtypeStruct((1, 1, T, 8), jnp.float32)

  def total(q):
    return attention.attend_banded(q, q, q, band, None).sum()

  traced = jax.make_jaxpr(jax.grad(total))(shape)
  sizes = [math.prod(v.aval.shape) for e in traced.eqns for v in e.outvars]
  assert max(sizes) == T * 2 * band


@pytest.mark.parametrize(
  ('name', 'ways'),
  [
    ('GPT-1', {'remat': 'block'}),
    ('GPT-3', {'remat': 'attention', 'scan': True}),
    ('GPT-3', {'remat': 'block', 'scan': True}),
  ],
)
def test_remat_and_scan_give_the_gradients_of_keeping_everything(name, ways, ids):
  cfg, params = variant(name)

  @partial(jax.jit, static_argnums=1)
  def gradient(params, how):
    return jax.grad(loss)(params, how)

  def loss(params, how):
    keys = jax.random.split(jax.random.key(0), len(ids))
    drop = layers.Dropout(keys, jnp.float32(0.3), jax.random.key(1))
    return jax.nn.log_softmax(forward(params, ids, cfg, how, drop)[0])[..., 3].sum()

  for a, b in zip(
    jax.tree.leaves(gradient(params, HOW)),
    jax.tree.leaves(gradient(params, Execution(**ways))),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, **CLOSE)


def test_dropout_is_in_every_place_and_drawn_anew_in_each(ids):
  cfg = GPTConfig.of(config.Model(L=2, D=32, N=2, T=4, norm='post'), vocab=11)
  rows, rate = 512, 0.25
  drop = layers.Dropout(
    jax.random.split(jax.random.key(0), rows), jnp.float32(rate), jax.random.key(1)
  )
  params = enlarged(initial(cfg, 0))
  one = np.full((rows, 1), 3, np.int32)  # a single token: its one weight is a head's

  @jax.jit
  def inside(params):
    (x, _), seen = GPT(cfg).apply(
      {'params': params}, one, drop=drop, capture_intermediates=True, mutable=True
    )
    return x, seen['intermediates']

  _, seen = inside(params)
  embedded = jnp.broadcast_to(params['wte'][3] + params['wpe'][0], (rows, 1, cfg.D))
  x = np.asarray(layers.apply_dropout(embedded, drop.at(cfg.L)))[:, 0]
  masks = {}
  for layer in ('h_0', 'h_1'):
    # Each returns the residual sum: where its branch is dropped, what it was given.
    attn = np.asarray(seen[layer]['attn']['__call__'][0][0])[:, 0]
    normed = np.asarray(seen[layer]['ln_1']['__call__'][0])[:, 0]
    mlp = np.asarray(seen[layer]['mlp']['__call__'][0])[:, 0]
    masks[layer, 'attn'] = np.isclose(attn, x, rtol=1e-6, atol=1e-6)
    masks[layer, 'mlp'] = np.isclose(mlp, normed, rtol=1e-6, atol=1e-6)
    x = np.asarray(seen[layer]['__call__'][0][0])[:, 0]
  # The residual branches: 16,384 entries, a standard deviation of 0.003.
  for name, mask in masks.items():
    assert mask.mean() == pytest.approx(rate, abs=0.02), name
  names = list(masks)
  for i, a in enumerate(names):
    for b in names[i + 1 :]:  # independent draws agree so often
      agree = (masks[a] == masks[b]).mean()
      assert agree == pytest.approx(rate**2 + (1 - rate) ** 2, abs=0.02), (a, b)

  # The embeddings.
  bare = dataclasses.replace(cfg, L=0, attention=())
  x = np.asarray(
    jax.jit(lambda p: GPT(bare).apply({'params': p}, one, drop=drop)[0])(params)
  )[:, 0]
  kept = params['wte'][3] + params['wpe'][0]
  assert (x == 0).mean() == pytest.approx(rate, abs=0.02)
  np.testing.assert_allclose(x, np.where(x == 0, 0, kept / (1 - rate)), rtol=1e-4)
  assert len(np.unique(x == 0, axis=0)) > 500

  # The weights of attention, dense and banded: with v = 1 and T equal keys, a sum of
  # the weights that are left.
  T = 64
  k = jnp.zeros((rows, 2, T, 8))
  for band in (T, 16):
    seen = min(band, T)
    y = attention.attend_text(k, k, k + 1, band=band, kernel='plain', drop=drop)[
      :, :, -1
    ]
    left = np.asarray(y) * (1 - rate)
    assert left.mean() == pytest.approx(1 - rate, abs=0.02)
    assert left[:, :, 0].std() == pytest.approx(
      np.sqrt(rate * (1 - rate) / seen), rel=0.1
    )
    heads = left[:, :, 0]
    assert abs(np.corrcoef(heads[:, 0], heads[:, 1])[0, 1]) < 0.2


def test_dropout_of_the_embedding_matrices_reaches_look_up_and_output(ids):
  cfg, params = variant('GPT-1')
  cfg = dataclasses.replace(cfg, L=0, attention=(), dropout_wte=True)
  drop = layers.Dropout(
    jax.random.split(jax.random.key(0), 3), jnp.float32(0.5), jax.random.key(1)
  )
  wte, wpe = (
    layers.drop_matrix(params[name], drop.at(place))
    for place, name in enumerate(('wte', 'wpe'))
  )
  assert np.mean(np.asarray(wte) == 0) == pytest.approx(0.5, abs=0.1)
  wanted = (wte[ids] + wpe[:12]) @ wte.T
  found, _ = forward(params, ids, cfg, drop=drop)
  np.testing.assert_allclose(found[..., :11], wanted[..., :11], **CLOSE)


def test_layer_norm_adds_1e_5_to_the_variance():
  x = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32) * 1e-3
  for how in ('written', 'plain'):
    norm = layers.LayerNorm(True, 'float32', how)
    found = norm.apply({'params': {'scale': np.ones(16), 'bias': np.zeros(16)}}, x)
    y = x - x.mean(-1, keepdims=True)
    wanted = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_close_to_float32(params, ids):
  half = Execution(dtype='bfloat16')
  wanted, found = forward(params, ids)[0], forward(params, ids, how=half)[0]
  assert found.dtype == jnp.float32
  p, q = jax.nn.softmax(wanted), jax.nn.softmax(found)
  # bfloat16 keeps 8 bits of a product.
  assert float(jnp.abs(p - q).max()) < 0.05


def test_the_gradient_of_matmul_is_that_of_a_plain_product():
  key = jax.random.key(0)
  x, w = jax.random.normal(key, (2, 3, 4)), jax.random.normal(key, (4, 5))

  def loss(product):
    return lambda x, w: jnp.sin(product(x, w)).sum()

  found = jax.grad(loss(gradients.matmul), (0, 1))(x, w)
  wanted = jax.grad(loss(jnp.matmul), (0, 1))(x, w)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, **CLOSE)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
  keys = jax.random.split(jax.random.key(0), 4)
  drop = layers.Dropout(keys, jnp.float32(0.3), keys[0])
  y = np.asarray(layers.apply_dropout(jnp.ones((4, 50_000)), drop))
  # 200,000 draws: a standard deviation of 0.001.
  assert np.mean(y == 0) == pytest.approx(0.3, abs=0.005)
  assert y.mean() == pytest.approx(1, abs=0.01)
  assert len(np.unique(y)) == 2


def test_a_row_draws_the_same_dropout_beside_other_rows():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 7, 5))

  def draw(keys, x):
    drop = layers.Dropout(keys, jnp.float32(0.5), jax.random.key(1))
    return layers.apply_dropout(x, drop.at(3))

  np.testing.assert_array_equal(draw(keys, x)[2:], draw(keys[2:], x[2:]))


def test_transposed_kernels_give_the_same_logits(ids):
  cfg, params = variant('GPT-3')
  again = quantize.transposed(params)
  assert 'kernel' not in again['h_0']['attn']['q']
  for rows in (ids, ids[:1, :1]):
    np.testing.assert_allclose(
      forward(params, rows, cfg)[0], forward(again, rows, cfg)[0], **CLOSE
    )


def test_kernels_in_8_bits_compute_with_the_nearest_of_255_values(ids):
  cfg, params = variant('GPT-2')
  small = jax.jit(quantize.quantized)(params)

  def rounded(path, leaf):
    if path[-1].key not in ('kernel', 'wte'):
      return leaf
    axis = 0 if path[-1].key == 'kernel' else 1
    scale = np.maximum(np.abs(leaf).max(axis=axis, keepdims=True), 1e-30) / 127
    return np.round(leaf / scale) * scale

  wanted = jax.tree_util.tree_map_with_path(rounded, params)
  kernel = small['h_0']['mlp']['up']['kernel_int8']
  assert kernel.dtype == jnp.int8 and int(jnp.abs(kernel).max()) == 127
  for rows in (ids, ids[:1, :1]):  # one vector goes another way
    np.testing.assert_allclose(
      forward(small, rows, cfg)[0],
      forward(wanted, rows, cfg)[0],
      **CLOSE,
    )
  exact = forward(params, ids, cfg)[0]
  assert not np.allclose(exact, forward(small, ids, cfg)[0], atol=1e-4)


@pytest.mark.parametrize('name', ['GPT-2', 'GPT-1', 'GPT-3'])
def test_plain_gradients_are_the_written_ones_and_values_are_equal(name, ids):
  cfg, params = variant(name)

  def loss(params, how):
    logp = jax.nn.log_softmax(forward(params, ids, cfg, how)[0][..., :11])
    return jnp.take_along_axis(logp, ids[..., None], -1).mean()

  pairs = [
    jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, Execution(gradients=g))
    for g in ('written', 'plain')
  ]
  np.testing.assert_array_equal(pairs[0][0], pairs[1][0])
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(pairs[0][1]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-5),
    pairs[0][1],
    pairs[1][1],
  )


def test_the_model_is_differentiated_forward_with_plain_gradients(ids):
  cfg, params = variant('GPT-3')
  direction = jax.tree.map(
    lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params
  )

  def loss(params, gradients='plain'):
    logits = forward(params, ids, cfg, Execution(gradients=gradients))[0]
    return jax.nn.log_softmax(logits[..., :11])[..., 3].mean()

  along = jax.jit(lambda d: jax.jvp(loss, (params,), (d,))[1])(direction)
  grads = jax.jit(jax.grad(loss))(params)
  dot = sum(
    jnp.vdot(a, b)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
  )
  np.testing.assert_allclose(along, dot, rtol=1e-4)

  # A Hessian-vector product, against a difference of gradients.
  curved = jax.jit(lambda d: jax.jvp(jax.grad(loss), (params,), (d,))[1])(direction)
  step = 1e-3
  ahead, behind = (
    jax.jit(jax.grad(loss))(
      jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction)
    )
    for sign in (1, -1)
  )
  for c, a, b in zip(*map(jax.tree.leaves, (curved, ahead, behind)), strict=True):
    difference = (a - b) / (2 * step)
    np.testing.assert_allclose(
      c, difference, atol=2e-2 * float(jnp.abs(c).max()) + 1e-4
    )
  linear = jax.linearize(loss, params)[1]
  np.testing.assert_allclose(linear(direction), along, rtol=1e-5)

  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda p: loss(p, 'written'), (params,), (direction,))
