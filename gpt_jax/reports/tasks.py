"""The report of prompted tasks: models beside each other and the papers."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from gpt_jax.reports import markup, task_curves, task_results, task_tables


def write(
  workdirs: Sequence[str | pathlib.Path], target: str | pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes report.md, its curves and report.html, and returns the paths of the two.

  Models are columns, in the order of their workdirs; `target` is as in `markup.write`.

  Raises:
    UserError: a workdir has no results, or a damaged one, or the target is a file.
  """
  blocks, figures = report(workdirs)
  return markup.write(target, 'report', blocks, figures)


def report(
  workdirs: Sequence[str | pathlib.Path],
) -> tuple[list[str], dict[str, Figure | None]]:
  """Returns the blocks of such a report, and its pictures by name.

  Raises:
    UserError: a workdir has no results, or a damaged one.
  """
  choice = task_results.choose(task_results.read(workdirs))
  figures = {
    'curves_K': task_curves.against_shots(choice.shown),
    'curves_size': task_curves.against_size(choice.shown),
  }
  drawn = {name for name, figure in figures.items() if figure is not None}
  return task_tables.blocks(choice, drawn), figures
