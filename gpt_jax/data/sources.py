"""Text as documents, from files, folders, addresses and the Python that runs us.

A source is read in *parts* of about a million characters, so that a document larger
than memory can be prepared; `documents` puts the parts of each document together.
"""

import ast
import codecs
import functools
import glob
import hashlib
import importlib
import os
import sysconfig
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gpt_jax.config import UserError

PART = 1 << 20  # characters of a part, about
_BLOCK = 1 << 20  # bytes read at once
_NOT_DOCUMENTATION = {
  'ensurepip',
  'idlelib',
  'lib2to3',
  'pydoc_data',
  'dist-packages',
  'site-packages',
  'test',
  'tests',
  'turtledemo',
}


class Document(NamedTuple):
  """A text that stands for itself: a file, an article, a book."""

  name: str
  text: str


class Part(NamedTuple):
  """A piece of a document; `first` where a document begins."""

  name: str
  text: str
  first: bool


def documents(
  source: str, *, sha256: str = '', errors: str = 'strict'
) -> Iterator[Document]:
  """Yields the documents of a source, always in the same order.

  Arguments and exceptions are those of `parts`.
  """
  name, texts = '', []
  for part in parts(source, sha256=sha256, errors=errors):
    if part.first and texts:
      yield Document(name, ''.join(texts))
      texts = []
    name = part.name
    texts.append(part.text)
  if texts:
    yield Document(name, ''.join(texts))


def parts(source: str, *, sha256: str = '', errors: str = 'strict') -> Iterator[Part]:
  """Yields the documents of a source in parts; empty documents are left out.

  A part ends before a space between two letters or digits where it can: there
  GPT-1's and GPT-2's tokens end too, so that parts and wholes give the same ids.

  Args:
    source: 'python:docs', or a comma-separated list of text files, folders (their
      .txt files at any depth), globs and web addresses.
    sha256: of the file behind each web address, comma-separated, in their order.
    errors: 'strict' stops at invalid UTF-8, 'replace' reads U+FFFD in its place.

  Raises:
    UserError: a source matches no file, can't be read or fetched, has another
      checksum, or is not UTF-8 and `errors` is 'strict'.
  """
  checksums = [s.strip() for s in sha256.split(',') if s.strip()]
  for entry in split_list(source):
    if entry == 'python:docs':
      for name, text in python_docs():
        yield from _cut(name, iter([text]))
    elif entry.startswith(('https://', 'http://')):
      if not checksums:
        raise UserError(
          f'data.source={entry} has no checksum; give data.sha256, one for each '
          'address, in their order'
        )
      yield from _read_file(fetch(entry, checksums.pop(0)), errors)
    else:
      for path in _matches(entry):
        yield from _read_file(path, errors)


def split_list(source: str) -> list[str]:
  """Returns the entries of a comma-separated list, blanks around them removed."""
  if os.path.exists(source):  # a path with a comma in it
    return [source]
  return [entry.strip() for entry in source.split(',') if entry.strip()]


def _matches(entry: str) -> list[Path]:
  """Returns the files that a path, a folder or a glob stands for, sorted."""
  path = Path(entry).expanduser()
  if path.is_dir():
    found = [p for p in path.rglob('*.txt') if p.is_file()]
    wanted = f'no .txt file in the folder {entry}'
  elif path.is_file():
    return [path]
  else:
    found = [Path(p) for p in glob.glob(str(path), recursive=True)]
    found = [p for p in found if p.is_file()]
    wanted = f'no file matches {entry}'
  if not found:
    raise UserError(
      f'data.source: {wanted} (from {os.getcwd()}); give a .txt file, a folder of '
      'them, a glob, an https:// address or python:docs'
    )
  return sorted(found)


def _read_file(path: Path, errors: str) -> Iterator[Part]:
  """Yields the parts of one text file."""
  try:
    with open(path, 'rb') as stream:
      yield from _cut(str(path), _decode(stream, str(path), errors))
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e


def _decode(stream: BinaryIO, name: str, errors: str) -> Iterator[str]:
  """Yields the text of a UTF-8 stream; line ends stay as they are, a BOM goes."""
  decoder = codecs.getincrementaldecoder('utf-8')(errors)
  taken = lines = 0  # bytes and newlines that went into the decoder
  block = b'first'
  while block:
    block = stream.read(_BLOCK)
    waiting = len(decoder.getstate()[0])
    try:
      text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as e:
      offset = taken - waiting + e.start
      line = lines + e.object.count(b'\n', 0, e.start) + 1
      raise UserError(
        f'{name}: line {line}, byte {offset}: not UTF-8 '
        f'(0x{e.object[e.start]:02x}, {e.reason}); convert the file, or read on with '
        '--config.data.errors=replace'
      ) from e
    if not taken:
      text = text.removeprefix('\ufeff')
    taken += len(block)
    lines += block.count(b'\n')
    yield text


def _cut(name: str, texts: Iterator[str]) -> Iterator[Part]:
  """Yields the parts of one document that arrives in pieces of any size."""
  first, text = True, ''
  for piece in texts:
    text += piece
    while len(text) >= 2 * PART:
      end = _cut_before(text, PART)
      yield Part(name, text[:end], first)
      first, text = False, text[end:]
  if text:
    yield Part(name, text, first)


def _cut_before(text: str, end: int) -> int:
  """Returns the last place up to `end` where a space divides two words, or `end`."""
  at = end
  while (at := text.rfind(' ', end // 2, at)) > 0:
    if text[at - 1].isalnum() and text[at + 1].isalnum():
      return at
  return end


@functools.cache
def python_docs() -> tuple[Document, ...]:
  """Returns the documentation inside this Python: about 2 MB of English.

  One document for each help topic, then one for each module of the standard library:
  its docstrings in the order of the source. A docstring that occurs several times is
  kept once, so that no held-out text can have been trained on.
  """
  topics = importlib.import_module('pydoc_data.topics').topics
  found = [Document(f'topics/{name}', text) for name, text in sorted(topics.items())]
  root = Path(sysconfig.get_path('stdlib'))
  seen = set()
  for path in sorted(root.rglob('*.py')):
    name = path.relative_to(root)
    if _NOT_DOCUMENTATION & set(name.parts):
      continue
    strings = [s for s in _docstrings(path) if s.strip() and s not in seen]
    strings = list(dict.fromkeys(strings))
    seen.update(strings)
    if strings:
      found.append(Document(str(name), '\n\n'.join(strings) + '\n'))
  return tuple(found)


def _docstrings(path: Path) -> list[str]:
  """Returns the docstrings of a Python file in the order of its lines."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # invalid escapes in old modules
    try:
      tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or a sample of bad code
      return []
  kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
  nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
  nodes.sort(key=lambda node: getattr(node, 'lineno', 0))
  return [ast.get_docstring(node) or '' for node in nodes]


def fetch(address: str, sha256: str) -> Path:
  """Returns the local copy of a web file, fetched once into the cache.

  The cache is the folder in $GPT_JAX_CACHE, else ~/.cache/gpt_jax.

  Raises:
    UserError: no answer, or the bytes have another checksum.
  """
  cache = Path(os.environ.get('GPT_JAX_CACHE') or '~/.cache/gpt_jax').expanduser()
  path = cache / f'{sha256[:16]}-{address.rsplit("/", 1)[-1].split("?")[0]}'
  if path.exists() and _sha256(path) == sha256.lower():
    return path
  temporary = None
  try:
    cache.mkdir(parents=True, exist_ok=True)
    with (
      urllib.request.urlopen(address, timeout=60) as answer,
      tempfile.NamedTemporaryFile(dir=cache, suffix='.partial', delete=False) as out,
    ):
      temporary = Path(out.name)
      while block := answer.read(_BLOCK):
        out.write(block)
      out.flush()
      os.fsync(out.fileno())
    found = _sha256(temporary)
    if found != sha256.lower():
      raise UserError(
        f'{address}: its sha256 is {found}, not {sha256}: another version, or damaged '
        'on the way; check it and correct data.sha256'
      )
    temporary.replace(path)
  except (OSError, urllib.error.URLError) as e:
    raise UserError(
      f'{address}: can not be fetched ({e}); fetch it by other means and give its '
      'path: --config.data.source=PATH'
    ) from e
  finally:
    if temporary:
      temporary.unlink(missing_ok=True)
  return path


def _sha256(path: Path) -> str:
  """Returns the sha256 of a file."""
  with open(path, 'rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()
