"""What a run would need of its devices: compiled for them, and not run.

The devices may be simulated on a CPU. The program is then the CPU's: its memory and
communication are near those of another kind of device, and not the same (no fused
attention; bfloat16 sent as float32; gradients reduced whole where others scatter them;
layers that are unrolled keep what `model.remat` would forget).
"""

import collections
import functools
import math
import pathlib
import re
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, finetune, finetune_job, shape
from gpt_jax.training import sharding, transfer
from gpt_jax.training.members import Alone

_GIB = 2**30


class Cost(NamedTuple):
  """What a compiled update takes of each device.

  Attributes:
    state: bytes of parameters, optimizer state and batch.
    working: bytes at most besides.
    sent: bytes that it sends in an update, by operation.
    operations: how often it does.
  """

  state: int
  working: int
  sent: dict[str, float]
  operations: dict[str, int]


def compiled_cost(run: config.Run, cfg: GPTConfig, layout: sharding.Layout) -> Cost:
  """Returns the cost of an update, from the program compiled for the devices."""
  rows = np.zeros((run.batch, cfg.T), np.int32)
  first_BT = rows if run.model.documents == 'apart' else None
  rows = Batch(rows, rows, rows.astype('f'), rows[:, 0], first_BT)
  batch = layout.put(rows, run.accumulate)
  update = Alone.of(run, cfg, layout)
  return cost_of(update.jitted.lower(update.like, {}, batch, update.hp).compile())


def cost_of(program: jax.stages.Compiled) -> Cost:
  """Returns the cost of a compiled update."""
  memory = program.memory_analysis()
  sent, operations = communication(program.as_text())
  return Cost(
    memory.argument_size_in_bytes, memory.temp_size_in_bytes, sent, operations
  )


_COLLECTIVE = re.compile(
  r'= (\S+|\(.*?\)) (all-gather|all-reduce|reduce-scatter|all-to-all|'
  r'collective-permute)(?:-start)?\('
)
_ARRAY = re.compile(r'\b(?:pred|bf|[fsuc])(\d*)\[([\d,]*)\]')
_CALL = re.compile(r'(?:body|to_apply|branch_computations=\{)=?%([\w.-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def communication(program: str) -> tuple[dict[str, float], dict[str, int]]:
  """Returns what each device sends in a compiled program, and how often.

  Bytes by operation, with ring algorithms: of an array of S bytes over n devices, a
  gather or a scatter of it sends S (n - 1) / n, and a sum of it twice that.

  Args:
    program: XLA's text, after optimisation; its loops count as often as they turn.
  """
  bodies, entry = _computations(program)
  sent, operations = collections.Counter(), collections.Counter()

  def visit(name: str, times: int) -> None:
    for line in bodies.get(name, ()):
      match = _COLLECTIVE.search(line)
      if match:
        n = _group(line)
        size = _bytes(match[1])
        share = {'all-reduce': 2 * (n - 1) / n, 'reduce-scatter': n - 1}
        if match[2] == 'collective-permute':
          share[match[2]] = 1
        sent[match[2]] += times * size * share.get(match[2], (n - 1) / n)
        operations[match[2]] += times
      elif ' while(' in line or ' call(' in line or ' conditional(' in line:
        trips = _TRIPS.search(line)
        for callee in _CALL.findall(line):
          visit(callee, times * (int(trips[1]) if trips else 1))

  visit(entry, 1)
  return dict(sent), dict(operations)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation by its name, and the name of the entry."""
  bodies, entry, name = {}, '', ''
  for line in program.splitlines():
    begins = re.match(r'(ENTRY )?%?([\w.-]+) \(.*\{$', line)
    if begins:
      name = begins[2]
      entry = name if begins[1] else entry
      bodies[name] = []
    elif name:
      bodies[name].append(line)
  return bodies, entry


def _group(line: str) -> int:
  """Returns how many devices take part in a collective operation together.

  XLA writes groups in three ways: {{0,1},{2,3}}, [groups,size]<=..., and, of a mesh
  mesh['a'=2,'b'=4] {'b'}, the axes that they go along. A permutation has pairs.
  """
  if 'source_target_pairs' in line:
    return 2
  groups = line.partition('replica_groups=')[2]
  if groups.startswith('{{'):
    return groups[: groups.index('}')].count(',') + 1
  counted = re.match(r'\[\d+,(\d+)\]', groups)
  if counted:
    return int(counted[1])
  along = re.match(r'mesh\[(.*?)\][^{]*\{(.*?)\}', groups)
  if not along:
    raise ValueError(f'XLA wrote the devices of a collective in a new way: {line}')
  sizes = dict(axis.rsplit('=', 1) for axis in along[1].split(','))
  return math.prod(int(sizes[axis]) for axis in along[2].split(','))


def _bytes(shapes: str) -> int:
  """Returns the bytes of an HLO type, an array or a tuple of some."""
  return sum(
    (int(bits or 8) + 7) // 8 * int(np.prod([int(n) for n in dims.split(',') if n]))
    for bits, dims in _ARRAY.findall(shapes)
  )


def advice(
  run: config.Run,
  cfg: GPTConfig,
  layout: sharding.Layout,
  compiled: Cost,
  *,
  tokens: int | None = None,
  seeds: int = 1,
) -> str:
  """Returns the first change to make where an update does not fit.

  Args:
    tokens: of a row whose logits exist; None: the context.
    seeds: that one program trains.
  """
  rows = run.batch // run.accumulate // layout.parts
  logits = rows * (cfg.T if tokens is None else tokens) * cfg.V * 4
  if seeds > 1:
    return f'--config.task.together={seeds // 2}, which trains fewer seeds at a time'
  if compiled.state > compiled.working:
    cut = layout.mesh is not None and layout.mesh.shape['fsdp'] > 1
    if not cut and len(layout.devices) > 1:
      return '--config.layout=fsdp, which divides parameters and optimizer state'
    return 'more devices: parameters and optimizer state alone take most of it'
  if not run.loss_chunk and logits > 0.2 * compiled.working:
    chunk = cost.small_chunk(cfg.T)
    return f'--config.loss_chunk={chunk}, which never holds all logits'
  if run.model.remat != 'block':
    scan = ' --config.model.scan=True' if run.task.train != 'lora' else ''
    return f'--config.model.remat=block{scan}, which keeps less'
  if rows > 1:
    return (
      f'--config.accumulate={run.accumulate * 2}, which computes half as many rows at '
      'a time'
    )
  return 'more devices, with tensor in the layout: a single row is too large'


def _size(number: float) -> str:
  unit, name = (_GIB, 'GiB') if number >= _GIB else (2**20, 'MiB')
  return f'{number / unit:,.2f} {name}'


class _Update(NamedTuple):
  """An update that was compiled.

  Attributes:
    layout: over devices.
    cost: of it.
    change: the first to make where it does not fit.
    what: it is of, in words.
    lines: what else there is to say.
  """

  layout: sharding.Layout
  cost: Cost
  change: str
  what: str
  lines: list[str]


def _of_language_model(
  run: config.Run, workdir: pathlib.Path, devices: list[jax.Device], limit: float
) -> _Update:
  del limit
  layout = sharding.Layout.of(run, devices)
  config.check(run, layout.parts)
  own = workdir / 'tokenizer'
  vocab = tokenizers.load(own).vocab if own.exists() else cost.vocabulary(run)
  cfg = GPTConfig.of(run.model, vocab)
  layout.check(cfg)
  compiled = compiled_cost(run, cfg, layout)
  return _Update(layout, compiled, advice(run, cfg, layout, compiled), '', [])


def _of_fine_tuning(
  run: config.Run, workdir: pathlib.Path, devices: list[jax.Device], limit: float
) -> _Update:
  """Returns the update of the longest batch, of the seeds that would train together."""
  del workdir
  lines = []
  job = finetune_job.read_job(run, lines.append, devices)
  run, layout = job.run, job.layout
  cost_of_seeds = functools.cache(lambda seeds: cost_of(finetune.compiled(job, seeds)))

  def needed(seeds):
    return cost_of_seeds(seeds).state + cost_of_seeds(seeds).working

  seeds = finetune_job.group_size(run, layout)
  if limit and not run.task.together:
    seeds = finetune.most_together(seeds, needed, limit, lines.append)
  compiled = cost_of_seeds(seeds)
  B, C, T = finetune.longest_batch(job).ids_BCT.shape
  change = advice(
    run,
    transfer.grown(job.cfg),
    layout,
    compiled,
    tokens=C * T if run.task.aux else 0,
    seeds=seeds,
  )
  what = f', {seeds} of {run.seeds} seeds together, {B} examples of {C} x {T} tokens'
  return _Update(layout, compiled, change, what, lines)


def report(run: config.Run, workdir: str | pathlib.Path, device_gib: float = 0) -> str:
  """Returns what one update of a run takes of its devices, and whether it fits.

  Args:
    workdir: its tokenizer, where there is one, tells the vocabulary.
    device_gib: memory of a device; 0 asks the device, which may not know.
  """
  run = shape.resolved(run, workdir)
  devices = sharding.real_or_simulated(sharding.asked_devices(run))
  device = devices[0]
  limit = device_gib * _GIB or (device.memory_stats() or {}).get('bytes_limit', 0)
  of = _of_fine_tuning if run.is_finetuning else _of_language_model
  layout, compiled, change, what, lines = of(run, pathlib.Path(workdir), devices, limit)
  need = compiled.state + compiled.working
  lines += [
    f'compiled for {len(layout.devices)} x {device.device_kind}, {layout}{what}; not '
    'run',
    f'memory    {_size(need)} each: {_size(compiled.state)} for parameters, optimizer '
    f'and batch, {_size(compiled.working)} to work with',
    f'sends     {_size(sum(compiled.sent.values()))} each in an update'
    + ''.join(
      f'; {_size(size)} by {compiled.operations[name]} {name}'
      for name, size in sorted(compiled.sent.items(), key=lambda item: -item[1])
    ),
  ]
  if not limit:
    lines.append(
      f'fits      is not known: {device.platform} does not tell its memory; give '
      f'--device_gib. To make it smaller: {change}'
    )
  elif need > limit:
    lines.append(f'fits      not in {_size(limit)}. First change: {change}')
  else:
    lines.append(f'fits      in {_size(limit)}')
  return '\n'.join(lines)
