"""Files: written whole or not at all, and read with the place of what is wrong.

What a user may have given, cut off or edited is read here, so that a broken file ends
in one sentence (file, line, what to do) and not in a traceback.
"""

import json
import os
import pathlib
import reprlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from gpt_jax.config import LARGEST, UserError

_MOST = 2**30  # bytes; the largest JSON file of a task, TriviaQA's, has 0.6 GB
_LONGEST = 2**25  # bytes of a line; a novel has some hundred thousand
_DEEPEST = 100  # levels of JSON; Python's own limit depends on who calls
MEND = 'mend it, or put it back as it was'
_KINDS = {
  bool: 'true or false',
  dict: 'an object',
  float: 'a finite number',
  int: 'a whole number',
  list: 'a list',
  str: 'text',
}


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


def clear_temporaries(folder: str | pathlib.Path) -> None:
  """Removes what writers left in a folder that were killed before they were done."""
  for path in pathlib.Path(folder).glob('.*.tmp'):
    pid = path.name.split('.')[-2]
    if not pid.isdecimal() or _runs(int(pid)):
      continue
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
  """Returns whether there is such a process."""
  try:
    os.kill(pid, 0)
  except PermissionError:
    return True
  except (ProcessLookupError, OverflowError):
    return False
  return True


def sync(path: str | pathlib.Path) -> None:
  """Waits until a file or folder is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def read_text(
  path: str | pathlib.Path, remedy: str = MEND, *, most: int = _MOST
) -> str:
  """Returns the text of a UTF-8 file, without a byte order mark.

  Args:
    remedy: what to do about a damaged file, for the error.
    most: bytes; a larger file is refused before it is read.

  Raises:
    UserError: it can't be read, is larger, or is not UTF-8.
  """
  path = pathlib.Path(path)
  try:
    size = path.stat().st_size
    if size > most:
      raise UserError(
        f'{path}: {size:,} bytes are more than the {most:,} that such a file may '
        'have: is it another one?'
      )
    return path.read_bytes().decode('utf-8-sig')
  except OSError as error:
    raise UserError(f'{path} can not be read: {error.strerror or error}') from error
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is damaged: byte {error.start:,} is not UTF-8; {remedy}'
    ) from error


def lines(
  stream: BinaryIO, where: str | pathlib.Path, *, most: int = _LONGEST
) -> Iterator[tuple[int, bytes]]:
  """Yields the lines of a stream with their numbers from 1, line ends included.

  Args:
    where: names the stream in an error.
    most: bytes of a line; a longer one is refused before it is held whole.

  Raises:
    UserError: a line is longer.
  """
  number = 0
  while line := stream.readline(most + 1):
    number += 1
    if len(line) > most:
      raise UserError(
        f'{where}: line {number} is longer than {most:,} bytes; break it into several'
      )
    yield number, line


def parse_json(text: str, where: str, remedy: str = MEND) -> Any:
  """Returns the value of a JSON text.

  Args:
    where: names the text in an error: a file, or file and line.
    remedy: what to do about it, for the error.

  Raises:
    UserError: it is no JSON, or nested more than 100 levels deep.
  """
  reason = 'JSON that is nested too deeply'
  try:
    value = json.loads(text)
    if text.count('[') + text.count('{') <= _DEEPEST or not _is_deep(value):
      return value
  except json.JSONDecodeError as error:
    line = f'line {error.lineno}, ' if '\n' in text.rstrip('\n') else ''
    reason = f'not JSON ({error.msg}, {line}column {error.colno})'
  except RecursionError:
    pass
  except ValueError as error:  # a number of more than 4,300 digits
    reason = str(error)
  raise UserError(f'{where} is damaged: {reason}; {remedy}')


def _is_deep(value: Any) -> bool:
  """Returns whether a value of JSON has more than 100 levels."""
  level = [value]
  for _ in range(_DEEPEST):
    inner = [each for each in level if isinstance(each, (dict, list)) and each]
    level = [
      part
      for each in inner
      for part in (each.values() if isinstance(each, dict) else each)
    ]
    if not level:
      return False
  return any(isinstance(each, (dict, list)) for each in level)


def read_json(
  path: str | pathlib.Path,
  kind: type = dict,
  remedy: str = MEND,
  *,
  most: int = _MOST,
) -> Any:
  """Returns the value in a JSON file.

  Args:
    kind: what it must be: dict or list.
    remedy: what to do about a damaged file, for the error.
    most: bytes; a larger file is refused before it is read.

  Raises:
    UserError: it can't be read, is larger, no JSON or of another kind.
  """
  value = parse_json(read_text(path, remedy, most=most), str(path), remedy)
  return of_kind(value, kind, str(path), remedy)


def read_json_lines(
  path: str | pathlib.Path, remedy: str = MEND
) -> list[dict[str, Any]]:
  """Returns the objects of a file that has one a line, without a last one cut off.

  Raises:
    UserError: it can't be read, or a line is no JSON object.
  """
  objects = []
  try:
    with open(path, 'rb') as stream:
      for number, line in lines(stream, path):
        if line.endswith(b'\n'):
          objects.append(parse_json_line(line, f'{path}: line {number}', remedy))
  except OSError as error:
    raise UserError(f'{path} can not be read: {error.strerror or error}') from error
  return objects


def parse_json_line(line: bytes, where: str, remedy: str = MEND) -> dict[str, Any]:
  """Returns the object in a line of UTF-8.

  Args:
    where: names the line in an error.
    remedy: what to do about it, for the error.

  Raises:
    UserError: it is no JSON object.
  """
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{where} is damaged: its byte {error.start:,} is not UTF-8; {remedy}'
    ) from error
  return of_kind(parse_json(text, where, remedy), dict, where, remedy)


def of_kind(
  value: Any,
  kind: type | None,
  where: str | pathlib.Path,
  remedy: str = MEND,
  name: str = '',
) -> Any:
  """Returns a value of JSON, which must be of a kind.

  Args:
    kind: bool, int (which no bool is, and smaller than 2^63), float (a finite number,
      whole or not), str, list or dict; None: any.
    where: names the value in an error.
    remedy: what to do about it, for the error.
    name: of the field that it is, if it is one, for the error.

  Raises:
    UserError: it is of another.
  """
  if kind is int:
    fits = type(value) is int and abs(value) < LARGEST
  elif kind is float:
    fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
  else:
    fits = kind is None or isinstance(value, kind)
  if fits:
    return value
  what = type(value).__name__ if isinstance(value, (dict, list)) else shown(value)
  what = f'{name} is {what}' if name else what
  raise UserError(f'{where} is damaged: {what} instead of {_KINDS[kind]}; {remedy}')


def field(
  about: dict[str, Any],
  name: str,
  kind: type | None,
  where: str | pathlib.Path,
  remedy: str = MEND,
) -> Any:
  """Returns a field of an object of JSON, which must be there and of a kind.

  Args:
    kind: as in `of_kind`.
    where: names the object in an error.
    remedy: what to do about it, for the error.

  Raises:
    UserError: it lacks the field, or that is of another kind.
  """
  if name not in about:
    raise UserError(f'{where} is damaged: it lacks {name!r}; {remedy}')
  return of_kind(about[name], kind, where, remedy, name)


def shown(value: Any) -> str:
  """Returns a value in at most some dozen characters, for an error."""
  short = reprlib.Repr()
  short.maxlevel, short.maxdict, short.maxlist = 2, 3, 3
  short.maxstring = short.maxother = 60
  return short.repr(value)


def brief(error: BaseException) -> str:
  """Returns what an exception says in one line of at most 200 characters."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else f'{text[:80]} ... {text[-115:]}'


def listed(names: Sequence[str], most: int = 12) -> str:
  """Returns names in a row, of many only the first."""
  more = f' and {len(names) - most:,} more' if len(names) > most else ''
  return ', '.join(f'{name:.80}' for name in names[:most]) + more
