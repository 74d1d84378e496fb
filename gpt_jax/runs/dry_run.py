"""What a run would need of its devices: compiled for them, and not run.

The devices may be simulated on a CPU. The program is then the CPU's: its memory and
communication are near those of another kind of device, and not the same (no fused
attention; bfloat16 sent as float32; gradients reduced whole where others scatter them;
layers that are unrolled keep what `model.remat` would forget).
"""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError, length
from gpt_jax.data import token_files
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt_config import GPTConfig, attention_kernel
from gpt_jax.programs import absent, collectives, hlo
from gpt_jax.runs import (
  cost,
  finetune,
  finetune_job,
  layout_choice,
  on_paper,
  rows,
  schedule,
  shape,
)
from gpt_jax.runs.on_paper import GIB, Program, TooLarge, size
from gpt_jax.training import sharding, transfer
from gpt_jax.training.members import Alone


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


def update_of(run: config.Run, cfg: GPTConfig, layout: sharding.Layout) -> Program:
  """Returns an update of a language model, to be compiled for its layout's devices."""
  ids = jax.ShapeDtypeStruct((run.batch, cfg.T), np.int32)
  weights, row = ids.update(dtype=np.float32), ids.update(shape=(run.batch,))
  first_BT = ids if run.model.documents == 'apart' else None
  rows = Batch(ids, ids, weights, row, first_BT)
  update = Alone.of(run, cfg, layout)
  parameters = layout.bytes_each(update.like.params)
  held = {
    'parameters': parameters,
    'optimizer': layout.bytes_each(update.like) - parameters,
    'batch': layout.bytes_each(layout.batch_shapes(rows, run.accumulate)),
  }
  return Program(
    'update',
    update.lowered(rows),
    held,
    run.batch * cfg.T,
    work='gradients and temporaries',
    formula=cost.flops_per_token(cfg),
  )


def compiled_cost(run: config.Run, cfg: GPTConfig, layout: sharding.Layout) -> Cost:
  """Returns the cost of an update, from the program compiled for the devices."""
  return cost_of(update_of(run, cfg, layout).lowered.compile())


def cost_of(program: jax.stages.Compiled) -> Cost:
  """Returns the cost of a compiled update."""
  memory = program.memory_analysis()
  # A loop that may end early counts as one turn.
  given = collectives.sent(hlo.read(program.as_text()), turns=1)
  sent, operations = collectives.by_kind(given)
  return Cost(
    memory.argument_size_in_bytes, memory.temp_size_in_bytes, sent, operations
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


class _Update(NamedTuple):
  """An update that was compiled.

  Attributes:
    layout: over devices.
    program: as it was to be compiled.
    compiled: None where it does not fit, and a compiler refused it.
    cost: of it.
    change: the first to make where it does not fit.
    what: it is of, in words.
    lines: what else there is to say.
  """

  layout: sharding.Layout
  program: Program
  compiled: jax.stages.Compiled | None
  cost: Cost
  change: str
  what: str
  lines: list[str]


def _compiled(program: Program) -> tuple[jax.stages.Compiled | None, Cost]:
  """Returns a compiled program, if its devices have room for it, and its cost."""
  try:
    compiled = on_paper.compiled(program.lowered)
  except TooLarge as error:
    held = sum(program.held.values())
    return None, Cost(held, int(error.needed) - held, {}, {})
  return compiled, cost_of(compiled)


def _of_language_model(
  run: config.Run, vocab: int, devices: list[jax.Device], limit: float, on: str
) -> _Update:
  layout = sharding.Layout.of(run, devices)
  config.check(run, layout.parts)
  cfg = GPTConfig.of(run.model, vocab)
  layout.check(cfg)
  layout, schedule = cost.scheduled(run, cfg, layout, limit)
  lines = [f'gradients {schedule}'] if schedule else []
  if on:
    said = layout_choice.better(run, cfg, layout, on, cost.FILLED * limit)
    lines += [said] if said else []
  program = update_of(run, cfg, layout)
  compiled, taken = _compiled(program)
  change = advice(run, cfg, layout, taken)
  return _Update(layout, program, compiled, taken, change, '', lines)


def _of_fine_tuning(
  run: config.Run, devices: list[jax.Device], limit: float
) -> _Update:
  """Returns the update of the longest batch, of the seeds that would train together."""
  lines = []
  job = finetune_job.read_job(run, lines.append, devices)
  run, layout = job.run, job.layout
  bare = lambda seeds: Program('update', finetune.lowered(job, seeds), {}, 0)  # noqa: E731
  of_seeds = functools.cache(lambda seeds: _compiled(bare(seeds)))

  def needed(seeds):
    _, taken = of_seeds(seeds)
    return taken.state + taken.working

  seeds = finetune_job.group_size(run, layout)
  if limit and not run.task.together:
    seeds = finetune.most_together(seeds, needed, limit, lines.append)
  compiled, taken = of_seeds(seeds)
  B, C, T = finetune.longest_batch(job).ids_BCT.shape
  change = advice(
    run,
    transfer.grown(job.cfg),
    layout,
    taken,
    tokens=C * T if run.task.aux else 0,
    seeds=seeds,
  )
  what = f', {seeds} of {run.seeds} seeds together, {B} examples of {C} x {T} tokens'
  held = {'parameters, optimizer and batch': taken.state}
  program = bare(seeds)._replace(held=held, tokens=seeds * B * C * T)
  return _Update(layout, program, compiled, taken, change, what, lines)


def report(
  run: config.Run,
  workdir: str | pathlib.Path | None = None,
  device_gib: float = 0,
  *,
  on: str = '',
  vocab: int = 0,
) -> str:
  """Returns what one update of a run takes of its devices, and whether it fits.

  Args:
    workdir: its tokenizer, where there is one, tells the vocabulary.
    device_gib: memory of a device; 0 asks the device, which may not know.
    on: absent devices to compile for, as `absent.devices` takes them; '': those here,
      or simulated ones.
    vocab: entries of the vocabulary; 0: the tokenizer's.
  """
  run = shape.resolved(run, workdir)
  if on and run.is_finetuning and not run.layout:
    raise UserError(
      f'--on={on}: a fine-tuning is compiled for absent devices in a layout only; add '
      '--config.layout=data'
    )
  if on:
    devices = absent.devices(on)
    limit, free = on_paper.room(on, devices[0])
    if device_gib:
      limit, free = device_gib * GIB, size(device_gib * GIB)
  else:
    devices = sharding.real_or_simulated(sharding.asked_devices(run))
    known = (devices[0].memory_stats() or {}).get('bytes_limit', 0)
    limit = device_gib * GIB or known
    free = size(limit)
  device = devices[0]
  mixed = []
  if run.is_finetuning:
    update = _of_fine_tuning(run, devices, limit)
  else:
    own = workdir and pathlib.Path(workdir) / 'tokenizer'
    if not vocab and own and own.exists():
      vocab = tokenizers.load(own).vocab
    entries = vocab or cost.vocabulary(run)
    text = _tokens(run, workdir)
    known = schedule.resolved(run, text)
    update = _of_language_model(run, entries, devices, limit, on)
    update.lines[:0] = schedule.lines(known, text)
    mixed = list(rows.expected(known, run.model.T, length.stages_of(known), workdir))
  layout, taken, change = update.layout, update.cost, update.change
  need = taken.state + taken.working
  over = f'{len(layout.devices)} x {device.device_kind}, {layout}{update.what}'
  lines = [*mixed, *update.lines, f'compiled for {over}; not run']
  if on:
    lines += _on_paper(run, update, on)
  else:
    lines += [
      f'memory    {size(need)} each: {size(taken.state)} for parameters, optimizer '
      f'and batch, {size(taken.working)} to work with',
      on_paper.sends_line(taken.sent, taken.operations, ' in an update'),
    ]
  if not limit:
    lines.append(
      f'fits      is not known: {device.platform} does not tell its memory; give '
      f'--device_gib. To make it smaller: {change}'
    )
  elif need > limit:
    lines.append(f'fits      not in {free}. First change: {change}')
  else:
    lines.append(f'fits      in {free}')
  return '\n'.join(lines)


def _tokens(run: config.Run, workdir: str | pathlib.Path | None) -> int:
  """Returns the tokens of an epoch, where a run's length needs them; 0: not known."""
  tokens = pathlib.Path(run.data.tokens or workdir or '') / 'tokens/train'
  if not run.epochs or not tokens.with_suffix('.json').exists():
    return 0
  return len(token_files.open_tokens(tokens).ids) - 1


def _on_paper(run: config.Run, update: _Update, on: str) -> list[str]:
  """Returns the lines about an update for absent devices."""
  kernel, why = attention_kernel(run.model, update.layout.devices)
  lines = [f'attention {kernel}: {why}']
  if update.compiled is None:
    need = update.cost.state + update.cost.working
    held = ', '.join(f'{size(n)} {part}' for part, n in update.program.held.items())
    return [*lines, f'memory    {size(need)} each, {held} of it: it was not compiled']
  memory = on_paper.Memory.of(update.compiled)
  number = len(update.layout.devices)
  return [
    *lines,
    on_paper.memory_line(update.program, memory),
    *on_paper.lines(update.program, update.compiled, on, number),
  ]
