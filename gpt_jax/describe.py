"""What a model costs before anything is allocated: parameters, FLOPs, memory.

Everything is read off the shapes that `jax.eval_shape` gives for the model's own code,
so that a 175B model takes seconds and no memory.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from rich.table import Table
from rich.text import Text

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.model.gpt import GPT, Block, Shape, init_params
from gpt_jax.training import loss, step

# Rows of the vocabulary's padding are no parameters of the model.
_PADDED = 'wte', 'lm_head'


@functools.lru_cache
def _tree(shape: Shape) -> dict:
  """Returns the shapes of the parameters."""
  return jax.eval_shape(lambda: init_params(shape, 0))


def parameters_by_part(shape: Shape) -> dict[str, int]:
  """Returns how many parameters each kind of part has, all layers together."""
  parts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_tree(shape)):
    top, *rest = [key.key for key in path]
    size = math.prod(leaf.shape)
    if top in _PADDED:
      size -= (shape.V - shape.vocab) * shape.D
    if top.startswith('h_'):
      part = {'attn': 'attention', 'mlp': 'MLP'}.get(rest[0], 'LayerNorm')
    else:
      part = 'LayerNorm' if top == 'ln_f' else top
    parts[part] = parts.get(part, 0) + size
  return parts


def parameter_count(shape: Shape) -> int:
  """Returns the number of parameters, the padding of the vocabulary left out."""
  return sum(parameters_by_part(shape).values())


def flops_per_token(shape: Shape) -> dict[str, float]:
  """Returns the FLOPs of one training update for each token, by part.

  6 for each weight that a token is multiplied with: 2 forward, 4 backward (Kaplan et
  al. 2020, section 2.1; GPT-3, appendix D). Attention adds 12 D for each position a
  token may see; counted like PaLM (appendix B), a dense layer sees all T, and a
  banded one its band. The output matrix counts, look-ups do not.
  """
  kernels = {'attention': 0, 'MLP': 0}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_tree(shape)):
    if path[-1].key == 'kernel':
      kernels['attention' if path[1].key == 'attn' else 'MLP'] += math.prod(leaf.shape)
  seen = sum(
    min(shape.band, shape.T) if kind == 'banded' else shape.T
    for kind in shape.attention
  )
  return {
    'attention, linear layers': 6 * kernels['attention'],
    'attention, pairs of positions': 12 * shape.D * seen,
    'MLP': 6 * kernels['MLP'],
    'output': 6 * shape.vocab * shape.D,
  }


def _bytes(tree) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _kept(f, *args) -> int:
  """Returns the bytes that the backward pass of f needs from its forward pass.

  The first argument holds parameters, which are there anyhow and are not counted.
  """
  residuals = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(f, *a)[1], *args))
  given = [(x.shape, x.dtype) for x in jax.tree.leaves(args[0])]
  for leaf in list(residuals):
    if (leaf.shape, leaf.dtype) in given:
      given.remove((leaf.shape, leaf.dtype))
      residuals.remove(leaf)
  return _bytes(residuals)


def activation_bytes(shape: Shape, rows: int) -> dict[str, int]:
  """Returns the bytes of activations that training keeps for `rows` rows of T tokens.

  By part: 'layers', all of them, everything kept; 'layers, remat', their inputs and
  one layer's insides at a time; 'output', from the last layer to the loss. XLA's own
  figure for small models on a CPU was 0.84 to 1.11 of the sum: fusion keeps less, and
  the largest products need room while they run. (XLA's CPU compiler merges the
  repeated computation of remat with the first again, and saves nothing by it.)
  """
  x_BTD = jax.ShapeDtypeStruct((rows, shape.T, shape.D), jnp.float32)
  tree = _tree(shape)
  layer = {}
  for kind in set(shape.attention):
    block = Block(shape, kind == 'banded')

    def one_layer(params, x_BTD, block=block):
      mask_TT = jnp.tril(jnp.ones((shape.T, shape.T), bool))
      return block.apply({'params': params}, x_BTD, mask_TT, None, None, None)[0]

    layer[kind] = _kept(one_layer, tree['h_0'], x_BTD)
  everything = sum(layer[kind] for kind in shape.attention)

  ends = {name: leaf for name, leaf in tree.items() if not name.startswith('h_')}
  ids = jax.ShapeDtypeStruct((rows, shape.T), jnp.int32)

  bare = dataclasses.replace(shape, L=0, attention=())

  def output(params, ids_BT):
    logits_BTV, _ = GPT(bare).apply({'params': params}, ids_BT)
    return loss.nll_sum(logits_BTV, ids_BT, jnp.ones(ids_BT.shape))

  return {
    'layers': everything,
    'layers, remat': shape.L * _bytes(x_BTD) + max(layer.values()),
    'output': _kept(output, ends, ids),
  }


def state_bytes(run: config.Run, shape: Shape) -> dict[str, int]:
  """Returns the bytes of parameters, gradients and optimizer state."""
  state = jax.eval_shape(lambda: step.init_state(run, shape))
  parameters = _bytes(state.params)
  return {
    'parameters': parameters,
    'gradients': parameters,
    'optimizer': _bytes(state.opt_state),
  }


def plan(
  run: config.Run,
  shape: Shape,
  devices: Sequence[jax.Device],
  *,
  tokens: int,
  held_out: int,
  bytes_per_token: float,
) -> str:
  """Returns what a run is about to do, in a few lines.

  Args:
    run: the config.
    shape: of its model.
    devices: those used.
    tokens: to train on.
    held_out: tokens held out.
    bytes_per_token: of the training text.
  """
  parts = parameters_by_part(shape)
  total = sum(parts.values())
  body = total - sum(parts.get(name, 0) for name in ('wte', 'wpe', 'lm_head'))
  per_step = run.batch * shape.T
  flops = sum(flops_per_token(shape).values())
  state = sum(state_bytes(run, shape).values())
  return '\n'.join(
    [
      f'model     {total:,} parameters ({body:,} without embeddings), '
      f'context {shape.T}, vocabulary {shape.vocab}',
      f'data      {tokens:,} tokens to train on, {held_out:,} held out, '
      f'{bytes_per_token:.2f} bytes a token',
      f'training  {run.steps:,} updates of {per_step:,} tokens = '
      f'{run.steps * per_step:,} tokens ({run.steps * per_step / tokens:.2f} epochs), '
      f'{flops * run.steps * per_step:.2e} FLOPs',
      f'devices   {len(devices)} x {devices[0].device_kind}, '
      f'{state / 2**20:,.0f} MiB each for parameters, gradients and optimizer',
    ]
  )


def vocabulary(run: config.Run) -> int:
  """Returns how many entries the vocabulary of a run will have.

  Raises:
    UserError: only the text can tell.
  """
  kind = run.data.tokenizer
  if run.model.vocab:
    return run.model.vocab
  if kind in ('bpe', 'unigram', 'byte_bpe'):
    return run.data.vocab
  if kind == 'bytes':
    return tokenizers.Bytes.vocab
  if kind == 'chars':
    raise UserError('how many characters the text has is not known yet; give --vocab')
  return tokenizers.open_path(kind).vocab


def tables(run: config.Run, vocab: int, devices: int) -> list[Table]:
  """Returns the tables that `launch.py describe` prints.

  Args:
    run: any valid config.
    vocab: entries of its tokenizer.
    devices: that the rows of a batch are divided over; each holds the whole state.
  """
  shape = Shape.of(run.model, vocab)
  return [
    _architecture(run, shape),
    _parameters(shape),
    _flops(run, shape),
    _memory(run, shape, devices),
  ]


def _table(title: str, *headings: str) -> Table:
  table = Table(title=title, title_justify='left', box=None, pad_edge=False)
  for i, heading in enumerate(headings):
    table.add_column(heading, justify='right' if i else 'left', no_wrap=True)
  return table


def _architecture(run: config.Run, shape: Shape) -> Table:
  table = Table(title='architecture', title_justify='left', box=None, show_header=False)
  banded = [i for i, kind in enumerate(shape.attention) if kind == 'banded']
  attention = f'{shape.L - len(banded)} dense layers'
  if banded:
    first = ', '.join(map(str, banded[:3])) + (', ...' if len(banded) > 3 else '')
    attention += f', {len(banded)} with a band of {shape.band} ({first})'
  norm = {
    'pre': 'before each branch, and a last one',
    'post': 'after each sum, no last one',
  }
  biases = 'none' if not shape.bias else 'all' if shape.qkv_bias else 'all but q, k, v'
  where = 'embedding matrices' if shape.dropout_wte else 'embeddings'
  rows = {
    'layers': f'{shape.L} of width {shape.D}, {shape.N} heads of '
    f'{shape.D // shape.N}, MLP {shape.F} ({shape.activation})',
    'context': f'{shape.T} tokens',
    'vocabulary': f'{shape.vocab:,}, stored as {shape.V:,} rows',
    'attention': attention + ('' if shape.attention_scale else ', not scaled'),
    'LayerNorm': norm[shape.norm],
    'output': 'tied to wte' if shape.tied else 'a matrix of its own (lm_head)',
    'biases': biases,
    'dropout': f'{run.model.dropout:g} on {where}, attention and branches',
    'compute': f'{shape.dtype}, parameters float32',
  }
  for name, text in rows.items():
    table.add_row(name, Text(text))
  return table


def _parameters(shape: Shape) -> Table:
  table = _table('parameters', 'part', 'number', 'share')
  parts = parameters_by_part(shape)
  total = sum(parts.values())
  for part, number in sorted(parts.items(), key=lambda item: -item[1]):
    table.add_row(part, f'{number:,}', f'{number / total:.1%}')
  table.add_row('total', f'{total:,}', '')
  return table


def _flops(run: config.Run, shape: Shape) -> Table:
  table = _table('FLOPs of training', 'part', 'a token', 'share')
  parts = flops_per_token(shape)
  total = sum(parts.values())
  for part, flops in parts.items():
    table.add_row(part, f'{flops:.3e}', f'{flops / total:.1%}')
  tokens = run.steps * run.batch * shape.T
  table.add_row('total', f'{total:.3e}', '')
  table.add_row(f'run of {tokens:.3g} tokens', f'{total * tokens:.3e}', '')
  return table


def _memory(run: config.Run, shape: Shape, devices: int) -> Table:
  rows = run.batch // run.accumulate
  table = _table(
    f'memory of training, {rows} rows of {shape.T} tokens at a time, GiB',
    'part',
    '1 device',
    f'each of {devices}',
  )
  state = state_bytes(run, shape)
  here, there = activation_bytes(shape, rows), activation_bytes(shape, rows // devices)
  gib = lambda size: f'{size / 2**30:,.2f}'  # noqa: E731
  for part, size in state.items():
    table.add_row(part, gib(size), gib(size))
  for part in here:
    table.add_row(f'activations: {part}', gib(here[part]), gib(there[part]))
  for total, layers in (
    ('total', 'layers'),
    ('total with --config.model.remat=block', 'layers, remat'),
  ):
    table.add_row(
      total,
      *(
        gib(sum(state.values()) + part[layers] + part['output'])
        for part in (here, there)
      ),
    )
  return table
