"""Models on prompted tasks beside each other and the papers: tables and curves."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from gpt_jax.reports import markup, task_curves, task_results, task_tables


def write(
  workdirs: Sequence[str | pathlib.Path], target: str | pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes report.md, the curves that there are, and report.html; returns both paths.

  Args:
    workdirs: of evaluated models, in the order of the columns.
    target: see `pages.write`.

  Raises:
    UserError: a workdir has no results, or a damaged one, or the target is a file.
  """
  parts, figures = report(workdirs)
  return markup.write(target, 'report', parts, figures)


def report(
  workdirs: Sequence[str | pathlib.Path],
) -> tuple[list[markup.Part], dict[str, Figure | None]]:
  """Returns the parts of such a report, and its pictures by name.

  Raises:
    UserError: a workdir has no results, or a damaged one.
  """
  choice = task_results.choose(task_results.read(workdirs))
  figures = {
    'curves_K': task_curves.against_shots(choice.shown),
    'curves_size': task_curves.against_size(choice.shown),
  }
  drawn = {name for name, figure in figures.items() if figure is not None}
  return task_tables.parts(choice, drawn), figures
