"""Kernels of an update, interpreted, against what autodiff derives."""

import types

import jax
import jax.numpy as jnp
import pytest
from test_fused import NARROW, assert_near, draws, updated

from gpt_jax import config
from gpt_jax.model import update_kernels, update_norm
from gpt_jax.model.gpt_config import Execution

both = pytest.mark.parametrize(
  'dtype, share', [('float32', 1e-5), ('bfloat16', NARROW)]
)


def assert_same_gradients(one, other, args, share):
  """Asserts that functions of the same arguments have near results and gradients."""
  results = [jax.eval_shape(f, *args) for f in (one, other)]
  weights = draws(*[leaf.shape for leaf in jax.tree.leaves(results[0])])

  def graded(f):
    def total(*args):
      leaves = jax.tree.leaves(f(*args))
      pairs = zip(leaves, weights, strict=True)
      return sum((y.astype(jnp.float32) * w).sum() for y, w in pairs), leaves

    return jax.jit(jax.value_and_grad(total, tuple(range(len(args))), has_aux=True))

  (_, y), grads = graded(one)(*args)
  (_, wanted), plain = graded(other)(*args)
  assert_near(y, wanted, share)
  assert_near(grads, plain, share)


@both
@pytest.mark.parametrize('shifted', [True, False])
def test_a_layernorm_beside_the_residual_stream(shifted, dtype, share):
  # 35 rows are a group and three rows, 9 programs of four; 24 features in 32 lanes.
  x, scale, shift = draws((5, 7, 24), (24,), (24,))
  x = 4 * x + 2

  def plain(x, scale, shift):
    y = x - x.mean(-1, keepdims=True)
    y = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5) * scale
    return x, y if shift is None else y + shift

  def kernels(x, scale, shift):
    return update_norm.normalize(x, scale, shift, dtype, True)

  args = x, scale, shift if shifted else None
  assert kernels(*args)[1].dtype == dtype
  assert_same_gradients(kernels, plain, args, share)


@both
@pytest.mark.parametrize('last', [False, True])
def test_a_layernorm_leaves_what_the_branch_before_needs(last, dtype, share):
  x, scale, shift, dx, dy = draws((5, 7, 24), (24,), (24,), (5, 7, 24), (5, 7, 24))

  def branch(stream):
    return update_norm.normalize(stream, scale, shift, dtype, True, last)

  given = None if last else dx, dy.astype(dtype)
  (alone,) = jax.vjp(branch, x)[1](given)
  (within,) = jax.vjp(branch, update_norm.Stream.after(x, dtype))[1](given)
  rounded = within.x.astype(dtype)
  assert within.narrow.dtype == dtype and jnp.array_equal(within.narrow, rounded)
  assert_near((within.x, within.total), (alone, alone.sum((0, 1))), share)


@both
@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize('T', [2, 140])  # a part of a tile, and of another
def test_an_mlp_and_its_residual_sum(T, biased, dtype, share):
  x, add, *up = draws((1, T, 72), (1, T, 72), (72, 264), (264,))
  down = [draw - 1 for draw in draws((264, 72), (72,))]
  up = [(draw - 1) / 8 for draw in up]
  up, down = ((k, b if biased else None) for k, b in (up, down))

  def plain(x, up, down, add):
    bias = lambda pair: 0 if pair[1] is None else pair[1]  # noqa: E731
    hidden = jax.nn.gelu(x.astype(jnp.float32) @ up[0] + bias(up))
    return add + hidden @ down[0] + bias(down)

  def kernels(x, up, down, add):
    return update_norm.whole(update_kernels.mlp(x, up, down, add, 'gelu_tanh', True))

  assert_same_gradients(kernels, plain, (x.astype(dtype), up, down, add), share)


@both
@pytest.mark.parametrize('biased', [True, False])
def test_layers_of_one_input_and_the_end_of_a_branch(biased, dtype, share):
  x, *kernels = draws((2, 70, 24), (24, 8), (24, 300), (300, 24))
  *biases, last, add = draws((8,), (300,), (24,), (2, 70, 24))
  if not biased:
    biases, last = [None, None], None

  def plain(x, kernels, biases, last, add):
    plus = lambda y, b: y if b is None else y + b  # noqa: E731
    a, b = (plus(x @ k, b) for k, b in zip(kernels, biases, strict=False))
    return a, add + plus(b @ kernels[2], last)

  def ours(x, kernels, biases, last, add):
    a, b = update_kernels.linear(x.astype(dtype), kernels[:2], biases, True)
    return a, update_norm.whole(update_kernels.ending(b, kernels[2], last, add, True))

  args = x, tuple(kernels), tuple(biases), last, add
  assert_same_gradients(ours, plain, args, share)


MODELS = {
  'GPT-2': {},
  'no bias, ReLU': {'bias': False, 'activation': 'relu'},
  'dropout': {'dropout': 0.2},
  'scan': {'scan': True, 'remat': 'block'},
}


@pytest.mark.parametrize('name', MODELS)
def test_an_update_by_kernels_is_that_of_the_plain_form(name):
  forms = {'fused': True, 'update': 'interpreted'}, {}
  one, other = (updated(MODELS[name], 'float32', **form) for form in forms)
  assert jax.tree.structure(one) == jax.tree.structure(other)
  assert_near(one[1], other[1], 2e-5)
  flat = [
    jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(mu)])
    for _, _, mu in (one, other)
  ]
  assert_near(*flat, 2e-5)


def test_the_kernels_are_chosen_for_the_devices_and_the_model():
  def chosen(platform='gpu', capability='9.0', **fields):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    model = config.Model(**{'dtype': 'bfloat16'} | fields)
    return Execution.of(model, [device]).update

  for capability in ('8.0', '9.0', '10.3'):
    assert chosen(capability=capability) == 'fused'
  for fields in (
    {'platform': 'cpu'},
    {'platform': 'tpu'},
    {'capability': '7.5'},
    # Too little shared memory for a tile.
    {'capability': '8.6'},
    {'capability': '8.9'},
    {'capability': '12.0'},
    {'dtype': 'float32'},
    {'flash': 'plain'},
    {'gradients': 'plain'},
    {'norm': 'post'},
    {'activation': 'gelu'},
    {'D': 8192},
  ):
    assert chosen(**fields) == 'plain', fields
