"""From gradients to updates: optax transformations and learning-rate schedules.

What is a number (rates, decay, clipping) is a traced scalar in `Hyper`, so that runs
that differ only in numbers share one compiled program; what is a choice (the optimizer,
the schedule) is static.
"""

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from gpt_jax import config
from gpt_jax.config.length import stages_of
from gpt_jax.training.muon import Stacked


@flax.struct.dataclass
class Read:
  """How many tokens updates have read: a table of the batch's sizes, float32 [sizes].

  Attributes:
    update: updates before the first of a size.
    before: tokens read before it.
    each: tokens of each.
  """

  update: jax.Array
  before: jax.Array
  each: jax.Array

  @classmethod
  def of(cls, run: config.Run) -> 'Read':
    """Returns the table of a language model's run."""
    sizes, T = stages_of(run), run.model.T
    table = [(each.update, each.row * T, each.rows * T) for each in sizes]
    return cls(*(jnp.array(column, jnp.float32) for column in zip(*table, strict=True)))

  def after(self, updates: jax.Array) -> jax.Array:
    """Returns the tokens that so many updates have read, float32 of any shape."""
    size = (updates[..., None] >= self.update).sum(-1) - 1
    return self.before[size] + (updates - self.update[size]) * self.each[size]


@flax.struct.dataclass
class Hyper:
  """Numeric hyper-parameters of a run, scalars; fields as in `config.Optim`.

  `aux` and `clf_dropout` are `aux` and `dropout` of `config.Task`; `end` is where the
  schedule ends, in updates; or in tokens with `read`, which counts them.
  """

  seed: jax.Array
  end: jax.Array
  dropout: jax.Array
  lr: jax.Array
  muon_momentum: jax.Array
  final_lr: jax.Array
  warmup: jax.Array
  cooldown: jax.Array
  beta1: jax.Array
  beta2: jax.Array
  eps: jax.Array
  weight_decay: jax.Array
  clip: jax.Array
  ema: jax.Array
  guard_sigmas: jax.Array
  aux: jax.Array
  clf_dropout: jax.Array
  read: Read | None = None

  @classmethod
  def of(cls, run: config.Run) -> 'Hyper':
    """Returns the numbers of `run`; a seed is uint32, all else float32."""
    by_tokens = run.optim.by == 'tokens'
    end = config.tokens_read(run) if by_tokens else run.steps
    optim = {k: v for k, v in vars(run.optim).items() if k in cls.__annotations__}
    numbers = optim | {
      'end': run.optim.until or end,
      'dropout': run.model.dropout,
      'aux': run.task.aux,
      'clf_dropout': run.task.dropout,
    }
    if run.is_finetuning:
      numbers['warmup'] = round(run.task.warmup * run.steps)
    if run.optim.schedule == 'noam':
      numbers['lr'] = noam_peak(run.optim, run.model.D)
    scalars = {name: jnp.float32(value) for name, value in numbers.items()}
    read = Read.of(run) if by_tokens else None
    return cls(seed=jnp.uint32(run.seed), read=read, **scalars)


def noam_peak(optim: config.Optim, D: int) -> float:
  """Returns the highest rate of 'noam', which update number `warmup` has.

  DialoGPT's release has the rate 1e4 lr D^-0.5 min(s^-0.5, s warmup^-1.5) in update s
  (lsp_model/optim.py and set_lr), after Vaswani et al. 2017, section 5.3.
  """
  return 1e4 * optim.lr * (D * max(optim.warmup, 1)) ** -0.5


def learning_rate(step: jax.Array, hp: Hyper, schedule: str) -> jax.Array:
  """Returns the learning rate of the update that follows `step` updates.

  Warm-up is linear and reaches `lr` with update number `warmup`. Then 'cosine' and
  'linear' fall to `final_lr` at `end` and stay there; 'rsqrt' is
  lr * sqrt(warmup / update), and 'noam' that of the lr in `noam_peak`; 'wsd' is
  constant until the last `cooldown` updates, which fall linearly to `final_lr`. By
  tokens, the number of an update is that of the
  tokens read with it (GPT-3, appendix B).

  Args:
    step: of any shape.
  """
  update = jnp.float32(step) + 1
  now = update if hp.read is None else hp.read.after(update)
  ramp = jnp.minimum(1.0, now / jnp.maximum(hp.warmup, 1))
  # One update after the warm-up is where the fall begins; the last update ends it.
  length = jnp.maximum(hp.end - hp.warmup, 1)
  done = jnp.clip((now - hp.warmup) / length, 0, 1)
  if schedule == 'cosine':
    share = 0.5 * (1 + jnp.cos(jnp.pi * done))
  elif schedule == 'linear':
    share = 1 - done
  elif schedule == 'wsd':
    share = jnp.clip((hp.end - now) / jnp.maximum(hp.cooldown, 1), 0, 1)
  elif schedule in ('rsqrt', 'noam'):
    start = jnp.maximum(hp.warmup, 1)
    return hp.lr * ramp * jnp.sqrt(start / jnp.maximum(now, start))
  else:
    return hp.lr * ramp
  return ramp * (hp.final_lr + (hp.lr - hp.final_lr) * share)


def decays(params: dict) -> dict:
  """Returns, for each parameter, whether weight decay applies to it.

  Chosen by name: matrices of linear layers (`kernel`), both embeddings and an output
  matrix of its own; not biases and LayerNorm scales. (GPT-1, section 4.1: "all non
  bias or gain weights".)
  """

  def by_name(path, _):
    return path[-1].key in ('kernel', 'wte', 'wpe', 'lm_head')

  return jax.tree_util.tree_map_with_path(by_name, params)


def muon_or_adam(params: dict) -> dict:
  """Returns, for each parameter, which of the two 'muon' runs update it.

  Muon takes the kernels of linear layers; AdamW the embeddings (one of which is the
  output head), biases and LayerNorm scales (Jordan et al. 2024).
  """

  def by_name(path, _):
    return 'muon' if path[-1].key == 'kernel' else 'adam'

  return jax.tree_util.tree_map_with_path(by_name, params)


def _matrices(params):
  """Says that every parameter of Muon is a matrix [in, out]."""
  return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)


def _adam_sized(updates, _):
  """Scales orthogonal updates to the size that AdamW's usually have.

  0.2 * sqrt(max(rows, columns)), so that both share a learning rate and a weight decay
  (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
  """
  return jax.tree.map(lambda u: u * 0.2 * max(u.shape) ** 0.5, updates)


def _kernel_rate(name: str, width: float) -> optax.GradientTransformation:
  """Returns the change of the kernels' rate for a model `width` times as wide.

  Adam's updates have entries of about 1, whatever the width, and what they add to an
  activation is a sum over it: 1 / width (Tensor Programs V, table 8). An orthogonal
  update has spectral norm 1, which is what is right at any width where rows and columns
  grow alike (Yang, Simon & Bernstein 2023, condition 1); `_adam_sized` multiplies it by
  the root of a width, so Muon needs 1 / sqrt(width). All else keeps its rate, and decay
  follows after this, so that a tensor's shrinking is the same at any width.
  """
  rate = width**-0.5 if name == 'muon' else 1 / width

  def by_name(path, update):
    return update * rate if path[-1].key == 'kernel' else update

  return optax.stateless(
    lambda updates, _: jax.tree_util.tree_map_with_path(by_name, updates)
  )


def in_few_arrays(grads: dict) -> tuple[dict, jax.Array]:
  """Returns the gradients, and their global norm, for few kernels.

  All vectors become pieces of one array, so that a compiler makes one kernel of their
  updates; and the norm adds up sums over rows, of which each is one kernel, where a sum
  over a whole matrix takes two.
  """
  leaves, tree = jax.tree.flatten(grads)
  vectors = [leaf for leaf in leaves if leaf.ndim == 1]
  matrices = [leaf for leaf in leaves if leaf.ndim > 1]
  squares = [jnp.square(leaf).sum(-1).reshape(-1) for leaf in matrices]
  if vectors:
    # Behind barriers, as the compiler would else undo it.
    flat = jax.lax.optimization_barrier(jnp.concatenate(vectors))
    ends = itertools.accumulate(len(leaf) for leaf in vectors)
    pieces = iter(jnp.split(flat, list(ends)[:-1]))
    leaves = [next(pieces) if leaf.ndim == 1 else leaf for leaf in leaves]
    squares.append(jnp.square(flat))
  squares = jax.lax.optimization_barrier(jnp.concatenate(squares))
  return jax.tree.unflatten(tree, leaves), jnp.sqrt(squares.sum())


def _clipped(norm: jax.Array, most: jax.Array) -> optax.GradientTransformation:
  """Returns `optax.clip_by_global_norm`, for gradients whose norm is known."""
  factor = jnp.where(norm < most, 1, most / norm)
  return optax.stateless(lambda updates, _: jax.tree.map(lambda g: g * factor, updates))


def _clipped_apart(grads: dict, most: jax.Array) -> dict:
  """Returns gradients of which no tensor's norm is above `most`.

  Query, key and value are one tensor, as they are in GPT-2's release.
  """

  def tensor(path) -> str:
    names = [part.key for part in path]
    return '/'.join('qkv' if n in ('q', 'k', 'v') else n for n in names)

  squares: dict[str, jax.Array] = {}
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    squares[tensor(path)] = squares.get(tensor(path), 0.0) + jnp.square(grad).sum()
  factors = {
    name: jnp.minimum(1.0, most / (jnp.sqrt(square) + 1e-6))
    for name, square in squares.items()
  }
  return jax.tree_util.tree_map_with_path(
    lambda path, grad: grad * factors[tensor(path)], grads
  )


def transformation(
  optim: config.Optim,
  hp: Hyper,
  step: jax.Array,
  width: float = 1.0,
  norm: jax.Array | None = None,
  stacked: Stacked | None = None,
) -> optax.GradientTransformation:
  """Returns the optax transformation whose update follows `step` updates.

  'adam_gpt1' is Adam as GPT-1's released code has it (openai/finetune-transformer-lm,
  opt.py): eps is added to the root of v before its bias is corrected, and the factor
  that corrects, sqrt(1 - beta2^t) / (1 - beta1^t), is on the decay too.

  'adam_dialogpt' is Adam as DialoGPT's has it for float32 (microsoft/DialoGPT,
  lsp_model/optim.py): biases are not corrected, and each tensor's gradient is clipped
  by its own norm. Differs: biases and LayerNorms do not decay, as in the release's
  float16; its float32 reads no such choice, and decays all.

  'adafactor' is that of Shazeer & Stern (2018, algorithms 4 and 5) with the constants
  of algorithm 6: no momentum, second moments of all matrices factored, beta2 =
  1 - t^-0.8, eps 1e-30, updates clipped to an RMS of 1 in each tensor. Differs: the
  rate is the run's, not relative to the RMS of each parameter (section 8), and decay
  is decoupled; so both are of AdamW's size.

  'lion' is algorithm 2 of Chen et al. (2023): the sign of an interpolation of gradient
  and momentum. Entries of an update are 1, so rates are 3 to 10 times smaller than
  AdamW's, and the decay larger by as much (section 5).

  Args:
    optim: its choices (optimizer, schedule, whether gradients are clipped) are static.
    width: `GPTConfig.width`: of the model, over that at which the numbers were tuned.
    norm: of the gradients, where it is known already.
    stacked: how Muon makes matrices orthogonal; None: one by one, in float32.
  """
  adam = optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps)
  muon = optax.chain(
    optax.contrib.scale_by_muon(
      beta=hp.muon_momentum,
      weight_dimension_numbers=_matrices,
      ns_steps=0 if stacked else 5,  # 0: the norm alone
    ),
    optax.stateless(lambda u, _: _adam_sized(stacked(u) if stacked else u, _)),
  )
  decay = hp.weight_decay
  parts = []
  if optim.clip and optim.name == 'adam_dialogpt':
    parts.append(optax.stateless(lambda grads, _: _clipped_apart(grads, hp.clip)))
  elif optim.clip and norm is not None:
    parts.append(_clipped(norm, hp.clip))
  elif optim.clip:
    parts.append(optax.clip_by_global_norm(hp.clip))
  if optim.name == 'adamw':
    parts.append(adam)
  elif optim.name in ('adam_gpt1', 'adam_dialogpt'):
    update = jnp.float32(step) + 1
    root = jnp.sqrt(1 - hp.beta2**update)
    # Optax adds eps to the corrected root: eps / root there is eps before it.
    parts.append(optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps / root))
    corrected = root / (1 - hp.beta1**update)
    if optim.name == 'adam_gpt1':
      decay *= corrected
    else:  # which has none
      parts.append(optax.scale(1 / corrected))
  elif optim.name == 'muon':
    parts.append(optax.partition({'muon': muon, 'adam': adam}, muon_or_adam))
  elif optim.name == 'adafactor':
    parts.append(optax.scale_by_factored_rms(min_dim_size_to_factor=1))
    parts.append(optax.clip_by_block_rms(1.0))
  elif optim.name == 'lion':
    parts.append(optax.scale_by_lion(hp.beta1, hp.beta2))
  if width != 1:
    parts.append(_kernel_rate(optim.name, width))
  if optim.name != 'sgd':
    parts.append(optax.add_decayed_weights(decay, decays))
  parts.append(optax.scale(-learning_rate(step, hp, optim.schedule)))
  return optax.chain(*parts)
