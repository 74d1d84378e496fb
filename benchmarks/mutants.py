"""Plants faults in a copy of the tree, one by one, and says which no test catches.

  python -m benchmarks.mutants [--draw=20] [--date=2026-11-30] [--only=TEXT]

A file of tests/faults/ has the faults of a room: each replaces a text that occurs once
in a file, and names the test that should fail. First all named tests must pass without
a fault; then each fault meets its test. What survives that meets the other tests of its
room: one that they catch is told, and its entry should name that test. A fault with a
`reason` is known to survive: it is counted as missed, and not drawn.

A test that fails by an assertion, or by an exception of the code it runs, catches a
fault. One that runs too long does not; and a fault by which a module can't be imported,
or a name is not there, is none that anybody would have committed: its patch is to be
mended.

It exits with 1 if a patch does not apply or is to be mended, a named test is not there,
is skipped or does not pass without faults, or more than 3 % are missed.
"""

import argparse
import collections
import contextlib
import datetime
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import xml.etree.ElementTree
from typing import NamedTuple

from gpt_jax.cli.messages import shown
from gpt_jax.config import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAULTS = ROOT / 'tests/faults'
MOST_MISSED = 0.03
_KINDS = {'AssertionError': 'assertion', 'Failed': 'assertion'}  # pytest.raises: Failed
_SURVIVED = 'passed', 'skipped', 'timeout'
_UNREAL = 'import', 'NameError', 'SyntaxError', 'UnboundLocalError', 'IndentationError'


class Fault(NamedTuple):
  """A fault as a person might write it.

  Attributes:
    room: the name of its file in tests/faults.
    file: from the project's root.
    old: what is replaced; occurs once.
    test: ids of the tests that should fail, one a line of pytest's; the first first.
    reason: why it is known that no test fails; '': one should.
  """

  room: str
  name: str
  file: str
  old: str
  new: str
  test: str
  reason: str = ''

  def __str__(self) -> str:
    return f'{self.room}/{self.name}'


class Outcome(NamedTuple):
  """What tests said of a fault.

  Attributes:
    kind: 'passed', 'skipped', or how they failed: 'assertion', another exception's
      name, 'import' (they could not be collected), 'crash' or 'timeout'.
    where: the test that failed, or ''.
  """

  kind: str
  where: str
  seconds: float


def read(folder: pathlib.Path = FAULTS) -> list[Fault]:
  """Returns all faults, by room.

  Raises:
    UserError: one has a field too many or lacks one, or a name occurs twice.
  """
  faults = []
  for path in sorted(folder.glob('*.toml')):
    with open(path, 'rb') as stream:
      entries = tomllib.load(stream)['fault']
    for entry in entries:
      try:
        faults.append(Fault(path.stem, **entry))
      except TypeError as error:
        raise UserError(
          f'{path}: {entry.get("name")}: {error}; mend the entry'
        ) from error
  twice = [n for n, k in collections.Counter(map(str, faults)).items() if k > 1]
  if twice:
    raise UserError(f'{folder}: names that occur twice: {", ".join(twice)}; rename one')
  return faults


def wrong(fault: Fault, root: pathlib.Path = ROOT) -> str:
  """Returns why a fault can't be planted in a tree; '': it can."""
  path = root / fault.file
  if not path.is_file():
    return f'{fault.file} is not there'
  count = path.read_text(encoding='utf-8').count(fault.old)
  if count != 1:
    return f'its text occurs {count} times in {fault.file}'
  if fault.old == fault.new:
    return 'it changes nothing'
  test, _, name = fault.test.partition('::')
  name = name.partition('[')[0]
  if not (root / test).is_file():
    return f'{test} is not there'
  if not re.search(rf'^def {re.escape(name)}\(', (root / test).read_text(), re.M):
    return f'{test} has no test {name!r}'
  return ''


def drawn(faults: list[Fault], number: int, date: str) -> list[Fault]:
  """Returns the faults of a day, the same for all who ask for that day."""
  some = [fault for fault in faults if not fault.reason]
  some = random.Random(date).sample(some, min(number, len(some)))
  return sorted(some, key=faults.index)


def room_tests(fault: Fault, root: pathlib.Path = ROOT) -> list[str]:
  """Returns files of tests that import the faulty module; if none does, its room.

  They are what a survivor meets, beside all tests of its own test's file.
  """
  parts = pathlib.PurePath(fault.file).with_suffix('').parts
  texts = {
    path: path.read_text(encoding='utf-8')
    for path in sorted((root / 'tests').glob('test_*.py'))
  }
  found = []
  while len(parts) > 1 and not found:
    parent, last = '.'.join(parts[:-1]), parts[-1]
    expression = re.compile(
      rf'from {re.escape(parent)} import [^\n]*\b{last}\b'
      rf'|(?:from|import) {re.escape(parent)}\.{last}\b'
    )
    found = [path for path, text in texts.items() if expression.search(text)]
    parts = parts[:-1]
  own = root / fault.test.partition('::')[0]
  return [str(path.relative_to(root)) for path in dict.fromkeys([own, *found])]


def copied(place: pathlib.Path) -> None:
  """Copies the files of the tree that git knows or does not ignore."""
  names = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    cwd=ROOT,
    check=True,
    capture_output=True,
  ).stdout.decode()
  for name in filter(None, names.split('\0')):
    if (ROOT / name).is_file():
      (place / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, place / name)


class Tree:
  """A copy of the project in which one fault at a time is planted."""

  def __init__(self, place: pathlib.Path, compiled: pathlib.Path):
    """Makes the copy; programs that tests compile are kept in `compiled`."""
    self.place, self._writes, self.process = place, 0, None
    copied(place)
    self._environment = os.environ | {
      'JAX_COMPILATION_CACHE_DIR': str(compiled),
      'HYPOTHESIS_STORAGE_DIRECTORY': str(place / '.hypothesis'),
      'GPT_JAX_DATA': os.environ.get('GPT_JAX_DATA') or str(ROOT / '../shared/data'),
    }

  def write(self, name: str, text: str) -> None:
    """Writes a file, which no compiled form of another one can be taken for."""
    path = self.place / name
    path.write_text(text, encoding='utf-8')
    # Python takes a compiled module for that of a source of the same size and second.
    self._writes += 2
    os.utime(path, (self._writes, self._writes))

  def run(self, tests: list[str], seconds: float, *options: str) -> Outcome:
    """Runs tests until one fails."""
    report = self.place / '.outcome.xml'
    report.unlink(missing_ok=True)
    shutil.rmtree(self.place / '.hypothesis', ignore_errors=True)
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '--tb=line', '-p']
    command += ['no:cacheprovider', '--hypothesis-seed=0', f'--junitxml={report}']
    begin = time.monotonic()
    process = self.process = subprocess.Popen(
      [*command, *options, *tests],
      cwd=self.place,
      env=self._environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    try:
      said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      return Outcome('timeout', tests[0], time.monotonic() - begin)
    finally:
      _end(process)
    took = time.monotonic() - begin
    if not report.exists():  # conftest.py itself could not be imported, or a crash
      last = said.decode(errors='replace').strip().rpartition('\n')[2]
      return Outcome('import' if 'conftest' in str(said) else 'crash', last, took)
    return _of_report(report, took)

  def try_out(self, fault: Fault, tests: list[str], seconds: float) -> Outcome:
    """Runs tests with a fault planted, and mends it again."""
    text = (self.place / fault.file).read_text(encoding='utf-8')
    self.write(fault.file, text.replace(fault.old, fault.new))
    try:
      return self.run(tests, seconds)
    finally:
      self.write(fault.file, text)


def _end(process: subprocess.Popen | None) -> None:
  """Ends a process and what it started."""
  if process is None:
    return
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _of_report(report: pathlib.Path, seconds: float) -> Outcome:
  """Returns what a report of pytest says."""
  cases = list(xml.etree.ElementTree.parse(report).iter('testcase'))
  for case in cases:
    name = f'{case.get("classname")}::{case.get("name")}'
    failure, error = case.find('failure'), case.find('error')
    if failure is not None:
      # 'AssertionError: ...', 'assert a == b' or 'Failed: DID NOT RAISE ..'
      first = re.match(r'[\w.]*', failure.get('message') or '')[0].rpartition('.')[2]
      kind = 'assertion' if first == 'assert' else _KINDS.get(first, first or 'failed')
      return Outcome(kind, name, seconds)
    if error is not None:
      said = error.get('message') or ''
      where = re.search(r'failed on \w+ with "([\w.]+)', said)
      raised = where[1].rpartition('.')[2] if where else 'import'
      return Outcome(_KINDS.get(raised, raised), name, seconds)
  if not cases or all(case.find('skipped') is not None for case in cases):
    return Outcome('skipped', '', seconds)
  return Outcome('passed', '', seconds)


class Verdicts:
  """What came of each fault, printed as it comes."""

  def __init__(self, number: int):
    self.number, self.lock = number, threading.Lock()
    self.caught: dict[Fault, Outcome] = {}
    self.elsewhere: dict[Fault, Outcome] = {}  # by another test than the named one
    self.missed: list[Fault] = []
    self.unreal: dict[Fault, Outcome] = {}

  def add(self, fault: Fault, outcome: Outcome, named: bool) -> None:
    with self.lock:
      if outcome.kind in _SURVIVED:
        self.missed.append(fault)
      elif outcome.kind in _UNREAL:
        self.unreal[fault] = outcome
      elif named:
        self.caught[fault] = outcome
      else:
        self.elsewhere[fault] = outcome
      results = self.caught, self.elsewhere, self.missed, self.unreal
      word = f'caught ({outcome.kind})'
      word = f'{word} only by {outcome.where}' if fault in self.elsewhere else word
      word = f'MISSED ({outcome.kind})' if fault in self.missed else word
      word = f'TO BE MENDED ({outcome.kind})' if fault in self.unreal else word
      print(
        f'{sum(map(len, results))}/{self.number}  {fault}: {word}, '
        f'{outcome.seconds:.0f} s',
        flush=True,
      )


def work(
  trees: list[Tree], faults: list[Fault], seconds: float, survivors: float
) -> Verdicts:
  """Returns what tests say of each fault, a worker for each tree."""
  verdicts, left = Verdicts(len(faults)), queue.SimpleQueue()
  stopped = threading.Event()
  for fault in faults:
    left.put(fault)

  def turn(tree: Tree) -> None:
    while not stopped.is_set():
      try:
        fault = left.get_nowait()
      except queue.Empty:
        return
      outcome, named = tree.try_out(fault, [fault.test], seconds), True
      if outcome.kind in _SURVIVED and survivors and not stopped.is_set():
        outcome, named = tree.try_out(fault, room_tests(fault), survivors), False
      if not stopped.is_set():
        verdicts.add(fault, outcome, named)

  threads = [threading.Thread(target=turn, args=(tree,)) for tree in trees]
  for thread in threads:
    thread.start()
  try:
    for thread in threads:
      thread.join()
  except BaseException:  # Ctrl-C: leave no tests behind
    stopped.set()
    for tree in trees:
      _end(tree.process)
    raise
  return verdicts


def unfit(tree: Tree, faults: list[Fault], workers: int) -> list[str]:
  """Returns the named tests that do not pass where there is no fault, and why."""
  tests = list(dict.fromkeys(fault.test for fault in faults))
  options = ['-n', str(workers), '--dist', 'loadfile'] if workers > 1 else []
  outcome = tree.run(tests, 3600, '--maxfail=1000', '-rs', *options)
  found = []
  passed, skipped = collections.Counter(), collections.Counter()
  report = tree.place / '.outcome.xml'
  cases = (
    xml.etree.ElementTree.parse(report).iter('testcase') if report.exists() else ()
  )
  for case in cases:
    file = case.get('classname').replace('.', '/') + '.py'
    name = f'{file}::{case.get("name")}'
    counts = skipped if case.find('skipped') is not None else passed
    counts[name.partition('[')[0]] += 1
    if case.find('failure') is not None or case.find('error') is not None:
      found.append(f'{name} fails without a fault')
  for test in tests:
    bare = test.partition('[')[0]
    if not passed[bare]:
      why = (
        'is skipped, so that it can catch nothing' if skipped[bare] else 'did not run'
      )
      found.append(f'{test} {why}')
  if outcome.kind in ('timeout', 'crash', 'import'):
    found.append(f'the named tests without a fault: {outcome.kind}: {outcome.where}')
  return found


def table(faults: list[Fault], verdicts: Verdicts) -> str:
  """Returns caught and missed faults by room, in words."""
  lines = ['', f'{"room":12} caught  missed']
  for room in dict.fromkeys(fault.room for fault in faults):
    own = [fault for fault in faults if fault.room == room]
    missed = sum(fault in verdicts.missed for fault in own)
    caught = sum(
      fault in verdicts.caught or fault in verdicts.elsewhere for fault in own
    )
    lines.append(f'{room:12} {caught:6}  {missed:6}')
  missed = len(verdicts.missed)
  share = 100 * missed / max(1, len(faults))
  caught = len(verdicts.caught) + len(verdicts.elsewhere)
  lines.append(f'{"all":12} {caught:6}  {missed:6} ({share:.1f} %)')
  kinds = collections.Counter(
    each.kind for each in [*verdicts.caught.values(), *verdicts.elsewhere.values()]
  )
  lines.append('by ' + ', '.join(f'{kind} {n}' for kind, n in kinds.most_common()))
  for fault in verdicts.missed:
    lines.append(f'missed: {fault} ({fault.reason or f"not by {fault.test}"})')
  for fault, outcome in verdicts.unreal.items():
    lines.append(f'to be mended: {fault}: {outcome.kind} in {outcome.where}')
  for fault, outcome in verdicts.elsewhere.items():
    lines.append(f'not by its test: {fault}: by {outcome.where}, not by {fault.test}')
  for fault in faults:
    if fault.reason and fault not in verdicts.missed:
      lines.append(f'no survivor any more: {fault}: leave its reason out')
  return '\n'.join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--draw', type=int, default=0, help='so many, drawn by date; 0: all')
  add('--date', default=f'{datetime.datetime.now(datetime.UTC):%Y-%m-%d}')
  add('--only', default='', help='faults whose ROOM/NAME has one of these: A,B')
  add('--workers', type=int, default=2, help='faults at a time')
  add('--seconds', type=float, default=120, help='for the named test of a fault')
  add('--survivors', type=float, default=300, help='seconds for tests of its room')
  add('--unchecked', action='store_true', help='named tests are known to pass')
  args = parser.parse_args()
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  begin, faults = time.monotonic(), read()
  texts = args.only.split(',')
  faults = [fault for fault in faults if any(text in str(fault) for text in texts)]
  broken = [f'{fault}: {why}' for fault in faults if (why := wrong(fault))]
  if broken:
    print('\n'.join(broken))
    return 1
  if args.draw:
    faults = drawn(faults, args.draw, args.date)
    print(f'{len(faults)} faults of --draw={args.draw} --date={args.date}')
  with tempfile.TemporaryDirectory(prefix='mutants_') as scratch:
    place = pathlib.Path(scratch)
    compiled = place / 'compiled'
    trees = [Tree(place / f'tree_{i}', compiled) for i in range(args.workers)]
    found = [] if args.unchecked else unfit(trees[0], faults, args.workers)
    if found:
      print('\n'.join(found))
      return 1
    print(f'{time.monotonic() - begin:.0f} s: the named tests pass', flush=True)
    verdicts = work(trees, faults, args.seconds, args.survivors)
  print(table(faults, verdicts))
  print(f'{(time.monotonic() - begin) / 60:.1f} minutes')
  return int(len(verdicts.missed) > MOST_MISSED * len(faults) or bool(verdicts.unreal))


if __name__ == '__main__':
  with shown():
    sys.exit(main())
