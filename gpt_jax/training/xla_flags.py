"""What XLA is told on accelerators: to send while it computes, and in few operations.

Set before jax starts, where the devices and the flag are known to what is installed: an
unknown flag ends the process. What the user set stays as it is.
"""

import glob
import importlib.util
import mmap
import pathlib
from collections.abc import Iterator, MutableMapping

# By platform: the variable that its compiler reads, and the flags.
FLAGS = {
  'gpu': (
    'XLA_FLAGS',
    {
      'xla_gpu_enable_latency_hiding_scheduler': 'true',
      'xla_gpu_enable_highest_priority_async_stream': 'true',
      'xla_gpu_enable_pipelined_all_gather': 'true',
      'xla_gpu_enable_pipelined_all_reduce': 'true',
      'xla_gpu_enable_pipelined_reduce_scatter': 'true',
      # Large enough for full bandwidth, small enough that layers overlap.
      'xla_gpu_all_gather_combine_threshold_bytes': '134217728',
      'xla_gpu_all_reduce_combine_threshold_bytes': '134217728',
      'xla_gpu_reduce_scatter_combine_threshold_bytes': '134217728',
    },
  ),
  'tpu': (
    'LIBTPU_INIT_ARGS',
    {
      'xla_tpu_enable_async_collective_fusion': 'true',
      'xla_tpu_enable_async_collective_fusion_fuse_all_gather': 'true',
      'xla_tpu_enable_async_collective_fusion_multiple_steps': 'true',
      'xla_tpu_overlap_compute_collective_tc': 'true',
      'xla_enable_async_all_gather': 'true',
      'xla_enable_async_collective_permute': 'true',
      'xla_tpu_enable_data_parallel_all_reduce_opt': 'true',
      'xla_tpu_data_parallel_opt_different_sized_ops': 'true',
    },
  ),
}
_DEVICES = {
  'gpu': ['/dev/nvidia[0-9]*'],
  'tpu': ['/dev/accel[0-9]*', '/dev/vfio/[0-9]*'],
}
_LIBRARIES = {
  'gpu': [('jaxlib', 'libjax_common.so'), ('jax_plugins', 'xla_cuda*/*plugin.so')],
  'tpu': [('libtpu', 'libtpu.so')],
}


def set_up(environ: MutableMapping[str, str]) -> None:
  """Adds the flags for the accelerators of this machine; call it before jax starts."""
  asked = environ.get('JAX_PLATFORMS', '').lower().replace('cuda', 'gpu').split(',')
  for platform, devices in _DEVICES.items():
    if asked != [''] and platform not in asked:
      continue
    if any(map(glob.glob, devices)):
      add(environ, platform, list(libraries(platform)))


def add(
  environ: MutableMapping[str, str], platform: str, libraries: list[pathlib.Path]
) -> None:
  """Adds a platform's flags that all of its libraries know; none if there are none."""
  variable, flags = FLAGS[platform]
  given = environ.get(variable, '').split()
  theirs = {flag.lstrip('-').partition('=')[0] for flag in given}
  ours = [
    f'--{name}={value}'
    for name, value in flags.items()
    if name not in theirs and libraries and all(_knows(lib, name) for lib in libraries)
  ]
  if ours:
    environ[variable] = ' '.join(given + ours)


def said(environ: MutableMapping[str, str], platform: str) -> str:
  """Returns a line on what a platform's compiler is told; '' for nothing."""
  variable, _ = FLAGS.get(platform, ('', {}))
  return f'flags     {variable}={environ[variable]}' if environ.get(variable) else ''


def libraries(platform: str) -> Iterator[pathlib.Path]:
  """Yields what is installed here that reads a platform's flags."""
  for package, pattern in _LIBRARIES[platform]:
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
      yield from pathlib.Path(folder).glob(pattern)


def _knows(library: pathlib.Path, flag: str) -> bool:
  """Returns whether a library has the name of a flag, as C writes texts."""
  with (
    library.open('rb') as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
  ):
    return content.find(flag.encode() + b'\0') >= 0
