"""What a run costs before anything is allocated: parameters, FLOPs, memory.

Everything is read off the shapes that `jax.eval_shape` gives for the model's own code,
so that a 175B model takes seconds and no memory. Of a fine-tuning, the architecture is
that of the model without the new tokens, and the cost that of one seed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, Block, init_params
from gpt_jax.model.gpt_config import (
  Execution,
  GPTConfig,
  attention_kernel,
  axes_of,
)
from gpt_jax.tasks.inputs import TaskBatch, classes, sequences_each
from gpt_jax.tasks.labelled_table import task_of
from gpt_jax.training import step, transfer
from gpt_jax.training.objective import LabelledTask, LanguageModeling
from gpt_jax.training.reduction import Schedule, compute_dtype
from gpt_jax.training.sharding import AXES, Layout

# Rows of the vocabulary's padding are no parameters of the model.
_PADDED = 'wte', 'lm_head'


@functools.lru_cache
def _tree(cfg: GPTConfig) -> dict:
  """Returns the shapes of the parameters."""
  return jax.eval_shape(lambda: init_params(cfg, 0))


def parameters_by_part(cfg: GPTConfig) -> dict[str, int]:
  """Returns how many parameters each kind of part has, all layers together."""
  parts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_tree(cfg)):
    top, *rest = [key.key for key in path]
    size = math.prod(leaf.shape)
    if top in _PADDED:
      size -= (cfg.V - cfg.vocab) * cfg.D
    if top.startswith('h_'):
      part = {'attn': 'attention', 'mlp': 'MLP'}.get(rest[0], 'LayerNorm')
    else:
      part = 'LayerNorm' if top == 'ln_f' else top
    parts[part] = parts.get(part, 0) + size
  return parts


@functools.lru_cache
def parameter_count(cfg: GPTConfig) -> int:
  """Returns the number of parameters, the padding of the vocabulary left out."""
  return sum(parameters_by_part(cfg).values())


def flops_per_token(cfg: GPTConfig) -> dict[str, float]:
  """Returns the FLOPs of one training update for each token, by part.

  6 for each weight that a token is multiplied with: 2 forward, 4 backward (Kaplan et
  al. 2020, section 2.1; GPT-3, appendix D). Attention adds 12 D for each position a
  token may see; counted like PaLM (appendix B), a dense layer sees all T, and a
  banded one its band. The output matrix counts, look-ups do not.
  """
  kernels = {'attention': 0, 'MLP': 0}
  for path, leaf in jax.tree_util.tree_leaves_with_path(_tree(cfg)):
    if path[-1].key == 'kernel':
      kernels['attention' if path[1].key == 'attn' else 'MLP'] += math.prod(leaf.shape)
  seen = sum(
    min(cfg.band, cfg.T) if kind == 'banded' else cfg.T for kind in cfg.attention
  )
  return {
    'attention, linear layers': 6 * kernels['attention'],
    'attention, pairs of positions': 12 * cfg.D * seen,
    'MLP': 6 * kernels['MLP'],
    'output': 6 * cfg.vocab * cfg.D,
  }


def _bytes(tree) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _state_of(run: config.Run, cfg: GPTConfig) -> tuple[Callable[[], step.State], dict]:
  """Returns what makes a run's state, and the shapes of what it does not train."""
  task = task_of(run)
  if not task:
    return functools.partial(step.new_state, run, cfg), {}

  def make():
    trained = transfer.init(run, cfg, task, init_params(cfg, 0), 0)
    return step.init_state(run, trained, cfg.width)

  return make, transfer.fixed(run, _tree(cfg))


def trained_by_part(run: config.Run, cfg: GPTConfig) -> dict[str, int]:
  """Returns how many parameters a run trains, by part."""
  if not run.is_finetuning:
    return {'model': parameter_count(cfg)}
  trained = jax.eval_shape(_state_of(run, cfg)[0]).params
  size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
  sizes = {words: size(trained.get(name)) for name, words in _TRAINED.items()}
  sizes['model'] = parameter_count(cfg) if 'gpt' in trained else 0
  return {part: number for part, number in sizes.items() if number}


_TRAINED = {
  'gpt': 'model',
  'special': 'embeddings of the new tokens',
  'clf': 'head',
  'lora': 'low-rank changes',
}


def _kept(f, *args, tensor: int = 1) -> float:
  """Returns the bytes that the backward pass of f needs from its forward pass.

  The first argument holds parameters, which are there anyhow and are not counted. All
  but arrays of the shape of the second, the residual stream, are divided by `tensor`.
  """
  residuals = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(f, *a)[1], *args))
  given = [(x.shape, x.dtype) for x in jax.tree.leaves(args[0])]
  for leaf in list(residuals):
    if (leaf.shape, leaf.dtype) in given:
      given.remove((leaf.shape, leaf.dtype))
      residuals.remove(leaf)
  whole = [leaf for leaf in residuals if leaf.shape == args[1].shape]
  return _bytes(whole) + (_bytes(residuals) - _bytes(whole)) / tensor


def activation_bytes(
  run: config.Run,
  cfg: GPTConfig,
  rows: int,
  *,
  tensor: int = 1,
  context: int = 1,
  flash: bool = False,
) -> dict[str, float]:
  """Returns the bytes of activations that training keeps for `rows` rows of T tokens.

  A row of a fine-tuning is an example, of one or more sequences of T tokens.

  By part: 'layers', all of them, everything kept; 'layers, remat', their inputs and
  one layer's insides at a time; 'output', from the last layer to the loss, where
  `run.loss_chunk` keeps little. A body that is frozen is counted as if it were trained.
  `tensor` devices share the insides of layers, `context` devices everything. What the
  compiler fuses away is counted, and room to work is not: XLA's own figure was 0.84 to
  1.11 of the sum for small models on a CPU. Attention is as in `model.attention`
  without a flash kernel; `flash`: with one, which keeps what remat=attention keeps.
  (XLA's CPU compiler merges the repeated computation of remat with the first again, and
  saves nothing by it, unless layers are scanned.)
  """
  task = task_of(run)
  texts = rows * (sequences_each(task) if task else 1)
  x_BTD = jax.ShapeDtypeStruct((texts, cfg.T, cfg.D), jnp.float32)
  tree = _tree(cfg)
  how = dataclasses.replace(Execution.of(run.model, ()), scan=False)
  if flash:
    how = dataclasses.replace(how, remat='attention')
  layer = {}
  for kind in set(cfg.attention):
    block = Block(cfg, how, kind == 'banded')

    def one_layer(params, x_BTD, block=block):
      return block.apply({'params': params}, x_BTD)[0]

    layer[kind] = _kept(one_layer, tree['h_0'], x_BTD, tensor=tensor)
  everything = sum(layer[kind] for kind in cfg.attention)

  ends = {name: leaf for name, leaf in tree.items() if not name.startswith('h_')}
  ids = jax.ShapeDtypeStruct((texts, cfg.T), jnp.int32)
  row_B = jnp.zeros(rows, jnp.int32)

  if task:
    bare = GPT(dataclasses.replace(transfer.grown(cfg), L=0, attention=()), how)
    objective = LabelledTask.of(run, bare, task)
    new = jax.eval_shape(_state_of(run, cfg)[0]).params
    ends = {'gpt': ends, 'special': new['special'], 'clf': new['clf']}

    def output(tree, ids_BT):
      ids_BCT = ids_BT.reshape(rows, -1, cfg.T)
      length_BC = jnp.full(ids_BCT.shape[:2], cfg.T)
      target_BK = jnp.zeros((rows, classes(task)))
      batch = TaskBatch(ids_BCT, length_BC, target_BK, jnp.ones(rows), row_B)
      return sum(objective.losses(tree, batch))

    few = task_logits_bytes(run, cfg, rows, cfg.T)
  else:
    bare = GPT(dataclasses.replace(cfg, L=0, attention=()), how)
    objective = LanguageModeling(bare, loss_chunk=run.loss_chunk)

    def output(params, ids_BT):
      batch = Batch(ids_BT, ids_BT, jnp.ones(ids_BT.shape), row_B)
      return objective.nll_sum(params, batch)

    few = 2 * 4 * rows * run.loss_chunk * cfg.V

  # A chunk's logits and their gradients, while they exist.
  output_bytes = _kept(output, ends, ids, tensor=tensor) + few / tensor

  return {
    'layers': everything / context,
    'layers, remat': (cfg.L * _bytes(x_BTD) + max(layer.values())) / context,
    'output': output_bytes / context,
  }


def task_logits_bytes(run: config.Run, cfg: GPTConfig, rows: int, T: int) -> int:
  """Returns the bytes of the logits of a task's language-model loss, with gradients.

  Those that exist at a time, for `rows` examples of sequences of T tokens.
  """
  if not run.task.aux:
    return 0
  texts = rows * sequences_each(task_of(run))
  return 2 * 4 * texts * math.gcd(run.loss_chunk, T) * transfer.grown(cfg).V


def small_chunk(T: int) -> int:
  """Returns a `loss_chunk` with which few logits of T positions exist at a time."""
  return next(n for n in range(max(1, T // 8), 0, -1) if T % n == 0)


def state_bytes(
  run: config.Run, cfg: GPTConfig, layout: Layout | None = None
) -> dict[str, int]:
  """Returns the bytes of parameters, gradients and optimizer state on a device.

  Args:
    layout: over devices; without one, all is on one.
  """
  if layout is None:
    layout = Layout.imagined(config.Run(), 1)
  make, fixed = _state_of(run, cfg)
  state = layout.state_shapes(make)
  trained = layout.bytes_each(state.params)
  return {
    'parameters': trained + layout.bytes_each(layout.placed(fixed)),
    'gradients': trained,
    'optimizer': layout.bytes_each(state) - trained,
  }


def scheduled(
  run: config.Run, cfg: GPTConfig, layout: Layout, limit: float
) -> tuple[Layout, Schedule | None]:
  """Returns a layout with how often an update sends weights and gradients, and why.

  None: one device has no one to send to.

  Args:
    limit: bytes of a device's memory; 0: not known.
  """
  if layout.parts == 1:
    return layout, None
  if layout.once:
    return layout, Schedule(True, 'each device has all weights')
  if not limit:
    return layout, Schedule(False, 'how much memory a device has is not known')
  flash = attention_kernel(run.model, layout.devices).kernel != 'plain'
  need = update_bytes(run, cfg, dataclasses.replace(layout, whole=True), flash=flash)
  once = need <= FILLED * limit
  words = f'{need / 2**30:.1f} of {limit / 2**30:.1f} GiB'
  why = f'with all weights and gradients a device has {words} filled'
  return dataclasses.replace(layout, whole=once), Schedule(once, why)


def update_bytes(
  run: config.Run, cfg: GPTConfig, layout: Layout, *, flash: bool
) -> float:
  """Returns the bytes of a device's memory that an update of a language model fills.

  Args:
    flash: as in `activation_bytes`.
  """
  tensor, context = (layout.mesh.shape[axis] for axis in ('tensor', 'context'))
  rows = run.batch // run.accumulate // layout.parts
  cut = {'tensor': tensor, 'context': context}
  kept = activation_bytes(run, cfg, rows, flash=flash, **cut)
  state = state_bytes(run, cfg, layout)
  need = state['parameters'] + state['optimizer'] + kept['output']
  need += kept['layers, remat' if run.model.remat == 'block' else 'layers']
  gradients = _bytes(_tree(cfg)) / tensor
  if not layout.once:
    # Of the batch so far, and of a micro-batch; and gathered, with their gradients, the
    # ends and two layers, as one is sent while the other computes.
    few = _tree(dataclasses.replace(cfg, L=2, attention=cfg.attention[:2]))
    return (
      need + 2 * state['gradients'] + (_bytes_sent(run, few) + _bytes(few)) / tensor
    )
  # In a loop over the layers weights and gradients are stacked, too.
  return (
    need
    + _bytes_sent(run, _tree(cfg)) / tensor
    + gradients * (3 if run.model.scan else 1)
  )


FILLED = 0.9  # of a device's memory at most: the compiler needs room to work


def _bytes_sent(run: config.Run, tree: dict) -> int:
  """Returns the bytes of parameters as `training/reduction.py` gathers them."""
  return sum(
    math.prod(leaf.shape) * compute_dtype(path, leaf, run.model.dtype).itemsize
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  )


@functools.lru_cache
def _divided(
  cfg: GPTConfig, dtype: str, fsdp: int, tensor: int
) -> tuple[float, float, float]:
  """Returns how `training/reduction.py` gathers what `fsdp` devices have parts of.

  Bytes, those of layers among them, and the share of all parameters: those no dimension
  of which `fsdp` divides each device has.
  """
  sizes = config.Run(layout=f'fsdp={fsdp},tensor={tensor}')
  one = {k: v for k, v in _tree(cfg).items() if k == 'h_0' or not k.startswith('h_')}
  placed = Layout.imagined(sizes, fsdp * tensor).placed(one)
  sent, size, total = {True: 0, False: 0}, 0, 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(placed):
    of_layers = path[0].key == 'h_0'  # all are like it
    here = math.prod(leaf.shape) * (cfg.L if of_layers else 1)
    total += here
    if 'fsdp' in [axis for part in leaf.sharding.spec for axis in axes_of(part)]:
      size += here
      sent[of_layers] += here * compute_dtype(path, leaf, dtype).itemsize
  return sum(sent.values()) / tensor, sent[True] / tensor, size / total


def communication_bytes(
  run: config.Run, cfg: GPTConfig, layout: Layout
) -> dict[str, float]:
  """Returns the bytes that each device sends in an update, by what and why.

  With ring algorithms: of S bytes over n devices a gather or a scatter sends
  S (n - 1) / n, and a sum twice that. Parameters are gathered in the compute dtype;
  gradients are float32. What `fsdp` does not divide is not gathered, and its gradients
  are summed. Where a device has no room for all of them, parameters of layers are
  gathered for each micro-batch once forward and once backward, embeddings once, and
  gradients are scattered for each. What `model.remat` computes again it sums over
  `tensor` again: the results of attention.
  """
  data, fsdp, tensor, context = (layout.mesh.shape[axis] for axis in AXES)
  ring = lambda n: (n - 1) / n  # noqa: E731
  gathered, again, share = _divided(cfg, run.model.dtype, fsdp, tensor)
  trained = sum(trained_by_part(run, cfg).values()) / tensor
  frozen = parameter_count(cfg) / tensor if run.task.train != 'full' else 0
  task = task_of(run)
  tokens = run.batch // layout.parts * cfg.T * (sequences_each(task) if task else 1)
  tokens /= context
  sums = 4 * cfg.L + 2  # after each branch, both ways; embedding and output
  sums += cfg.L if run.model.remat == 'block' else 0
  item = jnp.dtype(run.model.dtype).itemsize
  times, copies = 1, data * context
  # What all devices have is summed over all of them at once.
  rest = ring(copies * fsdp) - ring(copies)
  if not layout.once:
    times = run.accumulate
    rest = times * ring(fsdp)
    gathered = 2 * item * share * (trained + frozen) if task else gathered + again
  scattered, whole = 4 * share * trained, 4 * (1 - share) * trained
  return {
    'gradients, summed over data': (2 * ring(copies) * (scattered / fsdp + whole)),
    'parameters, gathered over fsdp': times * ring(fsdp) * gathered,
    'gradients, scattered over fsdp': times * ring(fsdp) * scattered,
    'gradients, summed over fsdp': 2 * rest * whole,
    'activations, summed over tensor': 2 * ring(tensor) * sums * tokens * cfg.D * item,
    # Queries, keys, values and results, both ways.
    'heads, sent all to all over context': (
      8 * cfg.L * ring(context) * tokens * cfg.D / tensor * item
    ),
  }


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
