"""What the devices of a compiled program send each other, and whether it can overlap.

Bytes by ring algorithms: of an array of S bytes over n devices, a gather or a scatter
of it sends S (n - 1) / n, and a sum of it twice that (Patarasuk and Yuan 2009, section
3).
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.programs import work
from gpt_jax.programs.hlo import Computation, Instruction, Module, Unreadable
from gpt_jax.programs.work import Kernel


class Collective(NamedTuple):
  """One collective operation.

  Attributes:
    kind: 'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', ..
    sent: bytes that a device sends, of one run.
    times: how often it is run.
    group: numbers of the devices of the first group that takes part together.
    beside: kernels between its start and its end; () where it blocks.
    where: in the source.
  """

  name: str
  kind: str
  sent: float
  times: int
  group: tuple[int, ...]
  beside: tuple[Kernel, ...]
  where: str


def sent(
  module: Module, part: Computation | None = None, turns: int | None = None
) -> list[Collective]:
  """Returns the collectives of a program, those in loops with how often they are run.

  Args:
    part: a computation, such as the body of a loop; None: the whole program.
    turns: of loops whose number of turns XLA does not know.

  Raises:
    Unreadable: devices, an operation or the number of turns is not known.
  """
  return list(_sent(module, part or module.entry, 1, turns))


def by_kind(given: Sequence[Collective]) -> tuple[dict[str, float], dict[str, int]]:
  """Returns the bytes that each device sends, and how often, by operation."""
  size, operations = collections.Counter(), collections.Counter()
  for each in given:
    size[each.kind] += each.times * each.sent
    operations[each.kind] += each.times
  return dict(size), dict(operations)


def _sent(
  module: Module, part: Computation, times: int, turns: int | None
) -> Iterator[Collective]:
  for each in part.instructions.values():
    if each.opcode in ('while', 'call', 'conditional'):
      trips = 1
      if each.opcode == 'while':
        known = module.trips(part, each)
        trips = turns if known is None else known
      inner = [
        list(_sent(module, body, 1, turns))
        for body in module.called(each)
        if body.name not in each.called('condition')
      ]
      if each.opcode == 'conditional':  # the branch that sends most
        inner = [max(inner, key=lambda given: sum(c.times * c.sent for c in given))]
      for collective in sum(inner, []):
        if trips is None:
          raise Unreadable(
            f'line {each.line}: how often %{each.name} turns is not known; give turns'
          )
        yield collective._replace(times=collective.times * times * trips)
    elif found := _collective(module, part, each):
      yield found._replace(times=times)


def _collective(
  module: Module, part: Computation, each: Instruction
) -> Collective | None:
  given = work.communication_of(module, part, each)
  if not given or given.role in ('step', 'done'):
    return None
  inner, home, _ = given
  kind = inner.opcode.removesuffix('-start')
  group = devices_of(inner, module.devices)
  n = len(group)
  size = sum(array.bytes for array in work.results_of(inner))
  shares = {
    'all-reduce': 2 * (n - 1) / n,
    'reduce-scatter': n - 1,  # of the part that it keeps
    'collective-permute': 1,
    'collective-broadcast': 1,
  }
  share = shares.get(kind, (n - 1) / n)
  if kind == 'all-reduce' and home is not part and _keeps_a_part(home, inner, n):
    kind, share = 'reduce-scatter', (n - 1) / n  # as TPUs write it: a sum, then a slice
  beside = tuple(_beside(module, part, each))
  return Collective(each.name, kind, size * share, 1, group, beside, inner.op_name)


def _keeps_a_part(home: Computation, inner: Instruction, n: int) -> bool:
  """Returns whether of a fused sum only each device's own part is kept."""
  kept = [
    user
    for user in home.instructions.values()
    if user.opcode == 'dynamic-slice' and user.operands[0] == inner.name
  ]
  return bool(kept) and all(
    user.array.size * n <= inner.array.size * 1.01 for user in kept
  )


def _beside(module: Module, part: Computation, each: Instruction) -> Iterator[Kernel]:
  """Yields the kernels that are issued while a collective is under way."""
  begun = work.communication_of(module, part, each)
  said = each.config.get('collective_backend_config', {})
  starts = each.opcode.endswith('-start') or begun.role == 'start'
  if not starts or said.get('is_sync'):
    return
  if not module.scheduled:
    raise Unreadable('the program is not scheduled: what overlaps is not known')
  under_way = {each.name}
  for later in part.instructions.values():
    if later.line <= each.line:
      continue
    if under_way & set(later.operands):
      under_way.add(later.name)
      if later.opcode in work.FREE and later.opcode.endswith('-done'):
        return
    sends = work.communication_of(module, part, later)
    if sends and sends.role == 'done' and under_way & set(later.operands):
      return
    own = sends is None or sends.role == 'step'
    if own and later.opcode not in ('copy-start', 'slice-start'):
      yield from work.kernels_of(module, part, later, turns=1)


def devices_of(collective: Instruction, devices: int) -> tuple[int, ...]:
  """Returns the numbers of the devices of the first group of a collective.

  XLA writes groups in three ways: {{0,1},{2,3}}, [groups,size]<=[..]T(..), and, of a
  mesh mesh['a'=2,'b'=4] {'b'}, the axes that they go along. A permutation has pairs.

  Args:
    devices: of the program; all of them where it names none.

  Raises:
    Unreadable: they are written in another way.
  """
  pairs = collective.attributes.get('source_target_pairs')
  groups = collective.attributes.get('replica_groups', '{}')
  if pairs:
    return tuple(int(n) for n in re.findall(r'\d+', pairs)[:2])
  if groups == '{}':
    return tuple(range(devices))
  if groups.startswith('{{'):
    return tuple(int(n) for n in groups[2 : groups.index('}')].split(','))
  listed = re.fullmatch(r'\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', groups)
  if listed:
    sizes = [int(n) for n in listed[3].split(',')]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    if listed[4]:
      numbers = numbers.transpose([int(n) for n in listed[4].split(',')])
    return tuple(numbers.reshape(int(listed[1]), int(listed[2]))[0].tolist())
  written = groups + collective.attributes.get('device_ids', '')
  mesh = re.fullmatch(r'mesh\[(.*?)\](.*)\{(.*?)\}', written)
  if not mesh:
    raise Unreadable(
      f'line {collective.line}: XLA wrote the devices of %{collective.name} in a new '
      f'way: {groups}'
    )
  return _of_mesh(*mesh.groups())


def _of_mesh(axes: str, order: str, along: str) -> tuple[int, ...]:
  """Returns the first group of devices along some axes of a mesh.

  Args:
    axes: 'a'=2,'b'=4.
    order: of the devices in the mesh, such as ([4,2]T(1,0)); as numbered without T.
    along: 'b'.
  """
  sizes = {name: int(n) for name, n in (a.rsplit('=', 1) for a in axes.split(','))}
  numbers = np.arange(math.prod(sizes.values()))
  permuted = re.search(r'\[([\d,]+)\]T\(([\d,]+)\)', order)
  if permuted:
    shape = [int(n) for n in permuted[1].split(',')]
    turned = [int(n) for n in permuted[2].split(',')]
    numbers = numbers.reshape(shape).transpose(turned)
  numbers = numbers.reshape(tuple(sizes.values()))
  wanted = along.split(',')
  return tuple(
    numbers[tuple(slice(None) if name in wanted else 0 for name in sizes)]
    .reshape(-1)
    .tolist()
  )
