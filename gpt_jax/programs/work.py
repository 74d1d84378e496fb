"""What each kernel of a compiled program computes and moves.

Bytes are those of the device's memory that a kernel must read and write if no cache
keeps what another wrote (`touched.py`). FLOPs are those of products of matrices; other
operations on elements count apart (`vector`), since other units do them.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpt_jax.programs import custom_calls, touched
from gpt_jax.programs.custom_calls import Work
from gpt_jax.programs.hlo import (
  Array,
  Computation,
  Instruction,
  Module,
  Unreadable,
  arrays,
)

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
# Names for memory, and ends of what has begun before.
FREE = set(
  'parameter get-tuple-element tuple bitcast constant after-all partition-id '
  'replica-id opt-barrier optimization-barrier add-dependency domain '
  'get-dimension-size copy-done async-update async-done send recv send-done '
  'recv-done slice-done'.split()
) | {f'{name}-done' for name in COLLECTIVES}
# Each element of the result is one of the operand, or none is computed.
_MOVES = set('copy copy-start bitcast-convert reshape transpose reverse'.split())
_MAKES = set('iota rng rng-bit-generator rng-get-and-update-state'.split())
_REDUCES = set('reduce reduce-window select-and-scatter'.split())
# FLOPs that take as long as a byte, to compare branches: 989e12 / 3.35e12, H100.
_BALANCE = 295


class Kernel(NamedTuple):
  """An instruction that is run as a kernel.

  Attributes:
    kind: 'product', 'attention', 'reduction', 'collective', 'copy', 'elementwise', ..;
      of a custom call its target.
    flops: of products, of one run.
    vector: other operations on elements, of one run.
    bytes: of the device's memory, of one run.
    by_elements: operations of `vector` that are products, of one run.
    times: how often it is run.
    arithmetic: of its products; '' where it has none.
    where: in the source.
    graph: whether a command buffer launches it.
  """

  name: str
  kind: str
  flops: float
  vector: float
  bytes: float
  by_elements: float
  times: int
  arithmetic: str
  shape: str
  where: str
  graph: bool


def kernels(
  module: Module, part: Computation | None = None, turns: int | None = None
) -> list[Kernel]:
  """Returns the kernels of a program, those in loops with how often they are run.

  Args:
    part: a computation, such as the body of a loop; None: the whole program.
    turns: of loops whose number of turns XLA does not know.

  Raises:
    Unreadable: an operation or a custom call is not known, or the number of turns.
  """
  return list(_kernels(module, part or module.entry, 1, turns, False))


def turn(module: Module) -> list[Computation]:
  """Returns what is run in one turn of the loop that the program is: a token.

  It is the outermost loop whose turns XLA does not know, or the only loop; its body,
  and the condition that is computed before it.

  Raises:
    Unreadable: there is none, or there are several.
  """
  loops = list(module.loops())
  loops = [each for each in loops if module.trips(*each) is None] or loops
  if len(loops) != 1:
    raise Unreadable(f'the program has {len(loops)} loops of which one turn could be')
  return module.called(loops[0][1], 'body', 'condition')


def _kernels(
  module: Module, part: Computation, times: int, turns: int | None, graph: bool
) -> Iterator[Kernel]:
  for each in part.instructions.values():
    yield from kernels_of(module, part, each, times, turns, graph=graph)


def kernels_of(
  module: Module,
  part: Computation,
  each: Instruction,
  times: int = 1,
  turns: int | None = None,
  *,
  graph: bool = False,
) -> Iterator[Kernel]:
  """Yields the kernels of one instruction: none, itself, or those that it calls.

  Args:
    part: where it stands.
    turns: as in `kernels`.
    graph: whether a command buffer launches them.
  """
  if each.opcode in FREE:
    return
  if each.opcode == 'while':
    known = module.trips(part, each)
    trips = turns if known is None else known
    if trips is None:
      raise Unreadable(
        f'line {each.line}: how often %{each.name} turns is not known; give '
        'turns, or count one turn'
      )
    kinds = ('body', 'condition') if known is None else ('body',)
    for body in module.called(each, *kinds):
      yield from _kernels(module, body, times * trips, turns, graph)
  elif each.opcode == 'conditional':
    branches = [
      list(_kernels(module, branch, times, turns, graph))
      for branch in module.called(each)
    ]
    yield from max(branches, key=_weight)
  elif each.opcode in ('call', 'async-start'):
    for body in module.called(each, 'to_apply', 'calls'):
      buffered = graph or body.name.startswith('command_buffer')
      yield from _kernels(module, body, times, turns, buffered)
  else:
    yield from _kernel(module, part, each, times, graph)


def _weight(branch: list[Kernel]) -> float:
  return sum(each.times * (each.bytes + each.flops / _BALANCE) for each in branch)


class Communication(NamedTuple):
  """A collective, and how an instruction takes part in it.

  Attributes:
    home: the computation that it stands in.
    role: 'whole', or of several fusions of a TPU that share a collective: 'start',
      'step' (beside work of its own) or 'done'.
  """

  collective: Instruction
  home: Computation
  role: str


def communication_of(
  module: Module, part: Computation, each: Instruction
) -> Communication | None:
  """Returns the collective that an instruction is, starts, or contains in a fusion."""
  if each.opcode.removesuffix('-start') in COLLECTIVES:
    return Communication(each, part, 'whole')
  if each.opcode not in ('fusion', 'async-start'):
    return None
  for body in module.called(each, 'calls'):
    lines = body.instructions.values()
    inner = [
      line for line in lines if line.opcode.removesuffix('-start') in COLLECTIVES
    ]
    if inner:
      targets = {line.target for line in lines}
      role = 'whole'
      if body.name.startswith('async_collective_fusion'):
        role = 'step'
      elif 'AsyncCollectiveStart' in targets:
        role = 'start'
      elif 'AsyncCollectiveDone' in targets:
        role = 'done'
      return Communication(inner[0], body, role)
  return None


def _kernel(
  module: Module, part: Computation, each: Instruction, times: int, graph: bool
) -> Iterator[Kernel]:
  operands = [array for of in part.operands(each) for array in arrays(of.type)]
  kind = each.opcode
  sends = communication_of(module, part, each)
  if sends and sends.role == 'done':
    return
  if each.opcode == 'custom-call':
    work, kind = custom_calls.work_of(each, operands), each.target
    if work.bytes is None:
      work = work._replace(bytes=touched.whole(operands + arrays(each.type)))
    if not (work.flops or work.vector or work.bytes):
      return
  elif sends and sends.role != 'step':
    work, kind = _collective(each, operands), 'collective'
  elif each.opcode == 'fusion':
    (body,) = module.called(each, 'calls')
    inner = _inside(module, body)
    work = inner._replace(bytes=touched.moved_by_fusion(module, part, each, body))
    kind = _kind(module, body, inner, each)
  else:
    work = _single(module, part, each)
    kind = 'product' if work.flops else each.opcode
  yield Kernel(
    each.name,
    kind,
    work.flops,
    work.vector,
    work.bytes or 0.0,
    work.by_elements,
    times,
    work.arithmetic if work.flops else '',
    _written(each),
    each.op_name,
    graph,
  )


def _written(each: Instruction) -> str:
  """Returns the results of an instruction, for people."""
  shapes = [f'{a.dtype}[{",".join(map(str, a.dims))}]' for a in arrays(each.type)]
  return ' '.join(shapes[:3]) + (' ..' if len(shapes) > 3 else '')


def _kind(module: Module, body: Computation, work: Work, each: Instruction) -> str:
  if work.flops:
    return 'product'
  opcodes = {inner.opcode for inner in body.instructions.values()}
  for kind, of in (
    ('sort', {'sort'}),
    ('scatter', {'scatter', 'select-and-scatter'}),
    ('reduction', _REDUCES),
    ('cache update', {'dynamic-update-slice'}),
    ('gather', {'gather'}),
  ):
    if opcodes & of:
      return kind
  return 'elementwise' if opcodes & touched.ELEMENTWISE else 'copy'


def results_of(each: Instruction) -> list[Array]:
  """Returns what an instruction writes, or what it starts does."""
  if each.opcode == 'copy-start':
    return arrays(each.type[0])  # (result, operand, ..)
  if each.opcode.endswith('-start') and each.opcode != 'all-reduce-start':
    return arrays(each.type[1])  # (operands, results, ..)
  return arrays(each.type)


def _collective(each: Instruction, operands: list[Array]) -> Work:
  """Returns the work of a collective: it reads what it sends, writes what it gets."""
  return Work(bytes=touched.whole(operands) + touched.whole(results_of(each)))


def _single(module: Module, part: Computation, each: Instruction) -> Work:
  """Returns the work of an instruction that is a kernel by itself."""
  results = results_of(each)
  size = results[0].size
  work, moved = _operation(part, each, size), 0.0
  for i, operand in enumerate(part.operands(each)):
    given = operand.array
    if given.space == 0 and given.size:
      read = touched.needed(part, each, i, size)
      if i == 0 and each.opcode in touched.IN_PLACE:
        # Elsewhere it is copied first, by an instruction of its own.
        read = touched.changed(part, each) if each.opcode == 'scatter' else 0
      moved += given.bytes * min(1, read / given.size)
  for result in results:
    if result.space == 0:
      share = 1.0
      if each.opcode in touched.IN_PLACE:
        share = min(1, touched.changed(part, each) / max(1, result.size))
      moved += result.bytes * share
  return work._replace(bytes=moved)


def _inside(module: Module, body: Computation) -> Work:
  """Returns the work of a fused computation; its bytes are not counted."""
  wanted = touched.demanded(body)
  flops, vector, by_elements, arithmetic, most = 0.0, 0.0, 0.0, 'bf16', 0.0
  for each in body.instructions.values():
    if each.opcode == 'fusion' or each.opcode == 'call':
      work = _inside(module, module.called(each, 'calls', 'to_apply')[0])
    elif each.opcode == 'custom-call':
      given = [array for of in body.operands(each) for array in arrays(of.type)]
      work = custom_calls.work_of(each, given)
    elif each.opcode in COLLECTIVES:
      continue  # a step of one that was counted where it began
    else:
      work = _operation(body, each, wanted[each.name])
    flops, vector = flops + work.flops, vector + work.vector
    by_elements += work.by_elements
    if work.flops > most:
      most, arithmetic = work.flops, work.arithmetic
  return Work(flops, vector, None, arithmetic, by_elements)


def _operation(part: Computation, each: Instruction, elements: float) -> Work:
  """Returns the FLOPs of an operation of whose result `elements` are computed.

  Raises:
    Unreadable: it is not known.
  """
  given = [of.array for of in part.operands(each)]
  if each.opcode == 'dot':
    contracted = [given[0].dims[i] for i in each.numbers('lhs_contracting_dims')]
    flops = 2 * each.array.size * math.prod(contracted)
    wide = max(given[:2], key=lambda array: array.bits)
    arithmetic = custom_calls.product_arithmetic(wide, each)
    return Work(flops=flops, arithmetic=arithmetic)
  if each.opcode == 'convolution':
    wide = max(given[:2], key=lambda array: array.bits)
    arithmetic = custom_calls.product_arithmetic(wide, each)
    return Work(flops=_convolution(each, *given[:2]), arithmetic=arithmetic)
  if each.opcode in touched.ELEMENTWISE:
    return Work(vector=elements)
  if each.opcode in _REDUCES:
    added = given[0].size * min(1, elements / max(1, each.array.size))
    # A product of few rows becomes one of elements, and sums of these.
    product = 2 * added if each.op_name.endswith('/dot_general') else 0
    return Work(vector=added, by_elements=product)
  if each.opcode == 'sort':
    along = given[0].dims[each.numbers('dimensions')[0]]
    return Work(vector=given[0].size * max(1, math.ceil(math.log2(max(2, along)))))
  if each.opcode == 'scatter':
    return Work(vector=touched.changed(part, each))
  if each.opcode in _MOVES | _MAKES | FREE | _TOUCHES:
    return Work()
  raise Unreadable(f'line {each.line}: {each.opcode!r} of %{each.name} is not known')


_TOUCHES = set(
  'broadcast slice slice-start dynamic-slice dynamic-update-slice gather pad '
  'concatenate'.split()
)


def _convolution(each: Instruction, data: Array, kernel: Array) -> float:
  """Returns the FLOPs of a convolution, positions in padding left out.

  TPUs write every product so; a dimension of a batch is one of the window, dilated so
  that one place of it meets the data.
  """
  match = re.fullmatch(r'(\w+)_(\w+)->(\w+)', each.attributes['dim_labels'])
  if not match:
    raise Unreadable(
      f'line {each.line}: dim_labels of %{each.name} are not as expected'
    )
  of_data, of_kernel, of_out = match.groups()
  window = dict(re.findall(r'(\w+)=(\S+)', each.attributes.get('window', '{}')[1:-1]))
  out = each.array
  flops = 2.0 * out.dims[of_out.index('b')] * out.dims[of_out.index('f')]
  flops *= kernel.dims[of_kernel.index('i')]
  for i in range(len(of_out) - 2):
    place = str(i)

    def number(name, default, i=i):
      return window[name].split('x')[i] if name in window else default

    flops *= _meetings(
      data.dims[of_data.index(place)],
      kernel.dims[of_kernel.index(place)],
      out.dims[of_out.index(place)],
      int(number('stride', 1)),
      int(number('pad', '0_0').split('_')[0]),
      int(number('lhs_dilate', 1)),
      int(number('rhs_dilate', 1)),
    )
  return flops


@functools.lru_cache(10_000)
def _meetings(
  data: int, kernel: int, out: int, stride: int, pad: int, spread: int, apart: int
) -> int:
  """Returns how many pairs of a place of the result and one of a window meet data."""
  at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * apart - pad
  inside = (at >= 0) & (at < (data - 1) * spread + 1) & (at % spread == 0)
  return int(inside.sum())
