"""Where the rows of training begin in the text, and which rows read a piece of it."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt_jax.config import UserError, length
from gpt_jax.data import windows
from gpt_jax.data.origins import Origins, joined
from gpt_jax.runs import rows, shape, tokens
from gpt_jax.runs.workdir import read_run
from gpt_jax.tokenizers.protocol import Tokenizer
from gpt_jax.tokenizers.spelling import Spelling, spelling

_EXCERPT = 12  # tokens shown of a row
_BLOCK = 1 << 20  # tokens looked at once
MOST = 20  # rows, and places of a text, that are named


class Opened:
  """A run that has been trained, or is about to be, and its tokens."""

  def __init__(self, workdir: str | pathlib.Path):
    """Opens a workdir; a UserError where it is of no language model."""
    run = read_run(workdir)
    if run.is_finetuning:
      raise UserError(
        f'{workdir} is a fine-tuning on {run.task.name}, which reads examples, and no '
        'rows of text; name the workdir of a language model'
      )
    self.workdir, self.run = workdir, shape.resolved(run, workdir)
    self.T = self.run.model.T
    self.data = tokens.prepared(self.run, workdir)
    self.sizes = length.stages_of(self.run)
    self.rows = rows.rows_of(self.run, self.data, self.T, self.sizes)
    self.epochs = rows.epochs_of(self.run, self.data, self.T)
    self.spelling = spelling(self.data.tokenizer)


def row_at(opened: Opened, update: int, row: int) -> dict[str, Any]:
  """Returns where a row of an update begins, as `places`.

  Args:
    update: from 1; without the batches that roll-backs skipped.
    row: in its batch, from 0.

  Raises:
    UserError: the run has no such update or row.
  """
  steps = opened.run.steps
  if not 1 <= update <= steps:
    raise UserError(f'--step={update} must be in 1..{steps}, the updates of the run')
  all_of = opened.rows(update - 1)
  filled = np.count_nonzero(_ends(all_of, opened.T) > all_of.starts)
  if not 0 <= row < filled:
    raise UserError(
      f'--row={row} must be in 0..{filled - 1}, the rows of update {update}'
    )
  one = windows.Rows(
    *(each[[row]] if isinstance(each, np.ndarray) else each for each in all_of)
  )
  (place,) = places(opened.data, one, opened.T, opened.spelling)
  return place


def _ends(batch: windows.Rows, T: int) -> np.ndarray:
  """Returns where the inputs of each row end."""
  return batch.starts + T if batch.ends is None else batch.ends


def missing(opened: Opened) -> str:
  """Returns why documents have no names, and how to get them; '' if they have."""
  try:
    for source in opened.data.sources:
      Origins(source.train.path)
  except UserError as error:
    return str(error)
  return ''


def places(
  data: tokens.Prepared,
  batch: windows.Rows,
  T: int,
  spelled: Spelling | None = None,
) -> list[dict[str, Any]]:
  """Returns where in which document each row begins.

  Returns:
    For each row: its number; source, its name in a mixture, or ''; tokens, its first
    and last place in the token file; document, the number among those trained on, and
    its name, FILE or FILE:NUMBER ('' where an older version prepared the tokens);
    offset, bytes of the document's text before the row (after what the tokenizer
    changes); and how the row begins.
  """
  tokenizer = data.tokenizer
  spelled = spelled or spelling(tokenizer)
  files = np.zeros_like(batch.starts) if batch.files is None else batch.files
  found = []
  columns = batch.numbers, batch.starts, _ends(batch, T), files
  for row, start, end, number in zip(*(c.tolist() for c in columns), strict=True):
    source = data.sources[number]
    file = source.train
    document = int(np.searchsorted(file.starts, start, 'right')) - 1
    begin = _text_begin(file.ids, int(file.starts[document]), tokenizer)
    written = _spelled(spelled, file.ids, begin, start)
    try:
      name = Origins(file.path).name_of(document)
    except UserError:
      name = ''
    found.append(
      {
        'row': row,
        'source': source.name,
        'tokens': [start, end],
        'document': document,
        'name': name,
        'offset': sum(len(b) for _, block in written for b in block),
        'text': tokenizer.decode(file.ids[start : min(start + _EXCERPT, end)].tolist()),
      }
    )
  return found


def in_words(row: dict[str, Any]) -> str:
  """Returns where a row is, as an indented line."""
  of = f' of {row["source"]}' if row.get('source') else ''
  where = f', {row["name"]}' if row['name'] else ''
  at = f', byte {row["offset"]:,}' if row['offset'] >= 0 else ''
  first, last = row['tokens']
  return (
    f'  row {row["row"]}: document {row["document"]}{of}{where}{at} (tokens {first:,} '
    f'to {last:,}): {row["text"]!r}'
  )


def _text_begin(ids: np.ndarray, begin: int, tokenizer: Tokenizer) -> int:
  """Returns where the text of a document begins, after its end-of-text token."""
  has_end = tokenizer.eot < tokenizer.vocab and ids[begin] == tokenizer.eot
  return begin + int(has_end)


def _spelled(
  spelled: Spelling, ids: np.ndarray, begin: int, end: int
) -> Iterator[tuple[int, list[bytes]]]:
  """Yields blocks of tokens begin .. end - 1: where each begins, what they write."""
  context = 0
  for at in range(begin, end, _BLOCK):
    block = ids[at : min(at + _BLOCK, end)].tolist()
    if len(spelled.bytes) == 1:
      yield at, [spelled.bytes[0][i] for i in block]
      continue
    written = []
    for i in block:
      written.append(spelled.bytes[context][i])
      context = int(spelled.then_CV[context, i])
    yield at, written


def find(
  opened: Opened,
  *,
  file: str = '',
  document: int = 0,
  offset: int = 0,
  text: str = '',
) -> list[dict[str, Any]]:
  """Returns which rows of a run read a place of its training text.

  Args:
    file: its name as `places` has it, or the end of that after a slash.
    document: its number in the file; 0: the file is one document.
    offset: bytes of the document's text before the place.
    text: found wherever it stands, instead.

  Returns:
    For each place: source, name, tokens (first and last), and rows: (update from 1, row
    from 0) of those that have one of its tokens among their inputs.

  Raises:
    UserError: the place is not in the training text, or it is not known where that
      comes from.
  """
  found = []
  for number, source in enumerate(opened.data.sources):
    spans = (
      _with_text(opened.spelling, source, text)
      if text
      else _at_offset(opened, source, file, document, offset)
    )
    for name, first, last in spans:
      read = sorted(_rows_with(opened, number, first, last))
      read = [windows.batch_with(opened.sizes, row) for row in read]
      found.append(
        {
          'source': source.name,
          'name': name,
          'tokens': [first, last],
          'rows': [(step + 1, row) for step, row in read],
        }
      )
  if not found:
    what = f'the text {text!r:.80}' if text else joined(file, document)
    raise UserError(
      f'{what} is not in the training text of {opened.workdir}: it may be held out, '
      'or be named otherwise, as `where --step --row` shows it'
    )
  return found


def _rows_with(opened: Opened, number: int, first: int, last: int) -> Iterator[int]:
  """Yields the run's rows with inputs among tokens first .. last of a snapshot."""
  run, data, sizes = opened.run, opened.data, opened.sizes
  total = length.rows_read(sizes, run.steps)
  if run.data.windows == 'random' or run.data.dialogues:
    for step in range(run.steps):
      batch = opened.rows(step)
      hit = (batch.starts <= last) & (_ends(batch, opened.T) > first)
      hit = np.flatnonzero(hit)
      yield from (length.rows_read(sizes, step) + hit).tolist()
    return
  epochs = opened.epochs[number]
  if not data.stages:
    yield from epochs.rows_with(first, last, total)
    return
  drawn = rows.mixture_of(data.stages, sizes)
  for own in epochs.rows_with(first, last, int(drawn.drawn(total)[number])):
    yield drawn.row(number, own)


def _at_offset(
  opened: Opened, source: tokens.Source, file: str, document: int, offset: int
) -> Iterator[tuple[str, int, int]]:
  """Yields the documents of a file's name, and in each the token at an offset."""
  own, origins = source.train, Origins(source.train.path)
  tokenizer, spelled = opened.data.tokenizer, opened.spelling
  documents = origins.documents(file, document)
  if len({origins.name_of(each) for each in documents[: MOST + 1]}) > 1:
    raise UserError(
      f'--file={file} --document={document} is several documents, as '
      f'{origins.name_of(documents[0])} and {origins.name_of(documents[1])}; name one, '
      'with its number as --document'
    )
  for each in documents:
    ends = [*own.starts[each + 1 : each + 2].tolist(), len(own.ids)]
    begin, end = _text_begin(own.ids, int(own.starts[each]), tokenizer), ends[0]
    before = 0
    for at, written in _spelled(spelled, own.ids, begin, end):
      reached = before + np.cumsum([len(b) for b in written])
      if reached[-1] > offset:
        token = at + int(np.searchsorted(reached, offset, 'right'))
        yield origins.name_of(each), token, token
        break
      before = int(reached[-1])
    else:
      raise UserError(
        f'--offset={offset} must be less than {before}, the bytes of '
        f'{origins.name_of(each)} that are trained on'
      )


def _with_text(
  spelled: Spelling, source: tokens.Source, text: str
) -> Iterator[tuple[str, int, int]]:
  """Yields the names of documents with a text, and its first and last token there."""
  own, origins, wanted = source.train, Origins(source.train.path), text.encode()
  tail, tail_sizes, number = b'', np.zeros(0, int), 0
  for at, written in _spelled(spelled, own.ids, 0, len(own.ids)):
    # What went before, as far as a text that reaches into this block may begin there.
    whole = tail + b''.join(written)
    sizes = np.concatenate([tail_sizes, [len(b) for b in written]]).astype(int)
    reached, first = np.cumsum(sizes), at - len(tail_sizes)
    # A place all of whose bytes are in the tail was found before.
    place = whole.find(wanted, max(0, len(tail) - len(wanted) + 1))
    while place >= 0:
      begin, end = np.searchsorted(reached, [place, place + len(wanted) - 1], 'right')
      of = np.searchsorted(own.starts, [first + begin, first + end], 'right') - 1
      if of[0] == of[1]:
        number += 1
        if number > MOST:
          return
        yield origins.name_of(int(of[0])), int(first + begin), int(first + end)
      place = whole.find(wanted, place + 1)
    kept = int(np.searchsorted(reached, len(whole) - len(wanted) + 1, 'right'))
    tail_sizes = sizes[kept:]
    tail = whole[len(whole) - int(tail_sizes.sum()) :]


def described(place: dict[str, Any]) -> list[str]:
  """Returns a place of `find` in lines."""
  of = f' of {place["source"]}' if place['source'] else ''
  first, last = place['tokens']
  lines = [f'{place["name"]}{of}, tokens {first:,} to {last:,}:']
  read = place['rows']
  lines += [f'  update {update}, row {row}' for update, row in read[:MOST]]
  if len(read) > MOST:
    lines.append(f'  and {len(read) - MOST:,} more')
  return lines if read else [f'{lines[0]} no row of the run reads it']
