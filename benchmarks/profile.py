"""Where an update's time goes on a device: its kernels by time, as a small table.

  python -m benchmarks.profile --shape=124M --batch=32

Some updates of `benchmarks/train.py`'s model are traced by jax.profiler, and only sums
are kept. A kernel's time is that of the device; `of` is its share of all kernels'. What
the updates took besides is time in which no kernel ran. On a GPU, CUDA graphs are
switched off, which hide the names of kernels: so launches take longer than in training.
"""

import argparse
import collections
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator

from gpt_jax.cli.messages import shown
from gpt_jax.config import UserError

UPDATES = 4
_NUMBER = re.compile(r'[._]\d+$')


def events(path: pathlib.Path) -> Iterator[tuple[str, str, float]]:
  """Yields (operation of the program, kernel, seconds) of a trace.

  A GPU's kernels are in lines called 'Stream ..', a TPU's in 'XLA Ops', and a CPU's
  among all that the host did, where those of a program name their operation.
  """
  from jax.profiler import ProfileData

  planes = list(ProfileData.from_file(str(path)).planes)
  device = [p for p in planes if re.match('/device:(GPU|TPU)', p.name)]
  for plane in device or planes:
    for line in plane.lines:
      if device and not re.match('Stream|XLA Ops', line.name):
        continue
      for event in line.events:
        operation = dict(event.stats).get('hlo_op')
        if device or operation:
          yield str(operation or event.name), event.name, event.duration_ns / 1e9


def family(name: str) -> str:
  """Returns the name of a kernel without the numbers that tell copies apart."""
  while (shorter := _NUMBER.sub('', name)) != name:
    name = shorter
  return name


def table(found: list[tuple[str, str, float]], seconds: float, most: int) -> list[str]:
  """Returns lines: sums, then kernels by kind, then the single ones that take most.

  Args:
    found: what `events` yields, of `UPDATES` updates that took `seconds`.
    most: rows of each table.
  """
  kinds, single = collections.Counter(), collections.Counter()
  times, kernels = collections.Counter(), {}
  for name, kernel, spent in found:
    kinds[family(name)] += spent
    times[family(name)] += 1
    single[name] += spent
    kernels[name] = kernel
  whole = kinds.total()
  lines = [
    f'{1e3 * seconds / UPDATES:.2f} ms an update; kernels {1e3 * whole / UPDATES:.2f} '
    f'ms, {len(found) / UPDATES:.0f} of them',
    '',
    '| kind | ms an update | of | times |',
    '|---|---|---|---|',
  ]
  for kind, spent in kinds.most_common(most):
    share = f'{spent / whole:.1%}'
    count = f'{times[kind] / UPDATES:.0f}'
    lines.append(f'| {kind} | {1e3 * spent / UPDATES:.3f} | {share} | {count} |')
  lines += ['', '| operation | ms an update | of | kernel |', '|---|---|---|---|']
  for name, spent in single.most_common(most):
    share, kernel = f'{spent / whole:.1%}', kernels[name].replace('|', '/')[:90]
    lines.append(f'| {name} | {1e3 * spent / UPDATES:.3f} | {share} | {kernel} |')
  return lines


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--shape', default='124M', help="of benchmarks/train.py's")
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--rows', type=int, default=30, help='of each table')
  flags = parser.parse_args()
  off = '--xla_gpu_enable_command_buffer='
  if os.environ.get('JAX_PLATFORMS') != 'cpu':
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {off}'
  import jax

  from benchmarks import train

  model, _ = train.SHAPES[flags.shape]
  device = jax.devices()[0]
  if device.platform != 'cpu':
    model.dtype = 'bfloat16'
  with tempfile.TemporaryDirectory() as place:
    updates = train.setup_gpt_jax(model, flags.batch, pathlib.Path(place), '')[
      'updates'
    ]
    updates(3)  # compiles, and warms up
    with jax.profiler.trace(place):
      begin = time.perf_counter()
      updates(UPDATES)
      seconds = time.perf_counter() - begin
    traces = sorted(pathlib.Path(place).rglob('*.xplane.pb'))
    found = [each for path in traces for each in events(path)]
  if not found:
    raise UserError('the trace has no kernels; does the profiler see the device?')
  print(f'{flags.shape}, {flags.batch} rows, {model.dtype}, {device.device_kind}: ')
  print('\n'.join(table(found, seconds, flags.rows)))


if __name__ == '__main__':
  with shown():
    main()
