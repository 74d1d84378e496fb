"""Paths that a user gives, and what a disk refuses: one sentence with what to do."""

import contextlib
import errno
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

from gpt_jax import config
from gpt_jax.config import UserError

_AGAIN = ', then run the same command again'
# What helps where the system refuses a file. Any other error is a bug of ours.
_REMEDIES = {
  errno.ENOSPC: 'free disk space' + _AGAIN,
  errno.EDQUOT: 'free disk space of your quota' + _AGAIN,
  errno.EFBIG: 'raise the limit of file sizes (ulimit -f), or choose another disk'
  + _AGAIN,
  errno.EROFS: 'choose another path, or have the disk mounted for writing',
  errno.EACCES: 'change the permissions, or choose another path',
  errno.EPERM: 'change the permissions, or choose another path',
  errno.ENOTDIR: 'a file is where a folder is needed; choose another path',
  errno.EEXIST: 'a file is where a folder is needed; choose another path',
  errno.EISDIR: 'a folder is where a file is needed; choose another path',
  errno.ENAMETOOLONG: 'choose a shorter path',
  errno.ELOOP: 'mend the symbolic links in it, or choose another path',
  errno.EMFILE: 'raise the limit of open files (ulimit -n)' + _AGAIN,
  errno.ENFILE: 'close other programs, which hold too many files open' + _AGAIN,
  errno.EIO: 'check the disk and what connects it' + _AGAIN,
  errno.ENXIO: 'check the disk and what connects it' + _AGAIN,
  errno.ENODEV: 'check the disk and what connects it' + _AGAIN,
  errno.EREMOTEIO: 'check the disk and what connects it' + _AGAIN,
  errno.ESTALE: 'mount the network disk again' + _AGAIN,
  errno.ENOLCK: 'choose a path on a disk that can lock files',
}
# Before a colon and a slash: gs://bucket, and gs:/bucket, which pathlib makes of it.
_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+(?=:/)')
_HUB = ('hf:',)
# What a field that holds a path may begin with besides. Those not in _EXPANDED
# are expanded where they are read, and kept as they were given: a resumed run must have
# the same ones.
_TEXT = *_HUB, 'https://', 'http://'
_OTHERS = {
  'data.source': _TEXT,
  'data.valid': _TEXT,
  'data.mixture': _TEXT,
  'init_from': _HUB,
  'task.data': _HUB,
}
_EXPANDED = 'data.tokens', 'init_from'


def user_path(
  text: str | pathlib.Path,
  name: str,
  *,
  others: Sequence[str] = (),
  workdir: bool = False,
) -> str:
  """Returns a path that a user gave, with ~ and ~USER expanded.

  Args:
    name: of the flag or field, for an error.
    others: what a text may begin with that is no path, such as 'hf:'; such a text is
      returned as it is, and an empty one too.
    workdir: whether it is the folder of a run.

  Raises:
    UserError: it holds a control character or is no Unicode; names a scheme, such as
      gs://, or a user that is not there; or, as a workdir, is empty or has a character
      that makes patterns of paths.
  """
  text = str(text)
  if any(
    ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in text
  ):
    raise UserError(
      f'{name}={text!r} must not hold control characters, such as line ends, or bytes '
      'that are not UTF-8; rename the file or folder'
    )
  if text.startswith(tuple(others)):
    return text
  if scheme := _SCHEME.match(text):
    rest = text[scheme.end() + 1 :]
    remedy = (
      f'leave out the scheme: {re.sub("^/+", "/", rest)}'
      if scheme[0].lower() == 'file'
      else 'mount it as a folder, or copy it'
    )
    raise UserError(
      f'{name}={text} must be a path of this machine, where files are locked, appended '
      f'to and renamed, and {scheme[0]}: is none; {remedy}'
    )
  path = os.path.expanduser(text)
  if text.startswith('~') and path == text:
    user = text[1:].split('/')[0]
    raise UserError(
      f'{name}={text}: there is no user {user!r} on this machine; a name that begins '
      f'with ~ is written ./{text}'
    )
  if workdir and not path:
    raise UserError(f"{name}='' must name a folder; {name}=. is the one you are in")
  if workdir and set(whole := os.path.realpath(path)) & set('[]*?'):
    raise UserError(
      f'{name}={text} must be a path without [ ] * and ?, which are taken for patterns '
      f'where checkpoints are kept; rename a folder of {whole}, or choose another'
    )
  return path


def expand_paths(run: config.Run) -> None:
  """Checks the paths in a config as `user_path`, and expands those to be expanded.

  Raises:
    UserError: as `user_path`.
  """
  for name in (*config.fields_with('place'), 'data.tokenizer'):
    others = _OTHERS.get(name, ())
    section, _, last = name.rpartition('.')
    holder = getattr(run, section) if section else run
    text = getattr(holder, last)
    if not isinstance(text, str):
      continue  # `config.check` says so
    entries = text.split(',') if name in ('data.source', 'data.valid') else [text]
    if name == 'data.mixture':  # each with a name before it
      entries = [each.split('=', 1)[-1] for each in text.replace(',', ';').split(';')]
    paths = [user_path(entry.strip(), name, others=others) for entry in entries]
    if name in _EXPANDED:
      setattr(holder, last, paths[0])


def disk_error(error: OSError, places: Sequence[str] = ()) -> str:
  """Returns what a user can do about a refusal of the disk; '' where it is our bug.

  Args:
    places: files and folders that the user named; a missing file is a bug of ours
      unless one of them is missing too, or was removed.
  """
  remedy = _REMEDIES.get(error.errno, '')
  path = error.filename2 or error.filename
  path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ''
  if error.errno == errno.EEXIST and (not path or os.path.isdir(path)):
    return ''
  if error.errno == errno.ENOENT:
    remedy = _about_missing(path, places)
  if not remedy:
    return ''
  where = path or (f'a file in {places[0]}' if places else 'a file')
  return f'{where}: {error.strerror}; {remedy}'


def said_by_system(text: str) -> str:
  """Returns what the system said, of a library's long text about it; '': nothing."""
  return next((os.strerror(n) for n in _REMEDIES if os.strerror(n) in text), '')


@contextlib.contextmanager
def not_kept(what: str) -> Iterator[None]:
  """Says of printed results that the disk refused to keep them, and why.

  Args:
    what: of which it says so, in the plural.

  Raises:
    UserError: the disk refused.
  """
  try:
    yield
  except OSError as error:
    if not (reason := disk_error(error)):
      raise
    raise UserError(f'{what} are not kept: {reason}') from error


def _about_missing(path: str, places: Sequence[str]) -> str:
  """Returns what helps where a path is missing at a place of the user; '' elsewhere."""
  whole = os.path.abspath(path)
  for place in places if path else ():
    root = os.path.abspath(place)
    parent = os.path.dirname(root)
    if _inside(root, whole) and root != whole:  # a folder on the way can't be made
      return 'choose another path'
    needed = [parent] if _inside(whole, parent) else []
    needed += [root, os.path.dirname(whole)] if _inside(whole, root) else []
    for folder in needed:
      if not os.path.exists(folder):
        return f'{folder} is not there, or was removed; put it back' + _AGAIN
  return ''


def _inside(path: str, folder: str) -> bool:
  """Returns whether an absolute path is a folder or in it."""
  return os.path.commonpath([path, folder]) == folder


def hide_closed_loops() -> None:
  """Has this process show no tracebacks of Orbax's that nothing can catch.

  Where a read or write of a checkpoint fails, others that had begun come back to the
  loop of asyncio that Orbax has closed, or are thrown away half done. Each prints a
  traceback beside our message.
  """

  def show(unraisable) -> None:
    of = getattr(unraisable.object, 'cr_code', None)  # where a coroutine is written
    text = f'{unraisable.exc_value} {getattr(of, "co_filename", "")}'
    if not any(
      word in text for word in ('Event loop is closed', 'orbax', 'TensorStore')
    ):
      sys.__unraisablehook__(unraisable)

  sys.unraisablehook = show
