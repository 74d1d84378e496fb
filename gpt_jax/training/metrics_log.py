"""A run's log: metrics.jsonl, fingerprints.jsonl, TensorBoard and samples.txt.

A step's lines are on the disk before its checkpoint, whose manifest has the sizes and
hashes of the files then: cutting off what follows restores the log as it was.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gpt_jax.files import field, of_kind, read_json_lines, read_text, write_whole

# Fields that depend on the machine and the moment: two runs of one config agree in all
# others.
CLOCK_FIELDS = (
  'seconds',
  'tokens_per_s',
  'input_ms',
  'compute_ms',
  'other_ms',
  'mfu',
  'peak_memory_mib',
)
_SAMPLE_MARK = '=== step '
_METRICS, _SUMS, _SAMPLES = 'metrics.jsonl', 'fingerprints.jsonl', 'samples.txt'


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of metrics.jsonl, without a last one that was cut off.

  Values that are not finite, which older versions wrote, are left out as they are now.
  """
  path = pathlib.Path(workdir) / _METRICS
  lines = [finite(line) for line in _lines(path)]
  for number, line in enumerate(lines, 1):
    for name, value in line.items():
      of_kind(value, float, f'{path}: line {number}', name=name)
  return lines


def finite(values: dict[str, Any]) -> dict[str, Any]:
  """Returns the values that are finite: JSON has no NaN, and none is ever good."""
  return {
    name: value
    for name, value in values.items()
    if not isinstance(value, float) or math.isfinite(value)
  }


def read_checksums(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of fingerprints.jsonl, without a last one that was cut off.

  Each has `step`; `losses`, a running hash of the losses logged so far; and what
  `checksums.line` returns.
  """
  path = pathlib.Path(workdir) / _SUMS
  lines = _lines(path)
  for number, line in enumerate(lines, 1):
    for name, kind in {'losses': str, 'rest': str, 'params': dict}.items():
      field(line, name, kind, f'{path}: line {number}')
  return lines


def steps_logged(workdir: str | pathlib.Path) -> tuple[list[int], list[int]]:
  """Returns the updates that are logged, and those whose fingerprints are.

  Lines that can't be read are passed over.
  """
  found = []
  for name in (_METRICS, _SUMS):
    path = pathlib.Path(workdir) / name
    text = path.read_bytes().decode(errors='replace') if path.exists() else ''
    steps = map(_step_of_line, text.split('\n')[:-1])
    found.append([step for step in steps if step is not None])
  return found[0], found[1]


def seconds_trained(
  lines: Iterable[dict[str, Any]], starts: Collection[int] = ()
) -> float:
  """Returns the seconds of all processes that trained a run, each counting from 0.

  Args:
    starts: updates after which a process started; those that are known.
  """
  total, last, step = 0.0, 0.0, 0
  for line in lines:
    now = line.get('seconds', last)
    if now < last or any(step <= start < line['step'] for start in starts if start):
      total += last
    last, step = now, line['step']
  return total + last


def last_samples(workdir: str | pathlib.Path) -> tuple[int, str]:
  """Returns the samples drawn last, after how many updates first; (0, ''): none."""
  path = pathlib.Path(workdir) / 'samples.txt'
  text = read_text(path) if path.exists() else ''
  marks = list(re.finditer(rf'^{_SAMPLE_MARK}(\d+) ===\n', text, re.MULTILINE))
  if not marks:
    return 0, ''
  return int(marks[-1][1]), text[marks[-1].end() :].rstrip('\n')


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  lines = read_json_lines(path)
  for number, line in enumerate(lines, 1):
    field(line, 'step', int, f'{path}: line {number}')
  return lines


class _File:
  """A file that grows by whole lines; knows its size and hash.

  Attributes:
    size: bytes.
  """

  def __init__(self, path: pathlib.Path):
    """Opens a file, made if missing, to append."""
    self.path = path
    self._file = open(path, 'ab')  # noqa: SIM115
    self._hash, self.size = hashlib.sha256(), 0
    self._count(path.read_bytes())

  def append(self, text: str) -> None:
    """Writes text that ends a line."""
    own = text.encode()
    self._file.write(own)
    self._file.flush()
    self._count(own)

  def mark(self) -> list:
    """Returns size and SHA-256 of the file, which is on the disk by then."""
    os.fsync(self._file.fileno())
    return [self.size, self._hash.hexdigest()]

  def close(self) -> None:
    self._file.close()

  def _count(self, own: bytes) -> None:
    self._hash.update(own)
    self.size += len(own)


class MetricsLog:
  """Appends to the log of one run; one writer at a time."""

  def __init__(
    self,
    workdir: str | pathlib.Path,
    step: int,
    record: dict[str, list] | None = None,
    report: Callable[[str], None] = print,
  ):
    """Opens the log of `workdir` to resume after `step` updates.

    Lines of later updates are cut off: those updates are about to be done again.

    Args:
      record: `mark` when the state was saved; {} or None: unknown.
      report: is told of files that are not as they were then.
    """
    self.workdir = pathlib.Path(workdir)
    self._report = report
    self._open(step, record or {})

  def cut(self, step: int, record: dict[str, list]) -> None:
    """Removes what was logged of updates after `step`, and resumes from there."""
    self.close()
    self._open(step, record)

  def _open(self, step: int, record: dict[str, list]) -> None:
    for name in (_METRICS, _SUMS, _SAMPLES):
      path = self.workdir / name
      if not path.exists() and not record.get(name, [0])[0]:
        continue
      if name in record and _begins(path, record[name]):
        os.truncate(path, record[name][0])
        continue
      if name in record:
        self._report(_unlike(path, record[name], step))
      if path.exists():
        self._cut(path, step)
    self._files: dict[str, _File] = {}
    for name in (_METRICS, _SUMS, _SAMPLES):
      if (self.workdir / name).exists():
        self._file(name)
    self._losses = hashlib.sha256()
    for line in read_metrics(self.workdir):
      self._count(line)
    self._events = EventFileWriter(str(self.workdir / 'tensorboard'))
    # TensorBoard forgets the events of later steps at a START.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._events.add_event(event_pb2.Event(step=step + 1, session_log=start))

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one line {"step": step, **values} and the same to TensorBoard.

    Values that are not finite are left out.
    """
    line = {'step': step, **finite(values)}
    self._file(_METRICS).append(json.dumps(line, allow_nan=False) + '\n')
    self._count(line)
    scalars = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value)
      for tag, value in line.items()
      if tag != 'step'
    ]
    summary = summary_pb2.Summary(value=scalars)
    self._events.add_event(event_pb2.Event(step=step, summary=summary))

  def write_checksums(self, step: int, sums: dict[str, Any]) -> None:
    """Appends the fingerprints of the state after `step` updates, and of the losses."""
    line = {'step': step, 'losses': self._losses.hexdigest()[:16], **sums}
    self._file(_SUMS).append(json.dumps(line) + '\n')

  def write_samples(self, step: int, text: str) -> None:
    """Appends the samples drawn after `step` updates to samples.txt."""
    self._file(_SAMPLES).append(f'{_SAMPLE_MARK}{step} ===\n{text}\n')

  def _file(self, name: str) -> _File:
    """Returns an open file, made if missing."""
    if name not in self._files:
      self._files[name] = _File(self.workdir / name)
    return self._files[name]

  def mark(self) -> dict[str, list]:
    """Returns size and SHA-256 of each file, which are on the disk by then."""
    return {name: file.mark() for name, file in self._files.items()}

  def close(self) -> None:
    """Writes out what is buffered."""
    for file in self._files.values():
      file.close()
    self._events.close()

  def _count(self, line: dict[str, Any]) -> None:
    """Adds a line's loss, its bits, to the hash of losses."""
    if 'loss' in line:
      self._losses.update(struct.pack('<qd', line['step'], line['loss']))

  def _cut(self, path: pathlib.Path, step: int) -> None:
    """Removes a file's lines of later updates; lines that can't be read go too."""
    kept, foreign, keep = [], 0, True
    # A last line that was cut off is left out. Samples may hold other ends of lines.
    for line in path.read_bytes().decode(errors='replace').split('\n')[:-1]:
      if path.name == _SAMPLES:
        if line.startswith(_SAMPLE_MARK):
          keep = _step_of_sample(line) <= step
      else:
        at = _step_of_line(line)
        keep = at is not None and at <= step
        foreign += at is None
      if keep:
        kept.append(line + '\n')
    if foreign:
      copy = path.with_name(f'{path.stem}.damaged{path.suffix}')
      copy.write_bytes(path.read_bytes())
      self._report(
        f'{path}: {foreign} lines that can not be read were left out; {copy.name} has '
        'the file as it was'
      )
    write_whole(path, ''.join(kept))


def _begins(path: pathlib.Path, mark: list) -> bool:
  """Returns whether a file begins with what it held when it was marked."""
  size, wanted = mark
  if not path.exists() or path.stat().st_size < size:
    return False
  with open(path, 'rb') as stream:
    return hashlib.sha256(stream.read(size)).hexdigest() == wanted


def _unlike(path: pathlib.Path, mark: list, step: int) -> str:
  """Returns how a file differs from the one that was marked after `step` updates."""
  size = path.stat().st_size if path.exists() else 0
  how = f'has only {size:,} of {mark[0]:,} bytes' if size < mark[0] else 'was changed'
  return (
    f'{path} is not as it was at the checkpoint of update {step}: it {how}. Training '
    'goes on, the gap stays'
  )


def _step_of_line(line: str) -> int | None:
  """Returns the number of updates of a line of JSON; None: it can't be read."""
  with contextlib.suppress(ValueError, RecursionError):
    value = json.loads(line)
    if isinstance(value, dict) and type(value.get('step')) is int:
      return value['step']
  return None


def _step_of_sample(line: str) -> float:
  """Returns the number of updates in the mark above samples; 0: it can't be read."""
  number = line.removeprefix(_SAMPLE_MARK).split(' ')[0]
  return int(number) if number.isdecimal() else 0
