"""Parameters in two halves: the same bits, and the same updates."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from updates import VOCAB, objective_of, ragged_batch

from gpt_jax import config
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import halves, members, sharding, step
from gpt_jax.training.objective import LanguageModeling


def floats():
  """Returns float32 of all sizes: drawn bits, every upper half with some lower ones."""
  drawn = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32)
  lower = np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
  every = (np.arange(2**16, dtype=np.uint32)[:, None] << 16) + lower
  return np.concatenate([drawn, every.reshape(-1)]).view(np.float32)


def test_halves_are_the_number_and_its_nearest_bfloat16():
  x = floats()
  of = jax.jit(halves.Halves.of)(x)
  upper, whole = np.asarray(of.upper), np.asarray(jax.jit(lambda h: h.whole)(of))
  assert (upper.dtype, of.lower.dtype) == (ml_dtypes.bfloat16, np.int16)
  real = ~np.isnan(x)
  np.testing.assert_array_equal(np.isnan(upper.astype(np.float32)), ~real)
  np.testing.assert_array_equal(np.isnan(whole), ~real)
  bits = lambda array: array[real].view(np.uint32)  # noqa: E731
  np.testing.assert_array_equal(bits(whole), bits(x))
  even = (x.view(np.uint32) & 0xFFFF) != 0x8000  # not between two bfloat16
  np.testing.assert_array_equal(
    upper[real & even].view(np.uint16),
    x[real & even].astype(ml_dtypes.bfloat16).view(np.uint16),
  )
  tie = real & ~even & np.isfinite(upper.astype(np.float32))
  assert tie.any() and (np.abs(upper[tie].astype(np.float32)) > np.abs(x[tie])).all()


def tiny(**optim):
  """Returns a run in bfloat16, and its first state."""
  run = config.Run(batch=8, devices=1)
  run.model = config.Model(L=1, D=16, N=2, T=8, dropout=0.0, dtype='bfloat16')
  run.optim = config.Optim(name='adamw', lr=1e-2, warmup=0, **optim)
  cfg = GPTConfig.of(run.model, VOCAB)
  return run, cfg, step.new_state(run, cfg)


def test_an_update_of_halves_is_that_of_whole_parameters():
  run, cfg, state = tiny(ema=0.9, guard='skip')
  program = members.Alone.of(run, cfg, sharding.Layout.of(run))
  in_halves = members._in_halves(jax.tree.map(jnp.copy, state))  # both are donated
  kinds = {
    type(leaf)
    for leaf in jax.tree.leaves(
      in_halves.params['h_0'], is_leaf=lambda x: isinstance(x, halves.Halves)
    )
  }
  assert halves.Halves in kinds and not halves.divided(in_halves.params['wte'])
  for i in range(3):
    batch = program.put([ragged_batch(i)])
    state, metrics = program.jitted(state, {}, batch, program.hp)
    in_halves, same = program.jitted(in_halves, {}, batch, program.hp)
    assert metrics == same
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), in_halves) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), members._in_halves(state)
  )
  for one, other in zip(
    jax.tree.leaves(state),
    jax.tree.leaves(program.member(in_halves, 0)),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


def test_one_device_with_kernels_keeps_halves_between_updates():
  run, cfg, state = tiny()
  layout = sharding.Layout.of(run)
  how = dataclasses.replace(
    layout.execution(run.model), fused=True, update='interpreted'
  )
  objective = LanguageModeling.of(run, GPT(cfg, how))
  like = layout.state_shapes(lambda: step.new_state(run, cfg))
  program = members.Alone(run, objective, layout, like)
  before = jax.tree.map(np.array, state.params)
  batch = program.put([ragged_batch()])
  taken = program.lowered(ragged_batch()).in_avals[0][0].params
  state, _ = program.update(state, batch)
  shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
  assert halves.divided(state.params) and shapes(taken) == shapes(state.params)
  for params in program.member(state, 0).params, program.weights(state, 0):
    assert shapes(params) == shapes(before)
    moved = np.abs(
      params['h_0']['mlp']['up']['kernel'] - before['h_0']['mlp']['up']['kernel']
    )
    # AdamW's first update is its rate, and a tenth of it for decay of what is 0.02.
    np.testing.assert_allclose(moved.mean(), 1e-2, rtol=0.05)
  plain = members.Alone(run, objective_of(run, cfg), layout, like)
  state, _ = plain.update(program.member(state, 0), batch)
  assert not halves.divided(state.params)
