"""Files that are written whole or not at all."""

import os
import pathlib


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


def sync(path: str | pathlib.Path) -> None:
  """Waits until a file or folder is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
