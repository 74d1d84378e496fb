"""The speed of a run: tokens/s, where an update's time goes, utilisation, memory."""

import collections
import contextlib
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax

_T = TypeVar('_T')
_MOST_WINDOWS = 1000  # that the summary is of: a run of any length takes no more memory


def _gpu(bfloat16: float, tf32: float) -> dict[str, float]:
  """Returns a row of the table, from TFLOP/s of the tensor cores."""
  return {'bfloat16': bfloat16 * 1e12, 'tf32': tf32 * 1e12}


# Dense peaks of one jax device [FLOP/s] by its full `device_kind`, so that a variant
# that is not listed (a laptop's, a slice of a card) is unknown. NVIDIA's data sheets
# print twice the dense figure where a footnote says "with sparsity": here it is halved.
_PEAKS = {
  # No bfloat16 and no TF32: float32 runs on the CUDA cores. V100 and T4 data sheets.
  'Tesla V100-SXM2-16GB': {'float32': 15.7e12},
  'Tesla V100-SXM2-32GB': {'float32': 15.7e12},
  'Tesla V100-PCIE-16GB': {'float32': 14e12},
  'Tesla V100-PCIE-32GB': {'float32': 14e12},
  'Tesla T4': {'float32': 8.1e12},
  # A100 data sheet; SXM and PCIe have the same peak.
  'NVIDIA A100-SXM4-40GB': _gpu(312, 156),
  'NVIDIA A100-SXM4-80GB': _gpu(312, 156),
  'NVIDIA A100-PCIE-40GB': _gpu(312, 156),
  'NVIDIA A100 80GB PCIe': _gpu(312, 156),
  # L4 data sheet: 242 and 120 with sparsity.
  'NVIDIA L4': _gpu(121, 60),
  # H100 data sheet: with sparsity 1979 and 989 (SXM), 1513 and 756 (PCIe), 1671 and
  # 835 (NVL, each of the pair).
  'NVIDIA H100 80GB HBM3': _gpu(989.5, 494.5),
  'NVIDIA H100 PCIe': _gpu(756.5, 378),
  'NVIDIA H100 NVL': _gpu(835.5, 417.5),
  # H200 data sheet, SXM: as the H100 SXM.
  'NVIDIA H200': _gpu(989.5, 494.5),
  # Blackwell data sheet, HGX B200 at 1000 W: 4.5 and 2.2 PFLOP/s with sparsity.
  'NVIDIA B200': _gpu(2250, 1100),
  # GA102 and Ada white papers. bfloat16 always accumulates in float32, which halves
  # what GeForce cards can do in float16.
  'NVIDIA GeForce RTX 3090': _gpu(71, 35.6),
  'NVIDIA GeForce RTX 4090': _gpu(165.2, 82.6),
  # TPUs: Cloud TPU documentation, "peak compute per chip". A device is one of the two
  # cores of a chip in v2, v3 and v7, and a whole chip in the others (v4 and v5p: in
  # megacore mode, which is the default).
  'TPU v2': {'bfloat16': 45e12 / 2},
  'TPU v3': {'bfloat16': 123e12 / 2},
  'TPU v4': {'bfloat16': 275e12},
  'TPU v5 lite': {'bfloat16': 197e12},
  'TPU v5e': {'bfloat16': 197e12},
  'TPU v5': {'bfloat16': 459e12},
  'TPU v5p': {'bfloat16': 459e12},
  'TPU v6 lite': {'bfloat16': 918e12},
  'TPU v6e': {'bfloat16': 918e12},
  'TPU7x': {'bfloat16': 2307e12 / 2},
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
  """Returns the dense peak of matrix products on one device [FLOP/s], None if unknown.

  The units that compute float32 products depend on jax_default_matmul_precision
  (`jax.lax.Precision`). By default a TPU uses bfloat16; for an NVIDIA card with TF32
  they are known only if the setting is TF32; in full float32 the peak of such a card,
  and of a TPU, is unknown.

  Args:
    device_kind: of a `jax.Device`, in full.
    dtype: of the computation, 'float32' or 'bfloat16'.
  """
  peaks = _PEAKS.get(device_kind, {})
  unit = dtype
  if dtype == 'float32' and 'float32' not in peaks:
    precision = jax.config.jax_default_matmul_precision
    if device_kind.startswith('TPU'):
      unit = 'bfloat16' if precision in (None, 'default', 'bfloat16') else ''
    else:
      unit = 'tf32' if precision in ('tensorfloat32', 'high', 'TF32_TF32_F32') else ''
  return peaks.get(unit)


def peak_memory_mib(devices: Sequence[jax.Device]) -> float | None:
  """Returns the peak memory of the fullest device [MiB]; None if it is not known.

  On a CPU it is the peak resident size of this process.
  """
  if devices[0].platform == 'cpu':
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == 'darwin' else 2**10)
  stats = [device.memory_stats() or {} for device in devices]
  sizes = [s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s]
  return max(sizes) / 2**20 if sizes else None


def memory_limit(devices: Sequence[jax.Device]) -> int:
  """Returns the bytes of memory that jax may use of each; 0: they do not say."""
  # Those of another process can't be asked.
  own = next(d for d in devices if d.process_index == jax.process_index())
  return (own.memory_stats() or {}).get('bytes_limit', 0)


def free_memory(devices: Sequence[jax.Device]) -> float:
  """Returns the bytes that each of these devices has left.

  On a CPU they share what Linux calls available, or less if a container has a limit;
  half of all memory if neither is known.
  """
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats['bytes_in_use']
  free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
    free = next(1024 * int(w.split()[1]) for w in lines if w.startswith('MemAvailable'))
  with contextlib.suppress(OSError, ValueError):  # no cgroup, or no limit: 'max'
    limit, used = (
      int(pathlib.Path(f'/sys/fs/cgroup/memory.{name}').read_text())
      for name in ('max', 'current')
    )
    free = min(free, limit - used)
  return free / len(devices)


class Throughput:
  """Measures training proper by the loop's own clock, which starts when it is made.

  Evaluation and saving are left out (`paused`). Nothing waits for its sake: the loop
  looks at each update's loss one update late, and that look is the wait for compute.
  """

  def __init__(
    self,
    *,
    flops_per_token: float,
    devices: Sequence[jax.Device],
    dtype: str,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      flops_per_token: of an update, for each of its tokens; 0: not counted.
      devices: all that the run uses.
    """
    self.flops, self.clock = flops_per_token, clock
    peaks = [peak_flops(device.device_kind, dtype) for device in devices]
    self.peak = None if None in peaks else sum(peaks)
    self.kind = f'{devices[0].device_kind} in {dtype}'
    self.local = [d for d in devices if d.process_index == jax.process_index()]
    self.start = self.last = clock()
    self.updates, self.tokens, self.input, self.compute = 0, 0, 0.0, 0.0
    self.windows = collections.deque(maxlen=_MOST_WINDOWS)  # what `window` returned
    self._warm = False  # whether the first window, which compiles, was left out

  def inputs(self, batches: Iterable[_T]) -> Iterator[_T]:
    """Yields the batches; the wait for each is input time."""
    begin = self.clock()
    for rows in batches:
      self.input += self.clock() - begin
      yield rows
      begin = self.clock()

  @contextlib.contextmanager
  def computing(self) -> Iterator[None]:
    """What is done inside is a wait for the devices: compute time."""
    begin = self.clock()
    yield
    self.compute += self.clock() - begin

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """What is done inside is not training: no time passes."""
    begin = self.clock()
    yield
    self.last += self.clock() - begin

  def count(self, tokens: int) -> None:
    """Counts an update of so many tokens, on all devices."""
    self.updates += 1
    self.tokens += tokens

  def window(self) -> dict[str, float]:
    """Returns the clock fields of the updates since the last call.

    tokens_per_s; seconds since the start, everything included; input_ms, compute_ms
    and other_ms, which together are the time of an update; mfu, the model FLOPs
    utilisation (PaLM, appendix B) as a fraction, if the peak of the devices is known;
    peak_memory_mib (see there), if known.
    """
    now = self.clock()
    took = max(now - self.last, 1e-9)
    rate = self.tokens / took
    other = took - self.input - self.compute
    each = 1e3 / self.updates
    fields = {
      'tokens_per_s': round(rate, 1),
      'seconds': round(now - self.start, 3),
      'input_ms': round(self.input * each, 3),
      'compute_ms': round(self.compute * each, 3),
      'other_ms': round(other * each, 3),
    }
    if self.peak and self.flops:
      fields['mfu'] = round(self.flops * rate / self.peak, 4)
    memory = peak_memory_mib(self.local)
    if memory:
      fields['peak_memory_mib'] = round(memory, 1)
    self.last = now
    self.updates, self.tokens, self.input, self.compute = 0, 0, 0.0, 0.0
    if len(self.windows) == 1 and not self._warm:
      self.windows.clear()
      self._warm = True
    self.windows.append(fields)
    return fields

  def summary(self) -> str:
    """Returns a line about the window of median speed, and the memory's peak.

    It is of the last 1,000 windows. The first, which compiles, is left out where there
    are others.
    """
    windows = sorted(self.windows, key=lambda w: w['tokens_per_s'])
    middle = windows[len(windows) // 2]
    parts = {name: middle[f'{name}_ms'] for name in ('input', 'compute', 'other')}
    memory = self.windows[-1].get('peak_memory_mib')
    whose = 'of this process' if self.local[0].platform == 'cpu' else 'of a device'
    return ', '.join(
      [
        f'speed     {middle["tokens_per_s"]:,.0f} tokens/s'
        + ('' if self._warm else ' with compilation'),
        f'{sum(parts.values()):.1f} ms an update ('
        + ', '.join(f'{name} {ms:.1f}' for name, ms in parts.items())
        + ')',
        f'utilisation {100 * middle["mfu"]:.1f} %'
        if 'mfu' in middle
        else f'utilisation unknown (no peak known for {self.kind})'
        if self.flops
        else 'utilisation not counted',
        f'peak memory {memory:,.0f} MiB {whose}' if memory else 'peak memory unknown',
      ]
    )
