"""Memory of `launch.py curate` by the size of a corpus, with every stage killed.

  python -m benchmarks.curation_sizes --source=NOVELS --folder=FOLDER \\
    --megabytes=500,1000,2000,4000 --killed=500,4000

For each size it makes a corpus of JSON lines: a twelfth is curated, the others are a
crawl, of which seven documents in eight are junk, as most of Common Crawl is to GPT-3's
filters. Of the others one document in 25 is a copy, one in 25 nearly one, and one in
200 has a text that is to be taken out. The stages run one after the other, each by the
command itself, with all before it done. Where a size is killed, SIGKILL ends the
command and all its processes at once, once in every step of every stage, and the same
command goes on. The smallest such size runs without kills too, and must write the same
bytes.

The limit holds in two ways. No process may have more than it of data (RLIMIT_DATA), and
what all processes have resident together (RSS, with pages that they share counted for
each) is looked at ten times a second; more than the limit stops the benchmark.

It writes results/curation.json, of which `benchmarks.curation_plan` computes what 45 TB
take, and results/curation.md, the table. Linux only.
"""

import hashlib
import io
import json
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from benchmarks import curation_texts
from gpt_jax.cli.messages import run_script
from gpt_jax.data.curation.shards import packed
from gpt_jax.files import write_whole

_MEGABYTES = flags.DEFINE_list('megabytes', ['10', '20'], 'sizes of the raw text')
_KILLED = flags.DEFINE_list('killed', [], 'sizes that are killed in every step')
_WORKERS = flags.DEFINE_integer('workers', 2, 'processes at a time', lower_bound=1)
_SOURCE = flags.DEFINE_string('source', 'python:docs', 'text that corpora are made of')
_FOLDER = flags.DEFINE_string('folder', None, 'where to work', required=True)
_LIMIT = flags.DEFINE_integer('limit', 1000, 'MB that all processes may have')
_TARGET = flags.DEFINE_string('target', 'benchmarks/results', 'folder of the results')

STAGES = (
  'ingest',
  'gopher',
  'c4',
  'quality',
  'decontaminate',
  'exact',
  'bands',
  'gpt3',
)
_FOLDERS = {'bands': 'dedup', 'gpt3': 'dedup'}
_FILE = 1 << 25  # characters of a raw file
_LOOK, _MARKS = 0.1, 0.3  # seconds between looks at memory and at marks
_FIT = 1.0  # seconds into the fit of the classifier that it is killed
_CURATED, _JUNK = 1 / 12, 7 / 8
_TESTS = 200  # texts that are to be taken out
_CONFIG = """
from gpt_jax.data.curation.decontaminate import Decontaminate
from gpt_jax.data.curation.dedup import Dedup
from gpt_jax.data.curation.exact import Exact
from gpt_jax.data.curation.filters import C4, Gopher
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality

STAGES = (
  Gopher(), C4(), Quality(('books',)), Decontaminate('{0}/tests.jsonl'),
  Exact(('books',)), Dedup(priority=('books',)),
  Dedup('gpt3', priority=('books',), across='priority'),
)


def get_curation(stages):
  return Curation(
    (Source('books', '{0}/books'), Source('crawl', '{0}/crawl')), STAGES[: int(stages)]
  )
"""


def documents(
  parts: Sequence[str], tests: Sequence[str], seed: int, crawl: bool
) -> Iterator[str]:
  """Yields documents of about 3,000 characters of paragraphs; see the module."""
  rng = random.Random(seed)
  many = max(1, round(3000 * len(parts) / sum(map(len, parts))))
  before = ''
  while True:
    some, draw = rng.choices(parts, k=many), rng.random()
    if crawl and rng.random() < _JUNK:
      yield '\n'.join(f'{rng.choice(some)[:20]} #{i} {{' for i in range(100))
      continue
    if draw < 1 / 200:
      some[len(some) // 2] = rng.choice(tests)
    elif before and draw < 1 / 25 + 1 / 200:
      some = before.split('\n')
    elif before and draw < 2 / 25 + 1 / 200:
      some = [*before.split('\n')[:-1], some[-1][: len(some[-1]) // 4] + '.']
    before = '\n'.join(some)
    yield before


def write(folder: pathlib.Path, parts: Sequence[str], megabytes: float) -> None:
  """Writes the books and the crawl of a corpus, the tests and the config."""
  tests, parts = parts[:_TESTS], parts[_TESTS:]
  lines = ''.join(json.dumps({'text': text}) + '\n' for text in tests)
  for name in ('books', 'crawl'):
    (folder / name).mkdir(parents=True)
    left, file = megabytes * 1e6 * (_CURATED if name == 'books' else 1 - _CURATED), 0
    while left > 0:
      seed, size = 2 * file + (name == 'crawl'), 0
      path = folder / name / f'{file:05d}.jsonl.zst'
      with open(path, 'wb') as stream, packed(stream, fast=True) as inner:
        out = io.TextIOWrapper(inner, encoding='utf-8')
        for text in documents(parts, tests, seed, name == 'crawl'):
          out.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')
          size += len(text)
          if size >= min(_FILE, left):
            break
        out.detach()
      left, file = left - size, file + 1
  (folder / 'tests.jsonl').write_text(lines, encoding='utf-8')
  (folder / 'curate.py').write_text(_CONFIG.format(folder))


def resident(process: int) -> int:
  """Returns the bytes that a process and all it started have resident together."""
  total, waiting = 0, [process]
  while waiting:
    each = waiting.pop()
    try:
      about = pathlib.Path(f'/proc/{each}/statm').read_text()
      for task in pathlib.Path(f'/proc/{each}/task').iterdir():
        waiting += map(int, (task / 'children').read_text().split())
    except (FileNotFoundError, ProcessLookupError):
      continue  # it ended meanwhile
    total += int(about.split()[1]) * os.sysconf('SC_PAGE_SIZE')
  return total


def marks(state: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Returns the marks of each step of a stage, by the step's name."""
  found: dict[str, list[pathlib.Path]] = {}
  for path in sorted(state.rglob('[0-9]*.json')):
    step = str(path.parent.relative_to(state)).replace('.', 'all')
    found.setdefault(step, []).append(path)
  return found


class Killer:
  """Says once in every step of a stage that it is time for a kill."""

  def __init__(self, state: pathlib.Path):
    self._state, self._sampled = state, 0.0
    self.steps: list[str] = []

  def due(self) -> bool:
    """Returns whether a step has begun in which there was no kill."""
    steps = marks(self._state)
    # The fit is one piece of work, and has no mark before it is done.
    if 'sample' in steps and len(steps['sample']) == len(steps['count']):
      self._sampled = self._sampled or time.monotonic()
      if time.monotonic() - self._sampled >= _FIT:
        steps['fit'] = []
    new = [step for step in steps if step not in self.steps]
    self.steps += new
    return bool(new)


def run(
  command: Sequence[str], state: pathlib.Path, limit: float, killer: Killer | None
) -> dict[str, Any]:
  """Runs a command, again after each kill; returns what it took.

  Args:
    state: folder of the stage's marks.
    limit: bytes of all processes together, and of the data of each.

  Returns:
    seconds; cpu: of the command and its processes, of the run that was not killed;
    peak: bytes of RSS; shuffled: the most bytes of sorted runs at once.
  """
  begun, peak, shuffled = time.monotonic(), 0, 0

  def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))

  while True:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
      command, start_new_session=True, preexec_fn=limited, stdout=subprocess.DEVNULL
    )
    looked, killed = 0.0, False
    while process.poll() is None:
      peak = max(peak, resident(process.pid))
      if peak > limit:
        os.killpg(process.pid, signal.SIGKILL)
        raise RuntimeError(f'{command}: {peak / 1e6:,.0f} MB are over the limit')
      if time.monotonic() - looked >= _MARKS:
        looked = time.monotonic()
        shuffled = max(shuffled, bytes_in(state))
        if killer and killer.due():
          os.killpg(process.pid, signal.SIGKILL)
          killed = True
      time.sleep(_LOOK)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not killed and process.returncode:
      raise RuntimeError(f'{command} ended with {process.returncode}')
    if not killed:
      break
  used = [each.ru_utime + each.ru_stime for each in (before, after)]
  return {
    'seconds': time.monotonic() - begun,
    'cpu': used[1] - used[0],
    'peak': peak,
    'shuffled': shuffled,
  }


def bytes_in(state: pathlib.Path) -> int:
  """Returns the bytes of the sorted runs of a stage that are there now."""
  total = 0
  for path in state.glob('*/runs/*.run'):
    try:
      total += path.stat().st_size
    except FileNotFoundError:
      continue  # its group is done
  return total


def stage(folder: pathlib.Path, number: int, kills: bool, workers: int) -> dict:
  """Runs a stage with all before it done; returns what it took and reported."""
  label = f'{number:02d}-{_FOLDERS.get(STAGES[number], STAGES[number])}'
  state, output = folder / 'out/state' / label, folder / 'out' / label
  killer = Killer(state) if kills else None
  took = run(
    [
      *(sys.executable, 'launch.py', 'curate', f'--workdir={folder / "out"}'),
      *(f'--config={folder / "curate.py"}:{number}', f'--workers={workers}'),
    ],
    state,
    _LIMIT.value * 1e6,
    killer,
  )
  digest = hashlib.sha256()
  for path in sorted(output.glob('*.zst')):
    digest.update(path.name.encode() + path.read_bytes())
  report = json.loads((output / 'report.json').read_text(encoding='utf-8'))
  report.pop('examples')
  steps = {
    step: round(sum(json.loads(path.read_text())['cpu'] for path in paths), 2)
    for step, paths in marks(state).items()
  }
  bytes_out = sum(path.stat().st_size for path in output.glob('*.zst'))
  return {
    'stage': STAGES[number],
    **took,
    'steps': steps,
    'kills': killer.steps if killer else [],
    'written': bytes_out,
    'digest': digest.hexdigest(),
    'report': report,
  }


def corpus(
  folder: pathlib.Path,
  parts: Sequence[str],
  megabytes: float,
  kills: bool,
  keep: Callable[[dict], None],
) -> None:
  """Makes a corpus and runs all stages; `keep` is called with what each took."""
  shutil.rmtree(folder, ignore_errors=True)
  write(folder, parts, megabytes)
  characters = megabytes * 1e6
  for number in range(len(STAGES)):
    took = stage(folder, number, kills, _WORKERS.value)
    keep({'megabytes': megabytes, 'read': characters} | took)
    characters = took['report']['characters']
    if 0 < number < STAGES.index('exact'):
      # No stage reads these any more, and disks are small.
      for path in (folder / 'out').glob(f'{number - 1:02d}-*/*.zst'):
        path.write_bytes(b'')
  shutil.rmtree(folder)


def table(rows: Sequence[dict], about: str) -> str:
  """Returns the results as Markdown."""
  lines = [
    '# Curation by the size of a corpus\n',
    about,
    '',
    '| stage | raw text, MB | text read, MB | documents | kept | seconds | CPU s of '
    'its steps | CPU s a GB | sorted runs, MB | peak MB | kills |',
    '|' + '---|' * 11,
  ]
  for row in sorted(rows, key=_order):
    cpu, report = sum(row['steps'].values()), row['report']
    lines.append(
      f'| {row["stage"]} | {row["megabytes"]:,.0f} | {row["read"] / 1e6:,.0f} '
      f'| {report["documents"]:,} | {report["kept"]:,} | {row["seconds"]:,.0f} '
      f'| {cpu:,.0f} | {cpu / row["read"] * 1e9:,.0f} | {row["shuffled"] / 1e6:,.0f} '
      f'| {row["peak"] / 1e6:,.0f} | {len(row["kills"])} |'
    )
  both = {}
  for row in rows:
    both.setdefault((row['megabytes'], row['stage']), set()).add(row['digest'])
  twice = {
    size: [both[size, stage] for stage in STAGES if (size, stage) in both]
    for size in sorted({row['megabytes'] for row in rows})
    if len([row for row in rows if row['megabytes'] == size]) > len(STAGES)
  }
  for size, digests in twice.items():
    same = sum(len(each) == 1 for each in digests)
    lines.append(
      f'\n{size:,.0f} MB ran with kills and without: {same} of {len(digests)} stages '
      'wrote the same bytes.'
    )
  killed = {step for row in rows for step in map(_named(row), row['kills'])}
  lines.append(f'\nKilled in: {", ".join(sorted(killed))}.')
  return '\n'.join(lines) + '\n'


def _order(row: dict) -> tuple[int, float, int]:
  return STAGES.index(row['stage']), row['megabytes'], len(row['kills'])


def _named(row: dict) -> Callable[[str], str]:
  return lambda step: f'{row["stage"]} ({step})'


def main(argv: list[str]) -> None:
  del argv
  parts = curation_texts.paragraphs(_SOURCE.value, r'\n\s*\n')
  target, rows = pathlib.Path(_TARGET.value), []
  about = (
    f'`python -m benchmarks.curation_sizes --megabytes={",".join(_MEGABYTES.value)} '
    f'--killed={",".join(_KILLED.value)} --workers={_WORKERS.value}`, '
    f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores that did other work '
    f'too, Python {platform.python_version()}. No process may have more than '
    f'{_LIMIT.value:,} MB of data (RLIMIT_DATA), and all together not more resident '
    '(RSS; shared pages count for each): the peak is theirs together.'
  )

  def keep(row: dict) -> None:
    rows.append(row)
    write_whole(target / 'curation.json', json.dumps(rows, indent=1) + '\n')
    write_whole(target / 'curation.md', table(rows, about))
    print(
      f'{row["megabytes"]:,.0f} MB, {row["stage"]}: {row["seconds"]:,.0f} s, '
      f'{row["peak"] / 1e6:,.0f} MB, {len(row["kills"])} kills',
      flush=True,
    )

  killed = [*map(float, _KILLED.value)]
  for megabytes in map(float, _MEGABYTES.value):
    if megabytes not in killed or megabytes == min(killed):
      corpus(pathlib.Path(_FOLDER.value, 'made'), parts, megabytes, False, keep)
    if megabytes in killed:
      corpus(pathlib.Path(_FOLDER.value, 'made'), parts, megabytes, True, keep)


if __name__ == '__main__':
  run_script(main)
