"""Verbs of dialogues as files: metrics, dialogues."""

import os

from absl import flags

from gpt_jax.cli.flags import path_flag


def metrics_flags(values):
  path_flag(values, 'replies', None, 'file with a reply a line')
  path_flag(
    values,
    'references',
    [],
    'file with the references of a reply a line, divided by tabs; may be repeated',
    several=True,
  )
  path_flag(values, 'target', '', "JSON file to write; '': only print")


def metrics(values) -> None:
  """Measures replies as DialoGPT's tables do: NIST, BLEU, METEOR, Entropy, Dist."""
  import rich

  from gpt_jax.evaluation import reply_files
  from gpt_jax.files import write_json
  from gpt_jax.paths import not_kept

  result = reply_files.measured(values.replies, values.references)
  rich.print(reply_files.table(result))
  if values.target:
    with not_kept('metrics'):
      write_json(values.target, result)
    print(f'wrote {values.target}')


def dialogues_flags(values):
  path_flag(
    values,
    'comments',
    None,
    "dump of Reddit's comments, .jsonl or .zst; may be repeated",
    several=True,
  )
  path_flag(values, 'target', None, 'folder to write into; it goes on after a kill')
  flags.DEFINE_enum(
    'cleaning',
    'release',
    ['release', 'paper'],
    "filters: of DialoGPT's release (needs nltk), or of the paper's text",
    flag_values=values,
  )
  path_flag(values, 'blocked', '', 'file of phrases that no reply may have, one a line')
  path_flag(
    values,
    'test',
    [],
    'file of dialogues whose last two turns no other may have; may be repeated',
    several=True,
  )
  for name, default, what in (
    ('words', 30, 'of a turn at most; a longer one ends the path'),
    ('least', 2, 'turns of a dialogue at least'),
    ('most', 5, 'turns of a dialogue at most'),
    ('score', 1, 'of its last comment at least'),
  ):
    flags.DEFINE_integer(name, default, what, flag_values=values)
  flags.DEFINE_integer(
    'workers', 0, 'processes at a time; 0: one for each core', 0, flag_values=values
  )


def dialogues(values) -> None:
  """Makes dialogues of dumps of Reddit's comments; the same command goes on."""
  import pathlib

  import rich
  from rich.table import Table

  from gpt_jax.data.curation import engine
  from gpt_jax.files import write_json
  from gpt_jax.tasks import reddit_dumps
  from gpt_jax.tasks.reddit import Settings

  target = pathlib.Path(os.path.abspath(values.target))
  workers = values.workers or len(os.sched_getaffinity(0))
  names = 'words', 'least', 'most', 'score', 'cleaning'
  settings = Settings(**{name: values[name].value for name in names})
  report = reddit_dumps.run(
    engine.local(workers, target / 'state'),
    [os.path.abspath(path) for path in values.comments],
    str(target / 'dialogues'),
    settings,
    values.blocked,
    [os.path.abspath(path) for path in values.test],
  )
  table = Table('', 'number', title='comments and dialogues')
  for reason, count in sorted(report['counts'].items(), key=lambda each: -each[1]):
    table.add_row(reason, f'{count:,}')
  rich.print(table)
  write_json(target / 'report.json', report | {'settings': values.flag_values_dict()})
  print(f'dialogues: {target}/dialogues; report: {target}/report.json')
