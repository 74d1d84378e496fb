"""The table that benchmarks/profile.py makes of a trace."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import profile


def test_kernels_are_summed_by_kind_and_by_operation():
  found = [('dot.1', 'gemm', 2.0), ('dot.2', 'gemm', 1.0), ('add_fusion', 'a|b', 0.2)]
  found += [('dot.2', 'gemm', 0.8)]
  lines = profile.table(found, 6.0, 2)
  assert lines[0] == '1500.00 ms an update; kernels 1000.00 ms, 1 of them'
  assert lines[4:6] == [
    '| dot | 950.000 | 95.0% | 1 |',
    '| add_fusion | 50.000 | 5.0% | 0 |',
  ]
  assert lines[9:] == [
    '| dot.1 | 500.000 | 50.0% | gemm |',
    '| dot.2 | 450.000 | 45.0% | gemm |',
  ]


def test_a_trace_has_the_operations_of_the_program(tmp_path):
  x = jnp.ones((64, 64))
  product = jax.jit(lambda x: jnp.tanh(x @ x))
  product(x).block_until_ready()
  with jax.profiler.trace(str(tmp_path)):
    product(x).block_until_ready()
  (path,) = tmp_path.rglob('*.xplane.pb')
  found = list(profile.events(path))
  assert 1 <= len(found) <= 4  # and not what Python and the host did meanwhile
  assert all('jit' not in name and 0 < spent < 1 for name, _, spent in found)


@pytest.mark.parametrize(
  ('name', 'kind'), [('fusion.12', 'fusion'), ('copy_3.1', 'copy'), ('dot', 'dot')]
)
def test_copies_of_a_kernel_have_one_name(name, kind):
  assert profile.family(name) == kind
