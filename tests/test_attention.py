"""Attention of a text to itself: every kernel is the same function."""

import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.model import attention, kernels
from gpt_jax.model import gradients as written
from gpt_jax.programs import collectives, hlo
from gpt_jax.training import sharding


def draw(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def qkv(T, H=8, N=2):
  return tuple(draw(2, N, T, H, seed=seed) for seed in range(3))


def dense(q, k, v, band=None):
  """The definition, by a mask over all pairs."""
  t = jnp.arange(q.shape[2])
  seen = t[:, None] >= t
  if band:
    seen &= t[:, None] - t < band
  a = jnp.where(seen, q @ k.swapaxes(-1, -2), -1e30)
  return jax.nn.softmax(a) @ v


def gradients(f, *args):
  weights = draw(*jax.eval_shape(f, *args).shape, seed=9)
  argnums = tuple(range(len(args)))
  return jax.jit(jax.grad(lambda *a: (f(*a) * weights).sum(), argnums))(*args)


def assert_close(a, b, tolerance=2e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
  )


@pytest.mark.parametrize('T', [1, 31, 256, 258])
def test_causal_attention_in_blocks_is_the_masked_one_and_so_are_its_gradients(T):
  args = qkv(T)
  assert_close(attention.attend_causal(*args), dense(*args))
  assert_close(gradients(attention.attend_causal, *args), gradients(dense, *args))


@pytest.mark.parametrize('band', [1, 16, 31])
def test_banded_attention_has_the_gradients_of_the_masked_one(band):
  def banded(*args):
    return attention.attend_banded(*args, band, None)

  args = qkv(50)
  assert_close(banded(*args), dense(*args, band=band))
  assert_close(gradients(banded, *args), gradients(lambda *a: dense(*a, band), *args))


def test_causal_attention_stands_large_logits():
  q, k, v = qkv(256)
  y = attention.attend_causal(1e4 * q, k, v)
  assert_close(y, dense(1e4 * q, k, v), 1e-3)
  found = gradients(attention.attend_causal, 1e4 * q, k, v)
  assert all(jnp.isfinite(gradient).all() for gradient in found)


def test_gradients_written_by_hand_are_those_of_the_functions():
  x, scale, bias = draw(3, 5, 16), draw(16, seed=1), draw(16, seed=2)
  plain_gelu = lambda x: jax.nn.gelu(x, approximate=True)  # noqa: E731
  assert_close(gradients(written.gelu_tanh, 3 * x), gradients(plain_gelu, 3 * x))

  def plain(x, scale, bias=0.0):
    y = x - x.mean(-1, keepdims=True)
    return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5) * scale + bias

  args = x + 3, scale, bias
  assert_close(gradients(written.normalize, *args), gradients(plain, *args))
  no_bias = lambda x, scale: written.normalize(x, scale, None)  # noqa: E731
  assert_close(gradients(no_bias, *args[:2]), gradients(plain, *args[:2]))

  kernel = draw(16, 4)
  assert_close(
    gradients(written.matmul, x, kernel), gradients(lambda x, k: x @ k, x, kernel)
  )


def device(platform, capability='9.0'):
  """Returns what is asked of a device, which need not be there."""
  return types.SimpleNamespace(platform=platform, compute_capability=capability)


def test_flash_attention_is_chosen_where_it_can_run_and_the_reason_is_said():
  fits = {'dtype': 'bfloat16', 'gradients': 'written', 'T': 1024, 'H': 64}
  fits |= {'dropout': False}

  def chosen(platform, flash='auto', number=1, capability='9.0', **changed):
    devices = [device(platform, capability)] * number
    return kernels.choose(flash, devices, **fits | changed)

  assert chosen('gpu') == ('cudnn', 'bfloat16 on gpu')
  assert chosen('tpu').kernel == 'splash'
  assert chosen('tpu', dtype='float32').kernel == 'splash'
  assert chosen('tpu', number=4).kernel == 'splash'
  assert chosen('cpu') == ('plain', 'no flash attention for cpu')
  assert chosen('gpu', flash='plain') == ('plain', 'model.flash=plain')
  for platform, changed, instead, lacking in [
    ('gpu', {'dtype': 'float32'}, 'triton', 'cudnn needs bfloat16'),
    ('gpu', {'capability': '7.5'}, 'plain', 'cudnn needs compute capability 8.0'),
    ('gpu', {'capability': 'gfx90a'}, 'plain', 'cudnn needs compute capability 8.0'),
    ('gpu', {'dropout': True}, 'triton', 'cudnn needs no dropout'),
    ('gpu', {'H': 25}, 'triton', 'cudnn needs heads of 8, 16 .. 128 features'),
    ('gpu', {'gradients': 'plain'}, 'plain', 'cudnn needs model.gradients=written'),
    ('tpu', {'T': 100}, 'mosaic', 'splash needs a context of whole blocks of 128'),
    ('tpu', {'H': 32, 'dropout': True}, 'mosaic', 'splash needs heads of 64'),
    ('tpu', {'H': 32, 'T': 8192}, 'plain', 'splash needs heads of 64'),
  ]:
    kernel, why = chosen(platform, **changed)
    assert kernel == instead
    assert why.startswith(lacking)


def test_a_text_that_the_kernel_can_not_take_is_attended_to_by_ours():
  args = qkv(31)  # no whole block
  y = attention.attend_text(*args, band=31, kernel='splash', drop=None)
  assert_close(y, dense(*args))


@pytest.mark.parametrize('band', [64, 256])
def test_the_tpu_kernel_computes_the_same_interpreted_and_lowers_for_a_tpu(band):
  args = qkv(256, H=64, N=1)
  y = attention.attend_splash(*args, band, interpret=True)
  assert_close(y, dense(*args, band=band), 1e-3)

  def gradient(*args):
    return gradients(lambda *a: attention.attend_splash(*a, band), *args)

  lowered = jax.jit(gradient).trace(*args).lower(lowering_platforms=('tpu',))
  assert lowered.as_text().count('custom_call @tpu_custom_call') == 3


@pytest.mark.parametrize('band', [64, 128])
def test_a_kernel_over_a_mesh_is_plain_attention_and_so_are_its_gradients(
  band, monkeypatch
):
  monkeypatch.setattr(
    attention, 'attend_splash', partial(attention.attend_splash, interpret=True)
  )
  run = config.Run(layout='data=2,fsdp=2,tensor=2')
  how = sharding.Layout.of(run).execution(run.model)
  how = dataclasses.replace(how, kernel='splash')
  assert how.heads.shard_shape((4, 2, 128, 64)) == (1, 1, 128, 64)
  q, k, v = (draw(4, 2, 128, 64, seed=seed) for seed in range(3))

  def attend(q, k, v):
    text = attention.attend_text
    by_heads = how.by_heads
    return text(q / 8, k, v, band=band, kernel='splash', drop=None, by_heads=by_heads)

  plain = lambda q, k, v: dense(q / 8, k, v, band)  # noqa: E731
  assert_close(jax.jit(attend)(q, k, v), plain(q, k, v), 1e-4)
  assert_close(gradients(attend, q, k, v), gradients(plain, q, k, v), 1e-4)
  compiled = jax.jit(attend, in_shardings=how.heads).lower(q, k, v).compile()
  assert not collectives.sent(hlo.read(compiled.as_text()))
