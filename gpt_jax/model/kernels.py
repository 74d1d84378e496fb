"""Which kernel computes the attention of a text to itself, decided at set-up.

'cudnn' (NVIDIA GPUs) and 'splash' (TPUs) never write the [T, T] weights
(FlashAttention: Dao et al. 2022); 'plain' is ours, for whatever they do not take. The
choice is for the devices that will run the program, not for those of the machine that
traces it, so a program can be compiled for devices that are not there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax

_KERNELS = {'gpu': 'cudnn', 'tpu': 'splash'}


class Choice(NamedTuple):
  """A kernel, and why it was chosen, in words."""

  kernel: str
  reason: str


def lacking(kernel: str, *, T: int, H: int, dropout: bool) -> list[str]:
  """Returns what a flash kernel needs of a text that this one does not have.

  Args:
    kernel: 'cudnn' or 'splash'.
  """
  needs = {
    'cudnn': {'heads of 8, 16 .. 128 features': H % 8 == 0 and H <= 128},
    'splash': {
      'a context of whole blocks of 128': T % 128 == 0,
      'heads of 64 features or a multiple': H % 64 == 0,
    },
  }
  rules = needs[kernel] | {'no dropout': not dropout}
  return [rule for rule, holds in rules.items() if not holds]


def choose(
  flash: str,
  devices: Sequence[jax.Device],
  *,
  dtype: str,
  gradients: str,
  T: int,
  H: int,
  dropout: bool,
) -> Choice:
  """Returns the kernel for the attention of a model on some devices.

  Args:
    flash: 'auto', or 'plain' for no flash kernel, as in `config.Model`.
    devices: all that share a program; they may be absent ones.
    gradients: as in `config.Model`.
  """
  if flash == 'plain':
    return Choice('plain', 'model.flash=plain')
  platform = devices[0].platform if devices else 'cpu'
  if platform not in _KERNELS:
    return Choice('plain', f'no flash attention for {platform}')
  kernel = _KERNELS[platform]
  missing = lacking(kernel, T=T, H=H, dropout=dropout)
  if gradients == 'plain':
    missing.append('model.gradients=written')
  if kernel == 'cudnn' and _capability(devices[0]) < 8:
    missing.append('compute capability 8.0')
  if kernel == 'cudnn' and dtype != 'bfloat16':
    missing.append('bfloat16')
  if kernel == 'splash' and len(devices) > 1:
    missing.append('a single device')  # the compiler can not divide it over a mesh
  if missing:
    return Choice('plain', f'{kernel} needs {", ".join(missing)}')
  return Choice(kernel, f'{dtype} on {platform}')


def of_quantized(devices: Sequence[jax.Device]) -> Choice:
  """Returns how few rows are multiplied with weights in 8 or 4 bits.

  'triton' and 'mosaic' are kernels that read the small bytes
  (`model/quantized_kernels.py`); 'plain' leaves it to the compiler.

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


def _capability(device: jax.Device) -> float:
  """Returns the compute capability of an NVIDIA GPU; 0 for others."""
  try:
    return float(getattr(device, 'compute_capability', 0))
  except ValueError:  # AMD's have names
    return 0.0
