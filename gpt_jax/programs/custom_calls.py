"""What custom calls compute and move: by their shapes, or by what they say themselves.

A call that is not known here is an error that names it, since a product that moved into
one would otherwise look free.
"""

import functools
import json
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from gpt_jax.programs.hlo import Array, Instruction, Unreadable, arrays


class Work(NamedTuple):
  """What a kernel does.

  Attributes:
    flops: of products of matrices.
    vector: operations on elements besides: sums, exponentials, comparisons.
    by_elements: of these, those of products that multiply and add elements.
    bytes: read and written; None: all of operands and results.
    arithmetic: of the products; see `product_arithmetic`.
  """

  flops: float = 0.0
  vector: float = 0.0
  bytes: float | None = None
  arithmetic: str = 'bf16'
  by_elements: float = 0.0


def product_arithmetic(operand: Array, instruction: Instruction) -> str:
  """Returns how a product of such operands is computed, which decides the peak.

  'bf16' (or float16), 'f8', 's8', 'f32', and 'tf32' for float32 whose precision is the
  device's default: TF32 on GPUs, one pass of bfloat16 on TPUs.
  """
  if operand.dtype in ('bf16', 'f16'):
    return 'bf16'
  if operand.dtype.startswith('f8'):
    return 'f8'
  if operand.dtype in ('s8', 'u8', 's4', 'u4', 'pred'):
    return 's8'
  said = str(instruction.attributes)
  if 'HIGH' in said.upper() or 'dot_f32_f32_f32' in said:
    return 'f32'
  if 'dot_bf16' in said:
    return 'bf16'
  return 'tf32'


def _listed(numbers: dict, name: str) -> list[int]:
  return [int(n) for n in numbers.get(name, [])]


def _cublas(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work of a product by cuBLAS: [.., M, K] by [.., K, N]."""
  config = call.config.get('gemm_backend_config')
  if config is None:
    raise Unreadable(f'line {call.line}: %{call.name} has no gemm_backend_config')
  numbers = config['dot_dimension_numbers']
  left, right = operands[:2]
  out = call.array
  contracted = [left.dims[i] for i in _listed(numbers, 'lhs_contracting_dimensions')]
  flops = 2 * out.size * math.prod(contracted)
  # The last of several results of one byte an element is room to work in.
  results = arrays(call.type)
  if len(results) > 1 and results[-1].dtype == 's8':
    results = results[:-1]
  # Where nothing is added to the product, the third operand is not read.
  read = operands
  moved = sum(array.bytes for array in read + results)
  epilogue = config.get('epilogue', 'DEFAULT')
  vector = 0 if epilogue == 'DEFAULT' else out.size
  wide = left if left.bits >= right.bits else right
  return Work(flops, vector, moved, product_arithmetic(wide, call))


def pairs(T: int, S: int, causal: bool, window: int = 0) -> int:
  """Returns how many pairs of T queries and S keys a mask leaves.

  The last query sees the last key; each sees `window` keys at most, where it is not 0.
  """
  if not causal:
    return T * S
  total = 0
  for query in range(T):
    seen = min(S, query + 1 + S - T)
    total += max(0, min(seen, window) if window else seen)
  return total


pairs = functools.lru_cache(pairs)


def _cudnn_attention(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work of cuDNN's flash attention.

  Two products forward; five backward, one of which computes the weights again (Dao et
  al. 2022, appendix B.2). `intermediate_tensor_shape` has the shape of the weights.
  """
  config = call.config.get('cudnn_fmha_backend_config')
  if config is None:
    raise Unreadable(f'line {call.line}: %{call.name} has no cudnn_fmha_backend_config')
  B, N, T, S = _listed(config['intermediate_tensor_shape'], 'dimensions')
  H = operands[0].dims[-1]
  mask = config.get('mask_type', 'NO_MASK')
  if mask not in ('NO_MASK', 'CAUSAL', 'PADDING', 'PADDING_CAUSAL'):
    raise Unreadable(f'line {call.line}: %{call.name} has an unknown mask: {mask}')
  window = int(config.get('sliding_window_length', 0))
  seen = B * N * pairs(T, S, 'CAUSAL' in mask, window)
  products = 5 if 'Backward' in call.target else 2
  arithmetic = product_arithmetic(operands[0], call)
  results = arrays(call.type)
  if len(results) > 1 and results[-1].dtype == 'u8':  # room to work in
    results = results[:-1]
  moved = sum(array.bytes for array in operands + results)
  return Work(2 * products * H * seen, 5 * seen, moved, arithmetic)


def _elements(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work of a call that looks at each element once or a few times."""
  return Work(vector=sum(array.size for array in operands + arrays(call.type)))


def _radix_sort(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work of CUB's radix sort: one look at the keys, then passes of 8 bits.

  Onesweep (Adinets and Merrill 2022, section 3). The last result is room to work in.
  """
  passes = operands[0].bits // 8
  each = sum(array.bytes for array in operands)
  moved = operands[0].bytes + 2 * passes * each
  return Work(vector=operands[0].size * passes, bytes=moved)


def _nothing(call: Instruction, operands: list[Array]) -> Work:
  del call, operands
  return Work(bytes=0)


def _splash(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work of JAX's splash attention, of the blocks that causality leaves.

  Two products forward; three for the gradient of queries and four for that of keys and
  values, or five for all. The call does not say its mask: one that leaves out more than
  causality is counted too high.
  """
  block = dict(re.findall(r'(block_k?[qv])\w*?\W+(\d+)', str(call.attributes)))
  rows, columns = int(block['block_q']), int(block['block_kv'])
  q = next(array for array in operands if len(array.dims) > 2 and array.bits >= 16)
  blocks = sum(-(-end // columns) for end in range(rows, q.dims[-2] + 1, rows))
  seen = math.prod(q.dims[:-2]) * blocks * rows * columns
  kind = re.findall(r'splash_mha_(fwd|dq|dkv)', call.op_name)[-1]
  gradients = [array for array in arrays(call.type) if array.dims[-2:] == q.dims[-2:]]
  products = {'fwd': 2, 'dq': 3, 'dkv': 5 if len(gradients) > 2 else 4}[kind]
  return Work(2 * products * q.dims[-1] * seen, 5 * seen)


def _said(call: Instruction, operands: list[Array]) -> Work:
  """Returns the work that a Pallas kernel says it does.

  On TPUs by its `cost_estimate`. XLA has no such field for GPUs: there the same numbers
  are the kernel's `metadata=dict(flops=.., bytes_accessed=.., transcendentals=..)`, or
  the attribute `cost_estimate` of `jax.experimental.xla_metadata.set_xla_metadata`.
  """
  said = call.config.get('custom_call_config', {}).get('cost_estimate')
  for text in (
    call.attributes.get('frontend_attributes', ''),
    call.attributes.get('backend_config', ''),
  ):
    text = text.replace('\\22', '"').replace('\\"', '"')
    match = re.search(r'\{[^{}]*"?flops"?[^{}]*\}', text)
    if said is None and match:
      said = json.loads(match[0])
  if said is None or 'flops' not in said:
    raise Unreadable(
      f'line {call.line}: %{call.name} calls {call.target!r} without a cost_estimate; '
      'give pallas_call cost_estimate= (TPU) or metadata=dict(flops=str(..), '
      'bytes_accessed=str(..), transcendentals=str(..)) (GPU)'
    )
  moved = float(said.get('bytes_accessed', 0))
  if not moved:
    moved = sum(array.bytes for array in operands + arrays(call.type))
  arithmetic = product_arithmetic(operands[0], call) if operands else 'bf16'
  if arithmetic not in ('bf16', 'f8'):  # its operands may be indices or small weights
    arithmetic = 'bf16'
  vector = float(said.get('transcendentals', 0))
  return Work(float(said['flops']), vector, moved, arithmetic)


_KNOWN: tuple[tuple[str, Callable[[Instruction, list[Array]], Work]], ...] = (
  (r'__cublas\$gemm|__cublas\$lt\$matmul(\$f8)?', _cublas),
  (r'__cudnn\$fmha\w+', _cudnn_attention),
  (r'__cudnn\$norm', _elements),
  (r'__gpu\$TopK|TopK|PartialReduce|ApproxTopK', _elements),
  (r'__cub\$DeviceRadixSort\w*|.*cub_sort.*', _radix_sort),
  (r'cu_threefry2x32\w*|GatherScatterIndicesBitpacked', _elements),
  (
    r'__gpu\$xla\.gpu\.triton|mosaic_gpu\w*|triton_kernel_call\w*|tpu_custom_call',
    _said,
  ),
  (
    r'AllocateBuffer|ConcatBitcast|AsyncCollective\w+|Sharding|SPMD\w+|AssumeGatherIndicesInBound',
    _nothing,
  ),
)


def work_of(call: Instruction, operands: list[Array]) -> Work:
  """Returns what a custom call does.

  Args:
    operands: their arrays, those of tuples in order.

  Raises:
    Unreadable: it is not known, or does not say what it does.
  """
  if call.target == 'tpu_custom_call' and 'splash_mha_' in call.op_name:
    return _splash(call, operands)
  for pattern, count in _KNOWN:
    if re.fullmatch(pattern, call.target):
      return count(call, operands)
  raise Unreadable(
    f'line {call.line}: %{call.name} calls {call.target!r}, whose FLOPs and bytes are '
    'not known; add it to gpt_jax/programs/custom_calls.py'
  )
