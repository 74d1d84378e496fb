"""Which layout of an update sends least long, of those that devices have memory for.

By the formulas of `runs.cost` and published bandwidths, before anything is compiled.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gpt_jax import config
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import roofline
from gpt_jax.runs import cost
from gpt_jax.training.sharding import AXES, Layout

_TENSOR = 8  # devices at most that share a layer: those of a host
# Numbers that an optimizer keeps of each parameter, at least.
_MOMENTS = {'adamw': 2, 'adam_gpt1': 2, 'adam_dialogpt': 2, 'lion': 1, 'muon': 1}


class Choice(NamedTuple):
  """A layout, and what an update sends and fills in it.

  Attributes:
    run: of that layout.
    over: the layout, with how often it sends.
    sent: bytes that a device sends, by what and why.
    seconds: to send them, if nothing hides it.
    need: bytes of a device's memory that an update fills, or at least.
  """

  run: config.Run
  over: Layout
  sent: dict[str, float]
  seconds: float
  need: float = 0.0


def plane_of(on: str) -> int:
  """Returns how many chips of a TPU slice with three edges are one of its planes.

  Args:
    on: devices, as `absent.devices` takes them; of others all are one plane: 0.
  """
  edges = on.partition(':')[2].split('x')
  return int(edges[0]) * int(edges[1]) if len(edges) == 3 else 0


def sending(
  run: config.Run, cfg: GPTConfig, over: Layout, kind: str, plane: int = 0
) -> Choice:
  """Returns what an update sends in a layout.

  Args:
    over: with a mesh, of devices that need not exist.
    kind: of them, a name of `roofline.DEVICES`.
    plane: of a slice, as `plane_of` returns it. Over chips of several planes the TPU's
      compiler (libtpu 0.0.42) makes sums of gathers and scatters: twice the bytes.
  """
  device = roofline.DEVICES[kind]
  sizes = [over.mesh.shape[axis] for axis in AXES]
  numbers = np.arange(over.mesh.size).reshape(sizes)
  seconds, sent = 0.0, cost.communication_bytes(run, cfg, over)
  for what, size in sent.items():
    axis = what.split()[-1]
    along = [slice(None) if each == axis else 0 for each in AXES]
    ring = 'all to all' not in what
    group = numbers[tuple(along)].tolist()
    if ('gathered' in what or 'scattered' in what) and _leaves(group, plane):
      size *= 2
    seconds += size / roofline.rate_sent(group, device, ring=ring)
  return Choice(run, over, sent, seconds)


def choices(
  run: config.Run,
  cfg: GPTConfig,
  number: int,
  kind: str,
  rows: Sequence[int] = (),
  plane: int = 0,
) -> list[Choice]:
  """Returns the layouts of a run without a context axis, what sends least long first.

  Args:
    number: of devices.
    rows: that a device may compute at a time, the best first; `accumulate` follows.
      (): what the run says.
    plane: as in `sending`.
  """
  found = []
  for layout in _layouts(cfg, number):
    placed = Layout.imagined(dataclasses.replace(run, layout=layout), number)
    times = [run.batch / placed.parts / each for each in rows] or [run.accumulate]
    for accumulate in times:
      if accumulate % 1 or run.batch % (placed.parts * accumulate):
        continue
      other = dataclasses.replace(run, layout=layout, accumulate=int(accumulate))
      for whole in (True, False):
        over = dataclasses.replace(placed, whole=whole)
        if (whole or not over.once) and not _summed_often(over, kind):
          found.append(sending(other, cfg, over, kind, plane))
  return sorted(found, key=lambda choice: choice.seconds)


def best(
  run: config.Run,
  cfg: GPTConfig,
  number: int,
  kind: str,
  limit: float,
  rows: Sequence[int] = (),
  plane: int = 0,
) -> Choice | None:
  """Returns what sends least long of what fits; if nothing does, what needs least.

  Args:
    limit: bytes that an update may fill of a device.
    plane: as in `sending`.
  """
  kept = functools.cache(functools.partial(_kept, run, cfg))
  smallest = None  # where no layout divides the rows
  for choice in choices(run, cfg, number, kind, rows, plane):
    need = _held(choice.run, cfg, choice.over)
    here = run.batch // (choice.over.parts * choice.run.accumulate)
    if need <= limit:
      need += 4 * cfg.L * here * cfg.T * cfg.D  # inputs of layers
    if need <= limit:  # now what takes a second to find
      one, two = (kept(n, choice.over.mesh.shape['tensor']) for n in (1, 2))
      need = _held(choice.run, cfg, choice.over) + one + (here - 1) * (two - one)
    if need <= limit:
      need = cost.update_bytes(choice.run, cfg, choice.over, flash=True)
    choice = choice._replace(need=need)
    if need <= limit:
      return choice
    if smallest is None or need < smallest.need:
      smallest = choice
  return smallest


def better(run: config.Run, cfg: GPTConfig, over: Layout, on: str, limit: float) -> str:
  """Returns a line on a layout that fits and sends less long; '' where there is none.

  A gain counts from a twentieth of the time of the model's FLOPs on.

  Args:
    on: the devices, as `absent.devices` takes them.
    limit: as in `best`.
  """
  kind, plane = on.partition(':')[0], plane_of(on)
  number = len(over.devices)
  if over.mesh is None:
    over = Layout.imagined(dataclasses.replace(run, layout='data'), number)
  if number == 1 or over.mesh.shape['context'] > 1:
    return ''
  now = sending(run, cfg, over, kind, plane)
  other = best(run, cfg, number, kind, limit, plane=plane)
  flops = run.batch * cfg.T * sum(cost.flops_per_token(cfg).values()) / number
  least = flops / roofline.DEVICES[kind].peaks['bf16']
  if other is None or other.need > limit or now.seconds - other.seconds < least / 20:
    return ''
  return (
    f'layout    {other.run.layout} sends {1e3 * other.seconds:,.0f} ms at least, this '
    f'one {1e3 * now.seconds:,.0f}, if nothing hides it: '
    f'--config.layout={other.run.layout}'
  )


def _layouts(cfg: GPTConfig, number: int) -> Iterator[str]:
  parts = [n for n in range(1, number + 1) if not number % n]
  for tensor in [n for n in parts if n <= _TENSOR and not cfg.N % n and not cfg.F % n]:
    for fsdp in [n for n in parts if not number // tensor % n]:
      sizes = {'data': number // tensor // fsdp, 'fsdp': fsdp, 'tensor': tensor}
      named = [f'{axis}={size}' for axis, size in sizes.items() if size > 1]
      yield ','.join(named) or 'data=1'


def _leaves(group: list[int], plane: int) -> bool:
  """Returns whether a group has chips of several planes, and several of a plane."""
  planes = {number // plane for number in group} if plane else set()
  return 1 < len(planes) < len(group)


def _summed_often(over: Layout, kind: str) -> bool:
  """Returns whether gradients are summed over `data` for each micro-batch.

  XLA's compiler for GPUs leaves no other way (`Layout.train_step`).
  """
  sizes = over.mesh.shape
  cut = sizes['fsdp'] > 1 and sizes['tensor'] > 1
  return kind in roofline.GPUS and sizes['data'] > 1 and cut and not over.once


def _kept(run: config.Run, cfg: GPTConfig, rows: int, tensor: int) -> float:
  """Returns the bytes of activations of some rows: a line in their number."""
  kept = cost.activation_bytes(run, cfg, rows, tensor=tensor, flash=True)
  layers = 'layers, remat' if run.model.remat == 'block' else 'layers'
  return kept['output'] + kept[layers]


def _held(run: config.Run, cfg: GPTConfig, over: Layout) -> float:
  """Returns the bytes of weights, moments and gradients on a device, at least.

  Unlike `cost.update_bytes` it takes no time, however many layers there are.
  """
  data, fsdp, tensor = (over.mesh.shape[axis] for axis in AXES[:3])
  weights = 4 * cost.parameter_count(cfg) / tensor
  moments = _MOMENTS.get(run.optim.name, 0)
  need = weights / fsdp * (1 + moments / data)
  if not over.once:
    return need + 2 * weights / fsdp
  return need + weights * (1 + jnp.dtype(run.model.dtype).itemsize / 4)
