"""Fingerprints of a state: a short number for each tensor, the same in every layout.

Tensors that differ have the same fingerprint with a chance of 2^-64. It finds
differences that nobody meant; it is no protection against forgery.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.training.step import State

_SALT = 0x9E3779B9


def by_item(state: State) -> dict[str, dict]:
  """Returns the trees of a state that are items of a checkpoint, by their names."""
  guard = {} if state.guard is None else {'guard': state.guard}
  average = {'ema': state.ema} if state.ema else {}
  rest = {'opt_state': state.opt_state, **guard}
  return {'params': state.params, 'rest': rest, **average}


def items(state: State) -> dict[str, dict[str, str]]:
  """Returns the fingerprints of a state's tensors, by item.

  Every process must call it. A parameter's name is like h_0/attn/q/kernel.
  """
  return {name: tensors(tree) for name, tree in by_item(state).items()}


def line(by_item: dict[str, dict[str, str]]) -> dict[str, Any]:
  """Returns what fingerprints.jsonl says of a state whose `items` are given.

  `params`: the fingerprint of each parameter; `rest`: one of the optimizer's state, the
  average of weights and the guard.
  """
  rest, ema = by_item['rest'], by_item.get('ema', {})
  parts = {'opt_state': {}, 'guard': {}}
  for name, value in rest.items():
    part, _, of = name.partition('/')
    parts[part][of] = value
  # Numbered as they were when they were one tuple, so that old lines still compare.
  each = enumerate((parts['opt_state'], ema, parts['guard']))
  numbered = {f'{i}/{name}': v for i, part in each for name, v in part.items()}
  return {'rest': joined(numbered), 'params': by_item['params']}


def not_finite(tree: Any) -> str:
  """Returns the name of the first tensor that has a NaN or an infinity; '': none."""
  leaves = named(tree)
  finite = jax.device_get(_finite(list(leaves.values())))
  return next((n for n, fine in zip(leaves, finite, strict=True) if not fine), '')


def tensors(tree: Any) -> dict[str, str]:
  """Returns the fingerprint of each array of a tree, 16 hex digits, by its name."""
  sums = {}
  for name, leaf in named(tree).items():
    sums[name] = _sums(leaf)
    # Each waits for other processes. Of several at a time some would, on a CPU with
    # fewer cores than devices, take all threads while others wait for the rest.
    if jax.process_count() > 1 and jax.default_backend() == 'cpu':
      jax.block_until_ready(sums[name])
  return {name: f'{int(a):08x}{int(b):08x}' for name, (a, b) in sums.items()}


def named(tree: Any) -> dict[str, jax.Array]:
  """Returns the arrays of a tree by their names."""
  return {
    '/'.join(str(_part(key)) for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def joined(sums: dict[str, str]) -> str:
  """Returns one fingerprint of several."""
  text = ''.join(f'{name} {value}\n' for name, value in sums.items())
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(params: dict) -> str:
  """Returns the SHA-256 of parameters: names, shapes, types and values.

  It is the same in every run and process, so files name weights by it.
  """
  whole = hashlib.sha256()
  for path, value in jax.tree_util.tree_leaves_with_path(params):
    value = np.ascontiguousarray(value)
    name = f'{jax.tree_util.keystr(path)} {value.shape} {value.dtype}\n'
    whole.update(name.encode())
    whole.update(value.tobytes())
  return whole.hexdigest()


def _part(key: Any) -> Any:
  """Returns the name of a step of a path."""
  for name in ('key', 'name', 'idx'):
    if hasattr(key, name):
      return getattr(key, name)
  return key


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
  """Returns for each array whether all of it is finite."""
  return [jnp.isfinite(leaf).all() for leaf in leaves]


@jax.jit
def _sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns two sums over the elements of an array, each modulo 2^32.

  Of each element its bits and its place are mixed. A sum modulo 2^32 does not depend
  on its order, so parts of an array may be on any devices; and as each mix is one to
  one, a single element that differs changes both.
  """
  x = jnp.atleast_1d(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  unsigned = np.dtype(f'uint{8 * x.dtype.itemsize}')
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    step = np.uint32(stride % 2**32)
    place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * step
    stride *= x.shape[axis]
  first = _mixed(bits ^ _mixed(place))
  second = _mixed(first ^ np.uint32(_SALT))
  # Both in one pass over the array, which is then never copied: 10 times as fast.
  add = lambda a, b: (a[0] + b[0], a[1] + b[1])  # noqa: E731
  none = np.uint32(0), np.uint32(0)
  rows = jax.lax.reduce((first, second), none, add, (x.ndim - 1,))
  return rows[0].sum(dtype=jnp.uint32), rows[1].sum(dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
  """Returns a one-to-one map of 32 bits, MurmurHash3's finalizer (Appleby 2011)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
