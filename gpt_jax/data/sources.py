"""Text as documents, from files, folders, addresses and the Python that runs us.

`parts` reads a source piece by piece, `documents` one whole document after another.
How a file is read is in gpt_jax/data/formats.py.
"""

import ast
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.data.formats import How, is_junk, is_text, read_file
from gpt_jax.data.hub import read_hub
from gpt_jax.data.pieces import Part, cut
from gpt_jax.tokenizers.texts import encodable

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


def documents(source: str, **how: Any) -> Iterator[Document]:
  """Yields the documents of a source, always in the same order.

  Arguments and exceptions are those of `parts`.
  """
  name, texts = '', []
  for part in parts(source, **how):
    if part.first and texts:
      yield Document(name, ''.join(texts))
      texts = []
    name = part.name
    texts.append(part.text)
  if texts:
    yield Document(name, ''.join(texts))


def parts(
  source: str,
  *,
  sha256: str = '',
  errors: str = 'strict',
  field: str = 'text',
  skip: Callable[[str], None] | None = None,
  separator: str = '',
  tell: Callable[[str, str], None] = lambda kind, name: None,
) -> Iterator[Part]:
  """Yields the documents of a source in parts; empty documents are left out.

  A part ends before a space between two letters or digits where it can: there
  GPT-1's and GPT-2's tokens end too, so that parts and wholes give the same ids.

  Args:
    source: 'python:docs', or a comma-separated list of files, folders (the texts in
      them at any depth), globs, web addresses and hf:NAME (see `hub.read_hub`).
      Text is .txt, .jsonl and .parquet, packed as .gz, .bz2, .xz, .zst, .tar or .zip;
      a file named by itself is read as plain text whatever else it is called, but for
      a .json, which is a list of objects or an object a line. Files that an operating
      system put beside them are left out (`formats.is_junk`).
    sha256: of the file behind each web address, comma-separated, in their order.
    errors: 'strict' stops at invalid UTF-8, 'replace' reads U+FFFD in its place.
    field: of a JSON line or a column of a table that holds the text.
    skip: called with each line of a .jsonl that is no object with that field, which
      is then left out; None: such a line is an error.
    separator: between the documents of a plain text (see `pieces.divided`); '': a
      file is one document.
    tell: called with what is left out or odd: a kind of `notices.KINDS`, and a name.

  Raises:
    UserError: a source matches no file, can't be read or fetched, is damaged, has
      another checksum, or is not what `errors`, `field` and `skip` allow.
  """
  how = How(errors, field, skip, separator, tell)
  checksums = [s.strip() for s in sha256.split(',') if s.strip()]
  for entry in split_list(source):
    if entry == 'python:docs':
      for name, text in python_docs():
        yield from cut(name, [text])
    elif entry.startswith('hf:'):
      yield from read_hub(entry.removeprefix('hf:'), how)
    elif '://' in entry:
      if not checksums:
        raise UserError(
          f'data.source={entry} has no checksum; give data.sha256, one for each '
          'address, in their order'
        )
      yield from read_file(fetch(entry, checksums.pop(0)), how)
    else:
      for path in _matches(entry, tell):
        yield from read_file(path, how)


def checksums(source: str) -> dict[str, str]:
  """Returns the sha256 of each local file of a source, by its path.

  Raises:
    UserError: a path, folder or glob matches no file.
  """
  return {
    str(path): _sha256(path)
    for entry in split_list(source)
    if entry != 'python:docs' and not entry.startswith('hf:') and '://' not in entry
    for path in _matches(entry)
  }


def listing(source: str) -> list[list[str | int]]:
  """Returns the entries of a source: local files with their sizes, others by name.

  Raises:
    UserError: as `checksums`.
  """
  found = []
  for entry in split_list(source):
    if entry == 'python:docs' or entry.startswith('hf:') or '://' in entry:
      found.append([entry])
    else:
      found += [[str(path), path.stat().st_size] for path in _matches(entry)]
  return found


def split_list(source: str) -> list[str]:
  """Returns the entries of a comma-separated list, blanks around them removed."""
  if os.path.exists(source):  # a path with a comma in it
    return [source]
  return [entry.strip() for entry in source.split(',') if entry.strip()]


def _matches(
  entry: str, tell: Callable[[str, str], None] = lambda kind, name: None
) -> list[Path]:
  """Returns the files that a path, a folder or a glob stands for, sorted.

  `tell` is called with those of an operating system, which are left out.
  """
  path = Path(entry).expanduser()
  if path.is_dir():
    files = [p for p in path.rglob('*') if p.is_file() and is_text(p.name)]
    wanted = f'no text in the folder {entry}'
  elif path.is_file():
    return [path]
  else:
    files = [Path(p) for p in glob.glob(str(path), recursive=True)]
    files = [p for p in files if p.is_file()]
    wanted = f'no file matches {entry}'
  junk = {p for p in files if is_junk(str(p))}
  for each in sorted(junk):
    tell('junk', str(each))
  files = [p for p in files if p not in junk]
  if not files:
    raise UserError(
      f'data.source: {wanted} (from {os.getcwd()}); give a .txt, .jsonl or '
      '.parquet file, a folder of them, a glob, an https:// address, hf:NAME or '
      'python:docs'
    )
  return sorted(files)


@functools.cache
def python_docs() -> tuple[Document, ...]:
  """Returns the documentation inside this Python: about 2 MB of English.

  One document for each help topic, then one for each module of the standard library:
  its docstrings in the order of the source. A docstring that occurs several times is
  kept once, so that no held-out text can have been trained on.
  """
  topics = importlib.import_module('pydoc_data.topics').topics
  docs = [Document(f'topics/{name}', text) for name, text in sorted(topics.items())]
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
      text = '\n\n'.join(strings) + '\n'
      docs.append(Document(str(name), encodable(text)))
  return tuple(docs)


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
    checksum = _sha256(temporary)
    if checksum != sha256.lower():
      raise UserError(
        f'{address}: its sha256 is {checksum}, not {sha256}: another version, or '
        'damaged on the way; check it and correct data.sha256'
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
