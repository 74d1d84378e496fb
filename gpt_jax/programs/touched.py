"""What a kernel touches of the arrays that it is given, and of those that it writes.

Of an operand that is only sliced or gathered what is taken counts; of one that is
updated in place the update.
"""

from collections.abc import Sequence

from gpt_jax.programs.hlo import Array, Computation, Instruction, Module, arrays

ELEMENTWISE = set(
  'abs add and atan2 cbrt ceil clamp compare complex convert cosine '
  'count-leading-zeros divide erf exponential exponential-minus-one floor imag '
  'is-finite log log-plus-one '
  'logistic map maximum minimum multiply negate not or popcnt power real '
  'reduce-precision remainder round-nearest-afz round-nearest-even rsqrt select '
  'shift-left shift-right-arithmetic shift-right-logical sign sine sqrt '
  'stochastic-convert subtract tan tanh xor'.split()
)
IN_PLACE = 'dynamic-update-slice', 'scatter'
# Of a fusion that works while a collective goes on, which counts where it began.
PASSED = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


def whole(given: Sequence[Array]) -> float:
  """Returns the bytes of arrays in the device's memory."""
  return sum(array.bytes for array in given if array.space == 0)


def changed(part: Computation, each: Instruction) -> int:
  """Returns how many elements an update of a part of an array writes."""
  operands = part.operands(each)
  if each.opcode == 'dynamic-update-slice':
    return operands[1].array.size
  arrays_changed = (len(operands) - 1) // 2
  return operands[1 + arrays_changed].array.size


def needed(part: Computation, user: Instruction, i: int, elements: float) -> float:
  """Returns how many elements of operand i a user reads, to compute some of its own."""
  operand = part.operands(user)[i].array
  share = min(1, elements / max(1, user.array.size))
  if user.opcode in ('slice', 'slice-start', 'gather', 'dynamic-slice') and i == 0:
    return elements
  if user.opcode in ('dynamic-update-slice', 'scatter') and i == 0:
    return max(0, elements - changed(part, user))
  if user.opcode in ELEMENTWISE | {'broadcast', 'pad'}:
    return min(operand.size, elements)
  return operand.size * share


def demanded(body: Computation, free: frozenset[str] = frozenset()) -> dict[str, float]:
  """Returns how many elements of each result a fused computation needs.

  Args:
    free: names of updates in place, whose arrays are not read where they stay.
  """
  wanted = dict.fromkeys(body.instructions, 0.0)
  wanted[body.root.name] = body.root.array.size
  for user in reversed(body.instructions.values()):
    for i, operand in enumerate(body.operands(user)):
      if user.opcode == 'tuple':
        # What is passed on as it is stays where it is.
        more = 0 if operand.opcode == 'parameter' else operand.array.size
      elif user.opcode in PASSED:
        more = 0
      elif i == 0 and user.name in free:
        more = changed(body, user) if user.opcode == 'scatter' else 0
      else:
        more = needed(body, user, i, wanted[user.name])
      wanted[operand.name] = min(operand.array.size, wanted[operand.name] + more)
  return wanted


def _source(part: Computation, each: Instruction) -> Instruction:
  """Returns the instruction whose memory a bitcast, or one after another, names."""
  while each.opcode == 'bitcast':
    (each,) = part.operands(each)
  return each


def _results(body: Computation) -> list[Instruction]:
  """Returns what a fused computation writes."""
  root = _source(body, body.root)
  return body.operands(root) if root.opcode == 'tuple' else [root]


def _updates(
  module: Module, part: Computation, each: Instruction, body: Computation
) -> dict[str, Instruction]:
  """Returns the results of a fusion that are updates in place, by their own names.

  An update is in place where its array is an operand that nothing reads later, and of
  which the fusion reads no more than it writes; elsewhere XLA writes a whole new array.
  """
  operands = part.operands(each)
  updates = {}
  for result in _results(body):
    update = _source(body, result)
    if update.opcode not in IN_PLACE:
      continue
    source = _source(body, body.operands(update)[0])
    if source.opcode == 'parameter' and _ends(
      module, part, each, operands[int(source.literal)]
    ):
      read = demanded(body, frozenset([update.name]))[source.name]
      if read <= changed(body, update) * (1 + (update.opcode == 'scatter')):
        updates[update.name] = update
  return updates


def _ends(
  module: Module, part: Computation, each: Instruction, operand: Instruction
) -> bool:
  """Returns whether nothing after an instruction reads what it takes as operand."""
  source = _source(part, operand)
  given = part is module.entry and source.opcode == 'parameter'
  if given and int(source.literal) not in module.donated:
    return False
  names = {source.name}
  for later in part.instructions.values():
    if later.opcode == 'bitcast' and names & set(later.operands):
      names.add(later.name)
    elif later.line > each.line and names & set(later.operands):
      return False
  return True


def moved_by_fusion(
  module: Module, part: Computation, each: Instruction, body: Computation
) -> float:
  """Returns the bytes that a fusion moves.

  Args:
    part: where it stands.
    body: what it fuses.
  """
  updates = _updates(module, part, each, body)
  wanted = demanded(body, frozenset(updates))
  touched: dict[str, float] = {}
  for operand, parameter in zip(part.operands(each), body.parameters, strict=True):
    for array in arrays(operand.type):
      if array.space == 0 and array.size:
        read = array.bytes * wanted[parameter.name] / array.size
        # One that stands twice is read once.
        touched[operand.name] = min(array.bytes, touched.get(operand.name, 0) + read)
  moved = sum(touched.values())
  results = [result for result in _results(body) for _ in arrays(result.type)]
  for result, array in zip(results, arrays(each.type), strict=True):
    if array.space == 0 and result.opcode not in ('parameter', *PASSED):
      update = updates.get(_source(body, result).name)
      share = changed(body, update) / max(1, array.size) if update else 1
      moved += array.bytes * min(1, share)
  return moved
