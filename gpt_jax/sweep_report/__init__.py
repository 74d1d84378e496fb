"""The report of a sweep: Markdown with plots, and one page for any browser."""

import io
import pathlib

from gpt_jax.config import UserError
from gpt_jax.files import write_whole
from gpt_jax.sweep import plan
from gpt_jax.sweep_report import pages, plots, tables


def write(
  folder: str | pathlib.Path, target: str | pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes sweep.md, its plots and sweep.html, and returns the paths of the two.

  Args:
    folder: of the sweep, which need not be finished.
    target: a folder, made where it is missing; an older report in it is replaced.

  Raises:
    UserError: the folder holds no sweep, a run of it can't be read, no run has a
      held-out loss yet, or the target is a file.
  """
  sweep = plan.load(folder)
  found = tables.collected(sweep)
  if not any(each.result.curve for each in found):
    raise UserError(f'{folder}: no run has a held-out loss yet; run the sweep first')
  target = pathlib.Path(target)
  if target.exists() and not target.is_dir():
    raise UserError(f'target={target} is a file and must be a folder; choose another')
  target.mkdir(parents=True, exist_ok=True)
  pictures = {}
  for name, draw in (('sweep_curves', plots.curves), ('sweep_loss', plots.loss)):
    figure, path = draw(sweep, found), target / f'{name}.png'
    if figure is None:
      path.unlink(missing_ok=True)
      continue
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format='png')
    pictures[name] = buffer.getvalue()
    staged = target / f'.{name}.png'
    staged.write_bytes(buffer.getvalue())
    staged.replace(path)
  parts = tables.parts(sweep, found, set(pictures))
  write_whole(target / 'sweep.md', pages.markdown(parts))
  write_whole(target / 'sweep.html', pages.html(parts, pictures))
  return target / 'sweep.md', target / 'sweep.html'
