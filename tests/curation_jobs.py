"""Functions that tests run on an engine: importable by any process."""

import os
import pathlib
import signal
import time
from collections.abc import Iterator

from gpt_jax.config import UserError
from gpt_jax.data.curation.shards import Document, read_shard, write_shard


def documents(number: int, count: int) -> list[Document]:
  """Returns a shard's documents, with words that several shards share."""
  return [
    Document(
      f'{number}#{i}', 'made', f'w{i % 7} w{number} é{i * number % 11}', {'i': i}
    )
    for i in range(count)
  ]


def upper(folder: str, path: str) -> dict:
  """Writes a shard in upper case and notes in `runs` beside it that it did."""
  name = pathlib.Path(path).name
  with open(pathlib.Path(folder).parent / 'runs', 'a') as log:
    log.write(f'{name}\n')
  count = write_shard(
    f'{folder}/{name}', (d._replace(text=d.text.upper()) for d in read_shard(path))
  )
  return {'kept': count}


def slow_upper(folder: str, path: str) -> dict:
  """Does the same in a tenth of a second."""
  time.sleep(0.1)
  return upper(folder, path)


def words(path: str) -> Iterator[tuple[bytes, bytes]]:
  """Yields each word of a shard with its document's id."""
  for document in read_shard(path):
    for word in document.text.split():
      yield word.encode(), document.id.encode()


def joined(key: bytes, values: Iterator[bytes]) -> Iterator[bytes]:
  """Yields a word with all ids that it came with."""
  yield key + b' ' + b','.join(values)


def first(key: bytes, values: Iterator[bytes]) -> Iterator[bytes]:
  """Yields a word with the least id, and leaves the others unread."""
  yield key + b' ' + next(values)


def square(number: int) -> int:
  return number * number


def fails(number: int) -> int:
  if number == 3:
    raise UserError('number=3 must not be given; give another')
  return number


def breaks(number: int) -> int:
  return 1 // (number - 3)


def dies(number: int) -> int:
  if number == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return number


def process(number: int) -> str:
  """Returns the process that it runs in."""
  return str(os.getpid())
