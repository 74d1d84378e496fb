"""Simulated devices and quick compilation for all tests."""

import os
import pathlib

# Before jax starts: 4 CPU devices for the layouts; less optimisation halves the time
# that the suite spends compiling.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0'
)

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of public data sets, or a skip."""
  folder = pathlib.Path(os.environ.get('GPT_JAX_DATA') or ROOT / '../shared/data')
  if not folder.is_dir():
    pytest.skip(f'no data at {folder}; set GPT_JAX_DATA')
  return folder
