"""Token files: what they hold, how they are written and opened.

A folder that gpt_jax/data/prepare.py filled holds

  tokenizer/           see gpt_jax/tokenizers
  tokens/train.bin     ids, little-endian uint16 (uint32 where vocab exceeds 65536):
                       eot document eot document ..., so that n ids are n - 1 targets
                       and every token of every document is predicted once; of a
                       tokenizer whose eot is no entry: document document ...
  tokens/train.idx     where the documents' eot stand, little-endian uint64; without
                       eot, where they begin
  tokens/train.src     two little-endian uint64 a document: where the name of its file
                       stands in train.names, and its number in that file, or 0
  tokens/train.names   names of files in UTF-8, a line each
  tokens/train.weights of dialogues: a byte an id, 1 where it is a target with a loss;
                       then a document is an example, no eot is put before it, and its
                       bytes are those of its targets
  tokens/train.json    the header: counts, checksums, the recipe, and whether the
                       tokenizer gives the text back
  tokens/valid.*       the same for the held-out text
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.data.fidelity import checked
from gpt_jax.data.origins import Origins, parted
from gpt_jax.files import field, read_json, shown, write_json

FORMAT = 1  # a folder that is older than .src and .names has none, and is read
_PARTS = 'idx', 'src', 'names'  # besides .bin
_WEIGHTS = 'weights'  # the suffix, of dialogues alone
_DTYPES = {  # that a header may say
  'bin': ('<u2', '<u4'),
  'idx': ('<u8',),
  'src': ('<u8',),
  'names': ('|u1',),
  'weights': ('|u1',),
}


@dataclasses.dataclass(frozen=True)
class TokenFile:
  """An opened token file.

  Attributes:
    path: of its files, but for their suffixes.
    ids: [tokens] memory-mapped, uint16 or uint32.
    starts: [documents] positions in `ids` of each document's eot, uint64; where
      documents have none, of their first tokens.
    bytes: of the text in UTF-8; eot counts nothing.
    tokenizer: digest of the tokenizer that made the ids.
    digest: sha256 of `ids`.
    text: sha256 of the text of their source.
    files: sha256 of each local file of that source, by its path; of a folder that is
      older than this, none.
    fidelity: what the tokenizer made of the text, `fidelity.Fidelity.record`; of a
      folder that is older than this, {}.
    weights: [tokens] memory-mapped, uint8: 1 for each id of dialogues that is a target
      with a loss; None of texts, where all but the first are.
  """

  path: Path
  ids: np.ndarray
  starts: np.ndarray
  documents: int
  bytes: int
  tokenizer: str
  digest: str
  text: str
  files: dict[str, str]
  fidelity: dict[str, Any]
  weights: np.ndarray | None = None

  @functools.cached_property
  def targets(self) -> int:
    """How many ids have a loss."""
    if self.weights is None:
      return len(self.ids) - 1
    return int(np.count_nonzero(self.weights))

  @property
  def lengths(self) -> np.ndarray:
    """How many ids each document has."""
    return np.diff(np.append(self.starts, len(self.ids)).astype(np.int64))


def open_tokens(prefix: str | Path) -> TokenFile:
  """Returns the token file PREFIX.bin, .idx and .json, its checksums verified.

  Raises:
    UserError: one of them is missing, truncated or altered.
  """
  path = Path(prefix)
  again = f'remove {path.parent} and run `launch.py prepare` again'
  header_path = path.with_name(path.name + '.json')
  try:
    if not header_path.exists():
      raise UserError(f'{header_path}: missing; {again}')
    header = {'source': '', 'files': {}, 'fidelity': {}}
    header |= read_json(header_path, remedy=again)
    if header.get('format') != FORMAT:
      raise UserError(
        f'{header_path}: format={shown(header.get("format"))}, but this version reads '
        f'{FORMAT}; {again}'
      )
    kinds = {'documents': int, 'bytes': int, 'tokenizer': str, 'source': str}
    kinds |= {'bin': dict, 'idx': dict, 'files': dict, 'fidelity': dict}
    weighted = _WEIGHTS in header
    kinds |= {_WEIGHTS: dict} if weighted else {}
    about = {
      name: field(header, name, kind, header_path, again)
      for name, kind in kinds.items()
    }
    parts = {
      part: _map(path.with_name(f'{path.name}.{part}'), about[part], part, again)
      for part in ('bin', 'idx', *([_WEIGHTS] if weighted else []))
    }
    return TokenFile(
      path,
      parts['bin'],
      parts['idx'],
      about['documents'],
      about['bytes'],
      about['tokenizer'],
      about['bin']['sha256'],
      about['source'],
      about['files'],
      checked(about['fidelity'], f'{header_path}: fidelity', again),
      parts.get(_WEIGHTS),
    )
  except OSError as e:
    reason = 'missing' if isinstance(e, FileNotFoundError) else e.strerror or e
    raise UserError(f'{e.filename or path}: {reason}; {again}') from e


def count(prefix: str | Path) -> int:
  """Returns the tokens that PREFIX.json speaks of; 0 where it is not there."""
  path = Path(f'{prefix}.json')
  if not path.exists():
    return 0
  return field(field(read_json(path), 'bin', dict, path), 'count', int, path)


def _map(path: Path, about: dict, part: str, again: str) -> np.ndarray:
  """Returns a file of a token file memory-mapped, once its checksum is verified.

  Args:
    about: what the header says of it.
  """
  where = f'{path.with_suffix(".json")}: {part}'
  dtype, count, sha256 = (
    field(about, name, kind, where, again)
    for name, kind in (('dtype', str), ('count', int), ('sha256', str))
  )
  if dtype not in _DTYPES[part] or count < 1:
    raise UserError(
      f'{where} is damaged: count={count} of dtype={shown(dtype)}, must be above 0 of '
      f'{" or ".join(_DTYPES[part])}; {again}'
    )
  size, wanted = path.stat().st_size, count * np.dtype(dtype).itemsize
  if size != wanted:
    raise UserError(
      f'{path}: {size} bytes, but its header says {wanted}: truncated or altered; '
      f'{again}'
    )
  with open(path, 'rb') as stream:
    if hashlib.file_digest(stream, 'sha256').hexdigest() != sha256:
      raise UserError(f"{path}: its checksum is not its header's: altered; {again}")
  return np.memmap(path, dtype, 'r')


class Writer:
  """Writes one token file, document by document."""

  def __init__(
    self,
    path: Path,
    tokenizer: tokenizers.Tokenizer,
    done: dict,
    weighted: bool = False,
  ):
    """Opens the files, to resume from `done`, the result of an earlier `flush`.

    Args:
      weighted: whether ids have weights.

    Raises:
      UserError: a file has less than `done` says.
    """
    self.tokens, self.documents, self.bytes, self._names = (
      done.get(name, 0) for name in ('tokens', 'documents', 'bytes', 'names')
    )
    self._path, self._last, self._place = path, None, 0
    has_end = tokenizer.eot < tokenizer.vocab and not weighted
    self._eot = np.uint32(tokenizer.eot) if has_end else None
    ids = np.dtype('<u2' if tokenizer.vocab <= 1 << 16 else '<u4')
    parts = (*_PARTS, _WEIGHTS) if weighted else _PARTS
    self._dtypes = {'bin': ids} | {part: np.dtype(_DTYPES[part][0]) for part in parts}
    self._sums, self._files = {}, {}
    for suffix, dtype in self._dtypes.items():
      file = open(f'{path}.{suffix}', 'r+b' if done else 'w+b')  # noqa: SIM115
      self._files[suffix] = file
      size, kept = os.fstat(file.fileno()).st_size, self._count(suffix) * dtype.itemsize
      if not 0 <= kept <= size:
        raise UserError(
          f'{path}.{suffix} is damaged: {size:,} bytes, of which an earlier run wrote '
          f'{kept:,}; prepare again, from the start'
        )
      file.truncate(kept)
      self._sums[suffix] = hashlib.file_digest(file, 'sha256')
    if self.documents:
      origins = Origins(path)
      self._last, self._place = origins.file_of(self.documents - 1)

  def _count(self, suffix: str) -> int:
    return {
      'bin': self.tokens,
      'idx': self.documents,
      'src': 2 * self.documents,
      'names': self._names,
      _WEIGHTS: self.tokens,
    }[suffix]

  def add(
    self,
    ids: np.ndarray,
    size: int,
    first: bool,
    name: str = '',
    weights: np.ndarray | None = None,
  ) -> None:
    """Appends ids of `size` bytes of text, after eot where a document begins.

    There is no eot of a tokenizer whose eot is no entry: no model predicts it.

    Args:
      name: of the document, FILE or FILE:NUMBER.
      weights: of the ids, where the file has weights.
    """
    if first:
      self._write('idx', np.array([self.tokens]))
      self._write('src', np.array(self._origin(name), np.uint64))
      self.documents += 1
      if self._eot is not None:
        self._write('bin', np.array([self._eot]))
        self.tokens += 1
    self._write('bin', ids)
    if weights is not None:
      self._write(_WEIGHTS, weights)
    self.tokens += len(ids)
    self.bytes += size

  def _origin(self, name: str) -> tuple[int, int]:
    """Returns the entry of .src of a document, its file's name written where new."""
    file, number = parted(name)
    if file != self._last:
      line = f'{file}\n'.encode('utf-8', 'surrogateescape')
      self._last, self._place = file, self._names
      self._write('names', np.frombuffer(line, np.uint8))
      self._names += len(line)
    return self._place, number

  def _write(self, suffix: str, values: np.ndarray) -> None:
    content = values.astype(self._dtypes[suffix]).tobytes()
    self._files[suffix].write(content)
    self._sums[suffix].update(content)

  def flush(self) -> dict:
    """Writes all to the disk; returns the counts to resume from."""
    for file in self._files.values():
      file.flush()
      os.fsync(file.fileno())
    return {
      'tokens': self.tokens,
      'documents': self.documents,
      'bytes': self.bytes,
      'names': self._names,
    }

  def finish(self, about: dict) -> None:
    """Writes the header, `about` included."""
    header = {'format': FORMAT} | self.flush()
    for suffix, dtype in self._dtypes.items():
      header[suffix] = {
        'dtype': dtype.str,
        'count': self._count(suffix),
        'sha256': self._sums[suffix].hexdigest(),
      }
    write_json(f'{self._path}.json', header | about)

  def close(self) -> None:
    """Closes the files; on a full disk, as they are."""
    for file in self._files.values():
      with contextlib.suppress(OSError):
        file.close()
