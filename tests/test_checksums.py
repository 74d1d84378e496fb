"""Fingerprints against numpy, and that layouts and sums' order do not change them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax.training import checksums
from gpt_jax.training.step import State


def mixed(x):
  """MurmurHash3's finalizer, in Python's integers."""
  x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
  x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
  return x ^ (x >> 16)


def naive(array):
  width = array.dtype.itemsize
  bits = np.ascontiguousarray(array).reshape(-1).view(f'uint{8 * width}').tolist()
  one = [mixed(b ^ mixed(i)) for i, b in enumerate(bits)]
  two = [mixed(m ^ 0x9E3779B9) for m in one]
  return f'{sum(one) % 2**32:08x}{sum(two) % 2**32:08x}'


RNG = np.random.default_rng(0)
ARRAYS = {
  'matrix': RNG.normal(size=(8, 12)).astype(np.float32),
  'cube': RNG.normal(size=(2, 3, 5)).astype(np.float32),
  'half': RNG.normal(size=7).astype(ml_dtypes.bfloat16),
  'number': np.int32(-5),
  'flags': np.array([True, False, True]),
  'strange': np.array([0.0, -0.0, np.nan, np.inf], np.float32),
}


@pytest.mark.parametrize('name', ARRAYS)
def test_a_fingerprint_is_what_numpy_makes_of_the_bits(name):
  array = np.asarray(ARRAYS[name])
  assert checksums.tensors({'a': {'b': array}}) == {'a/b': naive(array)}


@pytest.mark.parametrize('spec', [P('x'), P(None, 'y'), P('x', 'y'), P(('x', 'y'))])
def test_parts_on_many_devices_have_the_fingerprint_of_the_whole(spec):
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ('x', 'y'))
  array = ARRAYS['matrix']
  cut = jax.device_put(array, NamedSharding(mesh, spec))
  assert checksums.tensors([cut]) == {'0': naive(array)}


def test_one_bit_and_two_that_change_places_are_noticed():
  array = ARRAYS['matrix']
  found = {naive(array)}
  for change in (
    lambda a: np.nextafter(a, np.inf, where=np.arange(12) == 3, out=a.copy()),
    lambda a: a[:, ::-1],
    lambda a: a[::-1],
  ):
    (one,) = checksums.tensors([jnp.asarray(change(array))]).values()
    found.add(one)
  assert len(found) == 4
  zeros = checksums.tensors([np.float32([0.0]), np.float32([-0.0])])
  assert zeros['0'] != zeros['1']


def test_all_of_a_state_is_in_its_fingerprints():
  def made(param=1.0, moment=1.0, ema=1.0):
    moments = ({'mu': {'w': jnp.float32([moment])}}, ())
    average = {'w': jnp.float32(ema)}
    state = State({'w': jnp.float32([param])}, moments, jnp.int32(3), average)
    return checksums.line(checksums.items(state))

  base = made()
  assert list(base['params']) == ['w']
  assert made(param=2.0)['params'] != base['params']
  assert made(param=2.0)['rest'] == base['rest']
  for change in ({'moment': 2.0}, {'ema': 2.0}):
    assert made(**change)['params'] == base['params']
    assert made(**change)['rest'] != base['rest']
