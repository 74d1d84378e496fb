"""The maximal update parametrisation: the base model is untouched, wider ones scale."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import opened
from updates import program_of

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import optim, step

# Compiled as a whole: one program instead of one for each operation.
initial = jax.jit(init_params, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(cfg, params, ids):
  return unembed(GPT(cfg), params, GPT(cfg).apply({'params': params}, ids)[0])


ROOT = pathlib.Path(__file__).resolve().parent.parent


def outcome(**base):
  """Returns parameters at the start, their logits, and parameters after 5 updates."""
  run = config.Run(steps=5, batch=4)
  run.model = config.Model(L=1, D=32, N=4, T=8, **base)
  run.optim = config.Optim(lr=1e-2, schedule='constant', warmup=0)
  config.check(run)
  cfg = GPTConfig.of(run.model, 11)
  ids = np.random.default_rng(0).integers(0, 11, (4, 9)).astype(np.int32)
  rows = np.arange(4, dtype=np.int32)
  batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((4, 8), np.float32), rows)
  params = initial(cfg, 0)
  logits = logits_of(cfg, params, ids[:, :-1])
  run.devices = 1
  program = program_of(run)
  state = step.init_state(run, jax.tree.map(jnp.array, params), cfg.width)
  for _ in range(run.steps):
    state, _ = program.update(state, program.put([batch]))
  return params, logits, state.params


def test_the_base_model_and_its_updates_are_the_standard_ones_to_the_bit():
  base = outcome(mup_base=32, mup_base_N=4)
  jax.tree.map(np.testing.assert_array_equal, outcome(), base)


def test_kernels_start_smaller_in_a_wider_model_and_all_else_does_not():
  stds = []
  for D in (64, 256):
    cfg = GPTConfig.of(config.Model(L=1, D=D, N=4, mup_base=64, mup_base_N=4), 300)
    params = initial(cfg, 0)
    stds.append(jax.tree.map(lambda p: float(p.std()), params))
  ratios = jax.tree_util.tree_map_with_path(
    lambda path, a, b: (path[-1].key, b / a) if a else None, *stds
  )
  ratios = jax.tree.leaves(ratios, is_leaf=lambda x: isinstance(x, tuple))
  assert {name for name, _ in ratios} == {'kernel', 'wte', 'wpe'}
  for name, ratio in ratios:
    assert ratio == pytest.approx(0.5 if name == 'kernel' else 1, rel=0.05), name


def test_attention_logits_go_as_one_over_the_size_of_a_head():
  def scale(D, N, **base):
    return GPTConfig.of(config.Model(D=D, N=N, mup_base=64, **base), 5).query_scale

  for D in (64, 256, 1024):
    assert scale(D, 4, mup_base_N=4) == pytest.approx(4 / (D / 4))  # sqrt(16) / H
    assert scale(D, D // 16) == 16**-0.5  # more heads of one size
    assert scale(D, 4, mup_base_N=4, attention_scale=False) == 16 / (D / 4)


@pytest.mark.parametrize(
  ('name', 'rate'), [('adamw', 1 / 4), ('adam_gpt1', 1 / 4), ('muon', 1 / 2)]
)
def test_kernels_of_a_wider_model_move_less_and_decay_the_same(name, rate):
  run = config.Run()
  run.optim = config.Optim(name=name, schedule='constant', warmup=0, clip=0)
  params = initial(GPTConfig.of(config.Model(L=1, D=8, N=2, T=4), 5), 0)
  grads = jax.tree.map(
    lambda p: np.cos(np.arange(p.size, dtype='f')).reshape(p.shape), params
  )

  @functools.partial(jax.jit, static_argnums=0)
  def update(width, weight_decay, gradient):
    hp = optim.Hyper.of(run).replace(weight_decay=weight_decay)
    tx = optim.transformation(run.optim, hp, jnp.int32(0), width)
    return tx.update(gradient, tx.init(params), params)[0]

  def assert_ratio(path, narrow, wide):
    wanted = rate if path[-1].key == 'kernel' else 1
    np.testing.assert_allclose(wide, narrow * wanted, rtol=1e-5, atol=1e-12)

  jax.tree_util.tree_map_with_path(
    assert_ratio, update(1.0, 0.0, grads), update(4.0, 0.0, grads)
  )
  nothing = jax.tree.map(np.zeros_like, params)
  jax.tree.map(
    np.testing.assert_array_equal, update(1.0, 0.3, nothing), update(4.0, 0.3, nothing)
  )
  assert update(4.0, 0.3, nothing)['h_0']['mlp']['up']['kernel'].any()


def test_a_few_updates_change_activations_alike_at_every_width():
  check = opened('mup/coordinate_check.py')
  check.LAYERS = 1  # half of the time is compilation
  widths = [32, 96, 256]
  slopes = {}
  for mup in (False, True):
    table = check.measured(widths, mup, 1, base=32, fixed_heads=True, lr=3e-3)
    slopes[mup] = {part: check.slope(widths, of[-1]) for part, of in table.items()}
  assert slopes[False]['residual stream'] > 0.8, slopes
  assert slopes[False]['logits'] > 0.4, slopes
  assert abs(slopes[True]['residual stream']) < 0.2, slopes
  assert abs(slopes[True]['logits']) < 0.2, slopes
