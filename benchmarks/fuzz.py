"""Damages small files of every kind that is read, and counts how the readers end.

  python -m benchmarks.fuzz --inputs=10000 --seed=0
  python -m benchmarks.fuzz --only=weights/gpt2:1234

Every input is made of valid files (fuzz_readers.py), one of which is changed: bits,
bytes, slices and numbers, values and nesting of JSON; of packed files also what is in
them. A reader must read it, or refuse it with one UserError. Any other exception, more
than 5 seconds of processor time, more than 500 MB, or an error that nobody would read
(a line of over 1,000 characters) is a failure: it is listed, and the script ends with
1. An input follows from seed, reader and number alone, so `--only` makes it again.
Should one end the process itself, the file `now` beside the damaged files names it.

A plain mutator with a seed: what breaks readers here is the structure of files (a list
where an object was, a header that promises more than there is), which takes a dozen
lines to damage on purpose. A coverage-guided fuzzer would see only Python's share, and
Hypothesis would generate files from nothing, few of which come past the first check.
"""

import collections
import contextlib
import faulthandler
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'tests'))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from gpt_jax.cli.messages import run_script  # noqa: E402
from gpt_jax.config import UserError  # noqa: E402

SLOW = 5.0  # seconds of processor time
MEMORY = 500 << 20  # bytes
LONG = 1000  # characters of a line of an error
_HANG = 60  # seconds until an input is given up
_STUCK = 600  # seconds until the process is: some code of others hears no signal
_ADDRESSES = 6 << 30  # bytes of address space above those at the start
_EVERY = 10.0  # seconds between lines of progress
OUTCOMES = 'read', 'refused', 'traceback', 'slow', 'memory', 'long'

_TOKENS = (
  *(b'', b'\0', b'[', b'{', b'}', b']', b'"', b',', b':', b'\\', b'\n', b'\r\n', b'\t'),
  *(b'null', b'true', b'-1', b'0', b'1e400', b'NaN', b'-Infinity', b'9' * 30, b'{x:}'),
  *(b'\xff', b'\xef\xbb\xbf', b'\\ud800', b'\xed\xa0\x80', b'\xe2\x80\xa8', b'<', b'/'),
)
_VALUES = (
  *(None, True, False, 0, -1, 1, 2**31, 2**64, 10**30, 10**400, -0.5, 1e308, math.nan),
  *(math.inf, '', 'x', 'x' * 5000, '\ud800', '\0', '../x', '7', [], {}, [[]], {'a': 1}),
  *([None], ['a', 'b'], 1000000000, [[['deep']]]),
)


class Reader(NamedTuple):
  """A reader with files that it reads.

  Attributes:
    name: GROUP/NAME.
    files: valid contents by name; a name may have folders.
    read: of the folder that holds them.
    damaged: names of the files to damage; none: all.
    packed: by name, (unpack, pack) of a file: what is packed is damaged too.
  """

  name: str
  files: dict[str, bytes]
  read: Callable[[pathlib.Path], Any]
  damaged: Sequence[str] = ()
  packed: dict[str, tuple[Callable, Callable]] = {}


class Failure(NamedTuple):
  """An input that ended badly."""

  place: str
  outcome: str
  why: str


class _Hang(BaseException):
  """An input took too long."""


def damaged(data: bytes, draw: random.Random) -> bytes:
  """Returns contents changed in one to three places."""
  for _ in range(draw.choice((1, 1, 1, 2, 3))):
    structured = draw.random() < 0.5 and _structure(data, draw)
    data = structured if structured else draw.choice(_CHANGES)(data, draw)
  return data


def _slice(data: bytes, draw: random.Random) -> tuple[int, int]:
  start = draw.randrange(len(data) + 1)
  longest = draw.choice((1, 4, 64, len(data)))
  return start, min(len(data), start + draw.randint(0, longest))


def _flip(data: bytes, draw: random.Random) -> bytes:
  changed = bytearray(data)
  for _ in range(draw.choice((1, 1, 1, 8)) if data else 0):
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
  return bytes(changed)


def _truncate(data: bytes, draw: random.Random) -> bytes:
  return data[: draw.randrange(len(data) + 1)]


def _remove(data: bytes, draw: random.Random) -> bytes:
  start, end = _slice(data, draw)
  return data[:start] + data[end:]


def _repeat(data: bytes, draw: random.Random) -> bytes:
  start, end = _slice(data, draw)
  times = draw.choice((2, 2, 3, 100)) if end - start < 1000 else 2
  return data[:start] + data[start:end] * times + data[end:]


def _move(data: bytes, draw: random.Random) -> bytes:
  (start, end), at = _slice(data, draw), draw.randrange(len(data) + 1)
  return data[:at] + data[start:end] + data[at:]


def _zero(data: bytes, draw: random.Random) -> bytes:
  start, end = _slice(data, draw)
  return data[:start] + bytes(end - start) + data[end:]


def _insert(data: bytes, draw: random.Random) -> bytes:
  at = draw.randrange(len(data) + 1)
  token = draw.choice((draw.choice(_TOKENS), draw.randbytes(draw.randint(1, 8))))
  if draw.random() < 0.02:
    token = draw.choice((b'[', b'{"a":', b'x', b'0', b' ', b'(')) * 100_000
  elif draw.random() < 0.0005:
    token = b'y' * (40 << 20)
  return data[:at] + token + data[at + draw.choice((0, len(token))) :]


def _number(data: bytes, draw: random.Random) -> bytes:
  """Changes a number that is written in digits, or 4 bytes that may be a size."""
  at = [i for i, byte in enumerate(data[: 1 << 16]) if 48 <= byte <= 57]
  if at and draw.random() < 0.7:
    start = draw.choice(at)
    end = start
    while end < len(data) and 48 <= data[end] <= 57:
      end += 1
    absurd = draw.choice((b'0', b'-1', b'1000000000', b'9' * 25, b'1e9', b'0.5', b'7'))
    return data[:start] + absurd + data[end:]
  start = draw.randrange(len(data) + 1)
  size = draw.choice((1, 2, 4, 8))
  value = draw.choice((0, 1, 127, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
  raw = (value % 256**size).to_bytes(size, 'little')
  return data[:start] + raw + data[start + size :]


def _nothing(data: bytes, draw: random.Random) -> bytes:
  return draw.choice((b'', b'\n', b'\0' * len(data), data[::-1], b' ', b'{}', b'[]'))


_CHANGES = _flip, _truncate, _remove, _repeat, _move, _zero, _insert, _number, _nothing
_CHANGES = (*_CHANGES, _flip, _insert, _number)


def _structure(data: bytes, draw: random.Random) -> bytes:
  """Returns contents with a changed value of their JSON; b'' where there is none."""
  header = b''
  if data[8:9] == b'{':  # safetensors: the header's length, the header, the tensors
    length = int.from_bytes(data[:8], 'little')
    inner, rest = _json(data[8 : 8 + length], draw), data[8 + length :]
    return len(inner).to_bytes(8, 'little') + inner + rest if inner else b''
  if data[:1] not in b'[{' or not data:
    return b''
  lines = data.split(b'\n')
  at = draw.randrange(len(lines))
  if changed := _json(data, draw):
    return header + changed
  lines[at] = _json(lines[at], draw)
  return b'\n'.join(lines) if lines[at] else b''


def _json(data: bytes, draw: random.Random) -> bytes:
  try:
    value = json.loads(data)
  except (ValueError, RecursionError):
    return b''
  places = []

  def visit(owner: Any) -> None:
    keys = list(owner) if isinstance(owner, dict) else range(len(owner))
    for key in keys:
      places.append((owner, key))
      if isinstance(owner[key], (dict, list)) and len(places) < 5000:
        visit(owner[key])

  if isinstance(value, (dict, list)):
    with contextlib.suppress(RecursionError):
      visit(value)
  if not places or draw.random() < 0.03:
    return _dumped(draw.choice(_VALUES))
  owner, key = draw.choice(places)
  change = draw.randrange(8)
  if change == 0:
    del owner[key]
  elif change == 1:
    other, place = draw.choice(places)
    if place in (other if isinstance(other, dict) else range(len(other))):
      owner[key] = json.loads(json.dumps(other[place]))
  elif change == 2 and isinstance(owner, dict):
    owner[draw.choice(('', 'x', key.upper(), 'where', 'a' * 3000))] = owner.pop(key)
  elif change == 2 or (change == 3 and isinstance(owner, list)):
    owner.insert(key, owner[key])
  elif change == 4:
    owner[key] = draw.choice(([owner[key]], {'a': owner[key]}, str(owner[key])))
  else:
    owner[key] = draw.choice(_VALUES)
  return _dumped(value)


def _dumped(value: Any) -> bytes:
  with contextlib.suppress(ValueError, RecursionError):
    return json.dumps(value).encode()
  return b''


def place(reader: Reader, number: int, seed: int, folder: pathlib.Path) -> None:
  """Fills a folder with the reader's files, one of them damaged."""
  draw = random.Random(f'{seed} {reader.name} {number}')
  shutil.rmtree(folder, ignore_errors=True)
  folder.parent.joinpath('now').write_text(f'{reader.name}:{number}')
  name = draw.choice(reader.damaged or list(reader.files))
  for each, data in reader.files.items():
    path = folder / each
    path.parent.mkdir(parents=True, exist_ok=True)
    if each == name:
      unpack, pack = reader.packed.get(each, (None, None))
      if pack and draw.random() < 0.5:
        data = pack(damaged(unpack(data), draw))
      else:
        data = damaged(data, draw)
    path.write_bytes(data)


def tried(reader: Reader, folder: pathlib.Path) -> tuple[str, str]:
  """Returns how a reader ends on a folder, one of OUTCOMES, and why."""
  before = _resident()
  if _peak() - before > MEMORY:
    _forget_peak()
  peak = _peak()
  begin, outcome, why = time.process_time(), 'read', ''
  faulthandler.dump_traceback_later(_STUCK, exit=True)
  signal.setitimer(signal.ITIMER_REAL, _HANG)
  try:
    reader.read(folder)
  except UserError as error:
    longest = max(map(len, str(error).replace(str(folder), '').split('\n')))
    outcome = 'long' if longest > LONG else 'refused'
    why = f'{longest} characters: {str(error)[:200]}' if longest > LONG else ''
  except _Hang:
    outcome, why = 'slow', f'more than {_HANG} s'
  except KeyboardInterrupt:
    raise
  except BaseException as error:  # a panic of Rust's is no Exception
    signal.setitimer(signal.ITIMER_REAL, 0)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f'{pathlib.Path(last.filename).name}:{last.lineno}'
    outcome, why = 'traceback', f'{where}: {type(error).__name__}: {str(error)[:200]}'
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
  seconds, most = time.process_time() - begin, _peak()
  if outcome in ('read', 'refused') and seconds > SLOW:
    outcome, why = 'slow', f'{seconds:.1f} s'
  if most > peak and most - before > MEMORY:
    if outcome in ('read', 'refused'):
      outcome, why = 'memory', f'{(most - before) >> 20} MB'
    _forget_peak()
  return outcome, why


def _resident() -> int:
  pages = pathlib.Path('/proc/self/statm').read_bytes().split()[1]
  return int(pages) * resource.getpagesize()


def _peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak() -> None:
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def _stop(signum: int, frame: Any) -> None:
  raise _Hang


def run(
  readers: Sequence[Reader],
  inputs: int,
  seed: int,
  folder: pathlib.Path,
  report: Callable[[str], None] = print,
) -> tuple[dict[str, collections.Counter], list[Failure]]:
  """Returns outcomes by reader, and the failures.

  Args:
    inputs: in all; readers take turns.
    folder: is emptied for each input.
  """
  before = signal.signal(signal.SIGALRM, _stop)
  counts = {reader.name: collections.Counter() for reader in readers}
  failures: list[Failure] = []
  begin = said = time.monotonic()
  for done in range(inputs):
    number, at = divmod(done, len(readers))
    reader = readers[at]
    place(reader, number, seed, folder)
    outcome, why = tried(reader, folder)
    counts[reader.name][outcome] += 1
    if outcome not in ('read', 'refused'):
      failures.append(Failure(f'{reader.name}:{number}', outcome, why))
      report(f'{failures[-1].place}: {outcome}: {why}')
    now = time.monotonic()
    if now - said > _EVERY:
      said = now
      rate = (done + 1) / (now - begin)
      report(f'{done + 1:,} of {inputs:,} inputs, {rate:.0f} a second')
  signal.signal(signal.SIGALRM, before)
  return counts, failures


def table(counts: dict[str, collections.Counter]) -> str:
  """Returns the counts as Markdown, a row for each group of readers."""
  groups: dict[str, collections.Counter] = {}
  sizes = collections.Counter(name.split('/')[0] for name in counts)
  for name, own in counts.items():
    groups.setdefault(name.split('/')[0], collections.Counter()).update(own)
  groups['**all**'] = sum(groups.values(), collections.Counter())
  sizes['**all**'] = len(counts)
  head = 'reader', 'kinds', 'inputs', 'read', 'refused', 'traceback', '> 5 s'
  head = (*head, '> 500 MB', 'unreadable error')
  rows = [
    [name, sizes[name], own.total(), *(own[outcome] for outcome in OUTCOMES)]
    for name, own in groups.items()
  ]
  lines = [head, ['---'] + ['---:'] * (len(head) - 1)]
  lines += [[row[0], *(f'{cell:,}' for cell in row[1:])] for row in rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main(argv: Sequence[str]) -> int:
  """Runs the inputs and prints the table."""
  del argv
  from benchmarks.fuzz_readers import readers

  shared = pathlib.Path('/dev/shm')
  with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
    every, folder = readers(), pathlib.Path(name) / 'input'
    if _ONLY.value:
      name, _, number = _ONLY.value.rpartition(':')
      reader = next((each for each in every if each.name == name), None)
      if reader is None or not number.isdecimal():
        names = ', '.join(each.name for each in every)
        raise UserError(
          f'--only={_ONLY.value} must be READER:NUMBER, a reader of {names}'
        )
      place(reader, int(number), _SEED.value, folder)
      if _KEEP.value:
        shutil.copytree(folder, _KEEP.value, dirs_exist_ok=True)
      print(reader.read(folder))
      return 0
    every = [each for each in every if each.name.startswith(_READERS.value)]
    size = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    most = size * resource.getpagesize() + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    begin = time.monotonic()
    counts, failures = run(every, _INPUTS.value, _SEED.value, folder, say)
  seconds = time.monotonic() - begin
  print(table(counts))
  print(f'\n{_INPUTS.value:,} inputs in {seconds:.0f} s, seed {_SEED.value}')
  for each in failures[:100]:
    print(f'--only={each.place}  {each.outcome}: {each.why}')
  return 1 if failures else 0


if __name__ == '__main__':
  _INPUTS = flags.DEFINE_integer('inputs', 10_000, 'how many, over all readers')
  _SEED = flags.DEFINE_integer('seed', 0, 'of the changes')
  _ONLY = flags.DEFINE_string('only', '', 'READER:NUMBER, one input with its traceback')
  _KEEP = flags.DEFINE_string('keep', '', 'with --only: a folder for the damaged files')
  _READERS = flags.DEFINE_string('readers', '', 'what the names of readers begin with')
  run_script(main)
