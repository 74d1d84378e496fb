"""Text to a tokenizer and token files, whole or not at all."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import rich.progress

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import encode, sources, split
from gpt_jax.data.fidelity import Fidelity, checked, described
from gpt_jax.data.token_files import FORMAT, Writer
from gpt_jax.files import field, read_json, shown, sync, write_json
from gpt_jax.paths import disk_error

_LEARNT = 'bpe', 'unigram', 'byte_bpe'  # tokenizers that data.vocab gives a size
_STAGE = 'preparing'  # where everything is made before it is moved into place
# Where tokens go and how they are made and read, not what they are.
_NOT_RECIPE = (
  'data.tokens',
  *config.fields_with('training', 'execution', 'length', of='data'),
)
_MARK = 'mark.json'  # in the stage: how far a run got, to resume from if it is killed
_MARK_EVERY = 32e6  # bytes of text between marks
WORTH_PROCESSES = 16e6  # bytes of text that are encoded before processes would start
_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal


def recipe(data: config.Data, tokenizer: str | Path | None = None) -> dict:
  """Returns the fields that decide what the tokens of a folder are.

  Args:
    tokenizer: folder of a tokenizer to be used instead of the config's.
  """
  fields = config.flat(data)
  for name in _NOT_RECIPE:
    del fields[name.removeprefix('data.')]
  if data.valid:
    del fields['holdout'], fields['split']
  if tokenizer:
    fields['tokenizer'] = f'sha256:{tokenizers.digest(tokenizer)}'
  if tokenizer or data.tokenizer not in _LEARNT:
    del fields['vocab']
  if tokenizer or data.tokenizer in tokenizers.TRAINED:
    del fields['cleaning']
  return fields


def prepare(
  data: config.Data,
  folder: str | Path,
  *,
  report: Callable[[str], None] = print,
  tokenizer: str | Path | None = None,
  fill: Callable[..., None] | None = None,
) -> None:
  """Makes FOLDER/tokenizer and FOLDER/tokens, whole or not at all.

  Does nothing where the folder was prepared from the same recipe.

  Args:
    data: what to read and how; data.tokens is not looked at.
    folder: is created if missing.
    tokenizer: folder of a tokenizer to copy instead of making one.
    fill: makes both in a folder, instead of `_fill`.

  Raises:
    UserError: the folder was prepared from another recipe; the text can't be read, is
      empty, or leaves nothing to train on or to hold out; the vocabulary does not suit
      it; the disk is full.
  """
  folder = Path(folder)
  wanted = recipe(data, tokenizer)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, report):
      stage = folder / _STAGE
      if _prepared(folder, stage, wanted):
        return
      try:
        (fill or _fill)(data, stage, wanted, report, tokenizer)
        _take_place(folder, stage)
      except BaseException as e:
        # After Ctrl-C and SIGTERM keep what a later run can resume from.
        if isinstance(e, Exception) or not (stage / _MARK).exists():
          shutil.rmtree(stage, ignore_errors=True)
        raise
  except OSError as e:
    if not (reason := disk_error(e, [str(folder)])):
      raise
    raise UserError(
      f'nothing was prepared: {reason}. --config.data.tokens chooses another folder'
    ) from e


@contextlib.contextmanager
def _alone(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
  """Locks the folder; other processes that prepare it wait."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      report(f'{folder} is being prepared by another process; waiting for it')
      fcntl.flock(handle, fcntl.LOCK_EX)
    yield
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
  again = f'remove {header.parent} and prepare again'
  recorded = field(read_json(header, remedy=again), 'recipe', dict, header, again)
  # A field that is newer than the folder had its default there.
  recorded = {name: getattr(config.Data(), name) for name in wanted} | recorded
  if recorded != wanted:
    differing = [
      f'data.{name:.80}: {shown(recorded.get(name))} there, {shown(wanted.get(name))} '
      'now'
      for name in dict.fromkeys([*recorded, *wanted])
      if recorded.get(name) != wanted.get(name)
    ]
    raise UserError(
      f'{folder} was prepared from other data; choose another --workdir or '
      f'data.tokens, or remove {header.parent}\n' + '\n'.join(differing)
    )
  if (stage / 'tokenizer').exists():  # killed between the two steps of _take_place
    _take_place(folder, stage)
  return True


def _take_place(folder: Path, stage: Path) -> None:
  """Moves what was prepared from the stage into the folder."""
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
  sync(folder)


def _fill(
  data: config.Data,
  stage: Path,
  wanted: dict,
  report: Callable[[str], None],
  original: str | Path | None,
) -> None:
  """Makes the tokenizer and the token files in the folder `stage`.

  Resumes from what a killed run left there, if it was made of the same text.
  """
  skipped, first = 0, ''

  def skip(problem: str) -> None:
    nonlocal skipped, first
    skipped, first = skipped + 1, first or problem

  text = split.look(data, skip)
  report(split.describe(data, text))
  for line in text.lines:
    report(line)
  if skipped:
    report(f'left out {skipped:,} line(s), the first: {first}')
  mark = _read_mark(stage, wanted, text, report)
  if not mark['pieces']:
    shutil.rmtree(stage, ignore_errors=True)
    (stage / 'tokens').mkdir(parents=True)
    if not original and data.tokenizer in _LEARNT:
      report(f'training {data.tokenizer} with {data.vocab:,} ids ...')
    texts = _texts(data, text)
    tokenizer = make_tokenizer(data, texts, stage / 'tokenizer', original)
  else:
    tokenizer = tokenizers.load(stage / 'tokenizer')
  how = f', {tokenizer.cleaning} cleaning' if tokenizer.kind == 'gpt1' else ''
  report(f'tokenizer: {tokenizer.kind}, {tokenizer.vocab:,} ids{how}')
  files = {
    name: Writer(stage / 'tokens' / name, tokenizer, mark['files'].get(name, {}))
    for name in ('train', 'valid')
  }
  kept = {
    name: Fidelity(tokenizer, text.bytes, mark['fidelity'].get(name)) for name in files
  }
  with contextlib.ExitStack() as stack:
    for file in files.values():
      stack.callback(file.close)
    _encode_all(data, text, stage, tokenizer, files, kept, mark, report)
    for name, file in files.items():
      if not file.documents:
        raise UserError(
          f'no text is left {"to train on" if name == "train" else "to hold out"}: '
          f'data.holdout={data.holdout} of {int((~text.dropped).sum())} document(s) by '
          f'{text.way}; change data.holdout, choose --config.data.split=position, or '
          'name the held-out text in data.valid'
          + (', or keep data.duplicates' if text.dropped.any() else '')
        )
      file.finish(about(data, text, stage, wanted, name, kept[name]))
      report(
        f'{name}: {file.tokens:,} tokens, {file.documents:,} documents, '
        f'{file.bytes / file.tokens:.2f} bytes/token, '
        + described(kept[name].record, file.tokens)
      )
  for path in [*stage.rglob('*'), stage]:
    sync(path)


def about(
  data: config.Data,
  text: split.Text,
  stage: Path,
  wanted: dict,
  name: str,
  kept: Fidelity,
) -> dict:
  """Returns what the header of a token file says of where it comes from."""
  return {
    'tokenizer': tokenizers.digest(stage / 'tokenizer'),
    'source': text.digests[name],
    'files': sources.checksums(data.valid if name == 'valid' else data.source),
    'recipe': wanted,
    'fidelity': kept.record,
  }


def _encode_all(
  data: config.Data,
  text: split.Text,
  stage: Path,
  tokenizer: tokenizers.Tokenizer,
  files: dict[str, Writer],
  kept: dict[str, Fidelity],
  mark: dict,
  report: Callable[[str], None],
) -> None:
  """Encodes all pieces after those of the mark into the files.

  Writes a new mark from time to time.
  """

  def jobs() -> Iterator[tuple[tuple[int, split.Piece], str, float, int]]:
    for i, piece in enumerate(split.divide(data, text)):
      if i >= mark['pieces']:
        alpha = data.sampling if piece.file == 'train' else 0.0
        yield (i, piece), piece.text, alpha, i

  def size() -> int:
    return sum(file.bytes for file in files.values())

  processes = data.processes or os.cpu_count()
  if text.bytes - size() < WORTH_PROCESSES:
    processes = 1
  marked = size()
  if marked:
    report(f'going on from {marked / 1e6:.0f} MB, where an earlier run stopped')
  with progress(text.bytes, marked, report) as advance:
    ids_of = encode.encoded(jobs(), stage / 'tokenizer', processes, tokenizer)
    with contextlib.closing(ids_of):
      for (i, piece), ids in ids_of:
        kept[piece.file].watch(piece.name, piece.text, ids, size())
        added = ids, len(piece.text.encode()), piece.first, piece.name
        files[piece.file].add(*added)
        advance(size())
        if size() - marked >= _MARK_EVERY:
          marked = size()
          done = {name: file.flush() for name, file in files.items()}
          for path in (stage / 'tokenizer').iterdir():
            sync(path)  # what a mark speaks of must be on the disk
          records = {name: each.record for name, each in kept.items()}
          now = mark | {'pieces': i + 1, 'files': done, 'fidelity': records}
          write_json(stage / _MARK, now)
  if size() != text.bytes:
    raise UserError(f'data.source={data.source} changed while it was read; try again')


def _read_mark(
  stage: Path, wanted: dict, text: split.Text, report: Callable[[str], None]
) -> dict:
  """Returns how far a killed run got with the same text, else an empty mark."""
  path, again = stage / _MARK, 'it is not used, and all is encoded again'
  same = {'recipe': wanted, 'sources': text.digests, 'format': FORMAT}
  none = same | {'pieces': 0, 'files': {}, 'fidelity': {}}
  if not path.exists():
    return none
  try:
    mark = read_json(path, remedy=again)
    if any(mark.get(name) != value for name, value in same.items()):
      return none
    pieces = field(mark, 'pieces', int, path, again)
    done = field(mark, 'files', dict, path, again)
    records = field(mark, 'fidelity', dict, path, again)
    for name in ('train', 'valid'):
      counts = field(done, name, dict, path, again)
      for count in ('tokens', 'documents', 'bytes', 'names'):
        field(counts, count, int, f'{path}: {name}', again)
      checked(field(records, name, dict, path, again), f'{path}: {name}', again)
  except UserError as e:
    report(str(e))
    return none
  return same | {'pieces': pieces, 'files': done, 'fidelity': records}


def _texts(data: config.Data, text: split.Text) -> Iterator[str]:
  """Yields what a tokenizer is trained on: none that is held out but of `chars`."""
  everything = data.tokenizer == 'chars'
  for piece in split.divide(data, text):
    if everything or piece.file == 'train':
      yield piece.text


def make_tokenizer(
  data: config.Data, texts: Iterator[str], folder: Path, original: str | Path | None
) -> tokenizers.Tokenizer:
  """Returns the tokenizer of the config, trained, opened or copied into a folder."""
  if original:
    folder.mkdir()
    for path in Path(original).iterdir():  # its files, but not their permissions
      shutil.copyfile(path, folder / path.name)
    return tokenizers.load(folder)
  if data.tokenizer not in tokenizers.TRAINED:
    tokenizer = tokenizers.open_path(data.tokenizer, data.cleaning)
  else:
    tokenizer = tokenizers.train(data.tokenizer, texts, data.vocab)
  tokenizer.save(folder)
  return tokenizer


def snapshot(data: config.Data, tokenizer: str | Path | None = None) -> str:
  """Returns a hash of a recipe and of the names and sizes of its local files.

  It is another one once the source grows.
  """
  about = [recipe(data, tokenizer), sources.listing(data.source)]
  made = json.dumps(about, sort_keys=True)
  return hashlib.sha256(made.encode()).hexdigest()[:12]


def tokenizer_folder(data: Sequence[config.Data], folder: Path) -> Path:
  """Returns where in `folder` the tokenizer of several sources is, or would be."""
  keys = ' '.join(map(snapshot, data))
  return folder / hashlib.sha256(keys.encode()).hexdigest()[:12]


def prepare_tokenizer(
  data: Sequence[config.Data], folder: Path, report: Callable[[str], None] = print
) -> Path:
  """Returns a folder in `folder` with a tokenizer for several sources, made if missing.

  One that is trained here reads each source's training text once, whatever its weight.
  """
  own = tokenizer_folder(data, folder)
  folder.mkdir(parents=True, exist_ok=True)
  with _alone(folder, report):
    if not own.exists():
      stage = folder / f'.{own.name}.tmp'
      shutil.rmtree(stage, ignore_errors=True)
      report(f'tokenizer of {len(data)} sources: {data[0].tokenizer} ...')
      looked = ((each, split.look(each, lambda line: None)) for each in data)
      texts = itertools.chain.from_iterable(itertools.starmap(_texts, looked))
      make_tokenizer(data[0], texts, stage, None)
      for path in [*stage.iterdir(), stage]:
        sync(path)
      stage.rename(own)
  return own


@contextlib.contextmanager
def progress(
  total: int, begin: int, report: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
  """Yields a function that shows how many of `total` bytes are encoded.

  Args:
    begin: bytes that an earlier run encoded.
  """
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
      task = bar.add_task('', total=total, completed=begin)
      yield lambda done: bar.update(task, completed=done)
    return
  begun = said = time.monotonic()

  def advance(done: int) -> None:
    nonlocal said
    now = time.monotonic()
    if now - said >= _LINE_EVERY:
      said = now
      rate = max(done - begin, 1) / (now - begun)
      report(
        f'encoding: {done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, '
        f'{(total - done) / rate:.0f} s left'
      )

  yield advance
