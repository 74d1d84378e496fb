"""The smallest slices that hold an update of GPT-2 and GPT-3: a table, and rows for it.

usage: python -m benchmarks.absent_pod

Nothing is compiled: memory is `runs.cost.update_bytes`, bytes sent are
`runs.cost.communication_bytes`. `rows` has the programs of the smallest slices, in the
form of `benchmarks.absent`, to be compiled for these devices.
"""

from typing import NamedTuple

from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost
from gpt_jax.training.sharding import Layout

# TPU slices of v5p by chips, and memory of a device [GiB].
SLICES = {
  8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4', 128: '4x4x8', 256: '4x8x8',
  512: '8x8x8', 1024: '8x8x16',
}  # fmt: skip
MEMORY = {'v5p': 95, 'h100': 80}
FILLED = 0.9
# Rows of a batch: 2**19 tokens of GPT-2's; GPT-3's table 2.1.
BATCHES = {'124M': 512, '1558M': 512, '13B': 1024, '175B': 1536}
LARGE = {'scan': True, 'remat': 'block'}


class Fit(NamedTuple):
  """An update on some devices.

  Attributes:
    once: whether weights are gathered and gradients summed once.
    need: bytes of a device that it fills.
    sent: bytes that a device sends, by what and why.
  """

  run: config.Run
  layout: str
  once: bool
  need: float
  sent: dict[str, float]


def run_of(size: str, layout: str, parts: int, rows: int) -> config.Run:
  """Returns a training of a paper's model, some rows a device at a time."""
  of = papers.gpt2 if size in papers.GPT2_SIZES else papers.gpt3
  times = -(-BATCHES[size] // (parts * rows))
  run = config.Run(layout=layout, batch=times * parts * rows, accumulate=times)
  run.model, run.loss_chunk = of(size), 128
  run.model.vocab, run.model.dtype = papers.GPT2_VOCAB, 'bfloat16'
  run.model.dropout = 0.0
  for name, value in LARGE.items():
    setattr(run.model, name, value)
  return run


def fit(size: str, devices: int, memory: float) -> Fit | None:
  """Returns what sends least of what fits; None: nothing does."""
  best = None
  for layout in (f'data={devices}', f'fsdp={devices}', f'fsdp={devices // 8},tensor=8'):
    parts = devices // (8 if 'tensor' in layout else 1)
    for rows in (1, 8):
      run = run_of(size, layout, parts, rows)
      cfg = GPTConfig.of(run.model, run.model.vocab)
      if rows * parts > max(parts, BATCHES[size]) or (cfg.N % 8 and parts < devices):
        continue
      placed = Layout.imagined(run, devices)
      for whole in (True, False)[layout.startswith('data') :]:
        chosen = Layout(placed.devices, placed.mesh, whole)
        need = cost.update_bytes(run, cfg, chosen, flash=True)
        sent = cost.communication_bytes(run, cfg, chosen)
        least = best is None or sum(sent.values()) < sum(best.sent.values())
        if need <= FILLED * memory and least:
          best = Fit(run, layout, chosen.once, need, sent)
  return best


def rows() -> list[dict]:
  """Returns the program of each model on its smallest slice, one micro-batch of it."""
  found = []
  for size in BATCHES:
    for kind, gib in MEMORY.items():
      for devices, shape in SLICES.items():
        fitting = fit(size, devices, gib * 2**30)
        if fitting:
          found.append(
            {
              'name': f'{size}, {fitting.layout}, smallest slice',
              'device': f'v5p:{shape}' if kind == 'v5p' else f'h100:{devices}',
              'what': 'update',
              'size': size,
              'rows': fitting.run.batch // fitting.run.accumulate * 2,
              'accumulate': 2,
              'loss_chunk': fitting.run.loss_chunk,
              'layout': fitting.layout,
              'model': LARGE,
            }
          )
          break
  return found


def main() -> None:
  print('| model | slice | layout | weights and gradients | GiB each | GiB sent |')
  print('|---' * 6 + '|')
  for size in BATCHES:
    for kind, gib in MEMORY.items():
      for devices in SLICES:
        fitting = fit(size, devices, gib * 2**30)
        if not fitting:
          print(f'| {size} | {kind}, {devices} | does not fit | | | |')
          continue
        how = 'once' if fitting.once else 'by layer and micro-batch'
        print(
          f'| {size} | {kind}, {devices} | `{fitting.layout}`, '
          f'{fitting.run.accumulate} micro-batches | {how} | '
          f'{fitting.need / 2**30:,.1f} | {sum(fitting.sent.values()) / 2**30:,.1f} |'
        )


if __name__ == '__main__':
  with shown():
    main()
