"""A poisoned update: what is kept of it when its loss is not finite, and its replay.

WORKDIR/poisoned_STEP holds bundle.json (the config, the update, and which documents its
rows are), batch.npz (the rows as the model reads them) and in checkpoints/ the state
before the update. Nothing else is needed to compute the update again, anywhere.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data import windows
from gpt_jax.files import read_json, write_json
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import where
from gpt_jax.runs.setup import RunContext
from gpt_jax.training import checkpoint, checksums, optim, processes, sharding, step
from gpt_jax.training.members import Alone
from gpt_jax.training.objective import LanguageModeling
from gpt_jax.training.step import State

_ABOUT, _BATCH = 'bundle.json', 'batch.npz'
_SHOWN = 3  # rows named in the message


def keep(
  context: RunContext, update: int, number: int, before: Callable[[], State]
) -> str:
  """Writes the bundle of an update; returns what to tell about it.

  Args:
    number: of its batch: `update` - 1 but for what roll-backs skipped.
    before: computes the state that it began from.
  """
  rows = context.places(number)
  documents = where.places(context.data, rows, context.cfg.T)
  said = ['the rows of its batch are'] + [
    where.in_words(each) for each in documents[:_SHOWN]
  ]
  folder = context.workdir / f'poisoned_{update}'
  if len(documents) > _SHOWN:
    said.append(f'  and {len(documents) - _SHOWN} more, in {folder / _ABOUT}')
  if processes.several_processes():
    said[-1] = '  and others; train it in one process to get a bundle that replays it'
    return '\n'.join(said)
  stage = folder.with_name(f'.{folder.name}.tmp')
  shutil.rmtree(stage, ignore_errors=True)
  stage.mkdir()
  with contextlib.closing(checkpoint.Checkpoints(stage / 'checkpoints')) as saved:
    saved.save(before(), None)
  batch = dataclasses.asdict(context.rows(number))
  np.savez(stage / _BATCH, **{k: leaf for k, leaf in batch.items() if leaf is not None})
  about = {
    'config': config.flat(context.run),
    'vocab': context.data.tokenizer.vocab,
    'update': update,
    'rows': documents,
  }
  write_json(stage / _ABOUT, about)
  shutil.rmtree(folder, ignore_errors=True)
  stage.rename(folder)
  said.append(f'to compute it again: python launch.py replay --bundle={folder}')
  return '\n'.join(said)


def replay(bundle: str | pathlib.Path, report: Callable[[str], None] = print) -> str:
  """Computes a poisoned update again; returns the first tensor that is not finite.

  In the order of `tensors`; '' if all are finite.

  Raises:
    UserError: `bundle` is no bundle, or is damaged.
  """
  run, update, places = _opened(pathlib.Path(bundle))[:3]
  text = run.data.mixture or run.data.source
  report(f'update {update}, {len(places)} rows, of {text}')
  for name, tensor in tensors(bundle):
    bad = ~np.isfinite(np.asarray(tensor, np.float32))
    if bad.any():
      report(
        f'the first tensor that is not finite: {name}, {bad.sum():,} of its '
        f'{bad.size:,} values'
      )
      rows = _rows_of(name, bad, places)
      for row in rows[:_SHOWN]:
        report(where.in_words(row))
      if len(rows) > _SHOWN:
        report(f'  and {len(rows) - _SHOWN} more rows')
      return name
  report('all tensors of the update are finite here')
  return ''


def tensors(bundle: str | pathlib.Path) -> Iterator[tuple[str, jax.Array]]:
  """Yields what a poisoned update computes, by name, in the order in which it does.

  The parameters before, what each module returns, the loss, the gradients, their norm,
  and the parameters after.
  """
  bundle = pathlib.Path(bundle)
  run, update, _, cfg, batch = _opened(bundle)
  layout = sharding.Layout.of(run)
  # No module inside another program: their outputs are looked at.
  execution = dataclasses.replace(layout.execution(run.model), remat='none', scan=False)
  objective = LanguageModeling.of(run, GPT(cfg, execution))
  like = layout.state_shapes(lambda: step.new_state(run, cfg))
  with contextlib.closing(checkpoint.Checkpoints(bundle / 'checkpoints')) as saved:
    state = saved.restore(update - 1, like)
  for name, leaf in checksums.named(state.params).items():
    yield f'{name} before the update', leaf
  hp, outputs = optim.Hyper.of(run), []

  def watch(call, args, kwargs, context):
    value = call(*args, **kwargs)
    name = '/'.join(context.module.path) or 'the model'
    outputs.append((name, jax.tree.leaves(value)[0]))
    return value

  whole = jax.tree.map(jnp.asarray, batch)
  with nn.intercept_methods(watch):
    nll, _ = objective.sums(state.params, {}, whole, hp, state.step)
  for name, value in outputs:
    yield f'output of {name}', value
  yield 'the loss', nll

  def total(params):
    return objective.sums(params, {}, whole, hp, state.step)[0]

  for name, leaf in checksums.named(jax.jit(jax.grad(total))(state.params)).items():
    yield f'gradient of {name}', leaf
  program = Alone(run, objective, layout, like)
  after, metrics = program.update(state, program.put([batch]))
  yield "the gradient's norm", metrics['grad_norm']
  for name, leaf in checksums.named(program.member(after, 0).params).items():
    yield f'{name} after the update', leaf


def _opened(
  bundle: pathlib.Path,
) -> tuple[config.Run, int, list[dict[str, Any]], GPTConfig, windows.Batch]:
  """Returns the config, for one device, the update, its rows, model and batch."""
  if not (bundle / _ABOUT).exists():
    raise UserError(f'--bundle={bundle} is no bundle: it has no {_ABOUT}')
  about = read_json(bundle / _ABOUT)
  try:
    run = dataclasses.replace(config.from_flat(about['config']), layout='', devices=1)
    cfg = GPTConfig.of(run.model, int(about['vocab']))
    with np.load(bundle / _BATCH) as arrays:
      batch = windows.Batch(**arrays)
    return run, int(about['update']), list(about['rows']), cfg, batch
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    raise UserError(f'{bundle} is damaged: {error}; copy it again') from error


def _rows_of(name: str, bad: np.ndarray, places: list[dict]) -> list[dict]:
  """Returns the rows of a batch that are not finite in what a module returned."""
  if not name.startswith('output of') or not bad.ndim or len(bad) != len(places):
    return []
  return [places[i] for i in np.flatnonzero(bad.reshape(len(bad), -1).any(1))]
