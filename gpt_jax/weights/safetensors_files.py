"""Reads the safetensors files of a Hugging Face folder: one, or shards and an index."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gpt_jax.config import UserError
from gpt_jax.files import brief, field, listed, read_json, shown
from gpt_jax.weights.config_json import MOST

WHOLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_FLOATS = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'F64': 'float64'}
_REMEDIES = {
  'pytorch_model.bin': 'it is converted by loading and saving it with transformers',
  'pytorch_model.bin.index.json': 'these are converted by loading and saving them with '
  'transformers',
  'adapter_config.json': 'it is merged into its model by peft: merge_and_unload, then '
  'save_pretrained',
}


def read(folder: Path, skip: re.Pattern) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns all tensors of a folder as they are stored, and the names of their types.

  As in transformers model.safetensors is read where there is an index too.

  Args:
    skip: matches the names of tensors that are not wanted.

  Raises:
    UserError: there are none, a file is missing or damaged, index and files disagree,
      or a tensor is not of floating-point numbers.
  """
  index = {}
  files = [WHOLE] if (folder / WHOLE).exists() else []
  if not files and (folder / INDEX).exists():
    index = _read_index(folder / INDEX)
    files = sorted(set(index.values()))
  if not files:
    there = sorted(path.name for path in folder.glob('*'))
    name, remedy = next(
      ((n, r) for n, r in _REMEDIES.items() if n in there),
      ('a folder with pytorch_model.bin', _REMEDIES['pytorch_model.bin']),
    )
    raise UserError(
      f'{folder}: has no {WHOLE} (there is {listed(there) or "nothing"}); {name}: '
      f'{remedy}'
    )
  arrays, types, wrong = {}, set(), []
  for name in files:
    try:
      part, kinds = _read_file(folder / name, skip)
    except (OSError, safetensors.SafetensorError) as e:
      wrong.append(f'{folder / name}: missing or damaged: {brief(e)}')
      continue
    if twice := sorted(part.keys() & arrays):
      wrong.append(f'{folder / name}: another file has {listed(twice)} too')
    arrays |= part
    types |= kinds
    lacking = [
      t
      for t, file in index.items()
      if file == name and t not in part and not skip.fullmatch(t)
    ]
    if lacking:
      wrong.append(f'{folder / name}: lacks {listed(lacking)}, which {INDEX} says')
  if wrong:
    raise UserError('\n'.join(wrong))
  return arrays, sorted(types)


def _read_index(path: Path) -> dict[str, str]:
  """Returns the file of each tensor."""
  files = field(read_json(path, most=MOST), 'weight_map', dict, path)
  if strange := [n for n in files.values() if not _is_name(n)]:
    raise UserError(
      f'{path} is damaged: {shown(strange[0])} is no name of a file beside it; copy '
      'it anew'
    )
  return files


def _read_file(path: Path, skip: re.Pattern) -> tuple[dict[str, np.ndarray], set[str]]:
  """Returns the tensors of a file, and the names of their types."""
  with safetensors.safe_open(path, framework='numpy') as file:
    names = [name for name in file.keys() if not skip.fullmatch(name)]  # noqa: SIM118
    kinds = {name: file.get_slice(name).get_dtype() for name in names}
  for name, kind in kinds.items():
    if kind not in _FLOATS:
      raise UserError(
        f'{path}: {name:.100} is of type {kind}, which must be one of '
        f'{", ".join(_FLOATS)}; give the weights as they were before they were '
        'quantized'
      )
  loaded = safetensors.numpy.load_file(path)
  return {name: loaded[name] for name in names}, {_FLOATS[k] for k in kinds.values()}


def _is_name(value: Any) -> bool:
  """Returns whether a value of JSON is the name of a file, without folders."""
  named = isinstance(value, str) and value.isprintable() and 0 < len(value) < 256
  return named and Path(value).name == value
