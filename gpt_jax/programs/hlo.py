"""XLA's text of a compiled program, read into instructions.

The text is that of `compiled.as_text()`, after optimisation, for CPUs, GPUs and TPUs.
An instruction of a computation that is run becomes a kernel, unless it only names
memory. Of a module that is scheduled, the order of instructions is that of the device.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# Bits of an element in memory; a layout with E(n) says otherwise.
_BITS = {'pred': 8, 'token': 0, 'opaque': 0, 'bf16': 16, 'c64': 64, 'c128': 128}
_CALLS = (
  'calls',
  'to_apply',
  'body',
  'condition',
  'branch_computations',
  'true_computation',
  'false_computation',
  'called_computations',
)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_BRACKET = re.compile(_QUOTED + r'|[()\[\]{}]')
_PIECE = re.compile(_QUOTED + r'|/\*.*?\*/|[()\[\]{},]')
_ARRAY = re.compile(r'([a-z]\w*)\[([^\]]*)\](?:\{([^{}]*)\})?')
_BEGIN = re.compile(r'\s+(ROOT )?%?([^\s=]+) = ')
# What may follow a whole instruction.
_ENDS = re.compile(r'$|}$|}, execution_thread|%|ENTRY ')
_OPCODE = re.compile(r' ([a-z][\w\-]*)\(')
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) .*\{$')
_TABLES = 'FileNames', 'FunctionNames', 'FileLocations', 'StackFrames'


class Unreadable(ValueError):
  """A text that is not as XLA writes it, or a part of it that is not known here."""


class Array(NamedTuple):
  """An array as it lies in memory.

  Attributes:
    dtype: as XLA writes it: 'bf16', 'f32', 's8', 'pred', 'f8e4m3fn', ..
    dims: its shape.
    order: its dimensions, the one that is contiguous first.
    tile: the last dimensions in memory are padded to multiples of these.
    space: 0: the device's memory; 1: on a TPU, the memory of its core; 5: the host's.
    bits: of an element.
  """

  dtype: str
  dims: tuple[int, ...]
  order: tuple[int, ...]
  tile: tuple[int, ...]
  space: int
  bits: int

  @property
  def size(self) -> int:
    """How many elements it has."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> float:
    """The bytes that it takes, its padding counted."""
    dims = [self.dims[i] for i in reversed(self.order or range(len(self.dims))[::-1])]
    for i, tile in enumerate(reversed(self.tile[-len(dims) :] if dims else ()), 1):
      dims[-i] = -(-dims[-i] // tile) * tile
    return math.prod(dims) * self.bits / 8


Type = Array | tuple['Type', ...]


def arrays(of: Type) -> list[Array]:
  """Returns the arrays of a type, those within tuples in order."""
  if isinstance(of, Array):
    return [of]
  return [array for part in of for array in arrays(part)]


class Instruction(NamedTuple):
  """A line of a computation.

  Attributes:
    type: of its result.
    operands: names of instructions of the same computation.
    literal: what stands between the brackets of a parameter or constant.
    attributes: what follows, as text, by name.
    line: its number in the text, from 1.
  """

  name: str
  type: Type
  opcode: str
  operands: tuple[str, ...]
  literal: str
  attributes: dict[str, str]
  is_root: bool
  line: int

  @property
  def array(self) -> Array:
    """Its result, or the first array of it."""
    return arrays(self.type)[0]

  @property
  def target(self) -> str:
    """What a custom call calls, or ''."""
    return self.attributes.get('custom_call_target', '').strip('"')

  @property
  def op_name(self) -> str:
    """Where in the program's source it comes from, or ''."""
    match = re.search(r'op_name="(.*?)"', self.attributes.get('metadata', ''))
    return match[1] if match else ''

  @property
  def config(self) -> dict[str, Any]:
    """What `backend_config` says in JSON; {} where it is absent or in another form."""
    text = self.attributes.get('backend_config', '')
    try:
      if text.startswith('"'):
        text = json.loads(text)
      given = json.loads(text) if text else {}
    except ValueError:
      return {}
    return given if isinstance(given, dict) else {}

  def called(self, *kinds: str) -> list[str]:
    """Returns the names of the computations that it calls: all, or of these kinds."""
    return [
      name.strip().lstrip('%')
      for kind in kinds or _CALLS
      if kind in self.attributes
      for name in self.attributes[kind].strip('{}').split(',')
      if name.strip()
    ]

  def numbers(self, attribute: str) -> tuple[int, ...]:
    """Returns an attribute such as dimensions={0,2}; () where it is absent."""
    return tuple(map(int, re.findall(r'\d+', self.attributes.get(attribute, ''))))


class Computation(NamedTuple):
  """Instructions that are run one after another; operands stand before their users."""

  name: str
  instructions: dict[str, Instruction]

  @property
  def root(self) -> Instruction:
    """Its result."""
    return next(each for each in self.instructions.values() if each.is_root)

  @property
  def parameters(self) -> list[Instruction]:
    """Its parameters, in the order of a caller's operands."""
    given = [each for each in self.instructions.values() if each.opcode == 'parameter']
    return sorted(given, key=lambda each: int(each.literal))

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions whose results an instruction reads."""
    return [self.instructions[name] for name in instruction.operands]


class Module(NamedTuple):
  """A compiled program.

  Attributes:
    entry: the computation that is run.
    scheduled: whether instructions stand in the order in which they are issued.
    donated: numbers of the entry's parameters whose memory results take.
    devices: that run it together.
  """

  name: str
  computations: dict[str, Computation]
  entry: Computation
  scheduled: bool
  donated: frozenset[int]
  devices: int

  def called(self, instruction: Instruction, *kinds: str) -> list[Computation]:
    """Returns the computations that an instruction calls: all, or of these kinds."""
    return [self.computations[name] for name in instruction.called(*kinds)]

  def loops(self) -> Iterator[tuple[Computation, Instruction]]:
    """Yields the loops that no other loop contains, and where they stand."""
    yield from self._loops_of(self.entry)

  def _loops_of(self, part: Computation) -> Iterator[tuple[Computation, Instruction]]:
    for each in part.instructions.values():
      if each.opcode == 'while':
        yield part, each
      elif each.opcode in ('call', 'conditional'):
        for inner in self.called(each):
          yield from self._loops_of(inner)

  def trips(self, part: Computation, loop: Instruction) -> int | None:
    """Returns how often a loop turns; None: it depends on what it computes.

    XLA says so of most loops of CPUs and GPUs. Else it follows from a number that grows
    by a constant in each turn, up to another; a GPU has each in a fusion.

    Args:
      part: where it stands.
    """
    known = loop.config.get('known_trip_count')
    if known:
      return int(known['n'])
    (ends,), (body,) = self.called(loop, 'condition'), self.called(loop, 'body')
    test, begin = self._behind(_Place(ends, ends.root)), part.operands(loop)[0]
    if test.each.opcode != 'compare' or test.each.attributes.get('direction') != 'LT':
      return None
    counter, limit = self._inputs(test)
    if counter.each.opcode != 'get-tuple-element' or begin.opcode != 'tuple':
      return None
    i = int(counter.each.attributes['index'])
    added = self._behind(_Place(body, body.operands(body.root)[i]))
    if added.each.opcode != 'add':
      return None
    before, step = self._inputs(added)
    grows = before.each.opcode == counter.each.opcode and (
      before.each.attributes['index'] == str(i)
    )
    first = self._behind(_Place(part, part.operands(begin)[i]))
    numbers, by = (first.constant, limit.constant), step.constant
    if not grows or not by or None in numbers:
      return None
    return max(0, -(-(numbers[1] - numbers[0]) // by))

  def _inputs(self, place: '_Place') -> list['_Place']:
    given = place.part.operands(place.each)
    return [self._behind(place._replace(each=operand)) for operand in given]

  def _behind(self, place: '_Place') -> '_Place':
    """Returns what computes a number, copies and fusions passed through."""
    while True:
      part, each, caller = place
      if each.opcode in ('copy', 'bitcast', 'convert'):
        place = place._replace(each=part.operands(each)[0])
      elif each.opcode == 'fusion':
        (inner,) = self.called(each, 'calls')
        place = _Place(inner, inner.root, place)
      elif each.opcode == 'parameter' and caller:
        operand = caller.part.operands(caller.each)[int(each.literal)]
        place = caller._replace(each=operand)
      else:
        return place


class _Place(NamedTuple):
  """An instruction where it stands; `caller` is the fusion whose computation it is."""

  part: Computation
  each: Instruction
  caller: '_Place | None' = None

  @property
  def constant(self) -> int | None:
    """The number that it is, if it is one."""
    each = self.each
    digits = each.opcode == 'constant' and re.fullmatch(r'-?\d+', each.literal)
    return int(each.literal) if digits else None


def read(text: str) -> Module:
  """Returns the program of XLA's text.

  Raises:
    Unreadable: a line is not as XLA writes it, names what is not there, or has a type
      that is not known; the message has the line and its number.
  """
  header, entry, table = '', '', False
  computations: dict[str, Computation] = {}
  inside: dict[str, Instruction] | None = None
  for number, line in _lines(text):
    try:
      if inside is not None and line.startswith('}'):
        inside = None
      elif inside is not None and line.strip():
        each = _instruction(line, number)
        absent = [name for name in each.operands if name not in inside]
        if absent:
          raise ValueError(f'%{absent[0]} is not there')
        inside[each.name] = each
      elif line.startswith('HloModule '):
        header = line
      elif match := _COMPUTATION.fullmatch(line):
        inside, table = {}, False
        computations[match[2]] = Computation(match[2], inside)
        entry = match[2] if match[1] else entry
      elif line.strip() in _TABLES:
        table = True
      elif line.strip() and not (table and re.match(r'\d+ ', line)):
        raise ValueError('it is no part of a program')
    except (ValueError, KeyError) as error:
      raise Unreadable(f'line {number}: {error}: {line.strip()[:300]}') from error
  if not entry:
    raise Unreadable('the text has no line with ENTRY: it is not XLA’s of a program')
  _check(computations)
  donated = re.findall(r'\{[\d, ]*\}: \((\d+), \{[\d, ]*\}, \w+-alias\)', header)
  count = lambda name: int((re.search(rf'{name}=(\d+)', header) or [1, 1])[1])  # noqa: E731
  return Module(
    header.partition(' ')[2].partition(',')[0],
    computations,
    computations[entry],
    'is_scheduled=true' in header,
    frozenset(map(int, donated)),
    count('num_partitions') * count('replica_count'),
  )


def _lines(text: str) -> Iterator[tuple[int, str]]:
  """Yields lines with their numbers, from 1; one that goes on over several is one."""
  held, at = '', 0
  for number, line in enumerate(text.splitlines(), 1):
    begins = _BEGIN.match(line)
    if held and not (begins or _ENDS.match(line) or _whole(held)):
      held += line
      continue
    if held:
      yield at, held
    held, at = (line, number) if begins else ('', 0)
    if not begins:
      yield number, line
  if held:
    yield at, held


def _whole(line: str) -> bool:
  """Returns whether as many brackets close as open."""
  brackets = [match[0] for match in _BRACKET.finditer(line)]
  opened = sum(each in '([{' for each in brackets)
  return opened == sum(each in ')]}' for each in brackets)


def _check(computations: dict[str, Computation]) -> None:
  for computation in computations.values():
    roots = [each for each in computation.instructions.values() if each.is_root]
    if len(roots) != 1:
      raise Unreadable(f'%{computation.name} has {len(roots)} lines with ROOT, not one')
    for each in computation.instructions.values():
      for name in each.called():
        if name not in computations:
          raise Unreadable(f'line {each.line}: %{each.name} calls %{name}, not there')


def _closing(text: str, start: int) -> int:
  """Returns the place behind the bracket that closes the one at `start`."""
  depth = 0
  for match in _BRACKET.finditer(text, start):
    if match[0] in '([{':
      depth += 1
    elif match[0] in ')]}':
      depth -= 1
      if not depth:
        return match.end()
  raise ValueError('a bracket does not close')


def _pieces(text: str) -> list[str]:
  """Returns a text divided at the commas in no bracket, comments left out."""
  pieces, depth, start, text = [], 0, 0, text.strip()
  for match in _PIECE.finditer(text):
    if match[0] in ('(', '[', '{'):
      depth += 1
    elif match[0] in (')', ']', '}'):
      depth -= 1
    elif match[0] == ',' and not depth:
      pieces.append(text[start : match.start()])
      start = match.end()
  pieces.append(text[start:])
  bare = (re.sub(r'/\*.*?\*/', '', piece, count=1).strip() for piece in pieces)
  return [piece for piece in bare if piece]


def _instruction(line: str, number: int) -> Instruction:
  begin = _BEGIN.match(line)
  if not begin:
    raise ValueError('it is no instruction')
  start = begin.end()
  if line[start] == '(':
    end = _closing(line, start)
  else:
    array = _ARRAY.match(line, start)
    if not array:
      raise ValueError('its result has no type')
    end = array.end()
  opcode = _OPCODE.match(line, end)
  if not opcode:
    raise ValueError('it has no operation')
  close = _closing(line, opcode.end() - 1)
  inner = line[opcode.end() : close - 1]
  named = opcode[1] not in ('parameter', 'constant')
  attributes = (piece.partition('=') for piece in _pieces(line[close:]))
  return Instruction(
    begin[2],
    type_of(line[start:end]),
    opcode[1],
    # Some print an operand's type before its name.
    tuple(piece.split()[-1].lstrip('%') for piece in _pieces(inner)) if named else (),
    '' if named else inner,
    {name.strip(): value.strip() for name, _, value in attributes},
    bool(begin[1]),
    number,
  )


@functools.lru_cache(100_000)
def type_of(text: str) -> Type:
  """Returns the type that XLA writes as f32[2,3]{1,0} or (bf16[4]{0}, s32[]).

  Raises:
    ValueError: it is not as XLA writes them.
  """
  if text.startswith('('):
    return tuple(type_of(piece) for piece in _pieces(text[1:-1]))
  match = _ARRAY.fullmatch(text)
  if not match:
    raise ValueError(f'{text!r} is no type')
  dtype, dims, layout = match[1], match[2], match[3] or ''
  bits = _BITS.get(dtype)
  if bits is None:
    width = re.match(r'[fsu](\d+)', dtype)
    if not width:
      raise ValueError(f'{dtype!r} is no type of elements')
    bits = max(8, int(width[1]))  # not packed, unless the layout says so
  order, _, rest = layout.partition(':')
  tile = re.search(r'T\(([\d,]+)\)', rest)
  space = re.search(r'S\((\d+)\)', rest)
  packed = re.search(r'E\((\d+)\)', rest)
  return Array(
    dtype,
    tuple(int(n.lstrip('<=')) for n in dims.split(',') if n),
    tuple(int(n) for n in order.split(',') if n),
    tuple(int(n) for n in tile[1].split(',')) if tile else (),
    int(space[1]) if space else 0,
    int(packed[1]) if packed else bits,
  )
