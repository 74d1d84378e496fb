"""What a run writes down: metrics.jsonl, TensorBoard events and samples.txt.

Every line is written when its step is done and before that step's checkpoint begins,
so that cutting off what follows a checkpoint gives back the record as it was then.
"""

import json
import pathlib
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
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8').split('\n')[:-1]
  return [json.loads(line) for line in lines]


class Record:
  """Appends to the record of one run; one writer at a time."""

  def __init__(self, workdir: str | pathlib.Path, step: int):
    """Opens the record of `workdir` to go on after `step` updates.

    What was recorded of later updates is cut off: those are about to be done again.
    """
    self.workdir = pathlib.Path(workdir)
    self._open(step)

  def cut(self, step: int) -> None:
    """Forgets what was recorded of updates after `step`, and goes on from there."""
    self.close()
    self._open(step)

  def _open(self, step: int) -> None:
    kept = [line for line in read_metrics(self.workdir) if line['step'] <= step]
    write_whole(
      self.workdir / 'metrics.jsonl', ''.join(json.dumps(k) + '\n' for k in kept)
    )
    self._cut_samples(step)
    self._metrics = open(self.workdir / 'metrics.jsonl', 'a', encoding='utf-8')  # noqa: SIM115
    self._events = EventFileWriter(str(self.workdir / 'tensorboard'))
    # TensorBoard forgets the events of later steps at a START.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._events.add_event(event_pb2.Event(step=step + 1, session_log=start))

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends one line {"step": step, **values} and the same to TensorBoard."""
    self._metrics.write(json.dumps({'step': step, **values}) + '\n')
    self._metrics.flush()
    scalars = [
      summary_pb2.Summary.Value(tag=tag, simple_value=value)
      for tag, value in values.items()
    ]
    summary = summary_pb2.Summary(value=scalars)
    self._events.add_event(event_pb2.Event(step=step, summary=summary))

  def write_samples(self, step: int, text: str) -> None:
    """Appends the samples drawn after `step` updates to samples.txt."""
    with open(self.workdir / 'samples.txt', 'a', encoding='utf-8') as file:
      file.write(f'{_SAMPLE_MARK}{step} ===\n{text}\n')

  def close(self) -> None:
    """Writes out what is buffered."""
    self._metrics.close()
    self._events.close()

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
