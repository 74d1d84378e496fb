"""One of several processes that train a tiny model together, for tests/test_slices.py.

  python tests/host_updates.py ADDRESS:PORT,PROCESSES,INDEX LAYOUT UNTIL FOLDER

It goes on from the newest checkpoint in FOLDER, or begins, and saves the state after
UNTIL updates. Each process writes what it saw and held, the first one the parameters.
"""

import json
import pathlib
import sys
from functools import partial

import jax
import numpy as np
import updates

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import checkpoint, members, processes, sharding, step

ROWS = 16


def run_of(layout: str) -> config.Run:
  """Returns a run with all that is summed over devices: dropout, clipping, AdamW."""
  run = updates.make_run(layout=layout, accumulate=2, model_D=32)
  run.batch = ROWS
  # A larger eps, so that a gradient that is 0 but for rounding makes no step.
  run.optim = config.Optim(lr=1e-2, eps=1e-4, schedule='constant', warmup=0)
  return run


def batch(i: int) -> Batch:
  """Returns the rows of an update, of very different numbers of targets."""
  halves = updates.ragged_batch(2 * i), updates.ragged_batch(2 * i + 1)
  whole = jax.tree.map(lambda *pair: np.concatenate(pair), *halves)
  return whole.replace(row_B=np.arange(ROWS, dtype=np.int32))


def trained(run: config.Run, until: int, folder: pathlib.Path) -> dict:
  """Returns what a process saw; see the module."""
  layout, cfg = sharding.Layout.of(run), GPTConfig.of(run.model, updates.VOCAB)
  program = members.Alone.of(run, cfg, layout)
  checkpoints = checkpoint.Checkpoints(folder / 'checkpoints', best=False)
  state = checkpoints.restore_newest(program.like, print)
  begun = 0 if state is None else int(state.step)
  if state is None:
    state = layout.new_state(partial(step.new_state, run, cfg))
  losses = []
  for i in range(begun, until):
    own = layout.rows(ROWS, run.accumulate)
    rows = jax.tree.map(lambda leaf, own=own: leaf[own], batch(i))
    state, metrics = program.update(state, program.put([rows]))
    losses.append(float(metrics['loss']))
  checkpoints.save(state, None)
  checkpoints.wait()
  checkpoints.close()
  leaves = jax.tree.leaves((state.params, state.opt_state))
  held = sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards)
  saw = {'begun': begun, 'losses': losses, 'rows': own.tolist(), 'held': held}
  saw['whole'] = sum(leaf.nbytes for leaf in leaves)
  if layout.mesh is not None:
    rows = layout.mesh.devices.reshape(layout.mesh.shape['data'], -1)
    saw['groups'] = [[device.process_index for device in row] for row in rows]
  params = jax.tree.map(np.asarray, layout.gathered(state.params))
  if processes.first_process():
    named = jax.tree_util.tree_leaves_with_path(params)
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in named}
    np.savez(folder / f'params_{until}.npz', **arrays)
  return saw


def main() -> None:
  distributed, layout, until, folder = sys.argv[1:]
  processes.start(distributed)
  saw = trained(run_of(layout), int(until), pathlib.Path(folder))
  place = pathlib.Path(folder) / f'saw_{until}_{jax.process_index()}.json'
  place.write_text(json.dumps(saw))


if __name__ == '__main__':
  main()
