"""Updates of tiny models on made-up batches, in any layout."""

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPTConfig
from gpt_jax.training import optim, sharding

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


def updater(run, vocab=VOCAB):
  """Returns (layout, shape, f(state, numpy batch) -> (state, metrics)) of a run."""
  layout = sharding.Layout.of(run)
  cfg = GPTConfig.of(run.model, vocab)
  config.check(run, layout.parts)
  step, hp = layout.train_step(run, cfg), optim.Hyper.of(run)
  return (
    layout,
    cfg,
    lambda state, batch: step(state, layout.put(batch, run.accumulate), hp),
  )


def trained(run, updates=3, batch=ragged_batch):
  """Returns the parameters after some updates, and the loss of each."""
  layout, cfg, update = updater(run)
  state, losses = layout.new_state(run, cfg), []
  for i in range(updates):
    state, metrics = update(state, batch(i))
    losses.append(float(metrics['loss']))
  assert int(state.step) == updates
  return jax.tree.map(np.asarray, state.params), losses
