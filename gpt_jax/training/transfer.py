"""Divides a model into trained and fixed parameters for a task, and joins them again.

Both are trees of one form, and together hold

  gpt      the model it started from
  special  rows of the new tokens [3, D]: wte, and lm_head where that is not tied
  clf      the head (`model/heads.py`)
  lora     low-rank changes of linear layers (`model/lora.py`), with task.train=lora
"""

import dataclasses

import jax
import jax.numpy as jnp

from gpt_jax import config
from gpt_jax.model import lora
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.model.heads import new_head
from gpt_jax.tasks.inputs import NEW_TOKENS
from gpt_jax.tasks.labelled_table import Task


def grown(cfg: GPTConfig) -> GPTConfig:
  """Returns the architecture with the new tokens."""
  return dataclasses.replace(cfg, vocab=cfg.vocab + NEW_TOKENS)


def init(
  run: config.Run, cfg: GPTConfig, task: Task, source: dict | None, seed: jax.Array
) -> dict:
  """Returns the trained tree before the first update.

  Args:
    run: its task says what is trained, and how much comes from `source`.
    source: parameters of the pre-trained model; None with task.transfer=none.
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
  """Returns the fixed tree: the model, with a frozen body or LoRA."""
  return {} if run.task.train == 'full' else {'gpt': source}


def _embeddings(cfg: GPTConfig) -> tuple[str, ...]:
  """Returns the matrices that have a row for each token."""
  return ('wte',) if cfg.tied else ('wte', 'lm_head')


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


def assembled(tree: dict, task: config.Task, cfg: GPTConfig) -> tuple[dict, dict]:
  """Returns the variables of a GPT with the new tokens, and the head.

  Args:
    tree: trained and fixed parameters, together.
    cfg: of the model with the new tokens.
  """
  gpt, known = dict(tree['gpt']), cfg.vocab - NEW_TOKENS
  filler = jnp.zeros((cfg.V - cfg.vocab, cfg.D))
  for name, rows in tree['special'].items():
    gpt[name] = jnp.concatenate([gpt[name][:known], rows, filler])
  variables = {'params': gpt}
  if 'lora' in tree:
    variables['lora'] = lora.scaled(tree['lora'], task.alpha, task.rank)
  return variables, tree['clf']


def merged(tree: dict, task: config.Task, cfg: GPTConfig) -> dict:
  """Returns {'gpt': parameters of a GPT with the new tokens, 'clf': its head}."""
  variables, clf = assembled(tree, task, cfg)
  params = variables['params']
  if 'lora' in variables:
    params = lora.merged(params, variables['lora'])
  return {'gpt': params, 'clf': clf}
