"""The verb that looks for benchmarks in a corpus: contamination."""

import os

from absl import flags

from gpt_jax.cli.flags import STORES, path_flag
from gpt_jax.config import UserError


def contamination_flags(values):
  path_flag(
    values,
    'corpus',
    None,
    'folder of shards, as `curate` makes it, or URL of one (s3://..)',
    others=STORES,
  )
  path_flag(values, 'data', None, "folder with each task's folder in it")
  flags.DEFINE_list(
    'tasks', None, 'of docs/tasks.md: lambada,wikitext2,...', flag_values=values
  )
  flags.mark_flag_as_required('tasks', flag_values=values)
  flags.DEFINE_string('split', '', "of the tasks; '': the paper's", flag_values=values)
  flags.DEFINE_integer(
    'n', 0, "words of a gram; 0: the paper's for each task", 0, flag_values=values
  )
  path_flag(
    values,
    'workdir',
    '',
    'folder of a run whose answers (`eval --tasks`) are scored on clean and dirty '
    'questions',
  )
  path_flag(
    values,
    'target',
    None,
    'folder to write into, or URL of one; it goes on after a kill',
    others=STORES,
  )
  flags.DEFINE_integer(
    'workers', 0, 'processes at a time; 0: one for each core', 0, flag_values=values
  )


def contamination(values) -> None:
  """Says how much of benchmarks is in a corpus, and what it does to scores."""
  import json
  import pathlib

  import rich

  from gpt_jax.data.curation import engine
  from gpt_jax.data.curation.pipeline import whole_path
  from gpt_jax.data.curation.shards import joined, list_shards, written
  from gpt_jax.evaluation import contamination
  from gpt_jax.runs.contamination import analysed

  if values.workdir and not (pathlib.Path(values.workdir) / 'eval').is_dir():
    raise UserError(
      f'--workdir={values.workdir} has no eval/; evaluate it first: `launch.py eval '
      f'--workdir={values.workdir} --tasks={",".join(values.tasks)}`'
    )
  workers = values.workers or len(os.sched_getaffinity(0))
  target = whole_path(values.target)
  runner = engine.local(workers, joined(target, 'state'))
  result = analysed(
    runner,
    list_shards(whole_path(values.corpus)),
    values.tasks,
    values.data,
    split=values.split,
    n=values.n,
    workdir=values.workdir,
  )
  for table in contamination.tables(result):
    rich.print(table)
  path = joined(target, 'contamination.json')
  with written(path) as stream:
    stream.write((json.dumps(result, indent=1, allow_nan=False) + '\n').encode())
  print(f'wrote {path}')
