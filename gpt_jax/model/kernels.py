"""Which kernel computes the attention of a text to itself, decided at set-up.

'cudnn' (NVIDIA GPUs) and 'splash' (TPUs) never write the [T, T] weights
(FlashAttention: Dao et al. 2022), nor do 'triton' (GPUs) and 'mosaic' (TPUs), which are
ours (`model/flash.py`) and draw dropout; 'plain' is for whatever none of them takes.
The choice is for the devices that will run the program, not for those of the machine
that traces it, so a program can be compiled for devices that are not there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

# Those of a platform: the first that lacks nothing is the fastest.
_KERNELS = {'gpu': ('cudnn', 'triton'), 'tpu': ('splash', 'mosaic')}


class Choice(NamedTuple):
  """A kernel, and why it was chosen, in words."""

  kernel: str
  reason: str


def lacking(kernel: str, *, T: int, H: int, dropout: bool, apart: bool) -> list[str]:
  """Returns what a flash kernel needs of a text that this one does not have.

  Args:
    apart: whether there are documents that do not see each other.
    kernel: one of the kernels, or 'interpret': ours on any device, for tests.
  """
  needs = {
    'cudnn': {
      'heads of 8, 16 .. 128 features': H % 8 == 0 and H <= 128,
      'no dropout': not dropout,
      'model.documents=joined': not apart,
    },
    'splash': {
      'a context of whole blocks of 128': T % 128 == 0,
      'heads of 64 features or a multiple': H % 64 == 0,
      'no dropout': not dropout,
    },
    'triton': {'heads of at most 128 features': H <= 128},
    # A program holds the keys and values of a row in its memory.
    'mosaic': {'a context of at most 4096': T <= 4096},
    'interpret': {},
  }
  rules = needs[kernel]
  if dropout and 'no dropout' not in rules:
    rules |= {
      'keys of threefry2x32, partitionable': _threefry(),
      'a context of at most 32768 for dropout': T <= 2**15,
    }
  return [rule for rule, holds in rules.items() if not holds]


def _threefry() -> bool:
  """Returns whether jax draws random bits as `model/flash.py` does."""
  return (
    jax.config.jax_default_prng_impl == 'threefry2x32'
    and jax.config.jax_threefry_partitionable
  )


def choose(
  flash: str,
  devices: Sequence[jax.Device],
  *,
  dtype: str,
  gradients: str,
  T: int,
  H: int,
  dropout: bool,
  apart: bool = False,
) -> Choice:
  """Returns the kernel for the attention of a model on some devices.

  Args:
    flash: 'auto', or 'plain' for no flash kernel, as in `config.Model`.
    devices: all that share a program; they may be absent ones.
    gradients: as in `config.Model`.
    apart: whether documents do not see each other.
  """
  if flash == 'plain':
    return Choice('plain', 'model.flash=plain')
  platform = devices[0].platform if devices else 'cpu'
  if platform not in _KERNELS:
    return Choice('plain', f'no flash attention for {platform}')
  why = ''
  for kernel in _KERNELS[platform]:
    missing = lacking(kernel, T=T, H=H, dropout=dropout, apart=apart)
    if gradients == 'plain':
      missing.append('model.gradients=written')
    if platform == 'gpu' and _capability(devices[0]) < 8:
      missing.append('compute capability 8.0')
    if kernel == 'cudnn' and dtype != 'bfloat16':
      missing.append('bfloat16')
    if not missing:
      return Choice(kernel, why or f'{dtype} on {platform}')
    why += f'{"; " if why else ""}{kernel} needs {", ".join(missing)}'
  return Choice('plain', why)


def choose_decode(
  flash: str,
  devices: Sequence[jax.Device],
  *,
  dtype: str,
  H: int,
  norm: str,
  activation: str,
) -> Choice:
  """Returns how decoding reads a token of a model on some devices.

  Arguments are those of `choose`; norm and activation as in `config.Model`.
  """
  if flash == 'plain':
    return Choice('plain', 'model.flash=plain')
  platform = devices[0].platform if devices else 'cpu'
  if platform != 'gpu':
    return Choice('plain', f'no kernels for a token on {platform}')
  rules = {
    'compute capability 8.0': _capability(devices[0]) >= 8,
    'bfloat16': dtype == 'bfloat16',
    'heads of 16, 32 .. 256 features': H in (16, 32, 64, 128, 256),
    'LayerNorm before each branch': norm == 'pre',
    'GELU by tanh, or ReLU': activation in ('gelu_tanh', 'relu'),
  }
  if missing := [rule for rule, holds in rules.items() if not holds]:
    return Choice('plain', f'the kernels need {", ".join(missing)}')
  return Choice('fused', f'{dtype} on {platform}')


def choose_update(
  flash: str,
  devices: Sequence[jax.Device],
  *,
  dtype: str,
  D: int,
  norm: str,
  activation: str,
) -> Choice:
  """Returns how an update normalises texts and computes MLPs on some devices.

  Arguments are those of `choose`; D, norm and activation as in `config.Model`.
  """
  if flash == 'plain':
    return Choice('plain', 'model.flash=plain')
  platform = devices[0].platform if devices else 'cpu'
  if platform != 'gpu':
    return Choice('plain', f'no kernels for an update on {platform}')
  capability = _capability(devices[0])
  rules = {
    # Tiles of a product take 128 KB of shared memory; others have 100.
    'compute capability 8.0, 9 or 10': capability == 8 or 9 <= capability < 11,
    'bfloat16': dtype == 'bfloat16',
    # A program of LayerNorm holds whole rows.
    'a width of at most 4096': D <= 4096,
    'LayerNorm before each branch': norm == 'pre',
    'GELU by tanh, or ReLU': activation in ('gelu_tanh', 'relu'),
  }
  if missing := [rule for rule, holds in rules.items() if not holds]:
    return Choice('plain', f'the kernels need {", ".join(missing)}')
  return Choice('fused', f'on {platform}')


def of_quantized(devices: Sequence[jax.Device]) -> Choice:
  """Returns how few rows are multiplied with weights in 8 or 4 bits.

  'triton' (`token_kernels.product`) and 'mosaic' (`model/quantized_kernels.py`) are
  kernels that read the small bytes; 'plain' leaves it to the compiler.

  Args:
    devices: as in `choose`.
  """
  platform = devices[0].platform if devices else 'cpu'
  forms = {'gpu': 'triton', 'tpu': 'mosaic'}
  if platform not in forms:
    return Choice('plain', f'no such kernel for {platform}')
  if len(devices) > 1:
    return Choice('plain', 'the kernels need a single device')
  if platform == 'gpu' and _capability(devices[0]) < 8:
    return Choice('plain', 'triton needs compute capability 8.0')
  return Choice(forms[platform], f'the small bytes are read on {platform}')


def stated_cost(
  *, flops: int, bytes_accessed: int, transcendentals: int = 0
) -> dict[str, Any]:
  """Returns the arguments by which `pallas_call` says what a kernel does.

  A TPU's program keeps the estimate, a GPU's the metadata alone; `programs/work.py`
  counts neither kernel without.

  Args:
    transcendentals: operations on elements, all besides products.
  """
  # Pallas takes a second to import, and only its kernels need it.
  from jax.experimental import pallas as pl

  cost = {
    'flops': flops,
    'bytes_accessed': bytes_accessed,
    'transcendentals': transcendentals,
  }
  return {
    'cost_estimate': pl.CostEstimate(**cost),
    'metadata': {name: str(number) for name, number in cost.items()},
  }


def _capability(device: jax.Device) -> float:
  """Returns the compute capability of an NVIDIA GPU; 0 for others."""
  try:
    return float(getattr(device, 'compute_capability', 0))
  except ValueError:  # AMD's have names
    return 0.0
