"""The report of a sweep: Markdown with plots, and one page for any browser."""

import pathlib

from gpt_jax.config import UserError
from gpt_jax.reports import markup, sweep_figures, sweep_tables
from gpt_jax.sweep import plan


def write(
  folder: str | pathlib.Path, target: str | pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes sweep.md, its plots and sweep.html, and returns the paths of the two.

  The sweep need not be finished; `target` is as in `markup.write`.

  Raises:
    UserError: the folder holds no sweep, one of its runs can't be read, no run has a
      held-out loss yet, or the target is a file.
  """
  sweep = plan.load(folder)
  runs = sweep_tables.collected(sweep)
  if not any(each.result.curve for each in runs):
    raise UserError(f'{folder}: no run has a held-out loss yet; run the sweep first')
  figures = {
    'sweep_curves': sweep_figures.curves(sweep, runs),
    'sweep_loss': sweep_figures.loss(sweep, runs),
  }
  drawn = {name for name, figure in figures.items() if figure is not None}
  blocks = sweep_tables.blocks(sweep, runs, drawn)
  return markup.write(target, 'sweep', blocks, figures)
