"""Files: written whole or not at all, and read with the place of what is wrong.

What a user may have given, cut off or edited is read here, so that a broken file ends
in one sentence (file, line, what to do) and not in a traceback.
"""

import json
import os
import pathlib
from typing import Any

from gpt_jax.config import UserError

_MOST_JSON = 2**30  # bytes; vocabularies take some MB, sweeps of thousands of runs less
MEND = 'mend it, or put it back as it was'


def write_whole(path: str | pathlib.Path, text: str) -> None:
  """Writes a text file whole or not at all, and durably."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    temporary.write_text(text, encoding='utf-8')
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes a value as a JSON file, whole or not at all.

  Raises:
    ValueError: a number in it is not finite, which JSON can't say.
  """
  write_whole(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def sync(path: str | pathlib.Path) -> None:
  """Waits until a file or folder is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def read_text(path: str | pathlib.Path, *, most: int = _MOST_JSON) -> str:
  """Returns the text of a UTF-8 file, without a byte order mark.

  Args:
    most: bytes; a larger file is refused before it is read.

  Raises:
    UserError: it can't be read, is larger, or is not UTF-8.
  """
  path = pathlib.Path(path)
  try:
    size = path.stat().st_size
    if size > most:
      raise UserError(
        f'{path}: {size:,} bytes are more than the {most:,} that fit here'
      )
    return path.read_bytes().decode('utf-8-sig')
  except OSError as error:
    raise UserError(f'{path} can not be read: {error.strerror or error}') from error
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is damaged: byte {error.start:,} is not UTF-8; {MEND}'
    ) from error


def parse_json(text: str, where: str, remedy: str = MEND) -> Any:
  """Returns the value of a JSON text.

  Args:
    where: names the text in an error: a file, or file and line.
    remedy: what to do about it, for the error.

  Raises:
    UserError: it is no JSON, or nested deeper than Python reads.
  """
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    line = f'line {error.lineno}, ' if '\n' in text.rstrip('\n') else ''
    reason = f'not JSON ({error.msg}, {line}column {error.colno})'
  except RecursionError:
    reason = 'JSON that is nested too deeply'
  except ValueError as error:  # a number of more than 4,300 digits
    reason = str(error)
  raise UserError(f'{where} is damaged: {reason}; {remedy}')


def read_json(path: str | pathlib.Path, kind: type = dict, remedy: str = MEND) -> Any:
  """Returns the value in a JSON file.

  Args:
    kind: what it must be: dict or list.
    remedy: what to do about a damaged file, for the error.

  Raises:
    UserError: it can't be read, is no JSON or of another kind.
  """
  value = parse_json(read_text(path), str(path), remedy)
  if not isinstance(value, kind):
    names = {dict: 'an object', list: 'a list'}
    raise UserError(
      f'{path} is damaged: {type(value).__name__} instead of {names[kind]}; {remedy}'
    )
  return value


def read_json_lines(
  path: str | pathlib.Path, remedy: str = MEND
) -> list[dict[str, Any]]:
  """Returns the objects of a file that has one a line, without a last one cut off.

  Raises:
    UserError: it can't be read, or a line is no JSON object.
  """
  objects = []
  for number, line in enumerate(read_text(path).split('\n')[:-1], 1):
    value = parse_json(line, f'{path}: line {number}', remedy)
    if not isinstance(value, dict):
      raise UserError(
        f'{path}: line {number} is damaged: {type(value).__name__} instead of an '
        f'object; {remedy}'
      )
    objects.append(value)
  return objects
