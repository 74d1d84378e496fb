"""Weights in 8 and 4 bits: what is stored, and products with it, against numpy."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as absl_flags
from fakes import random_bytes_model

from gpt_jax import config
from gpt_jax.cli import flags
from gpt_jax.config import UserError
from gpt_jax.model import kernels, quantize, quantized_kernels, token_kernels
from gpt_jax.model.decode_form import decode_form
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import Execution, GPTConfig

CLIPS = np.arange(20, 13, -1) / 20


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def of_int8(stored):
  return np.float64(stored['kernel_int8']) * np.float64(stored['kernel_scale'])


def of_int4(stored):
  """Returns the kernel [I, O] of its bytes, one value at a time."""
  scale = np.float64(stored['kernel_scale'])
  data = np.asarray(stored['kernel_int4']).view(np.uint8)
  half = len(data) // len(scale)
  kernel = np.zeros((2 * len(data), data.shape[1]))
  for g in range(len(scale)):
    for i in range(half):
      byte = data[g * half + i].astype(int)
      low, high = byte & 15, byte >> 4
      for value, place in ((low, i), (high, half + i)):
        signed = np.where(value > 7, value - 16, value)
        kernel[g * 2 * half + place] = signed * scale[g]
  return kernel


def by_gpu(x, stored, factors='float32'):
  """Returns x times what is stored [in, out], by the kernel of a GPU."""
  linear = quantize.transposed(stored, few_bits=True)
  return token_kernels.product(
    x, linear, factors=factors, dtype='float32', interpret=True
  )


def test_four_bits_are_the_best_grid_of_some_widths_for_each_group():
  kernel = normal(0, 128, 5)
  kernel[7, 2] = 20  # a group with an outlier
  stored = quantize.quantized({'a': {'kernel': kernel}, 'wte': normal(1, 8, 4)}, 4)['a']
  assert stored['kernel_int4'].shape == (64, 5)
  assert stored['kernel_int4'].dtype == jnp.int8
  assert stored['kernel_scale'].shape == (2, 5)
  wanted = np.zeros_like(kernel)
  for g in range(2):
    for o in range(5):
      group = kernel[64 * g : 64 * g + 64, o]
      tried = []
      for clip in CLIPS:
        scale = clip * np.abs(group).max() / 7
        tried.append(np.clip(np.round(group / scale), -7, 7) * scale)
      errors = [((each - group) ** 2).sum() for each in tried]
      wanted[64 * g : 64 * g + 64, o] = tried[int(np.argmin(errors))]
  np.testing.assert_allclose(of_int4(stored), wanted, atol=1e-5)


@pytest.mark.parametrize('shape', [(96, 160), (64, 64), (320, 192)])
@pytest.mark.parametrize('how', ['plain', 'triton', 'mosaic'])
def test_products_are_those_of_the_stored_numbers(shape, how):
  kernel = normal(0, *shape)
  int8, int4 = quantize._int8(kernel), quantize._int4(kernel)
  rows = quantize.Rows(int8['kernel_int8'].T, int8['kernel_scale'])
  for R in (1, 3, 20):
    x = normal(R, R, shape[0])

    for stored, name, wanted in (
      (int8, 'int8', of_int8(int8)),
      (int4, 'int4', of_int4(int4)),
    ):
      weights = stored[f'kernel_{name}'], stored['kernel_scale']
      if how == 'plain':
        found = [getattr(quantize, f'times_{name}')(x, *weights)]
        other = quantize.transposed(stored, few_bits=True)
        found.append(quantize.times_small(x, other))
      elif how == 'mosaic':
        found = [quantized_kernels.times(x, *weights, interpret=True)]
      else:
        found = [by_gpu(x, stored)]
      for y in found:
        np.testing.assert_allclose(y, x @ wanted, atol=2e-4)
    if how == 'plain':
      y = quantize.head_logits(x, rows)
    elif how == 'mosaic':
      head = rows.values, rows.scale
      y = quantized_kernels.times(x, *head, transposed=True, interpret=True)
    else:
      y = token_kernels.product(
        x, rows.linear, factors='float32', dtype='float32', interpret=True
      )
    np.testing.assert_allclose(y, x @ of_int8(int8), atol=2e-4)


def test_a_product_in_bfloat16_sums_in_float32():
  kernel = np.abs(normal(0, 512, 64))
  x = jnp.ones((1, 512), jnp.bfloat16)
  stored = quantize._int4(kernel)
  weights = stored['kernel_int4'], stored['kernel_scale']
  for y in (
    quantized_kernels.times(x, *weights, interpret=True),
    by_gpu(x, stored, 'bfloat16'),
    by_gpu(jnp.tile(x, (5, 1)), stored, 'bfloat16'),
  ):
    assert y.dtype == jnp.float32
    # In bfloat16 alone sums of some hundred would be wrong by several parts of 256.
    np.testing.assert_allclose(y[0], of_int4(stored).sum(0), rtol=1e-3)


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('bits', [8, 4])
def test_a_model_computes_with_what_is_stored(tied, bits):
  cfg = GPTConfig.of(config.Model(L=2, D=16, N=2, T=12, tied=tied), vocab=11)
  params = jax.tree.map(lambda p: p + normal(3, *p.shape), init_params(cfg, 0))
  small = quantize.quantized(params, bits)
  head = 'wte' if tied else 'lm_head'
  assert head not in small and ('wte' in small) is not tied

  def dequantized(tree):
    if 'kernel_scale' in tree:
      kernel = of_int8(tree) if bits == 8 else of_int4(tree)
      kept = {k: v for k, v in tree.items() if not k.startswith('kernel_')}
      return kept | {'kernel': kernel.astype(np.float32)}
    return {k: dequantized(v) if isinstance(v, dict) else v for k, v in tree.items()}

  wanted = dequantized(small)
  values, scale = small[f'{head}_int8'], small[f'{head}_scale']
  wanted[head] = np.asarray(values, np.float32) * np.asarray(scale)[:, None]
  gpt = GPT(cfg)
  for ids in (np.arange(20).reshape(2, 10) % 11, np.arange(90).reshape(9, 10) % 11):
    logits = [
      unembed(gpt, tree, gpt.apply({'params': tree}, ids)[0])[..., :11]
      for tree in (small, wanted)
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=2e-4)
    exact = unembed(gpt, params, gpt.apply({'params': params}, ids)[0])[..., :11]
    assert not np.allclose(exact, logits[0], atol=1e-3)


def test_the_bytes_of_a_token_are_those_that_are_promised():
  for L, D, N in ((12, 768, 12), (48, 1600, 25)):
    cfg = GPTConfig.of(config.Model(L=L, D=D, N=N, T=1024), vocab=50257)
    params = jax.eval_shape(lambda cfg=cfg: init_params(cfg, 0))

    def read(tree):
      return sum(
        leaf.size * leaf.dtype.itemsize
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if path[0].key != 'wpe'  # a token reads a row of it
      )

    bfloat16 = read(params) / 2
    for bits, most in ((8, 0.6), (4, 0.4)):
      small = jax.eval_shape(lambda p, b=bits: quantize.quantized(p, b), params)
      assert read(small) <= most * bfloat16


def test_a_language_model_in_few_bits_still_speaks_for_itself():
  model = random_bytes_model(T=32, seed=1)
  exact = model.score('the', ' cat').logp
  for weights in ('int8', 'int4'):
    small = model.quantized(weights)
    assert small.score('the', ' cat').logp == pytest.approx(exact, rel=0.2)
    (row,) = small.generate('the', max_new_tokens=5, temperature=0)
    logp = jax.nn.log_softmax(small.logits(row.prompt + row.ids[:-1]))
    wanted = [float(logp[len(row.prompt) - 1 + i, t]) for i, t in enumerate(row.ids)]
    np.testing.assert_allclose(row.token_logp, wanted, atol=1e-4)
    assert small.explain('cat').logp.shape == (3,)
  assert model.quantized('') is model
  with pytest.raises(UserError, match="weights='int2' must be int8, int4 or ''"):
    model.quantized('int2')
  odd = {'a': {'kernel': np.ones((3, 2))}, 'wte': np.ones((8, 4))}
  with pytest.raises(UserError, match='kernel of 3 inputs can not be stored in 4 bits'):
    quantize.quantized(odd, 4)


def test_two_flags_name_one_form():
  def form(*args):
    values = absl_flags.FlagValues()
    flags.weights(values)
    values(['x', *args])
    return flags.few_bits(values)

  assert form() == '' and form('--int8') == form('--weights=int8') == 'int8'
  assert form('--weights=int4') == 'int4'
  with pytest.raises(UserError, match='--int8 and --weights=int4 differ'):
    form('--int8', '--weights=int4')


def test_kernels_are_chosen_for_the_devices_of_the_layout():
  def devices(platform, n=1, capability='9.0'):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    return [device] * n

  def kernel(*args, **fields):
    return kernels.of_quantized(devices(*args, **fields)).kernel

  assert kernel('gpu') == 'triton' and kernel('tpu') == 'mosaic'
  assert kernel('cpu') == kernel('gpu', 2) == kernel('gpu', capability='7.5') == 'plain'
  model = config.Model(L=1, D=64, N=1, T=8)
  assert Execution.of(model, devices('tpu')).quantized == 'mosaic'


@pytest.mark.parametrize('how', ['triton', 'mosaic'])
@pytest.mark.parametrize('bits', [8, 4])
def test_few_rows_take_the_kernel_and_many_do_not(how, bits, monkeypatch):
  seen = []

  def mosaic(x, weights, scale, transposed=False):
    seen.append(x.shape)
    return jnp.zeros((*x.shape[:-1], weights.shape[0 if transposed else 1]))

  def triton(x, linear, *, factors, dtype):
    seen.append(x.shape)
    return token_kernels_product(
      x, linear, factors=factors, dtype=dtype, interpret=True
    )

  token_kernels_product = token_kernels.product
  monkeypatch.setattr(quantized_kernels, 'times', mosaic)
  monkeypatch.setattr(token_kernels, 'product', triton)
  cfg = GPTConfig.of(config.Model(L=1, D=64, N=1, T=128), vocab=11)
  small = quantize.quantized(init_params(cfg, 0), bits)
  gpt = GPT(cfg, dataclasses.replace(Execution(), quantized=how))
  form = decode_form(small, gpt)
  assert (form is small) == (how == 'mosaic')
  assert jax.tree.structure(decode_form(form, gpt)) == jax.tree.structure(form)
  for T, calls in ((64, 7), (65, 0)):
    seen.clear()
    ids = np.zeros((1, T), int)
    x, _ = gpt.apply({'params': form}, ids)
    y = unembed(gpt, form, x)
    assert len(seen) == calls
    if how == 'triton':
      x, _ = GPT(cfg).apply({'params': small}, ids)
      wanted = unembed(GPT(cfg), small, x)
      np.testing.assert_allclose(y[..., :11], wanted[..., :11], atol=2e-4)
