"""GPT-2 and GPT-3 on slices of 8 to 1,024 devices that are not there: a table.

usage: python -m benchmarks.slices [--only=TEXT] [--no-run]

For each model, kind of device and size of slice: the layout that sends least long of
those that fit (`gpt_jax.runs.layout_choice`), and what its update takes by the program
that XLA makes of it. Rows are kept in results/slices.json as they come, those of the
smallest and the largest slices first, and written as results/slices.md: stopped, it
goes on where it was; a row that is taken out of the file is made again. `make slices`
runs it in the environment that has the compilers.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import absent
from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.files import write_json, write_whole
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import roofline
from gpt_jax.runs import cost, layout_choice
from gpt_jax.training import xla_flags

RESULTS = absent.ROOT / 'benchmarks/results'
# TPU slices of v5p by chips.
SHAPES = {
  8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4', 128: '4x4x8', 256: '4x8x8',
  512: '8x8x8', 1024: '8x8x16',
}  # fmt: skip
KINDS = 'h100', 'v5p'
# Of a GPU's memory jax takes a share; less of it than this is asked for here.
SHARE = 0.9
# Rows of a batch: 2**19 tokens of GPT-2's; GPT-3's table 2.1.
BATCHES = {'124M': 512, '1558M': 512, '13B': 1024, '175B': 1536}
AT_A_TIME = 8, 4, 2, 1
FIELDS = {'scan': True, 'remat': 'block'}
CHUNK = 128


class Row(NamedTuple):
  """A model on a slice."""

  size: str
  kind: str
  devices: int

  def __str__(self) -> str:
    return f'{self.size}, {self.kind}, {self.devices}'

  @property
  def memory(self) -> float:
    """Bytes of a device that jax may take."""
    whole = roofline.DEVICES[self.kind].memory
    return whole * (SHARE if self.kind in roofline.GPUS else 1)

  @property
  def device(self) -> str:
    """The slice, as `absent.devices` takes it."""
    gpu = self.kind in roofline.GPUS
    return f'{self.kind}:{self.devices if gpu else SHAPES[self.devices]}'


ROWS = [Row(size, kind, n) for size in BATCHES for kind in KINDS for n in SHAPES]


def chosen(row: Row) -> layout_choice.Choice:
  """Returns the layout of a row, or what needs least where nothing fits."""
  of = papers.gpt2 if row.size in papers.GPT2_SIZES else papers.gpt3
  run = config.Run(batch=max(BATCHES[row.size], row.devices), loss_chunk=CHUNK)
  run.model = of(row.size)
  run.model.vocab, run.model.dtype = papers.GPT2_VOCAB, 'bfloat16'
  run.model.dropout = 0.0
  for name, value in FIELDS.items():
    setattr(run.model, name, value)
  cfg = GPTConfig.of(run.model, run.model.vocab)
  limit = cost.FILLED * row.memory
  plane = layout_choice.plane_of(row.device)
  return layout_choice.best(run, cfg, row.devices, row.kind, limit, AT_A_TIME, plane)


def planned(row: Row) -> dict[str, Any]:
  """Returns what the formulas say of a row."""
  choice = chosen(row)
  return {
    'layout': choice.run.layout,
    'batch': choice.run.batch,
    'accumulate': choice.run.accumulate,
    'once': choice.over.once,
    'need': choice.need,
    'fits': choice.need <= cost.FILLED * row.memory,
    'ideal': sum(choice.sent.values()),
  }


def settings(kind: str) -> dict[str, str]:
  """Returns the environment in which a run on such devices is compiled."""
  given = {'XLA_PYTHON_CLIENT_MEM_FRACTION': str(SHARE)}
  platform = 'gpu' if kind in roofline.GPUS else 'tpu'
  xla_flags.add(given, platform, list(xla_flags.libraries(platform)))
  return given


def program_of(row: Row, plan: dict[str, Any]) -> dict[str, Any]:
  """Returns a row's program, as `benchmarks.absent_row` takes it."""
  return {
    'name': str(row),
    'device': row.device,
    'what': 'update',
    'size': row.size,
    'rows': plan['batch'],
    'accumulate': plan['accumulate'],
    'loss_chunk': CHUNK,
    'layout': plan['layout'],
    'model': FIELDS,
  }


def counted(program: dict, key: str) -> dict[str, Any]:
  """Returns what XLA's program of a row takes."""
  given = absent.counted(program, key)
  if given.of is None:
    return {'wrong': given.wrong}
  of, facts = given.of, given.facts
  aside = [each for each in of.collectives if each.beside]
  return {
    'memory': facts['arguments'] + facts['working'],
    'sent': of.sent,
    'collectives': sum(each.times for each in of.collectives),
    'aside': sum(each.times for each in aside),
    'sent_aside': sum(each.times * each.sent for each in aside),
    'seconds': of.total_seconds,
    'sending': of.collective_seconds,
    'exposed': of.exposed_seconds,
    'tokens': facts['tokens'],
    'wrong': given.wrong,
  }


_HEADS = (
  'model', 'slice', 'layout', 'rows at a time × micro-batches',
  'weights and gradients sent', 'memory, GiB', 'GB sent', 'of the ideal',
  'collectives that may overlap', 'of their bytes', 'ms at least',
  'of it sending that nothing hides', 'tokens/s at most',
)  # fmt: skip


def _cells(row: Row, kept: dict[str, Any]) -> Iterator[str]:
  yield f'{row.size}'
  yield row.device
  if not kept:
    yield 'not looked at yet'
    return
  if not kept['fits']:
    room = cost.FILLED * row.memory / 2**30
    yield f'does not fit: {kept["need"] / 2**30:,.1f} GiB or more, not {room:,.1f}'
    return
  parts = kept['batch'] // kept['accumulate']
  split = dict(part.split('=') for part in kept['layout'].split(','))
  rows = parts // (int(split.get('data', 1)) * int(split.get('fsdp', 1)))
  yield f'`{kept["layout"]}`'
  yield f'{rows} × {kept["accumulate"]}'
  yield 'once' if kept['once'] else 'by layer and micro-batch'
  if 'seconds' not in kept:
    why = kept.get('wrong') or 'not compiled'
    yield f'{kept["need"] / 2**30:,.1f} by formula'
    yield f'{kept["ideal"] / 1e9:,.1f} by formula'
    yield why
    return
  yield f'{kept["memory"] / 2**30:,.1f}'
  yield f'{kept["sent"] / 1e9:,.1f}'
  yield f'{kept["sent"] / kept["ideal"]:.2f}'
  yield f'{kept["aside"]:,} of {kept["collectives"]:,}'
  yield f'{kept["sent_aside"] / max(1, kept["sent"]):.0%}'
  yield f'{1e3 * kept["seconds"]:,.1f}'
  yield f'{1e3 * kept["exposed"]:,.1f} of {1e3 * kept["sending"]:,.1f}'
  wrong = f' ({kept["wrong"]})' if kept['wrong'] else ''
  yield f'{kept["tokens"] / kept["seconds"]:,.0f}{wrong}'


def page(kept: dict[str, dict]) -> str:
  """Returns the table of all rows."""
  lines = [
    '# Slices of 8 to 1,024 devices that are not there',
    '',
    'Made by `make slices`. An update of GPT-2 (texts of 1,024 tokens, 512 of them, or '
    'one for each device) or GPT-3 (2,048 tokens; 1,024 texts of 13B, 1,536 of 175B) '
    'in bfloat16, AdamW, `model.scan=True`, `model.remat=block`, `loss_chunk=128`, '
    'without dropout, with the flags of `training/xla_flags.py`. The layout is the one '
    'that sends least long, by formula, of those that fill at most '
    f'{cost.FILLED:.0%} of the memory that jax may take: all of a TPU, {SHARE:.0%} of '
    'an H100 (XLA_PYTHON_CLIENT_MEM_FRACTION). Memory is that of a device by XLA, '
    'bytes are those that a device sends in an update, the ideal is '
    '`runs.cost.communication_bytes` of the layout and schedule. On a TPU `fsdp` stays '
    'within a plane of the slice where that is faster: beyond, its compiler makes sums '
    'of gathers and scatters, twice the bytes. A collective may overlap where '
    'kernels stand between its start and its end. Times are those of absent.md. What '
    'is "by formula" has not been compiled yet.',
    '',
    '| ' + ' | '.join(_HEADS) + ' |',
    '|---' * len(_HEADS) + '|',
  ]
  for row in ROWS:
    cells = list(_cells(row, kept.get(str(row), {})))
    cells += [''] * (len(_HEADS) - len(cells))
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _in_turn(rows: list[Row], kept: dict[str, dict]) -> list[Row]:
  """Returns the rows that fit, in the order in which they are compiled.

  GPUs first, whose compiler is several times as fast. Of each kind the smallest and the
  largest slices of all models, then those between them, then the others.
  """
  fitting = [row for row in rows if kept[str(row)]['fits']]

  def place(row):
    sizes = [r.devices for r in fitting if (r.size, r.kind) == (row.size, row.kind)]
    first = [min(sizes), max(sizes)], [sizes[len(sizes) // 2]]
    turn = next((i for i, few in enumerate(first) if row.devices in few), len(first))
    return row.kind not in roofline.GPUS, turn

  return sorted(fitting, key=place)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default='', help='rows whose name has it')
  parser.add_argument('--no-run', action='store_true', help='compile nothing')
  args = parser.parse_args()
  file = RESULTS / 'slices.json'
  kept = json.loads(file.read_text()) if file.exists() else {}

  def keep():
    write_json(file, kept)
    write_whole(RESULTS / 'slices.md', page(kept))

  asked = [row for row in ROWS if args.only in str(row)]
  for row in asked:
    if str(row) not in kept:
      kept[str(row)] = planned(row)
      print(f'{row}: {kept[str(row)]}', flush=True)
      keep()
  code = absent.code_of(absent.ROOT)
  for row in _in_turn(asked, kept):
    plan = kept[str(row)]
    if 'wrong' in plan or args.no_run:
      continue
    print(row, flush=True)
    program, flags = program_of(row, plan), settings(row.kind)
    key = absent.compiled(program, absent.ROOT, sys.executable, code, flags)
    plan |= counted(program, key)
    keep()
  keep()


if __name__ == '__main__':
  with shown():
    main()
