"""Where the documents of a token file come from: PREFIX.src and PREFIX.names.

See gpt_jax/data/token_files.py, which writes them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_jax.config import UserError

_BLOCK = 1 << 16  # bytes of a name are read at once


def parted(name: str) -> tuple[str, int]:
  """Returns the file of a document's name, and its number in there, or 0."""
  found = re.fullmatch(r'(.*):([1-9]\d{0,17})', name, re.DOTALL)
  file, number = (found[1], int(found[2])) if found else (name, 0)
  return file.replace('\n', ' '), number


def joined(file: str, number: int) -> str:
  """Returns the name of a document, of which `parted` made these."""
  return f'{file}:{number}' if number else file


class Origins:
  """The file of each document of a token file, and its number in there.

  Nothing but what is asked for is read.
  """

  def __init__(self, prefix: str | Path):
    """Opens PREFIX.src and PREFIX.names.

    Raises:
      UserError: they are not there, or shorter than what they speak of.
    """
    self._names = Path(f'{prefix}.names')
    source = Path(f'{prefix}.src')
    if not (source.exists() and self._names.exists()):
      raise UserError(
        f'{source} and {self._names.name} must be there, which say where documents '
        'come from, and an older version did not write; to have them, move '
        f'{source.parent} away and run `launch.py prepare` with the same config: the '
        'tokens will be the same'
      )
    # The places of names are in order, and so are numbers within a file.
    self._places, self._numbers = np.memmap(source, '<u8', 'r').reshape(-1, 2).T
    self._size = self._names.stat().st_size

  def file_of(self, document: int) -> tuple[str, int]:
    """Returns the file of a document from 0, and where in .names it stands."""
    place = int(self._places[document])
    name = b''
    with open(self._names, 'rb') as stream:
      stream.seek(place)
      while not name.endswith(b'\n') and (block := stream.readline(_BLOCK)):
        name += block
    if not name.endswith(b'\n'):
      raise UserError(
        f'{self._names}: {self._size} bytes, but a name stands at byte {place}: '
        'truncated or altered; prepare again'
      )
    return name[:-1].decode('utf-8', 'surrogateescape'), place

  def name_of(self, document: int) -> str:
    """Returns the name of a document from 0: FILE, or FILE:NUMBER."""
    return joined(self.file_of(document)[0], int(self._numbers[document]))

  def documents(self, file: str, number: int) -> list[int]:
    """Returns the documents, from 0, of a file's document, or of all of a file.

    Args:
      file: its name, or the end of it after a slash.
      number: in the file; 0: all.
    """
    found = []
    for place in self._stand(file):
      first, last = np.searchsorted(self._places, [place, place + 1])
      here = range(int(first), int(last))
      if number:
        own = self._numbers[first:last]
        low, high = np.searchsorted(own, [number, number + 1])
        here = here[int(low) : int(high)]
      found += here
    return found

  def _stand(self, file: str) -> Iterator[int]:
    """Yields where in .names a file's name stands."""
    wanted, place = file.encode('utf-8', 'surrogateescape'), 0
    with open(self._names, 'rb') as stream:
      for line in stream:
        if line[:-1] == wanted or line[:-1].endswith(b'/' + wanted):
          yield place
        place += len(line)
