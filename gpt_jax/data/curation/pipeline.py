"""A corpus from sources through stages: each reads a folder of shards, writes another.

WORKDIR/00-ingest, 01-gopher, .. hold shards and a report each, WORKDIR/state the marks
by which the same command goes on after a kill.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.data.curation import (
  decontaminate,
  dedup,
  exact,
  filters,
  ingest,
  quality,
)
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import is_url, joined, list_shards, written
from gpt_jax.files import clear_temporaries

# The stages by name: the class of their settings, and a function of an engine, shards,
# the folder to write, the settings, and a name for the engine; it returns a report.
STAGES: dict[str, tuple[type, Callable[..., dict[str, Any]]]] = {
  'repair': (filters.Repair, filters.run),
  'language': (filters.Language, filters.run),
  'gopher': (filters.Gopher, filters.run),
  'c4': (filters.C4, filters.run),
  'quality': (quality.Quality, quality.run),
  'exact': (exact.Exact, exact.run),
  'passages': (exact.Passages, exact.cut_passages),
  'dedup': (dedup.Dedup, dedup.run),
  'decontaminate': (decontaminate.Decontaminate, decontaminate.run),
}
STATE = 'state'


@dataclasses.dataclass(frozen=True)
class Curation:
  """What `launch.py curate` makes.

  Attributes:
    sources: where documents come from.
    stages: settings of each stage, in order: of the classes of `STAGES`.
  """

  sources: tuple[ingest.Source, ...]
  stages: tuple[Any, ...] = ()

  def __post_init__(self):
    if not self.sources:
      raise UserError('sources=() must have one Source at least')
    for stage in self.stages:
      stage_name(stage)


class Done(NamedTuple):
  """A stage that is done.

  Attributes:
    name: such as 'quality'.
    folder: of its shards.
    report: documents, kept, dropped by reason, examples, and what else it says.
    seconds: that it took now; next to none if it was done before.
  """

  name: str
  folder: str
  report: dict[str, Any]
  seconds: float


def stage_name(settings: Any) -> str:
  """Returns the name of the stage that settings are of."""
  for name, (kind, _) in STAGES.items():
    if type(settings) is kind:
      return name
  kinds = ', '.join(kind.__name__ for kind, _ in STAGES.values())
  raise UserError(f'stages has {settings!r:.80}, which must be one of {kinds}')


def whole_path(workdir: str) -> str:
  """Returns a folder as any process names it: a URL, or an absolute path."""
  return workdir if is_url(workdir) else os.path.abspath(workdir)


def run(curation: Curation, workdir: str, engine: Engine) -> list[Done]:
  """Makes a corpus and returns what its stages did; the last folder is the corpus.

  Args:
    workdir: of all that is made; see `whole_path`.
    engine: its state is WORKDIR/state.

  Raises:
    UserError: what a stage raises; or `workdir` has the marks of other settings.
  """
  every: list[Done] = []
  for number, settings in enumerate((None, *curation.stages)):
    name = 'ingest' if settings is None else stage_name(settings)
    label = f'{number:02d}-{name}'
    folder = joined(workdir, label)
    if not is_url(folder):
      clear_temporaries(folder)
    begun = time.monotonic()
    if settings is None:
      report = ingest.run(engine, curation.sources, folder, label)
    else:
      shards = list_shards(every[-1].folder)
      report = STAGES[name][1](engine, shards, folder, settings, label)
    every.append(Done(name, folder, report, time.monotonic() - begun))
    _write(joined(folder, 'report.json'), report)
  _write(
    joined(workdir, 'report.json'),
    {
      'corpus': every[-1].folder,
      'sources': [dataclasses.asdict(each) for each in curation.sources],
      'stages': [
        {
          'stage': done.name,
          'settings': dataclasses.asdict(settings) if settings else {},
          'documents': done.report['documents'],
          'kept': done.report['kept'],
          'dropped': done.report['dropped'],
        }
        for done, settings in zip(every, (None, *curation.stages), strict=True)
      ],
    },
  )
  return every


def _write(path: str, value: Any) -> None:
  with written(path) as stream:
    stream.write(json.dumps(value, indent=1, ensure_ascii=False).encode() + b'\n')
