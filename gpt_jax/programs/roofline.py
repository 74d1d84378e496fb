"""The least time that a compiled program takes on a device, by a roofline.

A kernel takes the longest of its bytes over the memory's bandwidth, its products over
their peak and its other operations over theirs (Williams et al. 2009), at the shares of
them that programs reach (`REACHED`). Launches and collectives are counted apart. Caches
and what a GPU chooses by measuring are not modelled: use it to compare programs, and
let a real device decide.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt_jax.programs import collectives, work
from gpt_jax.programs.collectives import Collective
from gpt_jax.programs.hlo import Module
from gpt_jax.programs.work import Kernel


class Device(NamedTuple):
  """What a kind of device can do, as published.

  Attributes:
    peaks: FLOP/s of dense products, by arithmetic (`custom_calls.product_arithmetic`).
    vector: operations/s on float32 elements outside of products.
    bandwidth: of its memory [B/s].
    memory: bytes.
    launch: seconds that a kernel costs besides its work.
    joined: how many devices the fast interconnect joins.
    inside: bytes/s that a device sends by it, in a ring.
    between: bytes/s that a device sends beyond it, by a network card of its own.
  """

  peaks: dict[str, float]
  vector: float
  bandwidth: float
  memory: float
  launch: float
  joined: int
  inside: float
  between: float


class Reached(NamedTuple):
  """The shares of published numbers that programs reach: assumptions, not measured."""

  products: float = 0.75
  vector: float = 0.5
  memory: float = 0.85
  sent: float = 0.8


REACHED = Reached()


def _peaks(bf16: float, tf32: float, f32: float, f8: float, s8: float) -> dict:
  numbers = {'bf16': bf16, 'tf32': tf32, 'f32': f32, 'f8': f8, 's8': s8}
  return {name: 1e12 * number for name, number in numbers.items()}


# NVIDIA's data sheets, SXM; dense where they print the figure with sparsity. Operations
# on elements: half of their float32 FLOPs, which count a multiplication with an
# addition as two. NVLink: one direction. Between hosts: a network card for each GPU
# (DGX A100: HDR of 200 Gb/s; DGX H100: NDR of 400 Gb/s). A launch is 2 to 2.5 us where
# the host runs ahead (NVIDIA's blog, "Getting Started with CUDA Graphs").
# TPUs: Cloud TPU documentation, page "System architecture" of each version: peak, HBM,
# bidirectional ICI of a chip, of which a ring along one axis has one of 2 (v5e, v6e) or
# 3 (v4, v5p) pairs of links, one direction of each counted; DCN of a chip or of a host
# over its chips. Default precision of float32 is one pass of bfloat16, the highest six
# (jax.lax.Precision). What a chip has no units for takes bfloat16's.
# Operations on elements: 8 x 128 lanes of 4 units a core (Austin et al., "How to Scale
# Your Model", "How to Think About TPUs") at 0.94 to 1.75 GHz. A kernel of a TPU is part
# of one program, so it has no launch.
DEVICES = {
  'h100': Device(
    _peaks(989.5, 494.5, 67, 1979, 1979), 33e12, 3.35e12, 80e9, 2e-6, 8, 450e9, 50e9
  ),
  'h200': Device(
    _peaks(989.5, 494.5, 67, 1979, 1979), 33e12, 4.8e12, 141e9, 2e-6, 8, 450e9, 50e9
  ),
  'a100': Device(
    _peaks(312, 156, 19.5, 312, 624), 9.7e12, 2.039e12, 80e9, 2.5e-6, 8, 300e9, 25e9
  ),
  'v4': Device(
    _peaks(275, 275, 275 / 6, 275, 275),
    8.6e12, 1.228e12, 32 * 2**30, 0, 4096, 100e9, 6.25e9,
  ),
  'v5e': Device(
    _peaks(197, 197, 197 / 6, 197, 393),
    6.1e12, 0.819e12, 16 * 2**30, 0, 256, 100e9, 3.1e9,
  ),
  'v5p': Device(
    _peaks(459, 459, 459 / 6, 459, 918),
    14e12, 2.765e12, 95 * 2**30, 0, 8960, 200e9, 6.25e9,
  ),
  'v6e': Device(
    _peaks(918, 918, 918 / 6, 918, 1836),
    7.1e12, 1.638e12, 32 * 2**30, 0, 256, 200e9, 12.5e9,
  ),
}  # fmt: skip
GPUS = 'h100', 'h200', 'a100'


class Estimate(NamedTuple):
  """What a program takes of each device, at least.

  Attributes:
    kernels: how many are run; a kernel in a loop counts as often as it turns.
    graphed: how many of them a command buffer launches.
    flops: of products, those that are done element by element too.
    vector: operations on elements, those products included.
    bytes: of the device's memory, read and written.
    seconds: of all kernels, without launches.
    product_seconds: of the products' FLOPs alone.
    launch_seconds: of launches.
    sent: bytes to other devices.
    collective_seconds: to send them.
    exposed_seconds: of these, what no kernel beside them hides.
    parts: the kernels.
    collectives: the collectives.
  """

  kernels: int
  graphed: int
  flops: float
  vector: float
  bytes: float
  seconds: float
  product_seconds: float
  launch_seconds: float
  sent: float
  collective_seconds: float
  exposed_seconds: float
  parts: list[Kernel]
  collectives: list[Collective]

  @property
  def total_seconds(self) -> float:
    """Kernels, launches, and the collectives that nothing hides."""
    return self.seconds + self.launch_seconds + self.exposed_seconds


def seconds(kernel: Kernel, device: Device) -> float:
  """Returns the least time of one run of a kernel, without its launch.

  A collective's bytes of memory are part of the time that it takes to send.
  """
  if kernel.kind == 'collective':
    return 0.0
  peak = device.peaks[kernel.arithmetic or 'bf16']
  return max(
    kernel.bytes / (device.bandwidth * REACHED.memory),
    kernel.flops / (peak * REACHED.products),
    kernel.vector / (device.vector * REACHED.vector),
  )


def seconds_sent(collective: Collective, device: Device) -> float:
  """Returns the least time of one run of a collective."""
  ring = collective.kind not in _PAIRS
  return collective.sent / rate_sent(collective.group, device, ring=ring)


# In these each device sends to the others by itself.
_PAIRS = 'all-to-all', 'ragged-all-to-all', 'collective-permute'


def rate_sent(group: Sequence[int], device: Device, *, ring: bool = True) -> float:
  """Returns the bytes/s that each device of a group reaches in a collective.

  Within a home (a host of GPUs, a slice of a TPU) it is the interconnect's. Beyond, a
  ring enters and leaves each home once, and there are as many rings as network cards,
  which share the bytes: a group with all 8 GPUs of its hosts has 8 cards for what one
  GPU sends (NCCL's bus bandwidth: nccl-tests, PERFORMANCE.md). A group with one GPU of
  each host has one.

  Args:
    group: numbers of the devices.
    ring: or else each sends to every other by its own card.
  """
  homes = collections.Counter(number // device.joined for number in group)
  rate = device.inside
  if len(homes) > 1:
    cards = min(homes.values()) if ring else 1
    rate = min(rate, cards * device.between)
  return rate * REACHED.sent


def estimate(
  module: Module, device: str, *, turn: bool = False, turns: int | None = None
) -> Estimate:
  """Returns what a program takes of a device.

  Args:
    device: a name of DEVICES.
    turn: one turn of its loop, such as a token of decoding, not the whole.
    turns: of loops whose number of turns XLA does not know.

  Raises:
    Unreadable: an operation or a custom call of it is not known.
  """
  kind = DEVICES[device]
  of = work.turn(module) if turn else [module.entry]
  parts = [kernel for part in of for kernel in work.kernels(module, part, turns)]
  given = [each for part in of for each in collectives.sent(module, part, turns)]
  total = lambda number: sum(each.times * number(each) for each in parts)  # noqa: E731
  launched = int(total(lambda each: 1))
  needed = [seconds_sent(each, kind) for each in given]
  exposed = _exposed(given, needed, kind)
  return Estimate(
    launched,
    int(total(lambda each: each.graph)),
    total(lambda each: each.flops + each.by_elements),
    total(lambda each: each.vector),
    total(lambda each: each.bytes),
    total(lambda each: seconds(each, kind)),
    total(lambda each: each.flops / kind.peaks[each.arithmetic or 'bf16'])
    / REACHED.products,
    launched * kind.launch,
    sum(each.times * each.sent for each in given),
    sum(each.times * time for each, time in zip(given, needed, strict=True)),
    exposed,
    parts,
    given,
  )


def _exposed(
  given: Sequence[Collective], needed: Sequence[float], device: Device
) -> float:
  """Returns the seconds of collectives that no kernel beside them hides.

  A kernel that stands beside several hides one of them.
  """
  free: dict[str, float] = {}
  total = 0.0
  for each, time in zip(given, needed, strict=True):
    for beside in each.beside:
      left = free.get(beside.name, beside.times * seconds(beside, device))
      hides = min(left, time)
      free[beside.name], time = left - hides, time - hides
    total += each.times * time
  return total


class Impossible(ValueError):
  """A count that can't be true."""


def check_flops(
  flops: float, formula: Mapping[str, float], tokens: int, *, devices: int = 1
) -> None:
  """Raises Impossible if an update computes less than its model's formula says.

  Then FLOPs hide in a kernel that was not counted. A kernel may leave out the pairs of
  positions that causality masks, half of those that the formula counts; nothing else of
  the products can go.

  Args:
    flops: of products, that one device computes in an update.
    formula: FLOPs of a token by part, as `runs.cost.flops_per_token` returns.
    tokens: of the update.
    devices: that share it.
  """
  least = tokens * sum(
    number / 2 if 'pairs' in part else number for part, number in formula.items()
  )
  if flops * devices < 0.999 * least:
    raise Impossible(
      f'the program computes {flops * devices:.4g} FLOPs, and its model takes at least '
      f'{least:.4g}: {1 - flops * devices / least:.1%} are not counted'
    )


def table(of: Estimate, device: str, top: int = 15) -> str:
  """Returns an estimate as lines: the whole, its kinds of kernels, the dearest ones."""
  kind = DEVICES[device]
  lines = [
    f'{of.kernels:,} kernels ({of.graphed:,} in command buffers), {of.bytes / 1e9:.3f} '
    f'GB, {of.flops / 1e12:.4f} TFLOP',
    f'at least {1e3 * of.total_seconds:.3f} ms: kernels {1e3 * of.seconds:.3f}, '
    f'launches {1e3 * of.launch_seconds:.3f}, collectives not hidden '
    f'{1e3 * of.exposed_seconds:.3f} of {1e3 * of.collective_seconds:.3f} '
    f'({of.sent / 1e9:.3f} GB sent); products alone {1e3 * of.product_seconds:.3f}',
  ]
  kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0.0] * 4)
  for each in of.parts:
    numbers = 1, each.bytes / 1e9, each.flops / 1e12, 1e3 * seconds(each, kind)
    for i, number in enumerate(numbers):
      kinds[each.kind][i] += each.times * number
  row = '{:>8,.0f} x {:9.3f} GB {:9.4f} TFLOP {:9.3f} ms  {}'.format
  for name, numbers in sorted(kinds.items(), key=lambda item: -item[1][3]):
    lines.append(row(*numbers, name))
  lines.append('the dearest, all turns of each:')
  for each in _dearest(of.parts, kind)[:top]:
    numbers = each.bytes / 1e9, each.flops / 1e12, 1e3 * seconds(each, kind)
    lines.append(
      row(each.times, *(each.times * number for number in numbers), each.kind)
      + f' {each.name} {each.shape} {each.where[-60:]}'
    )
  return '\n'.join(lines)


def _dearest(parts: Sequence[Kernel], device: Device) -> list[Kernel]:
  return sorted(parts, key=lambda each: -each.times * seconds(each, device))
