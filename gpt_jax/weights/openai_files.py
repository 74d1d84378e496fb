"""OpenAI's two original formats of weights, read with numpy alone."""

import functools
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.files import listed, read_json, shown

_MOST = 2**24  # bytes of a list of shapes, or of an index
_LARGEST = 2**31  # sizes are smaller


def read_gpt1(folder: str | Path) -> dict[str, np.ndarray]:
  """Returns GPT-1's weights, in the order and under the names of its release.

  The names are those of GPT-2's checkpoints without 'model/': wpe [T, D], wte [V, D],
  and for each layer i the twelve of `_gpt1_layer`, as in h0/attn/c_attn/w. Kernels are
  [in, out]. The arrays are views of one buffer.

  Args:
    folder: `model/` of openai/finetune-transformer-lm: params_shapes.json, a list of
      shapes, and params_0.npy, params_1.npy ..., which together hold the numbers.

  Raises:
    UserError: with a line for everything that is missing or does not fit.
  """
  folder, wrong = Path(folder), []
  shapes = _gpt1_shapes(folder / 'params_shapes.json', wrong)
  matches = (re.fullmatch(r'params_(\d+)\.npy', path.name) for path in folder.glob('*'))
  last = max((int(match[1]) for match in matches if match), default=0)
  parts = []
  for path in (folder / f'params_{i}.npy' for i in range(last + 1)):
    try:
      parts.append(_vector(path))
    except FileNotFoundError:
      wrong.append(f'{path}: missing')
    except (OSError, ValueError) as e:
      wrong.append(f'{path}: damaged: {e}')
  sizes = [math.prod(shape) for shape in shapes.values()]
  total = sum(part.size for part in parts)
  if shapes and len(parts) == last + 1 and total != sum(sizes):
    wrong.append(
      f'{folder}: params_0.npy .. params_{last}.npy hold {total} numbers, but the '
      f'shapes in params_shapes.json ask for {sum(sizes)}: is a file missing or of '
      'another model?'
    )
  if wrong:
    raise UserError('\n'.join(wrong))
  cut = np.split(np.concatenate(parts), np.cumsum(sizes)[:-1])
  return {
    name: array.reshape(shape[-2:])  # a kernel's leading 1 is the convolution's width
    for (name, shape), array in zip(shapes.items(), cut, strict=True)
  }


# The header of an array of numbers as numpy writes it.
_HEADER = re.compile(
  rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][a-zA-Z]\d\d?)', 'fortran_order': \w+, "
  rb"'shape': \(((?:\d{1,18}(?:, ?|(?=\)))){0,32})\), \} *\n",
  re.DOTALL,
)


def _vector(path: Path) -> np.ndarray:
  """Returns the vector of float32 in a .npy file, whose header is not believed.

  Raises:
    ValueError: it is something else, or its header says another length.
  """
  with path.open('rb') as stream:
    header = _HEADER.match(stream.read(1 << 10))
  if not header:
    raise ValueError('not as numpy saves an array of numbers')
  dtype, shape = header[1].decode(), header[2].decode().rstrip(',')
  if dtype != '<f4' or not shape.isdecimal():
    kind = {'f': 'float', 'i': 'int', 'u': 'uint'}.get(dtype[1], dtype[1])
    bits = 8 * int(dtype[2:])
    raise ValueError(f'{kind}{bits}[{shape}], must be a float32 vector')
  size, wanted = path.stat().st_size - header.end(), 4 * int(shape)
  if size != wanted:
    raise ValueError(f'{size:,} bytes of numbers, but its header says {wanted:,}')
  return np.fromfile(path, np.float32, offset=header.end())


def _gpt1_layer(D: int) -> dict[str, list[int]]:
  """Returns the shapes of a layer, in the order in which train.py makes them."""
  return {
    'attn/c_attn/w': [1, D, 3 * D],  # query, key, value
    'attn/c_attn/b': [3 * D],
    'attn/c_proj/w': [1, D, D],
    'attn/c_proj/b': [D],
    'ln_1/g': [D],
    'ln_1/b': [D],
    'mlp/c_fc/w': [1, D, 4 * D],
    'mlp/c_fc/b': [4 * D],
    'mlp/c_proj/w': [1, 4 * D, D],
    'mlp/c_proj/b': [D],
    'ln_2/g': [D],
    'ln_2/b': [D],
  }


def _gpt1_shapes(path: Path, wrong: list[str]) -> dict[str, list[int]]:
  """Returns the named shapes of params_shapes.json; adds what is wrong with them."""
  if not path.exists():
    wrong.append(f'{path}: missing')
    return {}
  try:
    shapes = read_json(path, list, 'copy it anew', most=_MOST)
  except UserError as e:
    wrong.append(f'{path}: must list shapes, as [[512, 768], [40478, 768], ...]: {e}')
    return {}
  if [len(each) for each in shapes[:2] if _is_shape(each)] != [2, 2] or not all(
    map(_is_shape, shapes)
  ):
    wrong.append(
      f'{path}: must list shapes, as [[512, 768], [40478, 768], ...], and their sizes '
      f'must be integers above 0 and below 2^31; it is {shown(shapes)}; copy it anew'
    )
    return {}
  (T, _), (V, D) = shapes[:2]
  layers, rest = divmod(len(shapes) - 2, len(_gpt1_layer(D)))
  if rest or not layers:
    wrong.append(
      f'{path}: {len(shapes)} shapes, must be 2 and 12 for each layer (14, 26, ...)'
    )
  layout = {'wpe': [T, D], 'wte': [V, D]}
  for i in range(layers + bool(rest)):
    layout |= {f'h{i}/{name}': shape for name, shape in _gpt1_layer(D).items()}
  named = dict(zip(layout, shapes, strict=False))
  for i, (name, shape) in enumerate(named.items()):
    if shape != layout[name]:
      wrong.append(
        f'{path}: shape {i} ({name}) is {shape}, must be {layout[name]} (width {D})'
      )
  return named


def _is_shape(value: Any) -> bool:
  """Returns whether a value of JSON is the shape of an array that may exist."""
  return isinstance(value, list) and all(
    type(n) is int and 0 < n < _LARGEST for n in value
  )


# By their numbers in TensorFlow's DataType.
_READ = {1: 'float32', 14: 'bfloat16', 19: 'float16'}
_READABLE = ' or '.join(_READ.values())
_REFUSED = dict(
  enumerate('float64 int32 uint8 int16 int8 string complex64 int64 bool'.split(), 2)
)


class _Entry(NamedTuple):
  """A BundleEntryProto: where a tensor lies."""

  dtype: int
  shape: list[int]
  shard: int
  offset: int  # bytes, as is size
  size: int
  checksum: int
  partitioned: bool


def read_tensorflow(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a TensorFlow V2 checkpoint by name, in float32.

  float16 and bfloat16 are widened, which is exact. The checksums (CRC-32C) of the index
  and of every tensor are verified.

  Args:
    path: a prefix, as 'models/124M/model.ckpt' (.index and .data-00000-of-00001
      follow), or a folder, whose file `checkpoint` names the checkpoint; without that
      file there must be a single .index file.

  Raises:
    UserError: with a line for every file that is missing, truncated or altered, naming
      the tensors that are lost, and for every tensor of another kind.
  """
  prefix = _prefix(Path(path))
  index = Path(f'{prefix}.index')
  try:
    if index.stat().st_size > _MOST:
      raise ValueError(f'it has more than {_MOST:,} bytes')
    shards, entries = _read_index(index.read_bytes())
  except OSError as e:
    raise UserError(
      f'{index}: can not be read: {e.strerror or e}; give the folder of a checkpoint, '
      'or its prefix without .index'
    ) from e
  except (ValueError, LookupError) as e:
    raise UserError(
      f'{index}: not the index of a TensorFlow V2 checkpoint, or truncated or altered: '
      f'{e}; copy it anew'
    ) from e
  wrong, held = [], defaultdict(list)
  for name, entry in entries.items():
    size = math.prod(entry.shape) * (4 if entry.dtype == 1 else 2)
    held[entry.shard].append(name)
    if entry.partitioned:
      wrong.append(f'{index}: {name} is saved in slices; save it whole')
    elif entry.dtype not in _READ:
      kind = _REFUSED.get(entry.dtype, entry.dtype)
      wrong.append(f'{index}: {name} is {kind}, must be {_READABLE}; save without it')
    elif size != entry.size:
      wrong.append(f'{index}: {name} {entry.shape} has {entry.size} bytes, not {size}')
  files = {i: Path(f'{prefix}.data-{i:05d}-of-{shards:05d}') for i in sorted(held)}
  for i, file in files.items():
    if not file.is_file():
      wrong.append(f'{file}: missing; it holds {listed(held[i])}')
      continue
    end = file.stat().st_size
    ends = {name: entries[name].offset + entries[name].size for name in held[i]}
    if max(ends.values()) > end:
      cut = listed([name for name in held[i] if ends[name] > end])
      wrong.append(
        f'{file}: truncated: {end} bytes, must be {max(ends.values())}; it lacks {cut}'
      )
  if wrong:
    raise UserError('\n'.join(wrong))
  tensors = {}
  for name, entry in entries.items():
    file = files[entry.shard]
    raw = np.fromfile(file, np.uint8, entry.size, offset=entry.offset)
    if _checksum(raw) != entry.checksum:
      wrong.append(f'{file}: altered: the checksum of {name} differs; copy it anew')
    elif _READ[entry.dtype] == 'bfloat16':  # the upper half of a float32
      wide = raw.view('<u2').astype(np.uint32) << 16
      tensors[name] = wide.view(np.float32).reshape(entry.shape)
    else:
      stored = raw.view('<f4' if entry.dtype == 1 else '<f2')
      tensors[name] = stored.astype(np.float32, copy=False).reshape(entry.shape)
  if wrong:
    raise UserError('\n'.join(wrong))
  return tensors


def _prefix(path: Path) -> Path:
  """Returns the prefix of the checkpoint in a folder; another path is a prefix."""
  if not path.is_dir():
    return path
  state = path / 'checkpoint'
  if state.is_file():
    text = state.read_text(encoding='utf-8', errors='replace')
    match = re.search(r'^model_checkpoint_path: "(.{1,200})"', text, re.MULTILINE)
    if not match:
      raise UserError(
        f'{state}: names no model_checkpoint_path; give the prefix itself'
      )
    return path / Path(match[1]).name  # often absolute, from before a move
  indices = sorted(path.glob('*.index'))
  if len(indices) != 1:
    names = ', '.join(index.name for index in indices) or 'none'
    raise UserError(
      f'{path}: must hold a file named checkpoint or one .index file, but it holds '
      f'{names}; give the prefix of a checkpoint'
    )
  return indices[0].with_suffix('')


def _read_index(data: bytes) -> tuple[int, dict[str, _Entry]]:
  """Returns the number of data files, and the entries of an index by name.

  An index is a sorted-string table as in LevelDB: blocks of keys and values, a block
  with the places of the others, and a footer with the place of that block. The key ''
  has the header (a BundleHeaderProto), every other a BundleEntryProto.
  """
  footer = data[-48:]
  if footer[-8:] != bytes.fromhex('57fb808b247547db'):
    raise ValueError('it does not end in the magic number')
  at = 0
  for _ in range(2):  # over the place of the block of metadata, which is empty
    _, at = _varint(footer, at)
  values = {}
  for _, place in _block(data, footer[at:]):
    values |= _block(data, place)
  header = _fields(values.pop(b''))
  if _number(header, 2):
    raise ValueError('its tensors are big-endian')
  entries = {}
  for name, value in values.items():
    fields = _fields(value)
    sizes = _fields(_message(fields.get(2, [b''])[0])).get(2, [])
    shape = [_number(_fields(_message(size)), 1) for size in sizes]
    if any(n >= _LARGEST for n in shape):
      raise ValueError(f'a tensor has the shape {shown(shape)}')
    dtype, *rest = (_number(fields, i) for i in (1, 3, 4, 5, 6))
    name = name.decode(errors='backslashreplace')  # slices have binary names
    entries[name] = _Entry(dtype, shape, *rest, partitioned=7 in fields)
  return _number(header, 1), entries


def _number(fields: dict[int, list], at: int) -> int:
  """Returns a field of a protobuf message that is a number; 0 where it is missing."""
  value = fields.get(at, [0])[0]
  if not isinstance(value, int):
    raise ValueError(f'field {at} is no number')
  return value


def _message(value: int | bytes) -> bytes:
  """Returns a field of a protobuf message that is a message itself."""
  if not isinstance(value, bytes):
    raise ValueError(f'{value} instead of a message')
  return value


def _block(data: bytes, place: bytes) -> list[tuple[bytes, bytes]]:
  """Returns the keys and values of the block at a place: varints of offset and size."""
  offset, at = _varint(place, 0)
  size, _ = _varint(place, at)
  block, checksum = data[offset : offset + size + 1], data[offset + size + 1 :][:4]
  if len(checksum) < 4 or _checksum(block) != int.from_bytes(checksum, 'little'):
    raise ValueError(f'the checksum of its block at byte {offset} differs')
  if block[size]:
    raise ValueError('its blocks are compressed; TensorFlow writes them plain')
  restarts = int.from_bytes(block[size - 4 : size], 'little')
  pairs, key, at = [], b'', 0
  while at < size - 4 * (restarts + 1):
    shared, at = _varint(block, at)
    own, at = _varint(block, at)
    length, at = _varint(block, at)
    key = key[:shared] + block[at : at + own]
    pairs.append((key, block[at + own : at + own + length]))
    at += own + length
  return pairs


def _fields(message: bytes) -> dict[int, list]:
  """Returns the values of a protobuf message, integers or bytes, by field number."""
  fields, at = defaultdict(list), 0
  while at < len(message):
    tag, at = _varint(message, at)
    if tag & 7 == 0:
      value, at = _varint(message, at)
    elif tag & 7 == 2:
      size, at = _varint(message, at)
      value, at = message[at : at + size], at + size
    elif tag & 7 == 5:
      value, at = int.from_bytes(message[at : at + 4], 'little'), at + 4
    else:
      raise ValueError(f'field {tag >> 3} is of wire type {tag & 7}')
    fields[tag >> 3].append(value)
  return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """Returns a number written in groups of 7 bits, lowest first, and where it ends."""
  value = shift = 0
  while True:
    value |= (data[at] & 127) << shift
    at, shift = at + 1, shift + 7
    if shift > 70:
      raise ValueError(f'the number that ends at byte {at} has more than 64 bits')
    if data[at - 1] < 128:
      return value, at


def _checksum(data: bytes | np.ndarray) -> int:
  """Returns the CRC-32C of bytes, masked as LevelDB does.

  A CRC is linear over xor, so that two halves of the data need not wait for each other:
  move every word of the earlier half over the length of the later one, xor, repeat.
  """
  # These 4 bytes, after zeros, leave the register at 0xffffffff, where a CRC begins.
  start = bytes(-len(data) % 4) + bytes.fromhex('54641f64')
  words = np.concatenate([np.frombuffer(x, np.uint8) for x in (start, data)])
  register, words = np.uint32(0), words.view('<u4')
  for i in range(0, len(words), 1 << 16):  # pieces that fit a processor's cache
    piece = words[i : i + (1 << 16)]
    piece[0] ^= register
    while len(piece) > 1:
      half = 1 << (len(piece) - 1).bit_length() - 1
      earlier, piece = piece[:-half], piece[-half:]
      piece[-len(earlier) :] ^= _moved(earlier, half)
    register = _moved(piece, 1)[0]
  crc = int(register) ^ 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _moved(registers: np.ndarray, words: int) -> np.ndarray:
  """Returns CRC registers as they are after so many words (a power of 2) of zeros."""
  low, high = _tables(words)
  return low[registers & 0xFFFF] ^ high[registers >> 16]


@functools.cache
def _tables(words: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns what `words` words of zeros make of the lower and upper 16 bits."""
  bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
  if words == 1:
    for _ in range(32):
      bits = (bits >> 1) ^ (bits & 1) * np.uint32(0x82F63B78)
  else:
    bits = _moved(_moved(bits, words // 2), words // 2)
  tables = np.zeros((2, 1 << 16), np.uint32)
  for i in range(16):
    tables[:, 1 << i : 2 << i] = tables[:, : 1 << i] ^ bits[[i, 16 + i], None]
  return tables[0], tables[1]
