"""Simulated devices and quick compilation for all tests."""

import gc
import importlib.metadata
import os
import pathlib

# Before jax starts: 8 CPU devices for the layouts. Most of the suite's time goes into
# compiling: less optimisation and LLVM's own loops instead of XLA's fusion emitters
# take a third of it. One order of a program's parts: in several, those that wait for
# other devices could take all threads of a machine of 2 cores, which would then stop.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 '
  '--xla_cpu_enable_concurrency_optimized_scheduler=false'
)
# tests/test_gpu.py judges a GPU's programs as they are used.
if os.environ.get('GPT_JAX_GPU') == '1':
  os.environ['JAX_PLATFORMS'] = 'cuda,cpu'
  os.environ['XLA_FLAGS'] = '--xla_cpu_enable_concurrency_optimized_scheduler=false'
# Later versions stop at this flag, which they do not know.
os.environ['XLA_FLAGS'] += (
  ' --xla_cpu_use_fusion_emitters=false'
  if importlib.metadata.version('jaxlib').startswith('0.10.')
  else ''
)
# Programs, small ones too, are compiled once for all tests and the processes that they
# launch.
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).resolve().parent.parent / '.pytest_cache/compiled'),
)

import jax
import pytest

from gpt_jax import tokenizers
from gpt_jax.data import sources

pytest_plugins = ['skips']
ROOT = pathlib.Path(__file__).resolve().parent.parent
# The files that take longest, longest first: begun last, one of them would keep a
# worker busy while the others wait. `--no-loadscope-reorder` has xdist keep this order.
LONGEST = (
  'faults train sharding step reproduce members runs_benchmark hosts beam model '
  'finetune mup attention cost trajectory task_objective sweep'
).split()


# Tests that take 4 seconds of one core or more, an id a line (`make slow-tests`): not
# part of `make test`, but of `make test-slow`.
SLOW = frozenset((ROOT / 'tests/slow.txt').read_text().split('\n'))


@pytest.hookimpl(tryfirst=True)  # before pytest's own looks at the marks
def pytest_collection_modifyitems(items):
  first = {f'test_{name}': place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: first.get(item.path.stem, len(first)))
  for item in items:
    if item.nodeid in SLOW:
      item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope='module')
def few_programs():
  """Drops compiled programs after a file once their memory is in many pieces.

  A program takes about 5 maps, and Linux ends a process that asks for more than 65,530
  (vm.max_map_count), which half of the suite in one worker can reach.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > 15_000:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of public data sets, or a skip."""
  folder = pathlib.Path(os.environ.get('GPT_JAX_DATA') or ROOT / '../shared/data')
  if not folder.is_dir():
    pytest.skip(f'no data at {folder}; set GPT_JAX_DATA')
  return folder


@pytest.fixture(scope='session')
def text():
  """A third of a megabyte of English: help topics of Python."""
  return '\n'.join(d.text for d in sources.python_docs() if '/' in d.name)[:330_000]


@pytest.fixture(scope='session')
def trained(text):
  """One tokenizer of each kind that is made here."""
  sizes = {'bpe': 1000, 'unigram': 1000, 'byte_bpe': 1000}
  return {
    kind: tokenizers.train(kind, [text], sizes.get(kind, 0))
    for kind in tokenizers.TRAINED
  }


@pytest.fixture(scope='session')
def task_place(tmp_path_factory) -> pathlib.Path:
  """A folder with a pre-trained workdir and files of a task."""
  import tiny_task  # imports jax

  return tiny_task.write(tmp_path_factory.mktemp('task'))


@pytest.fixture
def s3(monkeypatch):
  """A file system of a local S3 server, empty but for s3://bucket."""
  moto = pytest.importorskip('moto.server')
  s3fs = pytest.importorskip('s3fs')
  for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
    monkeypatch.setenv(name, 'test')
  server = moto.ThreadedMotoServer(ip_address='127.0.0.1', port=0)
  server.start()
  try:
    host, port = server.get_host_and_port()
    monkeypatch.setenv('AWS_ENDPOINT_URL', f'http://{host}:{port}')
    s3fs.S3FileSystem.clear_instance_cache()  # each knows the server that it was for
    system = s3fs.S3FileSystem()
    system.mkdir('bucket')
    yield system
    system.rm('bucket', recursive=True)  # it outlives the server, in this process
  finally:
    server.stop()
