"""The verb that makes a corpus: curate."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from absl import flags

from gpt_jax.cli.flags import STORES, path_flag, refuse
from gpt_jax.config import UserError


class _Curation(flags.ArgumentParser):
  """Reads a curation from a file of the user."""

  def parse(self, argument):
    from gpt_jax.config.experiment import load
    from gpt_jax.data.curation.pipeline import Curation
    from gpt_jax.paths import user_path

    return load(user_path(argument, '--config'), 'get_curation', Curation)

  def flag_type(self):
    return 'curation'


def curate_flags(values):
  flags.DEFINE(
    _Curation(),
    'config',
    None,
    'file with get_curation(), and an argument for it after a colon',
    values,
    flags.ArgumentSerializer(),
  )
  flags.mark_flag_as_required('config', flag_values=values)
  path_flag(
    values,
    'workdir',
    None,
    'folder of what is made, or URL of a store (s3://..)',
    others=STORES,
    is_workdir=True,
  )
  flags.DEFINE_integer(
    'workers',
    0,
    'processes at a time; 0: one for each core',
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'engine',
    'local',
    ['local', 'spark'],
    'where it runs: in processes of this machine, or on Spark',
    flag_values=values,
  )
  flags.DEFINE_string(
    'master',
    '',
    "Spark's, with --engine=spark: spark://HOST:PORT, yarn, ..; '': this machine",
    flag_values=values,
  )


def curate(values) -> None:
  """Makes a corpus from raw text; the same command again goes on."""
  import rich

  from gpt_jax.data.curation import engine, pipeline
  from gpt_jax.data.curation.shards import joined

  workdir = pipeline.whole_path(values.workdir)
  state = joined(workdir, pipeline.STATE)
  cores = len(os.sched_getaffinity(0))
  if values.engine == 'spark':
    refuse(values, ['workers'], '`curate --engine=spark`; --master=local[4] has four')
    runner = engine.spark(values.master or 'local[*]', state)
  else:
    refuse(values, ['master'], '`curate --engine=local`')
    runner = engine.local(values.workers or cores, state)
  every = pipeline.run(with_texts(values.config, workdir), workdir, runner)
  rich.print(_table(every))
  corpus = every[-1]
  if not corpus.report['kept']:
    raise UserError(
      f'nothing is left after {corpus.name}; {corpus.folder}/report.json has examples '
      'of what was dropped and why'
    )
  print(f'corpus: {corpus.folder}; reports: {workdir}/report.json')


def with_texts(curation: Any, workdir: str) -> Any:
  """Returns a curation whose decontamination has files of its tasks' texts."""
  from gpt_jax.data.curation.decontaminate import Decontaminate
  from gpt_jax.data.curation.shards import is_url
  from gpt_jax.evaluation.contamination import texts_of
  from gpt_jax.files import write_whole

  stages = []
  for number, stage in enumerate(curation.stages, 1):
    if isinstance(stage, Decontaminate) and stage.tasks:
      if is_url(workdir):
        raise UserError(
          f'Decontaminate(tasks={stage.tasks}) needs a --workdir that is a folder, not '
          f'{workdir}; or give the texts as files: against='
        )
      path = pathlib.Path(workdir) / f'{number:02d}-texts.jsonl'
      path.parent.mkdir(parents=True, exist_ok=True)
      texts = texts_of(stage.tasks, stage.data)
      write_whole(path, ''.join(json.dumps({'text': each}) + '\n' for each in texts))
      files = ','.join(filter(None, (stage.against, str(path))))
      stage = dataclasses.replace(stage, against=files)
    stages.append(stage)
  return dataclasses.replace(curation, stages=tuple(stages))


def _table(every: list[Any]) -> Any:
  """Returns a table of what each stage kept and dropped."""
  import rich.table

  table = rich.table.Table(title='curation')
  table.add_column('stage')
  for name in ('documents', 'kept', 'dropped', 'share', 'seconds'):
    table.add_column(name, justify='right')
  table.add_column('most for')
  for done in every:
    documents, kept = done.report['documents'], done.report['kept']
    reasons = sorted(done.report['dropped'].items(), key=lambda each: -each[1])
    table.add_row(
      done.name,
      f'{documents:,}',
      f'{kept:,}',
      f'{documents - kept:,}',
      f'{kept / max(documents, 1):.1%}',
      f'{done.seconds:,.1f}',
      ', '.join(f'{reason} {count:,}' for reason, count in reasons[:3]),
    )
  return table
