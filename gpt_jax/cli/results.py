"""Verbs of finished runs: import, export, plot, compare, report."""

import pathlib

from absl import flags

from gpt_jax.cli.flags import checkpoint, path_flag, workdir
from gpt_jax.config import UserError


def import_flags(values):
  path_flag(
    values,
    'source',
    None,
    'folder of weights (Hugging Face gpt2, openai-gpt or gpt_neo, or as OpenAI '
    'released them), or hf:NAME@REVISION',
    others=['hf:'],
  )
  path_flag(values, 'tokenizer', '', 'path of one, where the weights come without')
  flags.DEFINE_multi_string(
    'ignore',
    [],
    'name of tensors to pass over, such as v_head.*, or of a field of config.json; may '
    'be repeated',
    flag_values=values,
  )
  workdir(values)


def import_(values) -> None:
  """Makes a workdir of other people's weights."""
  from gpt_jax.runs import import_export

  print(
    import_export.import_model(
      values.source, values.workdir, values.tokenizer, values.ignore
    )
  )


def verify_flags(values):
  workdir(values)


def verify(values) -> None:
  """Reads all checkpoints of a run and says which are as they were saved."""
  from gpt_jax.runs.workdir import verified

  damaged = False
  for name, why, against in verified(values.workdir):
    damaged |= bool(why)
    whole = f'whole by {against}' if against else 'readable; nothing to compare it with'
    print(f'{name}: {"damaged: " + why if why else whole}')
  if damaged:
    raise UserError(
      'damaged checkpoints are passed over; the newest whole one is used instead'
    )


def export_flags(values):
  workdir(values)
  checkpoint(values)
  path_flag(values, 'target', None, 'folder to make')


def export(values) -> None:
  """Writes a model as a Hugging Face folder, and compares what it wrote."""
  from gpt_jax.runs import import_export

  print(import_export.export_model(values.workdir, values.checkpoint, values.target))


def plot_flags(values):
  workdir(values)
  path_flag(values, 'target', None, 'PNG file to write')


def plot(values) -> None:
  """Draws the loss curves of a run."""
  from gpt_jax.reports import figures

  figures.loss_curves(values.workdir, values.target)
  print(f'wrote {values.target}')


def compare_flags(values):
  what = 'folder of a run; to be given twice'
  path_flag(values, 'workdir', None, what, several=True, is_workdir=True)
  path_flag(values, 'target', '', 'PNG file to draw curves into')


def compare(values) -> None:
  """Compares two runs: configs, results, and a paired test."""
  import rich

  from gpt_jax.reports import compare

  if len(values.workdir) != 2:
    raise UserError(
      f'{len(values.workdir)} --workdir cannot be compared; give two: --workdir=A '
      '--workdir=B'
    )
  comparison = compare.compare(*values.workdir)
  for part in compare.tables(comparison):
    print(part) if isinstance(part, str) else rich.print(part)
  if values.target:
    compare.plot(comparison, values.target)
    print(f'wrote {values.target}')


def report_flags(values):
  what = 'folder of a run or a sweep; or several, of evaluated models, to be compared'
  path_flag(values, 'workdir', None, what, several=True, is_workdir=True)
  path_flag(values, 'target', None, 'folder to write into')


def write_report(values) -> None:
  """Writes a page about a run, a sweep, or models on prompted tasks."""
  for path in _reported(values.workdir, values.target):
    print(f'wrote {path}')


def _reported(workdirs: list[str], target: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes the report of what the folders hold."""
  sweeps = [w for w in workdirs if (pathlib.Path(w) / 'sweep.json').exists()]
  if sweeps and len(workdirs) > 1:
    raise UserError(f'--workdir={sweeps[0]} is a sweep; report it alone')
  if sweeps:
    from gpt_jax.reports import sweep

    return sweep.write(sweeps[0], target)
  folder = pathlib.Path(workdirs[0])
  trained = any(folder.glob('metrics.jsonl')) or any(folder.glob('seed*/metrics.jsonl'))
  if len(workdirs) == 1 and trained:
    from gpt_jax.reports import run

    return run.write(workdirs[0], target)
  from gpt_jax.reports import tasks  # without jax, and so at once

  return tasks.write(workdirs, target)
