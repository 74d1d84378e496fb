"""The flash attention of our own: the plain attention, dropout bits included."""

import itertools
import types
from functools import partial

import jax
import jax.extend.core
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
import updates

from gpt_jax import config
from gpt_jax.data import windows
from gpt_jax.model import attention, flash, kernels
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.model.layers import Dropout

# Sums of float32 in another order.
SAME = {'rtol': 1e-5, 'atol': 1e-5}


def draw(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def qkv(T, B=2, N=3, H=8):
  return tuple(draw(B, N, T, H, seed=seed) for seed in range(3))


def dropout(B, rate=0.3, seed=5):
  keys = jax.random.split(jax.random.key(seed), B)
  return Dropout(keys, jnp.float32(rate), jax.random.key(1))


def value_and_gradients(args, **how):
  """Returns attention and its gradients for q, k and v."""
  weights = draw(*args[0].shape, seed=9)

  def loss(*args):
    y = attention.attend_text(*args, **how)
    return (y.astype(jnp.float32) * weights).sum(), y

  (_, y), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*args)
  return y, *grads


def assert_close(a, b, **tolerance):
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(
      np.asarray(x, np.float32), np.asarray(y, np.float32), **tolerance or SAME
    )


def test_threefry_draws_the_bits_of_jax():
  key = jax.random.key(3)
  words = tuple(jax.random.key_data(key))
  count = jnp.arange(77, dtype=jnp.uint32)
  found = flash.threefry(words, jnp.zeros_like(count), count)
  np.testing.assert_array_equal(found, jax.random.bits(key, (7, 11)).reshape(-1))
  high, low = jnp.uint32([0, 1, 2**32 - 1]), jnp.uint32([5, 2**32 - 1, 0])
  pairs = jax.extend.random.threefry_2x32(words, jnp.concatenate([high, low]))
  np.testing.assert_array_equal(flash.threefry(words, high, low), pairs[:3] ^ pairs[3:])


@pytest.mark.parametrize('band', [7, 20_000, 32_767, 32_768])
def test_a_weight_is_drawn_by_its_place_among_all_weights(band):
  """In Python's own numbers, of more than 32 bits."""
  T, N = 32_768, 96
  form = flash._Form('interpret', T, band, True)
  for n, t in [(0, 0), (1, 31), (N - 1, T - 1), (50, 20_000)]:
    s = np.arange(max(0, t - band + 1), t + 1)
    blocks = -(-T // band)
    wanted = ((n * blocks + t // band) * band + t % band) * 2 * band
    wanted += s - (t // band - 1) * band
    if band == T:
      wanted = (n * T + t) * T + s
    place = flash._place(form, jnp.uint32(n), jnp.int32([[t]]), jnp.int32(s[None]))
    high, low = (np.asarray(word, np.int64)[0] for word in place)
    np.testing.assert_array_equal(high * 2**32 + low, wanted)


@pytest.mark.parametrize('drop', [None, dropout(2)], ids=['no dropout', 'dropout'])
@pytest.mark.parametrize('T, band', [(40, 40), (16, 16), (40, 16), (40, 7)])
def test_it_is_plain_attention_and_so_are_its_gradients(T, band, drop):
  how = {'band': band, 'drop': drop}
  assert_close(
    value_and_gradients(qkv(T), kernel='interpret', **how),
    value_and_gradients(qkv(T), kernel='plain', **how),
  )


def test_in_bfloat16_it_is_as_near_to_float32_as_plain_attention():
  how = {'band': 40, 'drop': dropout(2)}
  half = tuple(x.astype(jnp.bfloat16) for x in qkv(40))
  exact = value_and_gradients(
    tuple(x.astype(jnp.float32) for x in half), kernel='plain', **how
  )
  found = value_and_gradients(half, kernel='interpret', **how)
  assert all(x.dtype == jnp.bfloat16 for x in found)
  assert_close(found, exact, rtol=0.05, atol=0.1)


def test_it_stands_large_logits():
  q, k, v = qkv(40)
  how = {'band': 40, 'drop': None}
  found = value_and_gradients((1e4 * q, k, v), kernel='interpret', **how)
  assert all(np.isfinite(x).all() for x in found)
  wanted = value_and_gradients((1e4 * q, k, v), kernel='plain', **how)
  assert_close(found[:1], wanted[:1], rtol=1e-3, atol=1e-3)


def test_members_of_a_program_draw_their_own():
  args = tuple(draw(3, 2, 3, 20, 8, seed=seed) for seed in range(3))
  seeds = [dropout(2, seed=seed) for seed in range(3)]

  def attend(q, k, v, drop, kernel):
    return attention.attend_text(q, k, v, band=20, kernel=kernel, drop=drop)

  at_once = jax.vmap(lambda *args: attend(*args, 'interpret'))
  found = at_once(*args, jax.tree.map(lambda *leaf: jnp.stack(leaf), *seeds))
  for member in range(3):
    one = attend(*(x[member] for x in args), seeds[member], 'plain')
    np.testing.assert_allclose(found[member], one, **SAME)


@pytest.fixture(scope='module')
def plain_update():
  return updates.trained(updates.make_run(devices=1, model_attention='dense,banded'))


@pytest.mark.parametrize(
  'layout, accumulate, remat',
  [('', 1, 'none'), ('data=2,fsdp=2,tensor=2', 2, 'attention'), ('fsdp=4', 2, 'block')],
)
def test_layouts_and_micro_batches_draw_as_plain_attention_on_one_device(
  plain_update, layout, accumulate, remat, monkeypatch
):
  choice = kernels.Choice('interpret', '')
  monkeypatch.setattr(kernels, 'choose', lambda *_, **__: choice)
  run = updates.make_run(
    layout=layout,
    devices=0 if layout else 8,
    accumulate=accumulate,
    model_attention='dense,banded',
    model_remat=remat,
  )
  params, losses = updates.trained(run)
  np.testing.assert_allclose(losses, plain_update[1], **SAME)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, plain_update[0]
  )


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_it_lowers_for_a_gpu_and_a_tpu_and_says_what_it_computes(platform):
  kernel = {'cuda': 'triton', 'tpu': 'mosaic'}[platform]
  T, band, B, N, H = 300, 128, 2, 3, 24
  drop, half = dropout(B), tuple(x.astype(jnp.bfloat16) for x in qkv(T, B, N, H))

  def loss(*args):
    y = attention.attend_text(*args, band=band, kernel=kernel, drop=drop)
    return y.astype(jnp.float32).sum()

  traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*half)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  call = {'cuda': '@__gpu$xla.gpu.triton', 'tpu': '@tpu_custom_call'}[platform]
  assert text.count(f'custom_call {call}') == 3
  pairs = B * N * sum(min(t + 1, band) for t in range(T))
  width = 32 if platform == 'cuda' else 24
  costs = [eqn.params['cost_estimate'] for eqn in calls(traced.jaxpr)]
  assert sorted(cost.flops for cost in costs) == [
    2 * products * pairs * width for products in (2, 3, 4)
  ]
  # 7 or 8 of softmax, 3 of the band, and of a weight's bits 125 and 2 for the band; a
  # rotation is one instruction of a GPU instead of three.
  least = 97 if platform == 'cuda' else 137
  assert [cost.transcendentals for cost in costs] == [
    pairs * (least + more) for more in (0, 2, 3)
  ]


@pytest.mark.parametrize('apart', [False, True], ids=['joined', 'apart'])
@pytest.mark.parametrize('drop', [None, dropout(2)], ids=['no dropout', 'dropout'])
@pytest.mark.parametrize('T, band', [(40, 40), (40, 7)])
def test_it_says_the_operations_that_its_kernels_write_and_the_bytes(
  T, band, drop, apart
):
  B, N, H = 2, 3, 8
  how = {'band': band, 'drop': drop, 'kernel': 'interpret'}
  how['first_BT'] = jnp.zeros((B, T), jnp.int32) if apart else None

  def loss(*args):
    return attention.attend_text(*args, **how).astype(jnp.float32).sum()

  half = (x.astype(jnp.bfloat16) for x in qkv(T, B, N, H))
  traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*half)
  pairs, rows = B * N * sum(min(t + 1, band) for t in range(T)), 48  # blocks of 16
  of_rows = apart * B * rows * 4 + (drop is not None) * B * 4 * 4
  array, column = B * N * rows * H * 2, B * N * rows * 4
  # Queries, keys, values and results; the softmax's divisor; backward two such columns.
  moved = [4 * array + column, 5 * array + 2 * column, 6 * array + 2 * column]
  for eqn, least in zip(calls(traced.jaxpr), moved, strict=True):
    cost = eqn.params['cost_estimate']
    assert cost.bytes_accessed == least + of_rows
    assert cost.transcendentals == pairs * by_pair(eqn.params['jaxpr'], 16 * 16)


def by_pair(jaxpr, pairs):
  """Returns the operations of a kernel on elements of [Q, K], for each of them."""
  number = 0
  for eqn in jaxpr.eqns:
    inner = list(jax.extend.core.jaxprs_in_params(eqn.params))
    sizes = [atom.aval.size for atom in (*eqn.invars, *eqn.outvars)]
    turns = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    number += turns * sum(by_pair(each, pairs) for each in inner)
    # What is written or summed up has the pairs; products and copies count elsewhere.
    counts = sizes[0 if eqn.primitive.name.startswith('reduce') else -1] == pairs
    if counts and not inner and eqn.primitive.name not in MOVES:
      number += 1
  return number


MOVES = 'dot_general', 'broadcast_in_dim', 'iota'


def calls(jaxpr):
  """Returns the equations of a program that are kernels."""
  found = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'pallas_call':
      found.append(eqn)
    else:
      for inner in jax.extend.core.jaxprs_in_params(eqn.params):
        found += calls(inner)
  return found


def test_it_is_chosen_for_dropout_where_keys_are_those_it_draws_with(monkeypatch):
  fits = {'dtype': 'bfloat16', 'gradients': 'written', 'T': 512, 'H': 64}

  def chosen(platform, capability='9.0', **changed):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    return kernels.choose('auto', [device], **fits | {'dropout': True} | changed)

  assert chosen('gpu') == ('triton', 'cudnn needs no dropout')
  assert chosen('gpu', dtype='float32').kernel == 'triton'
  assert chosen('tpu') == ('mosaic', 'splash needs no dropout')
  assert chosen('gpu', dropout=False).kernel == 'cudnn'
  apart = {'dropout': False, 'apart': True}
  assert chosen('gpu', **apart) == ('triton', 'cudnn needs model.documents=joined')
  assert chosen('tpu', **apart).kernel == 'splash'
  for changed, lacking in [
    ({'capability': '7.5'}, 'triton needs compute capability 8.0'),
    ({'gradients': 'plain'}, 'triton needs model.gradients=written'),
    ({'H': 160}, 'triton needs heads of at most 128 features'),
    ({'T': 2**15 + 1}, 'triton needs a context of at most 32768 for dropout'),
  ]:
    kernel, why = chosen('gpu', **changed)
    assert kernel == 'plain'
    assert lacking in why
  assert 'mosaic needs a context of at most 4096' in chosen('tpu', T=8192).reason
  with jax.threefry_partitionable(False):
    kernel, why = chosen('gpu')
    assert kernel == 'plain'
    assert 'triton needs keys of threefry2x32' in why


FIRST = np.array([[0] * 5 + [5] * 17 + [22] * 18, [0] * 40], np.int32)


@pytest.mark.parametrize('drop', [None, dropout(2)], ids=['no dropout', 'dropout'])
@pytest.mark.parametrize('band', [40, 7])
def test_documents_apart_are_masked_as_in_plain_attention(band, drop):
  how = {'band': band, 'drop': drop, 'first_BT': jnp.asarray(FIRST)}
  found = value_and_gradients(qkv(40), kernel='interpret', **how)
  assert_close(found, value_and_gradients(qkv(40), kernel='plain', **how))


@pytest.mark.parametrize('kernel', ['plain', 'interpret', 'splash'])
def test_a_document_of_a_window_is_computed_as_if_alone(kernel, monkeypatch):
  monkeypatch.setattr(
    attention, 'attend_splash', partial(attention.attend_splash, interpret=True)
  )
  model = config.Model(L=2, D=64, N=1, T=128, attention='dense,banded', band=5)
  cfg = GPTConfig.of(model, 11)
  gpt = GPT(cfg, Execution(kernel=kernel))
  params = jax.tree.map(lambda x: 5 * x, init_params(cfg, 0))
  ids = np.random.default_rng(0).integers(0, 11, (1, 128)).astype(np.int32)
  cuts = 0, 3, 60, 61, 128
  documents = windows.windows(
    ids[0], np.array([0]), 128, np.array([0]), np.array(cuts[:-1], np.uint64)
  )
  x, _ = gpt.apply({'params': params}, ids, first_BT=documents.first_BT)
  for begin, end in itertools.pairwise(cuts):
    alone, _ = GPT(cfg).apply({'params': params}, ids[:, begin:end])
    np.testing.assert_allclose(x[:, begin:end], alone, rtol=1e-3, atol=1e-3)
