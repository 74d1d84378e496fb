"""What compiled programs take of devices that need not be there, in lines of text.

Memory is XLA's own figure; kernels, bytes, FLOPs and seconds are read off the optimised
program (`programs.roofline`). Such a program was never run, so a real device decides.
"""

import os
import re
from typing import NamedTuple

import jax

from gpt_jax.programs import collectives, hlo, roofline

GIB = 2**30
_UNITS = {'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}


class Program(NamedTuple):
  """A program to compile.

  Attributes:
    what: it does, in a word or two.
    held: bytes of its arguments on a device, by part.
    tokens: that one run of it reads or writes, on all devices.
    turn: whether it is a loop of which one turn counts, such as a token of decoding.
    rest: what its other arguments are, in words; XLA pads arrays to a device's tiles.
    work: what is left in memory besides arguments, in words.
    formula: FLOPs of a token by part, below which no count of them can be (as
      `cost.flops_per_token` returns them).
  """

  what: str
  lowered: jax.stages.Lowered
  held: dict[str, int]
  tokens: float
  turn: bool = False
  rest: str = 'padding'
  work: str = 'temporaries'
  formula: dict[str, float] | None = None


class Memory(NamedTuple):
  """Bytes that a program takes of a device.

  Attributes:
    arguments: that are there before it runs.
    working: at most besides, results among them.
  """

  arguments: int
  working: int

  @property
  def total(self) -> int:
    """All of it."""
    return self.arguments + self.working

  @classmethod
  def of(cls, compiled: jax.stages.Compiled) -> 'Memory':
    """Returns what XLA says of a program."""
    said = compiled.memory_analysis()
    results = said.output_size_in_bytes - said.alias_size_in_bytes
    return cls(said.argument_size_in_bytes, said.temp_size_in_bytes + results)


class TooLarge(Exception):
  """A program that a compiler refuses, since it does not fit.

  Attributes:
    needed: bytes that it would take of a device.
  """

  def __init__(self, needed: float):
    super().__init__(f'it takes {size(needed)}')
    self.needed = needed


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
  """Returns a compiled program.

  Raises:
    TooLarge: it is for a TPU, whose compiler refuses what does not fit.
  """
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = re.search(r'([\d.]+)([KMGT])(?: of|\) exceeds) .*[KMGT]', str(error))
    if not used:
      raise
    raise TooLarge(float(used[1]) * _UNITS[used[2]]) from error


def kind_of(name: str) -> str:
  """Returns the kind of the devices of a name that `absent.devices` takes."""
  return name.partition(':')[0]


def room(name: str, device: jax.Device) -> tuple[float, str]:
  """Returns the bytes that a program may take of a device, and of what, in words.

  Of a GPU's memory jax takes a share, which XLA_PYTHON_CLIENT_MEM_FRACTION sets.
  """
  whole = roofline.DEVICES[kind_of(name)].memory
  if device.platform != 'gpu':
    return whole, size(whole)
  share = float(os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION') or 0.75)
  return share * whole, (
    f'{size(share * whole)}, the part of {size(whole)} that jax takes '
    f'(XLA_PYTHON_CLIENT_MEM_FRACTION={share:g})'
  )


def size(number: float) -> str:
  """Returns bytes in words."""
  units = ((GIB, 'GiB'), (2**20, 'MiB'), (2**10, 'KiB'))
  unit, name = next((each for each in units if number >= each[0]), units[-1])
  return f'{number / unit:,.2f} {name}'


def memory_line(program: Program, memory: Memory) -> str:
  """Returns the memory of a program on each device, by part."""
  rest = memory.arguments - sum(program.held.values())
  parts = program.held | {program.work: memory.working}
  if rest > 0.005 * memory.total:
    parts = program.held | {program.rest: rest, program.work: memory.working}
  words = ', '.join(f'{size(n)} {part}' for part, n in parts.items())
  return f'memory    {size(memory.total)} each: {words}'


def lines(
  program: Program, compiled: jax.stages.Compiled, name: str, devices: int
) -> list[str]:
  """Returns what a program computes, moves and sends, and the least time of it.

  Args:
    name: of the devices, as `absent.devices` takes it.
    devices: that share it.
  """
  kind = kind_of(name)
  try:
    module = hlo.read(compiled.as_text())
    of = roofline.estimate(module, kind, turn=program.turn)
    if program.formula is not None:
      tokens = round(program.tokens)
      roofline.check_flops(of.flops, program.formula, tokens, devices=devices)
  except (hlo.Unreadable, roofline.Impossible) as error:
    return [f'program   is not counted, so there is no time: {error}']
  taken = of.total_seconds
  peak = of.product_seconds * roofline.REACHED.products / taken
  together = f' of all {devices}' if devices > 1 else ''
  said = [
    f'program   {of.kernels:,} kernels ({of.graphed:,} in command buffers), '
    f'{of.bytes / 1e9:,.3f} GB moved, {of.flops / 1e12:,.4f} TFLOP, each',
  ]
  if of.sent:
    said.append(sends_line(*collectives.by_kind(of.collectives)))
  said += [
    f'time      {1e3 * taken:,.3f} ms at least: {1e3 * of.seconds:,.3f} kernels, '
    f'{1e3 * of.launch_seconds:,.3f} launches, {1e3 * of.exposed_seconds:,.3f} '
    f'sending that nothing hides (of {1e3 * of.collective_seconds:,.3f})',
    f'speed     {program.tokens / taken:,.0f} tokens/s at most{together}, {peak:.0%} '
    'of the peak',
  ]
  return said


def sends_line(
  sent: dict[str, float], operations: dict[str, int], what: str = ''
) -> str:
  """Returns what each device sends.

  Args:
    sent: bytes, by operation.
    operations: how often, by operation.
    what: in, in words.
  """
  return f'sends     {size(sum(sent.values()))} each{what}' + ''.join(
    f'; {size(number)} by {operations[name]:,} {name}'
    for name, number in sorted(sent.items(), key=lambda item: -item[1])
  )
