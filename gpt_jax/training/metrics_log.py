"""A run's log: metrics.jsonl, fingerprints.jsonl, TensorBoard and samples.txt.

A step's line is written before its checkpoint, so that cutting off what follows a
checkpoint restores the log as it was then.
"""

import hashlib
import json
import pathlib
import re
import struct
from collections.abc import Collection, Iterable
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gpt_jax.files import write_whole

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


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of metrics.jsonl, without a last one that was cut off."""
  return _lines(pathlib.Path(workdir) / 'metrics.jsonl')


def read_checksums(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of fingerprints.jsonl, without a last one that was cut off.

  Each has `step`; `losses`, a running hash of the losses logged so far; and what
  `checksums.of` returns.
  """
  return _lines(pathlib.Path(workdir) / 'fingerprints.jsonl')


def seconds_trained(
  lines: Iterable[dict[str, Any]], starts: Collection[int] = ()
) -> float:
  """Returns the seconds of all processes that trained a run, each counting from 0.

  Args:
    starts: updates after which a process started; those that are known.
  """
  total, last, step = 0.0, 0.0, 0
  for line in lines:
    now = line['seconds']
    if now < last or any(step <= start < line['step'] for start in starts if start):
      total += last
    last, step = now, line['step']
  return total + last


def last_samples(workdir: str | pathlib.Path) -> tuple[int, str]:
  """Returns the samples drawn last, after how many updates first; (0, ''): none."""
  path = pathlib.Path(workdir) / 'samples.txt'
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  marks = list(re.finditer(rf'^{_SAMPLE_MARK}(\d+) ===\n', text, re.MULTILINE))
  if not marks:
    return 0, ''
  return int(marks[-1][1]), text[marks[-1].end() :].rstrip('\n')


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8').split('\n')[:-1]
  return [json.loads(line) for line in lines]


class MetricsLog:
  """Appends to the log of one run; one writer at a time."""

  def __init__(self, workdir: str | pathlib.Path, step: int):
    """Opens the log of `workdir` to resume after `step` updates.

    Lines of later updates are cut off: those updates are about to be done again.
    """
    self.workdir = pathlib.Path(workdir)
    self._open(step)

  def cut(self, step: int) -> None:
    """Removes what was logged of updates after `step`, and resumes from there."""
    self.close()
    self._open(step)

  def _open(self, step: int) -> None:
    kept = self._cut('metrics.jsonl', step)
    self._losses = hashlib.sha256()
    for line in kept:
      self._count(line)
    self._cut('fingerprints.jsonl', step)
    self._cut_samples(step)
    self._metrics = open(self.workdir / 'metrics.jsonl', 'a', encoding='utf-8')  # noqa: SIM115
    self._events = EventFileWriter(str(self.workdir / 'tensorboard'))
    # TensorBoard forgets the events of later steps at a START.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._events.add_event(event_pb2.Event(step=step + 1, session_log=start))

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one line {"step": step, **values} and the same to TensorBoard."""
    line = {'step': step, **values}
    self._metrics.write(json.dumps(line) + '\n')
    self._metrics.flush()
    self._count(line)
    scalars = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value)
      for tag, value in values.items()
    ]
    summary = summary_pb2.Summary(value=scalars)
    self._events.add_event(event_pb2.Event(step=step, summary=summary))

  def write_checksums(self, step: int, sums: dict[str, Any]) -> None:
    """Appends the fingerprints of the state after `step` updates, and of the losses."""
    line = {'step': step, 'losses': self._losses.hexdigest()[:16], **sums}
    with open(self.workdir / 'fingerprints.jsonl', 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')

  def write_samples(self, step: int, text: str) -> None:
    """Appends the samples drawn after `step` updates to samples.txt."""
    with open(self.workdir / 'samples.txt', 'a', encoding='utf-8') as file:
      file.write(f'{_SAMPLE_MARK}{step} ===\n{text}\n')

  def close(self) -> None:
    """Writes out what is buffered."""
    self._metrics.close()
    self._events.close()

  def _count(self, line: dict[str, Any]) -> None:
    """Adds a line's loss, its bits, to the hash of losses."""
    if 'loss' in line:
      self._losses.update(struct.pack('<qd', line['step'], line['loss']))

  def _cut(self, name: str, step: int) -> list[dict[str, Any]]:
    """Removes a file's lines of later updates; returns the others."""
    path = self.workdir / name
    kept = [line for line in _lines(path) if line['step'] <= step]
    if path.exists():
      write_whole(path, ''.join(json.dumps(line) + '\n' for line in kept))
    return kept

  def _cut_samples(self, step: int) -> None:
    path = self.workdir / 'samples.txt'
    if not path.exists():
      return
    kept, keep = [], True
    for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
      if line.startswith(_SAMPLE_MARK):
        keep = int(line.removeprefix(_SAMPLE_MARK).split()[0]) <= step
      if keep:
        kept.append(line)
    write_whole(path, ''.join(kept))
