"""Runs the code of a markdown page, and compares what it prints with the page.

Blocks ```python run in one namespace, one after the other, as in a session; blocks
```bash run from the repository root, where `python` is this interpreter. A block
```text right behind one of them is its output:

  ```text          compared to the letter
  ```text trained  words to the letter; numbers with a decimal point may differ by 5 %
                   and one unit of their last digit: training rounds differently on
                   other processors. `text trained 20 %` allows 20 %
  ```text drawn    only the number of lines is compared: sampled text

Blocks of any other kind are not looked at. With --update outputs are written into the
page instead, and so are its pictures: a page that shows tutorial/NAME shows a copy of
runs/tutorial/pictures/NAME, which its own blocks must have made.

  python experiments/tutorial/run.py docs/tutorial.md docs/tutorial.ru.md
"""

import contextlib
import difflib
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax.cli.messages import shown
from gpt_jax.files import write_whole

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTURES = ROOT / 'runs/tutorial/pictures'
_TOLERANCE = 0.05
# So that what commands print has one width and no colours.
_TERMINAL = {'COLUMNS': '80', 'NO_COLOR': '1', 'TERM': 'dumb', 'PYTHONUTF8': '1'}
_NUMBER = re.compile(r'-?\d+\.\d+(?:e[-+]\d+)?')


class Block(NamedTuple):
  """A fenced block of a page.

  Attributes:
    info: what stands behind the opening fence: 'python', 'text trained', ...
    line: of its first line of text, from 1.
    text: without the fences; ends with a line break unless empty.
  """

  info: str
  line: int
  text: str


class Failed(Exception):
  """A block did not do what the page says; the message has file, line and reason."""


def blocks(page: str) -> list[Block]:
  """Returns the fenced blocks of a page, in order."""
  found, info, start = [], None, 0
  lines = page.splitlines(keepends=True)
  for number, line in enumerate(lines, 1):
    if not line.startswith('```'):
      continue
    if info is None:
      info, start = line[3:].strip(), number
    else:
      found.append(Block(info, start + 1, ''.join(lines[start : number - 1])))
      info = None
  return found


def is_output(block: Block) -> bool:
  """Returns whether a block is compared with what the block before it printed."""
  return block.info.split(' ')[0] == 'text'


def differs(expected: str, got: str, info: str) -> bool:
  """Returns whether an output is another than the page's, by the rule of its block.

  Args:
    expected: the page's.
    got: what was printed.
    info: of the page's block.
  """
  _, *rule = info.split()
  if rule == ['drawn']:
    return expected.count('\n') != got.count('\n')
  if not rule:
    return expected != got
  tolerance = float(rule[1]) / 100 if len(rule) > 1 else _TOLERANCE
  if _NUMBER.split(expected) != _NUMBER.split(got):
    return True
  pairs = zip(_NUMBER.findall(expected), _NUMBER.findall(got), strict=True)
  return any(_apart(a, b, tolerance) for a, b in pairs)


def _apart(a: str, b: str, tolerance: float) -> bool:
  """Returns whether two printed numbers differ by more than they may."""
  mantissa, _, power = a.partition('e')
  last_digit = 10.0 ** (int(power or 0) - len(mantissa.partition('.')[2]))
  x, y = float(a), float(b)
  return abs(x - y) > tolerance * max(abs(x), abs(y)) + 1.001 * last_digit


def run_block(block: Block, page: pathlib.Path, names: dict) -> str:
  """Returns what a block of code prints.

  Raises:
    Failed: it raised, or a command of it failed.
  """
  if block.info == 'bash':
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    done = subprocess.run(
      ['bash', '-c', f'set -e -o pipefail\n{python}{block.text}'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      encoding='utf-8',
      env=os.environ | _TERMINAL | {'PYTHONPATH': str(ROOT)},
    )
    if done.returncode:
      end = '\n'.join((done.stdout + done.stderr).splitlines()[-30:])
      raise Failed(
        f'{page}:{block.line}: the commands ended with {done.returncode}\n{end}'
      )
    return done.stdout
  printed = io.StringIO()
  try:
    # Blank lines before the code, so that a traceback names lines of the page.
    code = compile('\n' * (block.line - 1) + block.text, str(page), 'exec')
    with contextlib.redirect_stdout(printed):
      exec(code, names)
  except Exception as error:
    told = ''.join(traceback.format_exception(error))
    raise Failed(f'{page}:{block.line}: the code raised\n{told}') from error
  return printed.getvalue()


def outputs(page: pathlib.Path) -> list[tuple[Block, str]]:
  """Runs a page, and returns each block of output with what was printed in its place.

  Raises:
    Failed: code failed, output has no code before it, or code printed where the page
      has no output.
  """
  found, names, printed = [], {'__name__': '__main__'}, None
  every = blocks(page.read_text(encoding='utf-8'))
  code = sum(block.info in ('python', 'bash') for block in every)
  done = 0
  for at, block in enumerate(every):
    if block.info in ('python', 'bash'):
      done += 1
      begun = time.monotonic()
      first = block.text.strip().splitlines()[0][:50] if block.text.strip() else ''
      print(f'{page.name} {done}/{code} line {block.line}: {first}', end='', flush=True)
      printed = run_block(block, page, names)
      print(f'  ({time.monotonic() - begun:.1f} s)', flush=True)
      follows = at + 1 < len(every) and is_output(every[at + 1])
      if printed and not follows:
        raise Failed(
          f'{page}:{block.line}: this printed, and no ```text block follows\n{printed}'
        )
    elif is_output(block):
      if printed is None:
        raise Failed(f'{page}:{block.line}: output without code before it')
      found.append((block, printed if printed.endswith('\n') else printed + '\n'))
      printed = None
  return found


def pictures(text: str) -> list[str]:
  """Returns the names of the pictures of a page that its own blocks make."""
  return re.findall(r'!\[[^\]]*\]\(tutorial/([^)/]+)\)', text)


def check(page: pathlib.Path) -> None:
  """Runs a page and compares.

  Raises:
    Failed: as `outputs`, or an output differs, with all differences; or a picture that
      the page shows was not made.
  """
  wrong = []
  for block, got in outputs(page):
    if differs(block.text, got, block.info):
      diff = difflib.unified_diff(
        block.text.splitlines(),
        got.splitlines(),
        f'{page}:{block.line} ({block.info})',
        'printed now',
        lineterm='',
      )
      wrong.append('\n'.join(diff))
  for name in pictures(page.read_text(encoding='utf-8')):
    if not (PICTURES / name).exists():
      wrong.append(
        f'{page}: shows tutorial/{name}, and no block made {PICTURES / name}'
      )
  if wrong:
    raise Failed('\n'.join(wrong))


def update(page: pathlib.Path) -> None:
  """Runs a page and writes its outputs and pictures."""
  text = page.read_text(encoding='utf-8')
  lines = text.splitlines(keepends=True)
  for block, got in reversed(outputs(page)):
    start = block.line - 1
    lines[start : start + block.text.count('\n')] = [got]
  write_whole(page, ''.join(lines))
  for name in pictures(text):
    (page.parent / 'tutorial').mkdir(exist_ok=True)
    shutil.copyfile(PICTURES / name, page.parent / 'tutorial' / name)


def main(argv: list[str]) -> int:
  """Runs pages; returns 0 if all is as they say, else 1."""
  pages = [pathlib.Path(name).resolve() for name in argv if name != '--update']
  begun, failed = time.monotonic(), False
  os.chdir(ROOT)
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # what the pages were written on
  compiled = ROOT / 'runs/tutorial/compiled'  # programs, for pages and commands
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(compiled))
  PICTURES.mkdir(parents=True, exist_ok=True)
  for page in pages:
    try:
      (update if '--update' in argv else check)(page)
      print(f'{page}: {"written" if "--update" in argv else "all as it says"}')
    except Failed as error:
      print(f'\n{error}', file=sys.stderr)
      failed = True
  print(f'{time.monotonic() - begun:.0f} seconds')
  return int(failed)


if __name__ == '__main__':
  with shown():
    sys.exit(main(sys.argv[1:]))
