"""What layouts cost large models: their updates, compiled for GPUs that are not here.

  JAX_PLATFORMS=cpu .venv-absent/bin/python -m benchmarks.layouts

Prints the table of docs/scaling.md. Each row is kept in results/layouts.json as soon as
it is there, and one that is there is not compiled again; remove it to do so.
"""

import importlib.metadata
import json
import pathlib

import jax

from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import experiment
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import absent, collectives, hlo, roofline
from gpt_jax.runs import cost, dry_run, on_paper
from gpt_jax.training import sharding

KEPT = pathlib.Path(__file__).resolve().parent / 'results/layouts.json'
_2, _3 = 'experiments/gpt2/pretrain.py:1558M', 'experiments/gpt3/pretrain.py:'
# Name, experiment, layout, rows at a time, accumulate.
ROWS = (
  ('GPT-2 1.5B', _2, 'data=8', 32, 16),
  ('GPT-2 1.5B', _2, 'fsdp=8', 32, 16),
  ('GPT-2 1.5B', _2, 'fsdp=8', 128, 4),
  ('GPT-3 13B', f'{_3}13B', 'fsdp=64', 256, 4),
  ('GPT-3 13B', f'{_3}13B', 'data=8,fsdp=8', 256, 4),
  ('GPT-3 13B', f'{_3}13B', 'fsdp=16,tensor=4', 64, 16),
  ('GPT-3 175B', f'{_3}175B', 'fsdp=512', 512, 3),
)
HEADING = (
  '| model | H100s, layout | rows at a time × accumulate | state | to work with | '
  'together | sent | update | tokens/s of each |\n' + '|---' * 9 + '|'
)


def run_of(file: str, layout: str, rows: int, accumulate: int) -> config.Run:
  """Returns the run of a row: in bfloat16, with what keeps memory low."""
  run = experiment.load(file)
  run.layout, run.batch, run.accumulate = layout, rows * accumulate, accumulate
  run.batch_start = run.batch_ramp = 0
  run.loss_chunk = 128
  run.model.scan, run.model.remat = True, 'block'
  return run


def program_of(
  run: config.Run, devices: list[jax.Device], limit: float
) -> on_paper.Program:
  """Returns the update of a run on some devices, to be compiled.

  Args:
    limit: bytes of a device's memory.
  """
  layout = sharding.Layout.of(run, devices)
  config.check(run, layout.parts)
  cfg = GPTConfig.of(run.model, cost.vocabulary(run))
  layout.check(cfg)
  layout, _ = cost.scheduled(run, cfg, layout, limit)
  return dry_run.update_of(run, cfg, layout)


def measured(run: config.Run, on: str) -> dict[str, float]:
  """Returns what an update takes of each device.

  Args:
    on: absent devices, as `absent.devices` takes them.
  """
  devices = absent.devices(on)
  limit, _ = on_paper.room(on, devices[0])
  program = program_of(run, devices, limit)
  compiled = on_paper.compiled(program.lowered)
  of = roofline.estimate(hlo.read(compiled.as_text()), on_paper.kind_of(on))
  tokens = round(program.tokens)
  roofline.check_flops(of.flops, program.formula, tokens, devices=len(devices))
  memory = on_paper.Memory.of(compiled)
  return {
    'devices': len(devices),
    'state': memory.arguments,
    'working': memory.working,
    'sent': sum(collectives.by_kind(of.collectives)[0].values()),
    'seconds': of.total_seconds,
    'products': of.product_seconds,
    'tokens': tokens,
    'jax': importlib.metadata.version('jax'),
  }


def table(kept: dict[str, dict]) -> str:
  """Returns the rows that are there, as Markdown."""
  lines = [HEADING]
  for name, _, layout, rows, accumulate in ROWS:
    if of := kept.get(key(name, layout, rows, accumulate)):
      gib = [of[part] / on_paper.GIB for part in ('state', 'working')]
      each = of['tokens'] / of['seconds'] / of['devices']
      cells = [
        name,
        f'{of["devices"]}, `{layout}`',
        f'{rows} × {accumulate}',
        *(f'{size:.1f} GiB' for size in (*gib, sum(gib))),
        f'{of["sent"] / on_paper.GIB:,.0f} GiB',
        f'{of["seconds"]:,.1f} s',
        f'{each:,.0f}',
      ]
      lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def key(name: str, layout: str, rows: int, accumulate: int) -> str:
  """Returns the name of a row in the file."""
  return f'{name}, {layout}, {rows} x {accumulate}'


def main() -> None:
  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  for name, file, *how in ROWS:
    if key(name, *how) not in kept:
      run = run_of(file, *how)
      kept[key(name, *how)] = measured(run, f'h100:{sharding.asked_devices(run)}')
      KEPT.write_text(json.dumps(kept, indent=2) + '\n')
      print(key(name, *how), flush=True)
  print(table(kept))


if __name__ == '__main__':
  with shown():
    main()
