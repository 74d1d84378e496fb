"""The weights that decoding reads; its kernels, interpreted, beside the plain path."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import beam, sampling, stochastic_beam
from gpt_jax.decoding.selection import Sampling
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model import kernels, quantize, token_kernels
from gpt_jax.model.decode_form import decode_form, is_fused
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.tokenizers import Bytes

MODELS = {
  'GPT-2': config.Model(L=2, D=32, N=2, T=48, vocab=100),
  'GPT-3': config.Model(
    L=2, D=32, N=2, T=48, vocab=100, attention='dense,banded', band=5
  ),
  'apart': config.Model(
    L=1,
    D=48,
    N=3,
    T=48,
    vocab=128,
    bias=False,
    tied=False,
    activation='relu',
    mup_base=16,
  ),
}
EXACT = Execution(decode='interpreted')
HALF = Execution(dtype='bfloat16')
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def made(name):
  """A model's architecture, and parameters that are all different."""
  cfg = GPTConfig.of(MODELS[name], 0)
  keys = iter(jax.random.split(jax.random.key(1), 100))
  noisy = lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape)  # noqa: E731
  return cfg, jax.tree.map(noisy, init_params(cfg, 0))


def in_bits(name, bits):
  """A model's architecture, and parameters in few bits; bits=32: as they are."""
  cfg, params = made(name)
  return cfg, params if bits == 32 else quantize.quantized(params, bits)


@functools.cache
def prompted(name, how, S=40, bits=32):
  """The contract of a model, and its cache after prompts of 5, 2 and 4 tokens."""
  cfg, params = in_bits(name, bits)
  gpt = GPT(cfg, how)
  model = sampling.model_of(decode_form(params, gpt), gpt)
  ids_BT = np.random.default_rng(0).integers(0, cfg.vocab, (3, 5))
  length_B = np.array([5, 2, 4])
  prefill = jax.jit(model.prefill, static_argnums=2)
  return model, *prefill(jnp.asarray(ids_BT), length_B, S)


def assert_same_cache(a, b, **close):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(*(np.asarray(z, np.float32) for z in (x, y)), **close)


@pytest.mark.parametrize(
  ('name', 'bits'), [*((name, 32) for name in MODELS), ('apart', 8), ('GPT-2', 4)]
)
def test_the_kernels_give_a_tokens_logits_and_cache(name, bits):
  both = []
  for how in (Execution(), EXACT):
    model, logits_BV, cache = prompted(name, how, bits=bits)
    step, steps = jax.jit(model.step), [logits_BV]
    for i in range(7):
      logits_BV, cache = step(cache, jnp.array([i, 50 + i, 99 - i]))
      steps.append(logits_BV)
    both.append((jnp.stack(steps), cache))
  (wanted, cache), (logits, own) = both
  np.testing.assert_allclose(logits, wanted, **CLOSE)
  assert_same_cache(own, cache, **CLOSE)


@pytest.mark.parametrize(('name', 'bits'), [('GPT-2', 32), ('GPT-3', 32), ('GPT-2', 8)])
def test_the_kernels_give_the_logits_of_beams(name, bits):
  both = []
  for how in (Execution(), EXACT):
    model, logits_BV, cache = prompted(name, how, bits=bits)
    cache, step, steps = model.branch(cache, 2), jax.jit(model.step_beams), []
    for i in range(5):
      parent_BK = jnp.array([[0, 0], [1, 0], [i % 2, 1]])
      logits_BKV, cache = step(cache, parent_BK, jnp.arange(6).reshape(3, 2) + i)
      steps.append(logits_BKV)
    both.append((jnp.stack(steps), cache))
  (wanted, cache), (logits, own) = both
  np.testing.assert_allclose(logits, wanted, **CLOSE)
  assert_same_cache(own, cache, **CLOSE)


def stored(kernel, bits):
  """A transposed kernel as `product` takes it, and the numbers it stands for."""
  if bits == 32:
    return {'kernel_T': jnp.asarray(kernel)}, kernel
  small = quantize._int8(kernel.T) if bits == 8 else quantize._int4(kernel.T)
  values, scale = small[f'kernel_int{bits}'], small['kernel_scale']
  if bits == 4:
    scale = np.repeat(scale, len(kernel.T) // len(scale), axis=0)
    values = quantize.unpacked(values, len(small['kernel_scale']))
  return quantize.transposed(small, few_bits=True), np.float32(values * scale).T


@pytest.mark.parametrize(
  ('X', 'bits'),
  [*((X, 32) for X in (1, 3, 4, 5, 17)), (3, 8), (17, 8), (3, 4), (17, 4)],
)
@pytest.mark.parametrize(('inputs', 'outputs'), [(48, 37), (1600, 6)])
def test_a_product_in_pieces_is_the_product(X, inputs, outputs, bits):
  draw = np.random.default_rng(X)
  array = lambda *shape: draw.normal(size=shape).astype(np.float32)  # noqa: E731
  x, kernel, add = array(X, inputs), array(outputs, inputs), array(X, outputs)
  bias, scale, shift = array(outputs), array(inputs), array(inputs)
  linear, kernel = stored(kernel, bits)
  y = token_kernels.product(
    jnp.asarray(x),
    linear | {'bias': bias},
    norm={'scale': scale, 'bias': shift},
    activation='relu',
    add_XO=add,
    factors='float32',
    dtype='float32',
    interpret=True,
  )
  mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
  x = (x - mean) / np.sqrt(var + 1e-5) * scale + shift
  wanted = np.maximum(x @ kernel.T + bias, 0) + add
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
  ('S', 'slot'), [(100, 0), (100, 63), (100, 64), (100, 97), (400, 40), (400, 300)]
)
def test_attention_reads_the_filled_slots_and_no_other(S, slot):
  # 400 slots are divided among 3 programs.
  B, K, N, H = 2, 3, 2, 16
  draw = np.random.default_rng(slot)
  array = lambda *shape: draw.normal(size=shape).astype(np.float32)  # noqa: E731
  qkv, k, v = array(B * K, 3 * N * H), array(B, N, S, H), array(B, N, S, H)
  seen = draw.random((B, K, S)) < 0.7
  q_new, k_new, v_new = qkv.reshape(B, K, 3, N, H).transpose(2, 0, 3, 1, 4)
  wanted = np.zeros((B, K, N, H))
  for b, i, n in np.ndindex(B, K, N):
    at = seen[b, i, :slot]
    keys = np.concatenate([k[b, n, :slot][at], k_new[b, n, i : i + 1]])
    values = np.concatenate([v[b, n, :slot][at], v_new[b, n, i : i + 1]])
    e = np.exp(keys @ q_new[b, n, i] * 0.25)
    wanted[b, i, n] = e @ values / e.sum()
  k[:, :, slot:] = v[:, :, slot:] = np.nan  # not filled
  y, k_after, v_after = token_kernels.attention(
    *map(jnp.asarray, (qkv, k, v, seen)), jnp.int32(slot), scale=0.25, interpret=True
  )
  np.testing.assert_allclose(y, wanted.reshape(B * K, N * H), rtol=1e-4, atol=1e-5)
  for old, new, after in ((k, k_new, k_after), (v, v_new, v_after)):
    old[:, :, slot : slot + K] = new
    np.testing.assert_array_equal(after, old)


@pytest.mark.parametrize(
  ('way', 'bits'),
  [
    ('greedy', 32),
    ('sampled', 32),
    ('beams', 32),
    ('drawn beams', 32),
    ('greedy', 8),
    ('beams', 4),
  ],
)
def test_texts_are_those_of_the_plain_path(way, bits):
  cfg, params = in_bits('GPT-2', bits)
  prompts, keys = [[1, 2, 3], [4]], sampling.keys_of(0, 2)
  of = {'max_new_tokens': 8, 'eot': 99}
  both = []
  for how in (Execution(), EXACT):
    gpt = GPT(cfg, how)
    form = decode_form(params, gpt)
    if way == 'beams':
      rows = beam.generate(form, gpt, prompts, beams=beam.Beams(2), **of)
      both.append([one.ids for row in rows for one in row])
    elif way == 'drawn beams':
      rows = stochastic_beam.generate(form, gpt, prompts, keys, beams=2, **of)
      both.append([one.ids for row in rows for one in row])
    else:
      draw = Sampling(temperature=0 if way == 'greedy' else 1)
      rows = sampling.generate(form, gpt, prompts, keys, sampling=draw, **of)
      both.append([one.ids for one in rows])
  assert both[0] == both[1]


def test_float32_weights_stay_the_very_same():
  cfg, params = made('GPT-2')
  assert decode_form(params, GPT(cfg)) is params


def test_weights_are_cast_once_and_to_the_same_logits():
  cfg, params = made('GPT-2')
  form = decode_form(params, GPT(cfg, HALF))
  for path, leaf in jax.tree_util.tree_leaves_with_path(form):
    large = path[-1].key in ('kernel', 'wte', 'wpe')
    assert leaf.dtype == ('bfloat16' if large else 'float32'), path
  # But for embeddings, which are rounded, the numbers are those that were cast before.
  for name in ('wte', 'wpe'):
    params[name] = form[name].astype(jnp.float32)
  both = []
  for p in (params, form):
    model = sampling.model_of(p, GPT(cfg, HALF))
    logits, cache = jax.jit(model.prefill, static_argnums=2)(
      jnp.array([[1, 2, 3]]), jnp.array([3]), 8
    )
    both += [logits, jax.jit(model.step)(cache, jnp.array([7]))[0]]
  for wanted, found in zip(both[:2], both[2:], strict=True):
    np.testing.assert_array_equal(found, wanted)


def test_the_compiled_loop_casts_no_weights():
  cfg, params = made('GPT-2')
  gpt = GPT(cfg, HALF)
  form = decode_form(params, gpt)
  how = {'sampling': Sampling(temperature=0), 'rules': sampling.NO_RULES, 'eot': 99}
  arrays = (form, np.ones((1, 4), np.int32), np.array([4]), sampling.keys_of(0, 1))
  begin = functools.partial(sampling.compiled_begin, gpt=gpt, G=8, **how)
  state = jax.eval_shape(begin, *arrays, 0, None, None)
  run = sampling.compiled_run.trace(form, state, 8, None, gpt=gpt, **how)
  casts = [
    line for line in str(run.jaxpr).splitlines() if 'convert_element_type' in line
  ]
  assert casts and not [line for line in casts if '[128,32]' in line or '[32,' in line]


def test_bfloat16_kernels_compute_close_to_float32():
  """By 8 bits of each factor: 2 % of the spread of the logits."""
  both = []
  for how in (Execution(), dataclasses.replace(HALF, decode='interpreted')):
    model, _, cache = prompted('GPT-2', how)
    logits_BV, _ = jax.jit(model.step)(cache, jnp.array([3, 60, 9]))
    both.append(np.asarray(logits_BV)[:, :100])
  wanted, found = both
  assert np.abs(found - wanted).max() < 0.1 * wanted.std()
  assert np.sqrt(np.square(found - wanted).mean()) < 0.02 * wanted.std()


@pytest.mark.parametrize('name', ['GPT-2', 'GPT-3'])
def test_prompts_are_read_as_texts_where_there_is_a_flash_kernel(name):
  # Heads of 16 features are too small for splash, which leaves it to the plain kernel.
  flash = Execution(kernel='splash')

  def program(how):
    read = functools.partial(prompted(name, how)[0].prefill, S=8)
    return str(jax.make_jaxpr(read)(jnp.zeros((3, 5), int), jnp.full(3, 5)))

  for how in (Execution(), flash):
    _, logits_BV, cache = prompted(name, how)
    assert ('[3,1,5,8]' in program(how)) == (how is not flash)
  _, wanted_BV, wanted = prompted(name, Execution())
  np.testing.assert_allclose(logits_BV, wanted_BV, **CLOSE)
  real = (np.asarray(wanted.pos_BS) >= 0)[:, None, :, None]
  for a, b in zip(jax.tree.leaves(cache.kv), jax.tree.leaves(wanted.kv), strict=True):
    np.testing.assert_allclose(np.where(real, a, 0), np.where(real, b, 0), **CLOSE)
  assert not cache.fresh


@pytest.mark.parametrize('how', [Execution(), HALF, EXACT])
def test_a_model_for_decoding_alone_writes_the_same_text(how):
  cfg = dataclasses.replace(made('GPT-2')[0], vocab=256)
  params = init_params(cfg, 0)
  model = LanguageModel(params, GPT(cfg, how), Bytes())
  (text,) = model.generate('ab', max_new_tokens=6, temperature=0)
  small = model.for_decoding()
  (again,) = small.generate('ab', max_new_tokens=6, temperature=0)
  assert again.ids == text.ids and again.token_logp == text.token_logp
  assert small.params['wte'].dtype == how.dtype
  near = 0.05 if how is HALF else 1e-4
  assert small.score('a', 'bc').logp == pytest.approx(model.score('a', 'bc').logp, near)
  assert is_fused(small.gpt, small.params) == (how is EXACT)
  if how is EXACT:
    for change in (small.int8, lambda: small.explain('ab')):
      with pytest.raises(UserError, match='for_decoding has them in another form'):
        change()


@dataclasses.dataclass(frozen=True)
class Device:
  platform: str
  compute_capability: str = ''


@pytest.mark.parametrize(
  ('devices', 'changed', 'kernel', 'reason'),
  [
    ([Device('gpu', '9.0')], {}, 'fused', 'bfloat16 on gpu'),
    ([], {}, 'plain', 'no kernels for a token on cpu'),
    ([Device('tpu')], {}, 'plain', 'no kernels for a token on tpu'),
    ([Device('gpu', '7.5')], {}, 'plain', 'compute capability 8.0'),
    ([Device('gpu', '9.0')], {'dtype': 'float32'}, 'plain', 'bfloat16'),
    ([Device('gpu', '9.0')], {'H': 48}, 'plain', 'heads of 16'),
    ([Device('gpu', '9.0')], {'norm': 'post'}, 'plain', 'LayerNorm before'),
    ([Device('gpu', '9.0')], {'activation': 'gelu'}, 'plain', 'GELU by tanh'),
    ([Device('gpu', '9.0')], {'flash': 'plain'}, 'plain', 'model.flash=plain'),
  ],
)
def test_the_kernels_are_chosen_for_devices_and_models(
  devices, changed, kernel, reason
):
  fits = {
    'flash': 'auto',
    'dtype': 'bfloat16',
    'H': 64,
    'norm': 'pre',
    'activation': 'gelu_tanh',
  } | changed
  choice = kernels.choose_decode(fits.pop('flash'), devices, **fits)
  assert choice.kernel == kernel
  assert reason in choice.reason
