"""Updates of tiny models on made-up batches, in any layout."""

import dataclasses

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import members, sharding, step
from gpt_jax.training.objective import LanguageModeling

VOCAB = 11


def make_run(**fields):
  """Returns a run of SGD with dropout on; fields of the model begin with model_."""
  model = {k.removeprefix('model_'): v for k, v in fields.items() if 'model_' in k}
  rest = {k: v for k, v in fields.items() if 'model_' not in k}
  run = config.Run(batch=8, **rest)
  run.model = config.Model(**{'L': 2, 'D': 16, 'N': 2, 'T': 8, 'dropout': 0.2} | model)
  run.optim = config.Optim(name='sgd', lr=0.5, schedule='constant', warmup=0, clip=0)
  return run


def ragged_batch(seed=0):
  """Returns 8 rows, and so devices, of very different numbers of targets."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, VOCAB, (8, 9)).astype(np.int32)
  w = (np.arange(8)[None] < np.array([8, 0, 1, 2, 8, 8, 3, 5])[:, None]).astype('f')
  return Batch(ids[:, :-1], ids[:, 1:], w, np.arange(8, dtype=np.int32))


def objective_of(run, cfg, layout=None):
  """Returns the objective of a run in a layout."""
  layout = layout or sharding.Layout.of(run)
  return LanguageModeling.of(run, GPT(cfg, layout.execution(run.model)))


def program_of(run, vocab=VOCAB, whole=False):
  """Returns what updates a run in its layout; `whole` as in it."""
  layout, cfg = sharding.Layout.of(run), GPTConfig.of(run.model, vocab)
  layout = dataclasses.replace(layout, whole=whole)
  config.check(run, layout.parts)
  return members.Alone.of(run, cfg, layout)


def updater(run, vocab=VOCAB, whole=False):
  """Returns (layout, config, f(state, numpy batch) -> (state, metrics)) of a run."""
  program = program_of(run, vocab, whole)
  return (
    program.layout,
    GPTConfig.of(run.model, vocab),
    lambda state, batch: program.update(state, program.put([batch])),
  )


def trained(run, updates=3, batch=ragged_batch, whole=False):
  """Returns the parameters after some updates, and the loss of each."""
  layout, cfg, update = updater(run, whole=whole)
  state, losses = layout.new_state(lambda: step.new_state(run, cfg)), []
  for i in range(updates):
    state, metrics = update(state, batch(i))
    losses.append(float(metrics['loss']))
  assert int(state.step) == updates
  return jax.tree.map(np.asarray, state.params), losses
