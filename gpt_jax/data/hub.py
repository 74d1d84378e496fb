"""Data sets of Hugging Face's `datasets`, from their hub or a folder of theirs."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.data.formats import How, check_column, imported, text_of_cell
from gpt_jax.data.pieces import Part, cut
from gpt_jax.files import brief


def read_hub(entry: str, how: How) -> Iterator[Part]:
  """Yields the parts of a data set of Hugging Face's `datasets`.

  Args:
    entry: NAME, NAME@CONFIG, NAME:SPLIT or NAME@CONFIG:SPLIT; NAME may be a folder,
      of `save_to_disk` or of data files. SPLIT is train if left out.

  Raises:
    UserError: `datasets` is not installed, can't find it, or a row holds no text.
  """
  source = f'hf:{entry}'
  rest, _, split = entry.partition(':')
  name, _, config = rest.partition('@')
  rows = open_hub(source, name, split or 'train', config, streaming=True)
  for number, row in enumerate(hub_rows(source, rows), 1):
    check_column(source, how.field, list(row))
    text = text_of_cell(source, number, how.field, row[how.field])
    yield from cut(f'{name}:{number}', [text])


def hub_rows(source: str, rows: Iterable[dict]) -> Iterator[dict[str, Any]]:
  """Yields the rows of what `open_hub` returned.

  Args:
    source: what the user wrote, for errors.

  Raises:
    UserError: one can't be read.
  """
  left = _checked(rows) if hasattr(rows, 'data') else iter(rows)
  while True:
    with _hub_errors(source):
      row = next(left, None)
    if row is None:
      return
    yield row


def _checked(rows: Any) -> Iterator[dict[str, Any]]:
  """Yields the rows of a data set on the disk, of which Arrow trusts every offset.

  A damaged one sends it anywhere in memory, where only a look beforehand helps.
  """
  for table in rows.with_format('arrow').iter(1000):
    table.validate(full=True)
    yield from table.to_pylist()


def open_hub(
  source: str,
  name: str,
  split: str,
  config: str = '',
  revision: str = '',
  streaming: bool = False,
) -> Any:
  """Returns a split of a data set of Hugging Face's `datasets`: an iterable of dicts.

  Args:
    source: what the user wrote, for errors.
    name: on the hub, or a folder: of `DatasetDict.save_to_disk`, of one split that
      `Dataset.save_to_disk` wrote, whatever it is called, or of data files.
    config: the subset; '' where there is only one.
    revision: '' means the latest of the hub.
    streaming: rows are fetched as they are read, and not kept.

  Raises:
    UserError: `datasets` is not installed, or can't open it.
  """
  folder = Path(name).expanduser()
  with _hub_errors(source) as datasets:
    if not name:
      raise ValueError('no name')
    if not any((folder / f).exists() for f in ('state.json', 'dataset_dict.json')):
      return datasets.load_dataset(
        os.path.expanduser(name),
        config or None,
        split=split,
        revision=revision or None,
        streaming=streaming,
      )
    rows = datasets.load_from_disk(str(folder))
    if not isinstance(rows, datasets.DatasetDict):
      return rows
    if split not in rows:
      raise ValueError(f'no split {split!r}, only {", ".join(rows)}')
    return rows[split]


@contextlib.contextmanager
def _hub_errors(source: str) -> Iterator[Any]:
  """Yields `datasets`; its errors become UserErrors."""
  datasets = imported('datasets', source)
  try:
    yield datasets
  except UserError:
    raise
  except Exception as e:  # its errors share no class, and a damaged file has many
    kind = '' if isinstance(e, (OSError, ValueError)) else f'{type(e).__name__}: '
    raise UserError(
      f'{source}: can not be read ({kind}{brief(e)}); check the name, or '
      'save it with `save_to_disk` where there is network, and give hf:FOLDER'
    ) from e
