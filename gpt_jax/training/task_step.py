"""Fine-tuning as GPT-1 did it (section 3.2): a head, its loss, one update, predictions.

What is trained and what is not are trees of the same form, which together hold

  gpt      the model it started from
  special  rows of the new tokens [3, D]: wte, and lm_head where that is not tied
  clf      the head: kernel [D, classes], or [D, 1] of a multiple choice, and bias
  lora     low-rank changes of linear layers (`model/lora.py`), with task.train=lora

Differs: the release's softmax over tokens runs over the rows of position embeddings
too, which share its matrix (openai/finetune-transformer-lm, train.py); ours does not.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import optax

from gpt_jax import config
from gpt_jax.model import lora
from gpt_jax.model.gpt import GPT, GPTConfig, init_params
from gpt_jax.model.layers import apply_dropout
from gpt_jax.tasks.inputs import NEW_TOKENS, TaskBatch, classes
from gpt_jax.tasks.labelled_table import Task
from gpt_jax.training import loss, optim
from gpt_jax.training.step import State, accumulated, dropout


def grown(cfg: GPTConfig) -> GPTConfig:
  """Returns the shape of the model with the new tokens."""
  return dataclasses.replace(cfg, vocab=cfg.vocab + NEW_TOKENS)


def init(
  run: config.Run, cfg: GPTConfig, task: Task, source: dict | None, seed: jax.Array
) -> dict:
  """Returns what is trained, before the first update.

  Args:
    run: its task says what is trained, and how much comes from `source`.
    cfg: of the model, without the new tokens.
    task: gives the size of the head.
    source: parameters of the pre-trained model; None with task.transfer=none.
    seed: of all that is new.
  """
  key = jax.random.key(seed)

  def draw(i):
    rows = (NEW_TOKENS, cfg.D)
    return 0.02 * jax.random.normal(jax.random.fold_in(key, i), rows)

  tree = {
    'special': {name: draw(i) for i, name in enumerate(_embeddings(cfg))},
    'clf': new_head(task, cfg.D, jax.random.fold_in(key, 2)),
  }
  if run.task.train == 'full':
    tree['gpt'] = _body(run, cfg, source, seed)
  elif run.task.train == 'lora':
    tree['lora'] = lora.init(source, run.task.rank, jax.random.fold_in(key, 3))
  return tree


def fixed(run: config.Run, source: dict | None) -> dict:
  """Returns what is not trained: with a frozen body or LoRA the model."""
  return {} if run.task.train == 'full' else {'gpt': source}


def _embeddings(cfg: GPTConfig) -> tuple[str, ...]:
  """Returns the matrices that have a row for each token."""
  return ('wte',) if cfg.tied else ('wte', 'lm_head')


def new_head(task: Task, D: int, key: jax.Array) -> dict:
  """Returns a head for hidden states of D features, N(0, 0.02) (the release)."""
  outputs = 1 if task.kind == 'multiple_choice' else classes(task)
  kernel = 0.02 * jax.random.normal(key, (D, outputs))
  return {'kernel': kernel, 'bias': jnp.zeros(outputs)}


def _body(
  run: config.Run, cfg: GPTConfig, source: dict | None, seed: jax.Array
) -> dict:
  """Returns the model's parameters: transferred, or new from some layer on."""
  if run.task.transfer in ('all', str(cfg.L)):
    return source
  new = init_params(cfg, seed)
  if run.task.transfer == 'none':
    return new
  layers = [f'h_{layer}' for layer in range(int(run.task.transfer))]
  kept = [*_embeddings(cfg), 'wpe', *layers]
  return new | {name: source[name] for name in kept}


def assembled(tree: dict, run: config.Run, cfg: GPTConfig) -> tuple[dict, dict]:
  """Returns the variables and the head of a model: (of `GPT(grown(shape))`, clf).

  Args:
    tree: what is trained and what is not, together.
    run: of fine-tuning.
    cfg: of the model without the new tokens.
  """
  gpt = dict(tree['gpt'])
  filler = jnp.zeros((grown(cfg).V - cfg.vocab - NEW_TOKENS, cfg.D))
  for name, rows in tree['special'].items():
    gpt[name] = jnp.concatenate([gpt[name][: cfg.vocab], rows, filler])
  variables = {'params': gpt}
  if 'lora' in tree:
    variables['lora'] = lora.scaled(tree['lora'], run.task.alpha, run.task.rank)
  return variables, tree['clf']


def merged(tree: dict, run: config.Run, cfg: GPTConfig) -> tuple[dict, dict]:
  """Returns the parameters of a GPT with the new tokens, and the head."""
  variables, clf = assembled(tree, run, cfg)
  params = variables['params']
  if 'lora' in variables:
    params = lora.merged(params, variables['lora'])
  return params, clf


def task_logits(
  variables: dict,
  clf: dict,
  batch: TaskBatch,
  cfg: GPTConfig,
  task: Task,
  drop=None,
  clf_drop=None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns logits [B, K] of the classes or choices, and the factors of the tokens'.

  Args:
    variables: of the model with the new tokens.
    clf: the head.
    batch: leaves [B, ...].
    cfg: of the model with the new tokens.
    task: says how sequences become logits.
    drop: dropout of the model, whose rows are sequences.
    clf_drop: before the head, whose rows are examples: choices share a draw, as in the
      release.

  Returns:
    The logits, x [B * C, T, D] and the output matrix [V, D].
  """
  B, C, T = batch.ids_BCT.shape
  ids = batch.ids_BCT.reshape(B * C, T)
  x, head_VD = GPT(cfg).apply(variables, ids, drop=drop, logits=False)
  last = batch.length_BC.reshape(B * C, 1, 1) - 1
  h_BCD = jnp.take_along_axis(x, last, axis=1).reshape(B, C, -1).astype(jnp.float32)
  if task.kind == 'multiple_choice':
    if clf_drop is not None:
      keep_BD = apply_dropout(jnp.ones((B, h_BCD.shape[-1])), clf_drop)
      h_BCD = h_BCD * keep_BD[:, None]
    return (h_BCD @ clf['kernel'] + clf['bias'])[..., 0], x, head_VD
  h_BD = apply_dropout(h_BCD.sum(1), clf_drop)  # the two orders of a similarity
  return h_BD @ clf['kernel'] + clf['bias'], x, head_VD


def lm_targets(batch: TaskBatch) -> tuple[jax.Array, jax.Array]:
  """Returns targets and weights of the language-model loss, [B * C, T].

  A sequence's targets are its tokens but the first, delimiter and extract tokens
  included; its loss is their mean, and the batch's that of its sequences, right and
  wrong choices alike (train.py of the release). So weights sum to 1 in a sequence.
  """
  B, C, T = batch.ids_BCT.shape
  ids = batch.ids_BCT.reshape(B * C, T)
  y = jnp.concatenate([ids[:, 1:], ids[:, :1]], axis=1)
  count = batch.length_BC.reshape(B * C, 1) - 1
  inside = jnp.arange(T) < count
  w_B = jnp.repeat(batch.w_B, C)
  return y, inside * (w_B / jnp.maximum(count[:, 0], 1))[:, None]


def losses(
  tree: dict,
  batch: TaskBatch,
  run: config.Run,
  cfg: GPTConfig,
  task: Task,
  hp: optim.Hyper | None = None,
  step: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns sums over examples of -log p(label) and of the language model's loss.

  The first is L2, the second L1 of section 3.2 with their signs changed, each example
  weighing 1 in either. With `hp` and `step` dropout is on.

  Args:
    tree: all parameters.
    batch: leaves [B, ...].
    run: says the weight of the second, which is 0 where it isn't asked for.
    cfg: of the model without the new tokens.
    task: its kind.
    hp: numbers of the run.
    step: updates done.
  """
  large = grown(cfg)
  C = batch.ids_BCT.shape[1]
  drop = clf_drop = None
  if step is not None and run.model.dropout:
    rows = batch.row_B[:, None] * C + jnp.arange(C)
    drop = dropout(hp, step, rows.reshape(-1))
  if step is not None and run.task.dropout:
    place = cfg.L + 2  # behind those of the model
    clf_drop = dropout(hp, step, batch.row_B).at(place).replace(rate=hp.clf_dropout)
  variables, clf = assembled(tree, run, cfg)
  logits_BK, x, head_VD = task_logits(
    variables, clf, batch, large, task, drop, clf_drop
  )
  nll_B = -(batch.target_BK * jax.nn.log_softmax(logits_BK)).sum(-1)
  nll = (nll_B * batch.w_B).sum()
  if not run.task.aux:
    return nll, jnp.float32(0)
  y, w = lm_targets(batch)
  T = y.shape[1]
  chunk = math.gcd(run.loss_chunk, T)  # gcd(0, T) = T: all of them
  lm = loss.chunked_nll_sum(x, head_VD, y, w, large.vocab, chunk)
  return nll, lm / C


def train_step(
  state: State,
  fixed: dict,
  batch: TaskBatch,
  hp: optim.Hyper,
  *,
  run: config.Run,
  cfg: GPTConfig,
  task: Task,
) -> tuple[State, dict[str, jax.Array]]:
  """Returns the state after one update, and its metrics.

  Args:
    state: its params are what is trained.
    fixed: what is not.
    batch: leaves [A, B, ...]: A micro-batches.
    hp: numeric hyper-parameters.
    run: its choices are static.
    cfg: of the model without the new tokens.
    task: its kind.

  Returns:
    The state, and float32 scalars: loss (of the task, nats an example), lm_loss (the
    other, nats a token), grad_norm and lr.
  """
  count = jnp.maximum(batch.w_B.sum(), 1)

  def objective(trained, micro):
    nll, lm = losses(trained | fixed, micro, run, cfg, task, hp, state.step)
    return (nll + hp.aux * lm) / count, (nll / count, lm / count)

  gradient = partial(jax.value_and_grad(objective, has_aux=True), state.params)
  (_, (nll, lm)), grads = accumulated(gradient, batch)

  tx = optim.transformation(run.optim, hp, state.step, cfg.width)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  metrics = {
    'loss': nll,
    'lm_loss': lm,
    'grad_norm': optax.tree.norm(grads),
    'lr': optim.learning_rate(state.step, hp, run.optim.schedule),
  }
  params = optax.apply_updates(state.params, updates)
  return State(params, opt_state, state.step + 1), metrics


def predict_step(
  trained: dict,
  fixed: dict,
  batch: TaskBatch,
  *,
  run: config.Run,
  cfg: GPTConfig,
  task: Task,
) -> jax.Array:
  """Returns logits [B, K] of a batch with leaves [B, ...]."""
  variables, clf = assembled(trained | fixed, run, cfg)
  return task_logits(variables, clf, batch, grown(cfg), task)[0]
