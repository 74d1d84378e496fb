"""Token files: what they hold, how `prepare` makes them and how they are opened.

A prepared folder holds

  tokenizer/           see gpt_jax/tokenizers.py
  tokens/train.bin     ids, little-endian uint16 (uint32 where vocab exceeds 65536):
                       eot document eot document ..., so that n ids are n - 1 targets
                       and every token of every document is predicted once
  tokens/train.idx     where the documents' eot stand, little-endian uint64
  tokens/train.json    the header: counts, checksums, and the recipe
  tokens/valid.*       the same for the held-out text
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rich.progress

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import sources

FORMAT = 1
_STAGE = 'preparing'  # where everything is made before it takes its place
# Fields of config.Data that say where tokens go and how they are read, not what they
# are.
_NOT_RECIPE = 'tokens', 'windows'
_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal


@dataclasses.dataclass(frozen=True)
class TokenFile:
  """An opened token file.

  Attributes:
    ids: [tokens] memory-mapped, uint16 or uint32.
    starts: [documents] positions in `ids` of each document's eot, uint64.
    documents: number of documents.
    bytes: of the text in UTF-8; eot counts nothing.
    tokenizer: digest of the tokenizer that made the ids.
    digest: sha256 of `ids`.
  """

  ids: np.ndarray
  starts: np.ndarray
  documents: int
  bytes: int
  tokenizer: str
  digest: str


def open_tokens(prefix: str | Path) -> TokenFile:
  """Returns the token file PREFIX.bin, .idx and .json, its checksums verified.

  Raises:
    UserError: one of them is missing, truncated or altered.
  """
  path = Path(prefix)
  again = f'remove {path.parent} and run `launch.py prepare` again'
  header_path = path.with_name(path.name + '.json')
  try:
    header = json.loads(header_path.read_text(encoding='utf-8'))
    if header['format'] != FORMAT:
      raise UserError(
        f'{header_path}: format={header["format"]!r}, but this version reads '
        f'{FORMAT}; {again}'
      )
    ids = _map(path.with_name(path.name + '.bin'), header, 'bin', again)
    starts = _map(path.with_name(path.name + '.idx'), header, 'idx', again)
    return TokenFile(
      ids,
      starts,
      header['documents'],
      header['bytes'],
      header['tokenizer'],
      header['bin']['sha256'],
    )
  except FileNotFoundError as e:
    raise UserError(f'{e.filename}: missing; {again}') from e
  except UserError:
    raise
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(f'{header_path}: damaged ({e!r}); {again}') from e


def _map(path: Path, header: dict, part: str, again: str) -> np.ndarray:
  """Returns a file of a token file memory-mapped, once its checksum is verified."""
  dtype = np.dtype(header[part]['dtype'])
  count, found = header[part]['count'], path.stat().st_size
  if found != count * dtype.itemsize:
    raise UserError(
      f'{path}: {found} bytes, but its header says {count * dtype.itemsize}: '
      f'truncated or altered; {again}'
    )
  with open(path, 'rb') as stream:
    if hashlib.file_digest(stream, 'sha256').hexdigest() != header[part]['sha256']:
      raise UserError(f"{path}: its checksum is not its header's: altered; {again}")
  return np.memmap(path, dtype, 'r')


def recipe(data: config.Data, tokenizer: str | Path | None = None) -> dict:
  """Returns the fields that decide what the tokens of a folder are.

  Args:
    data: the config.
    tokenizer: folder of a tokenizer to be used instead of the config's.
  """
  fields = config.flat(data)
  for name in _NOT_RECIPE:
    del fields[name]
  if data.valid:
    del fields['holdout'], fields['split']
  if tokenizer:
    fields['tokenizer'] = f'sha256:{tokenizers.digest(tokenizer)}'
  if tokenizer or data.tokenizer not in ('bpe', 'unigram'):
    del fields['vocab']
  return fields


def prepare(
  data: config.Data,
  folder: str | Path,
  *,
  report: Callable[[str], None] = print,
  tokenizer: str | Path | None = None,
) -> None:
  """Makes FOLDER/tokenizer and FOLDER/tokens, whole or not at all.

  Does nothing where the folder was prepared from the same recipe.

  Args:
    data: what to read and how; data.tokens is not looked at.
    folder: is made if missing.
    report: takes lines for the user.
    tokenizer: folder of a tokenizer to copy instead of making one.

  Raises:
    UserError: the folder was prepared from another recipe; the text can't be read, is
      empty, or leaves nothing to train on or to hold out; the vocabulary does not suit
      it; the disk is full.
  """
  folder = Path(folder)
  wanted = recipe(data, tokenizer)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
      stage = folder / _STAGE
      if _prepared(folder, stage, wanted):
        return
      shutil.rmtree(stage, ignore_errors=True)
      try:
        _fill(data, stage, wanted, report, tokenizer)
        _take_place(folder, stage)
      except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
  except OSError as e:
    raise UserError(
      f'{e.filename or folder}: {e.strerror or e}: nothing was prepared; make room, or '
      'choose another folder with --config.data.tokens'
    ) from e


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
  """Keeps other processes from preparing the same folder meanwhile."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError as e:
    raise UserError(
      f'{folder} is being prepared by another process; wait for it, or choose another '
      'folder'
    ) from e
  finally:
    os.close(handle)


def _prepared(folder: Path, stage: Path, wanted: dict) -> bool:
  """Returns whether the folder holds tokens made from the recipe.

  Raises:
    UserError: it holds tokens made from another one.
  """
  header = folder / 'tokens' / 'train.json'
  if not header.exists():
    return False
  try:
    found = json.loads(header.read_text(encoding='utf-8'))['recipe']
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(
      f'{header}: damaged ({e!r}); remove {header.parent} and prepare again'
    ) from e
  if found != wanted:
    differing = [
      f'data.{name}: {found.get(name)!r} there, {wanted.get(name)!r} now'
      for name in dict.fromkeys([*found, *wanted])
      if found.get(name) != wanted.get(name)
    ]
    raise UserError(
      f'{folder} was prepared from other data; choose another --workdir or '
      f'data.tokens, or remove {header.parent}\n' + '\n'.join(differing)
    )
  if (stage / 'tokenizer').exists():  # killed between the two steps of _take_place
    _take_place(folder, stage)
  return True


def _take_place(folder: Path, stage: Path) -> None:
  """Moves what was prepared from the stage to where it belongs."""
  there = folder / 'tokenizer'
  if there.exists():  # kept when somebody removed tokens/
    if tokenizers.digest(there) != tokenizers.digest(stage / 'tokenizer'):
      raise UserError(
        f'{there} is not the tokenizer that this data makes; choose another --workdir '
        'or data.tokens, or move it away'
      )
    shutil.rmtree(stage / 'tokenizer')
  if (stage / 'tokens').exists():
    os.rename(stage / 'tokens', folder / 'tokens')
  if not there.exists():
    os.rename(stage / 'tokenizer', there)
  shutil.rmtree(stage)
  _sync_folder(folder)


class _Text(NamedTuple):
  """What a first reading of a source found."""

  lengths: array  # characters of each document
  bytes: int
  digest: str


def _read(data: config.Data, source: str) -> Iterator[sources.Part]:
  """Yields the parts of data.source or data.valid."""
  checksums = data.sha256
  if source == data.valid:  # the checksums of data.source come first
    used = [s for s in sources.split_list(data.source) if s.startswith('http')]
    checksums = ','.join(data.sha256.split(',')[len(used) :])
  return sources.parts(source, sha256=checksums, errors=data.errors)


def _look(parts: Iterator[sources.Part]) -> _Text:
  """Returns the size and digest of a source."""
  lengths, size, digest = array('Q'), 0, hashlib.sha256()
  for part in parts:
    if part.first:
      lengths.append(0)
      digest.update(f'\0{os.path.basename(part.name)}\0'.encode())
    lengths[-1] += len(part.text)
    text = part.text.encode()
    size += len(text)
    digest.update(text)
  return _Text(lengths, size, digest.hexdigest())


class _Piece(NamedTuple):
  """A piece of text to encode, and the token file that it goes to."""

  file: str
  text: str
  first: bool


def _divide(data: config.Data, text: _Text, split: str) -> Iterator[_Piece]:
  """Yields the text to train on and the held-out text, in the order of the source."""
  if data.valid:
    for file, source in ('train', data.source), ('valid', data.valid):
      for part in _read(data, source):
        yield _Piece(file, part.text, part.first)
    return
  share = Fraction(str(data.holdout))  # 0.1 is meant, not the float nearest to it
  i, at = -1, 0
  for part in _read(data, data.source):
    if part.first:
      i, at = i + 1, 0
    if split == 'documents':
      held_out = int((i + 1) * share) > int(i * share)
      yield _Piece('valid' if held_out else 'train', part.text, part.first)
    else:
      limit = int(text.lengths[i] * (1 - share))
      here = min(max(limit - at, 0), len(part.text))
      if here:
        yield _Piece('train', part.text[:here], part.first)
      if here < len(part.text):
        yield _Piece('valid', part.text[here:], at + here == limit)
    at += len(part.text)


def _fill(
  data: config.Data,
  stage: Path,
  wanted: dict,
  report: Callable[[str], None],
  tokenizer: str | Path | None,
) -> None:
  """Makes the tokenizer and the token files in the empty folder `stage`."""
  text = _look(_read(data, data.source))
  if not text.bytes:
    raise UserError(f'data.source={data.source} holds no text; give a source with some')
  held_out = _look(_read(data, data.valid)) if data.valid else None
  if held_out and not held_out.bytes:
    raise UserError(f'data.valid={data.valid} holds no text; give a source with some')
  split = data.split
  if split == 'auto':
    split = 'documents' if len(text.lengths) >= 10 else 'position'
  report(_describe(data, text, held_out, split))

  stage.mkdir()
  _make_tokenizer(data, text, split, stage / 'tokenizer', tokenizer)
  made = tokenizers.load(stage / 'tokenizer')
  report(f'tokenizer: {made.kind}, {made.vocab:,} ids')
  (stage / 'tokens').mkdir()
  files = {name: _Writer(stage / 'tokens' / name, made) for name in ('train', 'valid')}
  total = text.bytes + (held_out.bytes if held_out else 0)
  with _progress(total, report) as advance:
    for piece in _divide(data, text, split):
      files[piece.file].add(piece, made.encode(piece.text))
      advance(sum(file.bytes for file in files.values()))
  if sum(file.bytes for file in files.values()) != total:
    raise UserError(f'data.source={data.source} changed while it was read; try again')
  for name, file in files.items():
    if not file.documents:
      raise UserError(
        f'no text is left {"to train on" if name == "train" else "to hold out"}: '
        f'data.holdout={data.holdout} of {len(text.lengths)} document(s) by '
        f'{split}; change data.holdout, choose --config.data.split=position, or name '
        'the held-out text in data.valid'
      )
    digest = held_out.digest if held_out and name == 'valid' else text.digest
    file.close(
      {
        'tokenizer': tokenizers.digest(stage / 'tokenizer'),
        'source': digest,
        'recipe': wanted,
      }
    )
    report(
      f'{name}: {file.tokens:,} tokens, {file.documents:,} documents, '
      f'{file.bytes / file.tokens:.2f} bytes/token'
    )
  for path in [*stage.rglob('*'), stage]:
    _sync_folder(path) if path.is_dir() else _sync(path)


def _describe(
  data: config.Data, text: _Text, held_out: _Text | None, split: str
) -> str:
  """Returns a line that says what was read and what is held out."""
  share = f'{100 * data.holdout:g} %'
  if held_out:
    what = f'{data.valid}: {len(held_out.lengths):,} document(s)'
  elif split == 'documents':
    what = f'{share} of the documents, evenly spread'
  else:
    what = f'the last {share} of each document'
  return (
    f'{data.source}: {len(text.lengths):,} document(s), {text.bytes / 1e6:.2f} MB; '
    f'held out: {what}'
  )


def _make_tokenizer(
  data: config.Data,
  text: _Text,
  split: str,
  folder: Path,
  given: str | Path | None,
) -> None:
  """Trains, opens or copies the tokenizer of the config into a folder."""
  if given:
    tokenizers.load(given)  # says what is wrong with it, if anything
    shutil.copytree(given, folder)
  elif data.tokenizer.endswith('.model'):
    tokenizers.open_model(data.tokenizer).save(folder)
  else:
    everything = data.tokenizer == 'chars'
    texts = (
      piece.text
      for piece in _divide(data, text, split)
      if everything or piece.file == 'train'
    )
    tokenizers.train(data.tokenizer, texts, data.vocab).save(folder)


class _Writer:
  """Writes one token file, document by document.

  Attributes:
    tokens: ids written.
    documents: documents begun.
    bytes: of their text in UTF-8.
  """

  def __init__(self, path: Path, tokenizer: tokenizers.Tokenizer):
    self.tokens = self.documents = self.bytes = 0
    self._path = path
    self._eot = tokenizer.eot
    self._dtype = np.dtype('<u2' if tokenizer.vocab <= 1 << 16 else '<u4')
    self._files = {s: open(f'{path}.{s}', 'wb') for s in ('bin', 'idx')}  # noqa: SIM115
    self._sums = {s: hashlib.sha256() for s in self._files}

  def add(self, piece: _Piece, ids: list[int]) -> None:
    """Appends the ids of a piece, after eot where a document begins."""
    if piece.first:
      self._write('idx', np.array([self.tokens], '<u8'))
      ids = [self._eot, *ids]
      self.documents += 1
    self._write('bin', np.array(ids, self._dtype))
    self.tokens += len(ids)
    self.bytes += len(piece.text.encode())

  def _write(self, suffix: str, values: np.ndarray) -> None:
    content = values.tobytes()
    self._files[suffix].write(content)
    self._sums[suffix].update(content)

  def close(self, about: dict) -> None:
    """Writes the header, `about` included, and closes the files."""
    for file in self._files.values():
      file.close()
    parts = ('bin', self._dtype, self.tokens), ('idx', np.dtype('<u8'), self.documents)
    header = {
      'format': FORMAT,
      'tokens': self.tokens,
      'documents': self.documents,
      'bytes': self.bytes,
    }
    for suffix, dtype, count in parts:
      header[suffix] = {
        'dtype': dtype.str,
        'count': count,
        'sha256': self._sums[suffix].hexdigest(),
      }
    text = json.dumps(header | about, indent=1) + '\n'
    Path(f'{self._path}.json').write_text(text, encoding='utf-8')


@contextlib.contextmanager
def _progress(
  total: int, report: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
  """Gives a function that shows how many of `total` bytes are encoded."""
  if sys.stderr.isatty():
    columns = (
      rich.progress.TextColumn('encoding'),
      rich.progress.BarColumn(),
      rich.progress.DownloadColumn(),
      rich.progress.TransferSpeedColumn(),
      rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
      task = bar.add_task('', total=total)
      yield lambda done: bar.update(task, completed=done)
    return
  begun = said = time.monotonic()

  def advance(done: int) -> None:
    nonlocal said
    now = time.monotonic()
    if now - said >= _LINE_EVERY:
      said = now
      rate = done / (now - begun)
      report(
        f'encoding: {done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, '
        f'{(total - done) / rate:.0f} s left'
      )

  yield advance


def _sync(path: Path) -> None:
  """Sees to it that a file is on the disk."""
  with open(path, 'rb') as stream:
    os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
  """Sees to it that the names in a folder are on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
