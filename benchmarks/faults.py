"""Faults on purpose: kills, damaged checkpoints, flipped bits, full disks, and others.

  python benchmarks/faults.py --only=kills --number=200 --seed=0

Commands of launch.py run in forks of this process (`injected/forked.py`), so that some
hundred kills take minutes. What came of each case is a line of --outcomes, from which
the tables are made: the same command again goes on where it was killed. Outcomes of
other sources of gpt_jax do not count. It exits with 1 if anything was lost or silent.

  kills    of train, fine-tuning, prepare, sweep, eval: the end is the same bit for bit
  damage   of the newest checkpoint, every file and folder: `train`, `sample`, `eval`
  flips    single bits of array data: noticed by what loads and what resumes
  disks    full at every size: one line, and afterwards the same end
  others   signals, workdirs in use, removed, that can't be written, and so on
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[0] = ROOT  # this folder has a module named like one of Python's

import argparse  # noqa: E402
import collections  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import pathlib  # noqa: E402
import random  # noqa: E402
import select  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from benchmarks.injected import damage, disks, forked, kills, place  # noqa: E402
from gpt_jax.cli.messages import shown  # noqa: E402

NUMBERS = {'kills': 200, 'damage': 200, 'flips': 1000, 'disks': 24, 'others': 99}
_FLIPS = 25  # of a case: jax starts once for them
# Compiled quickly and kept, like the programs of the tests.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}


class Case(NamedTuple):
  """A case of a kind: its name, and the function that gives its outcome."""

  name: str
  outcome: Callable[..., dict[str, Any]]
  given: tuple


class Kind(NamedTuple):
  """A kind of faults.

  Attributes:
    cases: outcomes so far by name -> cases to do next; none: it is done.
    table: outcomes -> lines of Markdown.
    bad: an outcome -> what of it must not be, [] where all is well.
  """

  cases: Callable[[dict[str, dict]], list[Case]]
  table: Callable[[list[dict]], list[str]]
  bad: Callable[[dict], list[str]]


def of_kills(folder: pathlib.Path, number: int, seed: int, verbs: list[str]) -> Kind:
  """Returns kills, `number` of them divided among the verbs."""
  wanted: dict[str, Any] = {}
  total = sum(kills.SHARES[verb] for verb in verbs)

  def cases(done: dict[str, dict]) -> list[Case]:
    more = []
    for verb in verbs:
      own = [one for one in done.values() if one['verb'] == verb]
      lacking = round(number * kills.SHARES[verb] / total)
      lacking -= sum(one['kills'] for one in own)
      if lacking > 0 and verb not in wanted:
        _say(f'{verb}, undisturbed')
        _trained(folder)  # evaluations need it
        wanted[verb] = kills.undisturbed(folder, verb)
      names = [name for name in done if name.startswith(f'{verb} ')]
      first = 1 + max((int(name.rpartition(' ')[2]) for name in names), default=-1)
      for i in range(first, first + -(-lacking // 2)):  # about two kills each
        given = folder, verb, i, seed, wanted[verb]
        more.append(Case(f'{verb} {i}', kills.case, given))
    return more

  def table(outcomes: list[dict]) -> list[str]:
    lines = ['| verb | workdirs | kills | while it wrote | differences | left over |']
    lines.append('|---|---|---|---|---|---|')
    sums = collections.Counter()
    for verb in verbs:
      own = [one for one in outcomes if one['verb'] == verb]
      row = [len(own), *(sum(one[k] for one in own) for k in ('kills', 'writing'))]
      row += [sum(len(one[k]) for one in own) for k in ('differences', 'left over')]
      sums.update(dict(enumerate(row)))
      lines.append(f'| {verb} | {" | ".join(map(str, row))} |')
    return [*lines, f'| all | {" | ".join(str(sums[i]) for i in range(5))} |']

  return Kind(cases, table, lambda one: one['differences'])


def of_damage(folder: pathlib.Path, number: int, seed: int) -> Kind:
  """Returns damaged checkpoints, `number` of all that there can be."""

  def cases(done: dict[str, dict]) -> list[Case]:
    if len(done) >= number:
      return []
    known = damage.bases(folder)
    # Names of array files differ from run to run: a number counts as done.
    every = damage.faults(folder, known)
    random.Random(seed).shuffle(every)
    whole = [fault for fault in every if not fault.where]
    every = whole + [fault for fault in every if fault.where]
    return [
      Case(f'{i}', damage.case, (folder, fault, i, seed, known))
      for i, fault in enumerate(every[:number])
      if f'{i}' not in done
    ]

  def table(outcomes: list[dict]) -> list[str]:
    lines = [f'| fault | checkpoints | {" | ".join(damage.CLASSES)} |']
    lines.append('|---|---|' + '---|' * len(damage.CLASSES))
    counts, number = collections.defaultdict(collections.Counter), {}
    for one in outcomes:
      for what in (one['fault'][1], 'all'):
        counts[what].update(one['outcomes'].values())
        number[what] = number.get(what, 0) + 1
    for what in [*sorted({*counts} - {'all'}), *(['all'] if counts else [])]:
      row = ' | '.join(str(counts[what][each]) for each in damage.CLASSES)
      lines.append(f'| {what} | {number[what]} | {row} |')
    return lines

  def bad(one: dict) -> list[str]:
    return [
      f'{" ".join(one["fault"])}: {verb}: {what}: {one["said"][verb][-160:]!r}'
      for verb, what in one['outcomes'].items()
      if what.isupper()
    ]

  return Kind(cases, table, bad)


def of_flips(folder: pathlib.Path, number: int, seed: int) -> Kind:
  """Returns flips of single bits, `number` of them."""

  def cases(done: dict[str, dict]) -> list[Case]:
    left = [i for i in range(-(-number // _FLIPS)) if f'{i}' not in done]
    known = damage.bases(folder) if left else {}
    return [
      Case(
        f'{i}',
        damage.flips,
        (folder, i, seed, min(_FLIPS, number - i * _FLIPS), known),
      )
      for i in left
    ]

  def table(outcomes: list[dict]) -> list[str]:
    kinds = 'noticed', 'harmless', 'UNNOTICED', 'TRACEBACK'
    lines = [f'| flips in | by | {" | ".join(kinds)} |', '|---|---|---|---|---|---|']
    flips = [flip for one in outcomes for flip in one['flips']]
    for item in sorted({flip[0] for flip in flips}):
      for i, way in enumerate(('resuming', 'opening the model'), 1):
        own = collections.Counter(f[i].split(':')[0] for f in flips if f[0] == item)
        lines.append(f'| {item} | {way} | {" | ".join(str(own[k]) for k in kinds)} |')
    return lines

  def bad(one: dict) -> list[str]:
    wrong = 'UNNOTICED', 'TRACEBACK'
    return [str(f) for f in one['flips'] if any(w.startswith(wrong) for w in f[1:])]

  return Kind(cases, table, bad)


def of_disks(folder: pathlib.Path, number: int, seed: int) -> Kind:
  """Returns disks of `number` sizes, from too small for anything to large enough."""

  def cases(done: dict[str, dict]) -> list[Case]:
    if len(done) >= number:
      return []
    wanted = _trained(folder)
    mounts = forked.apart(disks.mountable, folder / 'probe')
    takes = forked.apart(disks.needed, folder, mounts)
    rng = random.Random(f'disks {seed}')
    of_files = number // 6 if mounts else number
    sizes = []
    for limit, count in (('disk', number - of_files), ('file', of_files)):
      # While a checkpoint is written there is one more than at the end.
      step = 1.5 * takes[limit] / count if count else 0
      for i in range(count):
        sizes.append((limit, int((i + rng.uniform(0.1, 1)) * step)))
    return [
      Case(f'{i}', disks.full, (folder, limit, max(size, 4096), i, wanted))
      for i, (limit, size) in enumerate(sizes)
      if f'{i}' not in done
    ]

  def table(outcomes: list[dict]) -> list[str]:
    lines = [
      '| room, KiB | exit | line | other lines | then |',
      '|---|---|---|---|---|',
    ]
    for one in sorted(outcomes, key=lambda one: (one['limit'], one['size'])):
      room = f'{one["size"] / 1024:.0f}' + ' a file' * (one['limit'] == 'file')
      then = '; '.join(one['differences']) or 'the same end'
      line = _short(one['line'])
      lines.append(f'| {room} | {one["code"]} | {line} | {one["foreign"]} | {then} |')
    return lines

  def bad(one: dict) -> list[str]:
    wrong = list(one['differences'])
    if one['code'] not in (0, 1) or (one['code'] and not one['line']):
      wrong.append(f'exit {one["code"]}: {one["line"]}')
    if one['foreign']:
      wrong.append(f'{one["foreign"]} other lines: {one["foreign lines"]}')
    return [f'{one["limit"]} of {one["size"]:,} bytes: {text}' for text in wrong]

  return Kind(cases, table, bad)


def of_others(folder: pathlib.Path, number: int) -> Kind:
  """Returns what else may happen to a workdir, the first `number` of it."""

  def cases(done: dict[str, dict]) -> list[Case]:
    left = [name for name in list(disks.SCENARIOS)[:number] if name not in done]
    if not left:
      return []
    wanted = damage.bases(folder)['left']
    return [Case(name, disks.case, (folder, name, wanted)) for name in left]

  def table(outcomes: list[dict]) -> list[str]:
    lines = ['| what | exit | line | other lines | right |', '|---|---|---|---|---|']
    for one in outcomes:
      if 'skipped' in one:
        lines.append(f'| {one["scenario"]} | | {one["skipped"]} | | |')
        continue
      right = 'yes' if one['right'] else 'NO'
      lines.append(
        f'| {one["scenario"]} | {one["code"]} | {_short(one["line"])} '
        f'| {one["foreign"]} | {right} |'
      )
    return lines

  def bad(one: dict) -> list[str]:
    return [] if one.get('right', True) else [f'{one["scenario"]}: {one["line"]!r}']

  return Kind(cases, table, bad)


def work(
  kind: str,
  of_kind: Kind,
  done: dict[str, dict],
  keep: Callable[[str, dict], None],
  workers: int,
) -> None:
  """Does the cases of a kind that are left, some at a time.

  Args:
    done: outcomes by name; is added to.
    keep: called with the name and the outcome of each case.

  Raises:
    RuntimeError: a case could not be done.
  """
  while cases := of_kind.cases(done):
    waiting, at_work, total = collections.deque(cases), {}, len(cases)
    while waiting or at_work:
      while waiting and len(at_work) < workers:
        case = waiting.popleft()
        process = forked.Apart(case.outcome, *case.given)
        at_work[process.reader] = case, process
      for reader in select.select(list(at_work), [], [])[0]:
        case, process = at_work.pop(reader)
        done[case.name] = process.value()
        keep(case.name, done[case.name])
        wrong = of_kind.bad(done[case.name])
        left = len(waiting) + len(at_work)
        _say(f'{kind} {total - left}/{total}: {case.name}: {wrong or "well"}')


def _trained(folder: pathlib.Path) -> dict[str, str]:
  """Returns what a training leaves, and keeps its workdir for verbs that need one."""
  left = place.wanted(folder, 'train')
  if not (folder / 'trained').exists():
    shutil.copytree(folder / 'undisturbed_train', folder / 'trained')
  return left


def _read(path: pathlib.Path, same: dict[str, Any]) -> dict[str, dict[str, dict]]:
  """Returns the outcomes of a file by kind and name, if they have `same` fields."""
  found: dict[str, dict[str, dict]] = collections.defaultdict(dict)
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  for line in text.split('\n')[:-1]:  # without a last one that a kill cut off
    about = json.loads(line)
    if all(about[name] == value for name, value in same.items()):
      found[about['kind']][about['name']] = about['outcome']
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text[: text.rfind('\n') + 1], encoding='utf-8')
  return found


def _sources() -> str:
  """Returns a hash of the files of gpt_jax."""
  whole = hashlib.sha256()
  for path in sorted(pathlib.Path(ROOT, 'gpt_jax').rglob('*.py')):
    whole.update(path.read_bytes())
  return whole.hexdigest()[:12]


def _short(line: str) -> str:
  """Returns a line as a cell of a table."""
  line = line.replace('|', '\\|')
  return line if len(line) < 240 else f'{line[:140]} ... {line[-90:]}'


def _say(text: str) -> None:
  print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


def _names(text: str, known: Iterable[str]) -> list[tuple[str, int]]:
  """Returns the names in a list like a:3,b with their numbers, 0 for none.

  '' is all that are known.
  """
  names = [each.partition(':') for each in (text.split(',') if text else known)]
  if wrong := [name for name, _, _ in names if name not in known]:
    sys.exit(f'error: {wrong[0]!r} is none of {", ".join(known)}')
  return [(name, int(number or 0)) for name, _, number in names]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--only', default='', help=f'some of {",".join(NUMBERS)}, or KIND:NUMBER,..')
  add('--number', type=int, default=0, help=f'of cases; 0: {NUMBERS}')
  add('--seed', type=int, default=0)
  add('--verbs', default='', help=f'that are killed: some of {",".join(place.VERBS)}')
  add('--workers', type=int, default=2, help='cases at a time')
  add('--megabytes', type=float, default=40, help='of the text that is prepared')
  add('--outcomes', default='runs/faults.jsonl', help='file of outcomes to go on from')
  args = parser.parse_args()
  only = _names(args.only, NUMBERS)
  verbs = [name for name, _ in _names(args.verbs, place.VERBS)]
  scratch = pathlib.Path(tempfile.mkdtemp(prefix='faults_'))
  for name, value in _ENVIRONMENT.items():
    os.environ[name] = os.environ.get(name) or value
  compiled = pathlib.Path(args.outcomes).absolute().with_suffix('.compiled')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(compiled))
  forked.warm()
  same = {'seed': args.seed, 'sources': _sources()}
  outcomes = _read(pathlib.Path(args.outcomes), same)
  makers = {
    'kills': lambda *given: of_kills(*given, verbs),
    'damage': of_damage,
    'flips': of_flips,
    'disks': of_disks,
    'others': lambda folder, number, seed: of_others(folder, number),
  }
  wrong = []
  try:
    folder = scratch / 'place'
    place.write(folder, args.megabytes)
    for kind, number in only:
      number = number or args.number or NUMBERS[kind]
      of_kind = makers[kind](folder, number, args.seed)

      def keep(name: str, outcome: dict, kind: str = kind) -> None:
        about = {'kind': kind, **same, 'name': name, 'outcome': outcome}
        with open(args.outcomes, 'a', encoding='utf-8') as file:
          file.write(json.dumps(about) + '\n')

      work(kind, of_kind, outcomes[kind], keep, args.workers)
      found = list(outcomes[kind].values())
      print(f'\n## {kind}\n\n' + '\n'.join(of_kind.table(found)), flush=True)
      wrong += [f'{kind}: {text}' for one in found for text in of_kind.bad(one)]
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  print(f'\n{len(wrong)} faults\n' + '\n'.join(f'- {text}' for text in wrong))
  sys.exit(1 if wrong else 0)


if __name__ == '__main__':
  with shown():
    main()
