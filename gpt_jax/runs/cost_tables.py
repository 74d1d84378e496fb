"""What a model and its training cost, as lines and tables for a terminal."""

import dataclasses

from rich.table import Table
from rich.text import Text

from gpt_jax import config
from gpt_jax.model.gpt_config import GPTConfig, attention_kernel
from gpt_jax.runs.cost import (
  activation_bytes,
  communication_bytes,
  flops_per_token,
  parameters_by_part,
  small_chunk,
  state_bytes,
  trained_by_part,
)
from gpt_jax.tasks.inputs import sequences_each
from gpt_jax.tasks.labelled_table import task_of
from gpt_jax.training import transfer
from gpt_jax.training.sharding import Layout


def plan(
  run: config.Run,
  cfg: GPTConfig,
  layout: Layout,
  *,
  tokens: int,
  held_out: int,
  bytes_per_token: float,
  examples: int = 0,
) -> str:
  """Returns what a run is about to do, in a few lines.

  Args:
    tokens, held_out: targets.
    examples: of dialogues, which are padded to T tokens at most; 0: it is text.
  """
  parts = parameters_by_part(cfg)
  total = sum(parts.values())
  body = total - sum(parts.get(name, 0) for name in ('wte', 'wpe', 'lm_head'))
  per_step = run.batch * cfg.T
  grows = f'{run.batch_start * cfg.T:,} to ' if run.batch_start else ''
  flops = sum(flops_per_token(cfg).values())
  state = sum(state_bytes(run, cfg, layout).values())
  read = config.tokens_read(run)
  kernel, why = attention_kernel(run.model, layout.devices)
  training = (
    f'{grows}{per_step:,} tokens = {read:,} tokens ({read / tokens:.2f} epochs), '
    f'{flops * read:.2e} FLOPs'
  )
  if examples:
    training = (
      f'{run.batch:,} of {examples:,} examples ({run.steps * run.batch / examples:.2f} '
      f'epochs), padded to at most {cfg.T} tokens'
    )
  return '\n'.join(
    [
      f'model     {total:,} parameters ({body:,} without embeddings), '
      f'context {cfg.T}, vocabulary {cfg.vocab}',
      f'data      {tokens:,} tokens to train on, {held_out:,} held out, '
      f'{bytes_per_token:.2f} bytes a token',
      f'training  {run.steps:,} updates of {training}',
      f'devices   {len(layout.devices)} x {layout.devices[0].device_kind}, {layout}: '
      f'{state / 2**20:,.0f} MiB each for parameters, gradients and optimizer',
      f'attention {kernel}: {why}',
    ]
    + _form(run, cfg, layout)
  )


def _form(run: config.Run, cfg: GPTConfig, layout: Layout) -> list[str]:
  """Returns the line that says how a GPU computes an update; none elsewhere."""
  if not layout.execution(run.model).fused:
    return []
  rows = run.batch // run.accumulate // layout.parts
  size = 4 if run.model.dtype == 'float32' else 2
  logits = rows * (run.loss_chunk or cfg.T) * cfg.V * size
  return [
    f'form      fused, for a GPU with written gradients: {logits / 2**20:,.0f} MiB of '
    f'{run.model.dtype} logits at a time'
  ]


def of_model(run: config.Run, cfg: GPTConfig) -> list[Table]:
  """Returns the tables of a model and its training that no device changes."""
  whole = transfer.grown(cfg) if run.is_finetuning else cfg
  # The FLOPs of a fine-tuning depend on how long its examples are.
  work = _trained(run, cfg) if run.is_finetuning else _flops(run, cfg)
  return [_architecture(run, whole), _parameters(whole), work]


def of_devices(run: config.Run, cfg: GPTConfig, devices: int) -> list[Table]:
  """Returns the tables of memory and communication, by formulas.

  Args:
    run: any valid config; its layout is that of the devices.
    devices: how many.
  """
  layout = Layout.imagined(run, devices)
  layout.check(cfg)
  tables = [_memory(run, cfg, layout), _communication(run, cfg, layout)]
  return [table for table in tables if table.row_count]  # one device sends nothing


def _table(title: str, *headings: str) -> Table:
  table = Table(title=title, title_justify='left', box=None, pad_edge=False)
  for i, heading in enumerate(headings):
    table.add_column(heading, justify='right' if i else 'left', no_wrap=True)
  return table


def _architecture(run: config.Run, cfg: GPTConfig) -> Table:
  table = Table(title='architecture', title_justify='left', box=None, show_header=False)
  banded = [i for i, kind in enumerate(cfg.attention) if kind == 'banded']
  attention = f'{cfg.L - len(banded)} dense layers'
  if banded:
    first = ', '.join(map(str, banded[:3])) + (', ...' if len(banded) > 3 else '')
    attention += f', {len(banded)} with a band of {cfg.band} ({first})'
  norm = {
    'pre': 'before each branch, and a last one',
    'post': 'after each sum, no last one',
  }
  biases = 'none' if not cfg.bias else 'all' if cfg.qkv_bias else 'all but q, k, v'
  where = 'embedding matrices' if cfg.dropout_wte else 'embeddings'
  rows = {
    'layers': f'{cfg.L} of width {cfg.D}, {cfg.N} heads of '
    f'{cfg.D // cfg.N}, MLP {cfg.F} ({cfg.activation})',
    'context': f'{cfg.T} tokens',
    'vocabulary': f'{cfg.vocab:,}, stored as {cfg.V:,} rows',
    'attention': attention + ('' if cfg.attention_scale else ', not scaled'),
    'LayerNorm': norm[cfg.norm],
    'output': 'tied to wte' if cfg.tied else 'a matrix of its own (lm_head)',
    'biases': biases,
    'dropout': f'{run.model.dropout:g} on {where}, attention and branches',
    'parametrisation': f'maximal update, from width {cfg.mup_base}'
    if cfg.mup_base
    else 'standard',
    'compute': f'{run.model.dtype}, parameters float32',
  }
  for name, text in rows.items():
    table.add_row(name, Text(text))
  return table


def _parameters(cfg: GPTConfig) -> Table:
  table = _table('parameters', 'part', 'number', 'share')
  parts = parameters_by_part(cfg)
  total = sum(parts.values())
  for part, number in sorted(parts.items(), key=lambda item: -item[1]):
    table.add_row(part, f'{number:,}', f'{number / total:.1%}')
  table.add_row('total', f'{total:,}', '')
  return table


def _trained(run: config.Run, cfg: GPTConfig) -> Table:
  table = _table(f'trained on {task_of(run)}: {run.task.train}', 'part', 'number')
  parts = trained_by_part(run, cfg)
  for part, number in parts.items():
    table.add_row(part, f'{number:,}')
  table.add_row('total, each seed', f'{sum(parts.values()):,}')
  return table


def _flops(run: config.Run, cfg: GPTConfig) -> Table:
  table = _table('FLOPs of training', 'part', 'a token', 'share')
  parts = flops_per_token(cfg)
  total = sum(parts.values())
  for part, flops in parts.items():
    table.add_row(part, f'{flops:.3e}', f'{flops / total:.1%}')
  tokens = config.tokens_read(run)
  table.add_row('total', f'{total:.3e}', '')
  if tokens:
    table.add_row(f'run of {tokens:.3g} tokens', f'{total * tokens:.3e}', '')
  return table


def _memory(run: config.Run, cfg: GPTConfig, layout: Layout) -> Table:
  rows = run.batch // run.accumulate
  task = task_of(run)
  what = f'examples of {sequences_each(task)} x' if task else 'rows of'
  table = _table(
    f'memory of training{" a seed" * bool(task)}, GiB: {rows} {what} {cfg.T} tokens at '
    f'a time, {layout}',
    'part',
    '1 device',
    f'each of {layout.mesh.size}',
  )
  here, there = state_bytes(run, cfg), state_bytes(run, cfg, layout)
  mine = rows // layout.parts
  share = {axis: layout.mesh.shape[axis] for axis in ('tensor', 'context')}
  kept = activation_bytes(run, cfg, rows)
  kept_there = activation_bytes(run, cfg, mine, **share)
  totals = [
    ('total', 'layers', kept, kept_there),
    ('total with --config.model.remat=block', 'layers, remat', kept, kept_there),
  ]
  if not run.loss_chunk:
    few = dataclasses.replace(run, loss_chunk=small_chunk(cfg.T))
    each = activation_bytes(few, cfg, rows)
    each_there = activation_bytes(few, cfg, mine, **share)
    name = f'total with --config.loss_chunk={few.loss_chunk}'
    totals.append((name, 'layers', each, each_there))
  gib = lambda size: f'{size / 2**30:,.2f}'  # noqa: E731
  for part in here:
    table.add_row(part, gib(here[part]), gib(there[part]))
  for part in kept:
    table.add_row(f'activations: {part}', gib(kept[part]), gib(kept_there[part]))
  for total, layers, one, other in totals:
    table.add_row(
      total,
      *(
        gib(sum(state.values()) + part[layers] + part['output'])
        for state, part in ((here, one), (there, other))
      ),
    )
  return table


def _communication(run: config.Run, cfg: GPTConfig, layout: Layout) -> Table:
  table = _table('sent by each device in an update', 'part', 'GiB')
  for part, size in communication_bytes(run, cfg, layout).items():
    if size:
      table.add_row(part, f'{size / 2**30:,.3f}')
  return table
