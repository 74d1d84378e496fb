"""What `--on` says of updates, beside other sources of the same numbers.

  JAX_PLATFORMS=cpu .venv-absent/bin/python -m benchmarks.on_beside

Memory for absent H100s and TPUs beside a count by hand and XLA's own figure for devices
simulated on a CPU; the least time beside what MaxText reached. Writes
results/on_beside.md; each row is kept in results/on_beside.json as soon as it is there,
and one that is there is not compiled again: remove it to do so.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax

from benchmarks import layouts
from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import roofline
from gpt_jax.runs import cost, on_paper
from gpt_jax.training import sharding

RESULTS = pathlib.Path(__file__).resolve().parent / 'results'
KEPT, PAGE = RESULTS / 'on_beside.json', RESULTS / 'on_beside.md'
MIB = 2**20
ABSENT = 'h100:8', 'v5e:2x4'
LAYOUTS = 'data=8', 'fsdp=8', 'fsdp=4,tensor=2'
_LARGE = {'scan': True, 'remat': 'block'}
# Name: fields of the model, rows of a batch, loss_chunk. Without a flash kernel and in
# float32 the programs of all devices are most alike.
_SMALL = {'L': 4, 'D': 256, 'N': 4, 'T': 256, 'vocab': 8192}
UPDATES = {
  'small, float32, plain attention': (
    _SMALL | {'flash': 'plain', 'gradients': 'plain'}, 32, 0
  ),
  'small, bfloat16': (_SMALL | {'dtype': 'bfloat16'}, 32, 0),
  '124M, bfloat16, remat=block, scan, loss_chunk=128': (
    {'L': 12, 'D': 768, 'N': 12, 'T': 1024, 'vocab': papers.GPT2_VOCAB}
    | {'dtype': 'bfloat16'} | _LARGE, 64, 128
  ),
}  # fmt: skip


class Published(NamedTuple):
  """What MaxText reached with a model of 32,000 entries, 64 heads of 128, D = 8192.

  Its MLP of 28,672 has a gate: three matrices, which are two of F = 43,008. So a layer
  has the same products as ours.

  Attributes:
    on: the devices, as `absent.devices` takes them.
    layout: ours.
    rows: of 2,048 tokens for each chip.
    remat: as MaxText calls what it computed again.
    teraflops: per second and chip.
    share: of the peak, of the model's FLOPs.
    source: in its repository.
  """

  name: str
  on: str
  L: int
  layout: str
  rows: int
  remat: str
  teraflops: float
  share: float
  source: str


MAXTEXT = (
  Published(
    '32B', 'v5p:4x4x4', 32, 'fsdp=64', 7, 'minimal', 328, 0.7147, 'configs/v5p/32b.sh'
  ),
  Published(
    '64B', 'v5p:4x4x4', 64, 'fsdp=64', 3, 'minimal', 323, 0.7031, 'configs/v5p/64b.sh'
  ),
  Published(
    '32B', 'v5e:16x16', 32, 'fsdp=256', 4, 'full', 132, 0.6686, 'configs/v5e/32b.sh'
  ),
)


def run_of(fields: dict[str, Any], layout: str, rows: int, chunk: int) -> config.Run:
  """Returns a training by AdamW, without dropout."""
  run = config.Run(batch=rows, layout=layout, loss_chunk=chunk)
  run.model = config.Model(**({'dropout': 0.0} | fields))
  return run


def like(of: Published) -> config.Run:
  """Returns a training of our model that is most like MaxText's."""
  fields = {'L': of.L, 'D': 8192, 'N': 64, 'F': 43_008, 'T': 2048, 'vocab': 32_000}
  fields |= {'tied': False, 'bias': False, 'dtype': 'bfloat16'} | _LARGE
  chips = sharding.asked_devices(config.Run(layout=of.layout))
  return run_of(fields, of.layout, of.rows * chips, 256)


def by_hand(cfg: GPTConfig, layout: str, rows: int) -> dict[str, int]:
  """Returns the bytes of an update's arguments on a device, counted matrix by matrix.

  The model is a GPT-2. `tensor` and `fsdp` divide matrices and embeddings, `tensor`
  the biases of what comes out of it too, and `data` the moments of what `fsdp` may
  divide.

  Args:
    layout: a product of data, fsdp and tensor.
    rows: of a batch.
  """
  sizes = dict(part.split('=') for part in layout.split(','))
  data, fsdp, tensor = (int(sizes.get(axis, 1)) for axis in ('data', 'fsdp', 'tensor'))
  matrices = cfg.V * cfg.D + cfg.L * (4 * cfg.D**2 + 2 * cfg.D * cfg.F)
  divided_biases = cfg.L * (3 * cfg.D + cfg.F)
  whole = cfg.L * (2 * cfg.D + 4 * cfg.D) + 2 * cfg.D  # o and down, LayerNorms

  def numbers(parts):
    parts_of_rest = divided_biases // tensor + whole
    return matrices // (parts * tensor) + cfg.T * cfg.D // parts + parts_of_rest

  here = rows // (data * fsdp)
  return {
    'parameters': 4 * numbers(fsdp),
    'optimizer': 2 * 4 * numbers(fsdp * data),
    'batch': here * (3 * 4 * cfg.T + 4),  # ids, targets, weights; the row's number
  }


def memory(kept: dict, simulated: list[jax.Device]) -> None:
  """Fills in what the updates take of memory, with absent and simulated devices."""
  for name, (fields, rows, chunk) in UPDATES.items():
    for layout in LAYOUTS:
      of = kept.setdefault(f'{name}, {layout}', {})
      run = run_of(fields, layout, rows, chunk)
      for on in ABSENT:
        if on not in of:
          took = layouts.measured(run, on)
          of[on] = [took['state'], took['working']]
          save(kept)
      if 'cpu' not in of:
        limit = 0.75 * roofline.DEVICES['h100'].memory
        program = layouts.program_of(run, simulated, limit)
        of['held'] = program.held
        of['cpu'] = list(on_paper.Memory.of(on_paper.compiled(program.lowered)))
        save(kept)


def speed(kept: dict) -> None:
  """Fills in the least time of MaxText's models."""
  for of in MAXTEXT:
    key = f'{of.name}, {of.on}, {of.layout}'
    if key not in kept:
      run = like(of)
      cfg = GPTConfig.of(run.model, 0)
      kept[key] = layouts.measured(run, of.on)
      kept[key]['formula'] = sum(cost.flops_per_token(cfg).values())
      kept[key]['parameters'] = cost.parameter_count(cfg)
      save(kept)


def save(kept: dict) -> None:
  KEPT.write_text(json.dumps(kept, indent=2) + '\n')
  print('.', end='', flush=True)


def page(kept: dict) -> str:
  """Returns both tables, of the rows that are there, as Markdown."""
  lines = [
    '# What `--on` says, beside other sources',
    '',
    'Made by `JAX_PLATFORMS=cpu .venv-absent/bin/python -m benchmarks.on_beside`.',
    '',
    '## Memory of an update, MiB of each of 8 devices',
    '',
    'State: parameters + optimizer + batch, as `--on` prints them; by hand, of the '
    "arrays' sizes; and the arguments of XLA's `memory_analysis` (a TPU fills arrays "
    'up to tiles). To work with: what XLA adds, gradients among it.',
    '',
    '| update | layout | state, `--on` | by hand | H100 | v5e | simulated on a CPU '
    '| to work with: H100 | v5e | simulated |',
    '|---' * 10 + '|',
  ]
  for name, (fields, rows, chunk) in UPDATES.items():
    for layout in LAYOUTS:
      if 'cpu' in (of := kept.get(f'{name}, {layout}', {})):
        run = run_of(fields, layout, rows, chunk)
        hand = by_hand(GPTConfig.of(run.model, 0), layout, rows)
        three = [of[device] for device in (*ABSENT, 'cpu')]
        cells = [name, f'`{layout}`']
        cells.append(' + '.join(_mib(number) for number in of['held'].values()))
        cells.append(_mib(sum(hand.values())))
        cells += [_mib(state) for state, _ in three]
        cells += [_mib(working) for _, working in three]
        lines.append(f'| {" | ".join(cells)} |')
  lines += [
    '',
    '## Utilisation, beside MaxText',
    '',
    'FLOPs of the model (PaLM, appendix B) a second, of the peak of bfloat16, for '
    'texts of 2,048 tokens. MaxText: as published in its MaxText/configs/v5p/README.md '
    'and v5e/README.md (one slice; a v5p-128 has 64 chips), with the batch of the '
    'configuration named. Ours: L, D, heads, and products of MLP and vocabulary the '
    'same; LayerNorm for RMSNorm, no gate and no rotary positions; `remat=block`, '
    '`scan`, `loss_chunk=256`. "At most" is by the roofline, whose products reach '
    f'{roofline.REACHED.products:.0%} of the peak; what it computes again counts as no '
    'use.',
    '',
    '| model | chips | rows a chip | MaxText: configuration, remat | TFLOP/s, of the '
    'peak | ours: layout | parameters | memory of each | ms at least | TFLOP/s, of the '
    'peak, at most | by products alone |',
    '|---' * 11 + '|',
  ]
  for of in MAXTEXT:
    if ours := kept.get(f'{of.name}, {of.on}, {of.layout}'):
      peak = roofline.DEVICES[on_paper.kind_of(of.on)].peaks['bf16']
      useful = ours['formula'] * ours['tokens'] / ours['devices']
      rate = useful / ours['seconds']
      gib = (ours['state'] + ours['working']) / on_paper.GIB
      cells = [
        of.name, of.on, f'{of.rows}', f'{of.source}, {of.remat}',
        f'{of.teraflops:.0f}, {of.share:.1%}', f'`{of.layout}`',
        f'{ours["parameters"] / 1e9:.1f}B', f'{gib:.1f} GiB',
        f'{1e3 * ours["seconds"]:,.0f}', f'{rate / 1e12:.0f}, {rate / peak:.1%}',
        f'{useful / ours["products"] / peak:.1%}',
      ]  # fmt: skip
      lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def _mib(number: float) -> str:
  return f'{number / MIB:,.2f}'


def main() -> None:
  simulated = sharding.real_or_simulated(8)  # before anything else is done with jax
  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  memory(kept, simulated)
  speed(kept)
  PAGE.write_text(page(kept), encoding='utf-8')


if __name__ == '__main__':
  with shown():
    main()
