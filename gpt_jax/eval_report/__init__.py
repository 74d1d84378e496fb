"""Models on prompted tasks beside each other and the papers: tables and curves."""

import pathlib
from collections.abc import Sequence

from gpt_jax.config import UserError
from gpt_jax.eval_report import curves, results, tables
from gpt_jax.files import write_whole


def write(
  workdirs: Sequence[str | pathlib.Path], target: str | pathlib.Path
) -> pathlib.Path:
  """Writes report.md, and the curves that there are, and returns the report's path.

  Args:
    workdirs: of evaluated models, in the order of the columns.
    target: a folder, made where it is missing; an older report in it is replaced.

  Raises:
    UserError: a workdir has no results, or a damaged one, or the target is a file.
  """
  choice = results.choose(results.read(workdirs))
  target = pathlib.Path(target)
  if target.exists() and not target.is_dir():
    raise UserError(f'target={target} is a file and must be a folder; choose another')
  target.mkdir(parents=True, exist_ok=True)
  plots = {}
  for name, draw, missing in (
    ('curves_K.png', curves.against_shots, 'no task was evaluated with two numbers K'),
    ('curves_size.png', curves.against_size, 'no task has models of two sizes'),
  ):
    figure = draw(choice.shown)
    plots[name] = '' if figure else missing
    if figure:
      figure.savefig(target / f'.{name}', dpi=130, format='png')
      (target / f'.{name}').replace(target / name)
    else:
      (target / name).unlink(missing_ok=True)
  write_whole(target / 'report.md', tables.markdown(choice, plots))
  return target / 'report.md'
