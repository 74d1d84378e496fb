"""What numbers depend on beside config and data: code, packages, flags, devices."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

# Those of requirements.txt, and jaxlib, which comes with jax.
PACKAGES = (
  'jax jaxlib flax optax orbax-checkpoint sentencepiece safetensors huggingface_hub '
  'tokenizers tiktoken regex absl-py ml_collections grain scipy rich tensorboard '
  'matplotlib markdown-it-py numpy'
).split()
_OF_ACCELERATORS = 'jax-cuda', 'nvidia-', 'libtpu', 'jax-rocm'
_FLAGS = 'XLA_', 'JAX_', 'LIBTPU_', 'CUBLAS_', 'CUDNN_', 'NVIDIA_TF32'
# Variables that begin so say where files and memory are, and change no number.
_NO_NUMBERS = (
  'JAX_COMPILATION_CACHE',
  'JAX_PERSISTENT_CACHE',
  'JAX_TRACEBACK',
  'XLA_PYTHON_CLIENT',
)
_SETTINGS = (  # of jax, however they were set
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_enable_x64',
  'jax_threefry_partitionable',
)
_KINDS = {'versions': 'package', 'flags': 'flag', 'sources': 'source file'}


def now(devices: Sequence[jax.Device]) -> dict[str, Any]:
  """Returns what the numbers of a program on `devices` depend on, as JSON.

  git (commit and uncommitted change), sources (sha256 of each file of this package),
  versions of packages, python, platform, cpu, devices, backend (its version) and flags
  (of the environment that may change numbers, and jax's settings).
  """
  return {
    'git': git_state(),
    'sources': sources(),
    'versions': versions(),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'cpu': _cpu(),
    'devices': [f'{d.platform}: {d.device_kind}' for d in devices],
    'backend': devices[0].client.platform_version if devices else '',
    'flags': flags(),
  }


def versions() -> dict[str, str | None]:
  """Returns the versions of the packages that a run may use; None: not installed."""
  installed = {
    dist.name: dist.version
    for dist in importlib.metadata.distributions()
    if dist.name.startswith(_OF_ACCELERATORS)
  }
  for name in PACKAGES:
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      installed[name] = None
  return installed


def flags() -> dict[str, str]:
  """Returns the variables and settings that may change what programs compute."""
  variables = {
    name: value
    for name, value in sorted(os.environ.items())
    if name.startswith(_FLAGS) and not name.startswith(_NO_NUMBERS)
  }
  return variables | {name: str(getattr(jax.config, name)) for name in _SETTINGS}


def sources() -> dict[str, str]:
  """Returns the sha256 of each file of this package, by its path in it."""
  root = pathlib.Path(__file__).resolve().parents[1]
  return {
    path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(root.rglob('*.py'))
  }


def git_state() -> dict[str, str]:
  """Returns the commit and uncommitted change of this code; {} outside a checkout."""
  root = pathlib.Path(__file__).resolve().parents[2]

  def git(*command):
    return subprocess.run(
      ['git', *command], cwd=root, capture_output=True, text=True, check=True
    ).stdout

  try:
    return {'commit': git('rev-parse', 'HEAD').strip(), 'diff': git('diff', 'HEAD')}
  except (OSError, subprocess.CalledProcessError):
    return {}


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
  """Returns in words what differs between two environments.

  What only one of them knows (the other may be older) is left out. Commits are named if
  the code differs, or may.
  """
  texts = []
  known = there.keys() & here.keys()
  for name, kind in _KINDS.items():
    if name not in known:
      continue
    if name == 'sources' and (moved := _moved(there[name], here[name])):
      texts.append(moved)
      continue
    for key in sorted(there[name].keys() | here[name].keys()):
      old, new = there[name].get(key), here[name].get(key)
      known_to_both = key in there[name] and key in here[name]
      if key in PACKAGES and not known_to_both:
        continue  # all of these are listed, but by an older run
      if old != new:
        texts.append(f'{kind} {key}: {_words(name, old, new)}')
  for name in ('python', 'platform', 'cpu', 'backend'):
    if name in known and there[name] != here[name]:
      texts.append(f'{name}: {there[name]} there, {here[name]} here')
  if 'devices' in known and there['devices'] != here['devices']:
    old, new = (
      f'{len(each)} ({", ".join(sorted(set(each)))})'
      for each in (there['devices'], here['devices'])
    )
    texts.append(f'devices: {old} there, {new} here')
  same_code = 'sources' in known and there['sources'] == here['sources']
  old, new = (commit(each.get('git', {})) for each in (there, here))
  if old and new and old != new and not same_code:
    texts.append(f'git: {old} there, {new} here')
  return texts


def _moved(old: dict[str, str], new: dict[str, str]) -> str:
  """Returns a line to replace the list of files if most of them were moved, or ''."""
  gone = old.keys() - new.keys()
  if 2 * len(gone) <= len(old):
    return ''
  return (
    f'source files: {len(gone)} of {len(old)} were moved or renamed since; compare the '
    'commits to see what else changed'
  )


def _words(name: str, old: str | None, new: str | None) -> str:
  """Returns how two values of one thing differ; None: it is missing."""
  missing = {'versions': 'not installed', 'flags': 'not set', 'sources': 'missing'}
  if name == 'sources' and None not in (old, new):
    return f'changed (sha256 {old[:12]} there, {new[:12]} here)'
  old, new = (
    missing[name] if value is None else value[:12] if name == 'sources' else value
    for value in (old, new)
  )
  return f'{old} there, {new} here'


def commit(git: dict[str, str]) -> str:
  """Returns a commit in words, '' where it is not known."""
  if not git:
    return ''
  return git['commit'][:12] + (' with changes' if git['diff'] else '')


def _cpu() -> str:
  """Returns the processor's model and the number of cores that may be used.

  Sums over several threads add in another order than those of one.
  """
  cores = os.cpu_count()
  if hasattr(os, 'sched_getaffinity'):
    cores = len(os.sched_getaffinity(0))
  model = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
  except OSError:  # not Linux
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if 'model name' in line]
  return f'{next(iter(names), model)}, {cores} cores'
