"""Programs compiled for devices that are not there, before and after: a table.

usage: python -m benchmarks.absent [--only=TEXT] [--before=REF] [--no-run]

Compiles each row for the code of a commit (`before`) and of this tree (`after`), reads
XLA's texts (`gpt_jax.programs`), and writes results/absent.md. What is compiled is kept
in runs/absent, by the hash of the program and of what compiles it: stopped, it goes on
with the row that it was at, and a row whose program is as it was is not compiled again.
`make absent` runs it in the environment that has the compilers.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt_jax.cli.messages import shown
from gpt_jax.programs import hlo, roofline

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / 'runs/absent'
PAGE = ROOT / 'benchmarks/results/absent.md'
BEFORE = '8bcc6df'  # before anything was made for accelerators


def _row(name: str, device: str, what: str, **of: Any) -> dict:
  return {'name': name, 'device': device, 'what': what, **of}


_LARGE = {'scan': True, 'remat': 'block'}
ROWS = (
  _row('124M, 32 rows', 'h100', 'update', size='124M', rows=32),
  _row('124M, 32 rows, loss_chunk=128', 'h100', 'update', size='124M', rows=32,
       loss_chunk=128),
  _row('1.5B, 8 rows', 'h100', 'update', size='1558M', rows=8),
  _row('124M, 1 row, 128 slots', 'h100', 'token', size='124M', rows=1, slots=128),
  _row('124M, 1 row, 1,024 slots', 'h100', 'token', size='124M', rows=1, slots=1024),
  _row('124M, 8 rows, 128 slots', 'h100', 'token', size='124M', rows=8, slots=128),
  _row('124M, 4 beams, 128 slots', 'h100', 'token', size='124M', rows=1, slots=128,
       beams=4),
  _row('124M, int8, 1 row, 128 slots', 'h100', 'token', size='124M', rows=1,
       slots=128, bits=8),
  _row('124M, int4, 1 row, 128 slots', 'h100', 'token', size='124M', rows=1,
       slots=128, bits=4),
  _row('1.5B, 1 row, 128 slots', 'h100', 'token', size='1558M', rows=1, slots=128),
  _row('1.5B, int8, 1 row, 128 slots', 'h100', 'token', size='1558M', rows=1,
       slots=128, bits=8),
  _row('1.5B, int4, 1 row, 128 slots', 'h100', 'token', size='1558M', rows=1,
       slots=128, bits=4),
  _row('124M, fsdp, 256 rows', 'h100:8', 'update', size='124M', rows=256,
       layout='fsdp=8'),
  _row('124M, data, 64 rows', 'v5e:2x4', 'update', size='124M', rows=64,
       layout='data=8'),
  _row('124M, data, 64 rows', 'v5p:2x2x1', 'update', size='124M', rows=64,
       layout='data=4'),
  _row('1.5B, fsdp, 64 rows', 'h100:8', 'update', size='1558M', rows=64,
       layout='fsdp=8', model=_LARGE),
  _row('1.5B, fsdp, 64 rows', 'v5p:2x2x2', 'update', size='1558M', rows=64,
       layout='fsdp=8', model=_LARGE),
  _row('13B, fsdp, 64 rows', 'h100:64', 'update', size='13B', rows=64,
       layout='fsdp=64', model=_LARGE),
  _row('13B, fsdp, 64 rows', 'v5p:4x4x4', 'update', size='13B', rows=64,
       layout='fsdp=64', model=_LARGE),
  _row('175B, fsdp and tensor, 64 rows', 'h100:512', 'update', size='175B', rows=64,
       layout='fsdp=64,tensor=8', model=_LARGE),
  _row('175B, fsdp and tensor, 64 rows', 'v5p:8x8x8', 'update', size='175B', rows=64,
       layout='fsdp=64,tensor=8', model=_LARGE),
)  # fmt: skip


class Counted(NamedTuple):
  """What the tool says of a row's program.

  Attributes:
    of: the estimate; None where it was not compiled.
    facts: that its compilation left.
    wrong: why there is no estimate, or why it can't be true; '' where it can.
  """

  of: roofline.Estimate | None
  facts: dict
  wrong: str = ''


def code_of(tree: pathlib.Path) -> str:
  """Returns a hash of the code that makes programs in a tree."""
  digest = hashlib.sha256((ROOT / 'benchmarks/absent_row.py').read_bytes())
  for path in sorted((tree / 'gpt_jax').rglob('*.py')):
    if path.parent.name != 'programs':
      digest.update(path.read_bytes())
  return digest.hexdigest()


def compiled(
  row: dict,
  tree: pathlib.Path,
  python: str,
  code: str,
  settings: Mapping[str, str] = types.MappingProxyType({}),
) -> str:
  """Returns the hash of a row's program, or, with a space in it, what went wrong.

  Args:
    tree: whose code makes the program.
    python: that has the compilers; '': what is there already counts.
    code: hash of that code.
    settings: variables of the environment that it is compiled with.
  """
  given = [code, json.dumps(row), *(f'{k}={v}' for k, v in settings.items())]
  same = hashlib.sha256(' '.join(given).encode()).hexdigest()[:16]
  note = KEPT / 'rows' / same
  if note.exists():
    return note.read_text()
  if not python:
    return 'not compiled yet'
  note.parent.mkdir(parents=True, exist_ok=True)
  environment = {
    'PYTHONPATH': str(tree),
    'JAX_PLATFORMS': 'cpu',
    'PATH': '/usr/bin:/bin',
    **settings,
  }
  done = subprocess.run(
    # -P: files of this folder have names of Python's own modules.
    [python, '-P', str(ROOT / 'benchmarks/absent_row.py'), json.dumps(row), str(KEPT)],
    capture_output=True, text=True, env=environment, cwd=tree,
  )  # fmt: skip
  if done.returncode:
    lines = done.stderr.strip().splitlines() or [f'status {done.returncode}']
    print(f'  {lines[-1]}', flush=True)
    return f'not compiled: {lines[-1][:200]}'
  key = done.stdout.split()[-1]
  note.write_text(key)
  return key


def counted(row: dict, key: str) -> Counted:
  """Returns what the tool says of a program that `compiled` names."""
  if ' ' in key:
    return Counted(None, {}, key)
  facts = json.loads((KEPT / f'{key}.json').read_text())
  if 'too_large' in facts:
    return Counted(None, facts, 'does not fit: {} of {}'.format(*facts['too_large']))
  with gzip.open(KEPT / f'{key}.txt.gz', 'rt', encoding='utf-8') as file:
    text = file.read()
  kind, wrong = row['device'].partition(':')[0], ''
  try:
    of = roofline.estimate(hlo.read(text), kind, turn=facts.get('turn', False))
    if 'formula' in facts:
      tokens, devices = facts['tokens'], facts['devices']
      roofline.check_flops(of.flops, facts['formula'], tokens, devices=devices)
  except hlo.Unreadable as error:
    return Counted(None, facts, str(error))
  except roofline.Impossible as error:
    wrong = str(error)
  memory = facts['arguments'] + facts['working']
  if memory > roofline.DEVICES[kind].memory:
    wrong = f'{wrong} does not fit'.strip()
  return Counted(of, facts, wrong)


_HEADS = (
  'program', 'device', 'kernels', 'GB moved', 'TFLOP', 'GB sent', 'memory, GiB',
  'ms at least', 'of it launches', 'of it sending', 'tokens/s at most', 'of the peak',
)  # fmt: skip


def _cells(row: dict, given: Counted) -> list[str]:
  """Returns the numbers of a program: those of `_HEADS` from the third."""
  if given.of is None:
    return [given.wrong] + [''] * (len(_HEADS) - 3)
  of, facts = given.of, given.facts
  seconds = of.total_seconds
  kind = roofline.DEVICES[row['device'].partition(':')[0]]
  share = f'{of.bytes / seconds / kind.bandwidth:.0%} of memory'
  if 'formula' in facts:
    useful = facts['tokens'] * sum(facts['formula'].values()) / facts['devices']
    share = f'{useful / seconds / kind.peaks["bf16"]:.0%}'
  digits = 3 if facts.get('turn') else 1
  return [
    f'{of.kernels:,}',
    f'{of.bytes / 1e9:,.{digits}f}',
    f'{of.flops / 1e12:,.{digits}f}',
    f'{of.sent / 1e9:,.2f}',
    f'{(facts["arguments"] + facts["working"]) / 2**30:,.1f}',
    f'{1e3 * seconds:,.{digits}f}',
    f'{1e3 * of.launch_seconds:,.{digits}f}',
    f'{1e3 * of.exposed_seconds:,.{digits}f}',
    f'{facts["tokens"] / seconds:,.0f}' + (f' ({given.wrong})' if given.wrong else ''),
    share,
  ]


def page(rows: list[tuple[dict, Counted, Counted]], before: str) -> str:
  """Returns the table of rows with what was counted before and after."""
  reached = roofline.REACHED
  lines = [
    '# Programs for devices that are not there',
    '',
    f'Made by `make absent`; before is commit {before}. Compiled for each device and '
    'never run: XLA picks what a GPU measures (tiles, library calls) by rules instead. '
    '"At least" is a roofline of the optimised program, kernel by kernel, at '
    f'{reached.products:.0%} of the published peak of products, {reached.memory:.0%} '
    f'of the bandwidth of memory and {reached.sent:.0%} of the interconnect, and '
    f'{1e6 * roofline.DEVICES["h100"].launch:.0f} µs for the launch of a kernel on an '
    'H100. An update has texts of 1,024 tokens (2,048 for 13B and 175B), bfloat16 and '
    'no dropout; a token is a turn of the loop that decodes, for each row or search. '
    'What is sent counts where no kernel hides it. Of the peak of bfloat16: the FLOPs '
    'of the model (PaLM, appendix B); of a token the bytes of the bandwidth. Each cell '
    'is before → after.',
    '',
    '| ' + ' | '.join(_HEADS) + ' |',
    '|---' * len(_HEADS) + '|',
  ]
  for row, old, new in rows:
    cells = [
      a if a == b else f'{a or "–"} → {b or "–"}'
      for a, b in zip(_cells(row, old), _cells(row, new), strict=True)
    ]
    name = f'{row["what"]} of {row["name"]}'
    lines.append('| ' + ' | '.join([name, row['device'], *cells]) + ' |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default='', help='rows whose NAME or DEVICE has it')
  parser.add_argument('--before', default=BEFORE, help='a commit')
  parser.add_argument('--python', default=sys.executable, help='with the compilers')
  parser.add_argument('--python-tpu', default='', help='the same for TPUs, if another')
  parser.add_argument('--no-run', action='store_true', help='count what is there')
  args = parser.parse_args()
  KEPT.mkdir(parents=True, exist_ok=True)
  git = ['git', '-C', str(ROOT)]
  with tempfile.TemporaryDirectory(prefix='absent_') as scratch:
    old = pathlib.Path(scratch) / 'before'
    subprocess.run(
      [*git, 'worktree', 'add', '-q', '--detach', str(old), args.before], check=True
    )
    try:
      rows = []
      codes = {tree: code_of(tree) for tree in (old, ROOT)}
      for row in ROWS:
        chosen = args.only in f'{row["what"]} of {row["name"]} {row["device"]}'
        print(f'{row["what"]} of {row["name"]}, {row["device"]}', flush=True)
        sides = []
        for tree, code in codes.items():
          gpu = row['device'].startswith('h')
          python = args.python if gpu else args.python_tpu or args.python
          if args.no_run or not chosen:
            python = ''
          sides.append(counted(row, compiled(row, tree, python, code)))
        rows.append((row, *sides))
      PAGE.write_text(page(rows, args.before), encoding='utf-8')
    finally:
      subprocess.run([*git, 'worktree', 'remove', '--force', str(old)], check=True)


if __name__ == '__main__':
  with shown():
    main()
