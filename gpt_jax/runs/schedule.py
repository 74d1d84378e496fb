"""A run's schedule in words: its length, how its batch grows, what the rate does."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from gpt_jax import config
from gpt_jax.config import length
from gpt_jax.training import optim


def resolved(run: config.Run, text: int, parts: int = 1) -> config.Run:
  """Returns a run whose steps are known, checked; its tokens or epochs stay in it.

  Args:
    text: tokens of an epoch.
    parts: as devices of `config.check`.
  """
  known = length.resolved(run, text)
  if known is not run:
    config.check(dataclasses.replace(known, tokens=0, epochs=0.0), parts)
  return known


def rates(run: config.Run, first: int, last: int) -> np.ndarray:
  """Returns the learning rates of the updates that follow `first` .. `last` - 1."""
  steps = jnp.arange(first, last)
  rate = optim.learning_rate(steps, optim.Hyper.of(run), run.optim.schedule)
  return np.asarray(rate)


def cooldown_begins(run: config.Run) -> int | None:
  """Returns how many updates a run has before its cooldown; None: it has none."""
  o = run.optim
  if o.schedule != 'wsd' or not run.steps:
    return None
  if o.by == 'updates':
    return run.steps - o.cooldown
  rows = (config.tokens_read(run) - o.cooldown) // run.model.T
  return length.updates_for(length.stages_of(run), rows + 1) - 1


def lines(run: config.Run, text: int = 0) -> list[str]:
  """Returns the lines that `describe` and a dry run print of a run's schedule.

  Args:
    text: tokens of an epoch; 0: not known.
  """
  if run.is_finetuning:
    return []
  if not run.steps:
    return [
      f'length    {run.epochs:g} epochs: the updates follow from the text, which '
      f'`prepare` counts'
    ]
  read = config.tokens_read(run)
  epochs = f', {read / text:.3g} epochs of {text:,}' if text else ''
  said = [f'length    {run.steps:,} updates, {read:,} tokens{epochs}']
  if run.data.dialogues:
    said = [f'length    {run.steps:,} updates of {run.batch:,} examples']
  return [*said, *batch_lines(run), rate_line(run)]


def batch_lines(run: config.Run) -> list[str]:
  """Returns the sizes of a batch that grows, each with its first update; or []."""
  sizes, T = length.stages_of(run), run.model.T
  each = [
    f'          {size.rows * T:,} tokens from update {size.update + 1:,} on'
    for size in sizes
  ]
  if len(each) > 8:
    each[3:-3] = ['          ...']
  head = f'batch     {len(sizes)} sizes, a program each, over {run.batch_ramp:,} tokens'
  return [head, *each] if len(sizes) > 1 else []


def rate_line(run: config.Run) -> str:
  """Returns what the learning rate of a language model does."""
  o, total = run.optim, run.steps
  peak = optim.noam_peak(o, run.model.D) if o.schedule == 'noam' else o.lr
  said = [f'{peak:g} {_at(run, o.warmup)}' if o.warmup else f'{peak:g} at once']
  if o.schedule in ('cosine', 'linear'):
    where = _at(run, o.until) if o.until else f'at the last update, {total:,}'
    said.append(f'by {o.schedule} to {o.final_lr:g} {where}')
  elif o.schedule == 'wsd':
    begins = cooldown_begins(run)
    said.append(
      f'constant to update {begins:,}, linearly to {o.final_lr:g} at the last update, '
      f'{total:,}'
    )
  else:
    said.append('constant' if o.schedule == 'constant' else 'as 1 / sqrt(update)')
  last = rates(run, total - 1, total)[0]
  return f'rate      {", ".join(said)}; {last:.3g} in the last'


def _at(run: config.Run, amount: int) -> str:
  """Returns where a number of updates, or of tokens, is reached, in words."""
  if run.optim.by == 'updates':
    return f'at update {amount:,}'
  update = length.updates_for(length.stages_of(run), -(-amount // run.model.T))
  return f'at {amount:,} tokens, update {update:,}'


def continued(before: config.Run, now: config.Run, done: int) -> str:
  """Returns what the rate does where a run goes on with another length, or ''.

  Args:
    before: the run as it was trained so far.
    done: updates, at least 1.
  """
  if before.steps == now.steps or not 0 < done < now.steps:
    return ''
  old, new = rates(before, 0, done), rates(now, 0, done + 1)
  other = np.flatnonzero(~np.isclose(old, new[:done], rtol=1e-6, atol=0))
  said = f'steps={now.steps:,}, and {before.steps:,} before: '
  begins = cooldown_begins(now)
  after = ''
  if begins is not None and done < begins:
    after = f'; the cooldown begins after update {begins:,}'
  if not len(other):
    return (
      f'{said}the rates of the {done:,} updates done are those of the new length too, '
      f'and update {done + 1:,} has {new[done]:.3g}{after}'
    )
  first = other[0]
  said += (
    f'the rate goes from {old[-1]:.3g} in update {done:,} to {new[done]:.3g} in the '
    f'next{after}. Updates {first + 1:,} to {done:,} had other rates than in a run of '
    f'{now.steps:,} updates from its start'
  )
  if now.optim.schedule == 'wsd':
    return (
      f'{said}: to branch before the cooldown, go on in a copy of the workdir without '
      f'its checkpoints after update {first:,}'
    )
  return (
    f'{said}: {now.optim.schedule} is drawn to the new length, where wsd is as before '
    'until its cooldown, and optim.until keeps its place'
  )
