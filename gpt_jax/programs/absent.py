"""Devices that are not there, to compile for: eight H100s, a TPU slice of 4 by 4.

The program of such a device, its memory, its collectives and its kernels are those of
the real one, but for what a GPU measures while it compiles: autotuning, which picks
tiles and library calls. A plugin of jax makes the devices: `jax[cuda13]` for GPUs,
`jax[tpu]` for TPUs; both may be installed, on a machine that has neither.

They are only to compile for. They have no memory, so arguments must be
`jax.ShapeDtypeStruct`s with shardings over them, numbers too.
"""

import contextlib
import importlib.util
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from gpt_jax.config import UserError, nearest
from gpt_jax.programs import roofline

_HOST = 8  # GPUs of one machine


class _Gpu(NamedTuple):
  """A GPU as its makers describe it.

  Attributes:
    cores: streaming multiprocessors.
    lanes: float32 units of each.
    ghz: the boost clock.
    l2: MB of the shared cache.
    shared: KiB of memory that the blocks of a multiprocessor share; a block may have
      all but one.
    capability: compute capability.
  """

  name: str
  cores: int
  lanes: int
  ghz: float
  l2: int
  shared: int
  capability: tuple[int, int]


# The makers' data sheets and the tables of the CUDA C++ Programming Guide.
_GPUS = {
  'h100': _Gpu('NVIDIA H100 80GB HBM3', 132, 128, 1.98, 50, 228, (9, 0)),
  'h200': _Gpu('NVIDIA H200', 132, 128, 1.98, 50, 228, (9, 0)),
  'a100': _Gpu('NVIDIA A100-SXM4-80GB', 108, 64, 1.41, 40, 164, (8, 0)),
}


class _Tpu(NamedTuple):
  """A TPU as its makers describe it (Cloud TPU documentation, "System architecture").

  Attributes:
    host: chips along the edges of the largest slice that one host has.
    of_several: chips of a host along the edges of a larger slice.
    config: how libtpu drives a chip; two cores may be one device.
  """

  host: tuple[int, ...]
  of_several: tuple[int, ...]
  config: str


_TPUS = {
  'v4': _Tpu((2, 2, 1), (2, 2, 1), 'megacore'),
  'v5e': _Tpu((2, 4), (2, 2), 'default'),
  'v5p': _Tpu((2, 2, 1), (2, 2, 1), 'megacore'),
  'v6e': _Tpu((2, 4), (2, 2), 'default'),
}


def devices(name: str) -> list[jax.Device]:
  """Returns devices that are not there.

  jax's persistent cache of programs is switched off for the process: it would keep
  programs of such devices, and can't read them.

  Args:
    name: KIND of a GPU or KIND:NUMBER ('h100:8'; more than 8 are hosts of 8), or
      KIND:SHAPE of a TPU slice, chips along its edges ('v5e:4x4', 'v5p:2x2x1').

  Raises:
    UserError: no such device or shape, or its plugin is not installed.
  """
  kind, _, shape = name.partition(':')
  if kind not in _GPUS and kind not in _TPUS:
    known = [*_GPUS, *_TPUS]
    raise UserError(
      f'--on={name}: {kind!r} is no device to compile for.{nearest(kind, known)}'
    )
  return _gpus(name, kind, shape) if kind in _GPUS else _tpus(name, kind, shape)


def _gpus(name: str, kind: str, shape: str) -> list[jax.Device]:
  number = int(shape or 1) if shape.isdecimal() or not shape else 0
  if not number or (number > _HOST and number % _HOST):
    raise UserError(
      f'--on={name}: GPUs are counted, {kind}:1 .. {kind}:{_HOST} on one host, and '
      f'{kind}:{2 * _HOST} or another multiple of {_HOST} on several'
    )
  hosts = max(1, number // _HOST)
  _load_cuda(name)
  # Slices of NVLink, hosts of a slice, GPUs of a host.
  slices = f'{hosts}x1x{number // hosts}'
  found = topologies.get_topology_desc(
    slices, 'cuda', topology=slices, target_config=_target(kind)
  )
  return list(found.devices)


def _load_cuda(name: str) -> None:
  """Makes jax's plugin for NVIDIA GPUs ready to describe some."""
  from jaxlib import xla_client

  _prepare(name, 'jax_plugins.xla_cuda13', 'jax[cuda13]')
  jax.devices('cpu')  # plugins are registered
  if not xla_client.pjrt_plugin_initialized('cuda'):
    xla_client.initialize_pjrt_plugin('cuda')


def _tpus(name: str, kind: str, shape: str) -> list[jax.Device]:
  tpu = _TPUS[kind]
  edges = len(tpu.host)
  usual = f'{kind}:{"x".join(map(str, tpu.host))}'
  if not re.fullmatch('x'.join([r'[1-9]\d*'] * edges), shape):
    raise UserError(
      f'--on={name}: a slice of TPU {kind} is given by the chips along its {edges} '
      f'edges, such as {usual}'
    )
  _prepare(name, 'libtpu', 'jax[tpu]')
  # libtpu would ask the machine which slice it is in, and wait for an answer; and it
  # lets one process have the chips, which nobody here uses.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  sides = [int(side) for side in shape.split('x')]
  alone = all(side <= most for side, most in zip(sides, tpu.host, strict=True))
  bounds = sides if alone else list(tpu.of_several)
  try:
    found = topologies.get_topology_desc(
      f'{kind}:{shape}',
      'tpu',
      chip_config_name=tpu.config,
      chips_per_host_bounds=bounds + [1] * (3 - edges),
    )
  except jax.errors.JaxRuntimeError as error:
    raise UserError(
      f'--on={name}: libtpu makes no slice of this shape ({error}); try another, such '
      f'as {usual}'
    ) from error
  return list(found.devices)


def _prepare(name: str, module: str, package: str) -> None:
  """Prepares jax to compile by a plugin, or raises UserError if it is not installed."""
  try:
    there = importlib.util.find_spec(module)
  except ModuleNotFoundError:
    there = None
  if there is None:
    raise UserError(
      f'--on={name}: {package} compiles for it and is not installed; `make absent-env` '
      'makes .venv-absent, whose python has it'
    )
  with contextlib.suppress(RuntimeError):  # jax has begun
    jax.config.update('jax_platforms', 'cpu')  # plugins would look for their devices
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # it asks once whether to be used


def _target(kind: str) -> str:
  """Returns what XLA's compiler is told of a GPU: a GpuTargetConfigProto as text."""
  gpu, able = _GPUS[kind], roofline.DEVICES[kind]
  major, minor = gpu.capability
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_core: {gpu.shared * 1024}
  shared_memory_per_block_optin: {(gpu.shared - 1) * 1024}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  memory_bandwidth: {int(able.bandwidth)}
  l2_cache_size: {gpu.l2 * 2**20}
  clock_rate_ghz: {gpu.ghz}
  device_memory_size: {int(able.memory)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.name}"
"""
