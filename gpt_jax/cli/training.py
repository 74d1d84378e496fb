"""Verbs that make runs: prepare, train, reproduce, describe, sweep."""

import contextlib
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from gpt_jax import config
from gpt_jax.cli.flags import (
  experiment,
  on_flag,
  overridden,
  path_flag,
  refuse,
  workdir,
)
from gpt_jax.config import UserError


def prepare_flags(values):
  experiment(values)
  workdir(values)


def prepare(values) -> None:
  """Makes the tokenizer and token files of a config."""
  from gpt_jax.runs.tokens import prepared

  run = overridden(values)
  if run.is_finetuning:
    raise UserError(
      f'`prepare` makes token files, and a fine-tuning on {run.task.name} needs none: '
      '`train` reads its examples itself'
    )
  config.check(run)
  workdir = pathlib.Path(values.workdir)
  data = prepared(run, workdir)
  for source in data.newest:
    for name, file in (('train', source.train), ('valid', source.valid)):
      print(
        f'{f"{source.name} {name}".strip()}: {file.targets:,} tokens of '
        f'{file.bytes:,} bytes in {file.documents:,} '
        + ('examples' if run.data.dialogues else 'documents')
      )
  print(f'prepared in {run.data.tokens or workdir}')


def train_flags(values):
  prepare_flags(values)
  flags.DEFINE_string(
    'profile',
    None,
    'START:STOP, updates to trace for TensorBoard into WORKDIR/profile',
    flag_values=values,
  )
  flags.DEFINE_string(
    'distributed',
    None,
    'join the processes of a run on several hosts: auto (SLURM, TPU pods, Open MPI), '
    'or ADDRESS:PORT,PROCESSES,INDEX',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'dry_run',
    False,
    'only compile, for devices that may be missing, and print what an update takes',
    flag_values=values,
  )
  flags.DEFINE_float(
    'device_gib',
    0,
    'with --dry_run: memory of a device; 0 asks the device',
    flag_values=values,
  )
  on_flag(values, 'with --dry_run: ')


def train(values) -> None:
  """Trains a run, or resumes it: the same command again continues."""
  from gpt_jax.runs.train import train as train_run
  from gpt_jax.training import processes

  run = overridden(values)
  if values.dry_run:
    from gpt_jax.runs import dry_run

    print(dry_run.report(run, values.workdir, values.device_gib, on=values.on))
    return
  if values.on:
    raise UserError(
      f'--on={values.on} compiles for devices that are not here, and trains on none; '
      'add --dry_run'
    )
  if values.distributed:
    processes.start(values.distributed)
  with _stopped_and_saved():
    train_run(
      run,
      values.workdir,
      argv=sys.argv,
      overrides=config_flags.get_override_values(values['config']),
      profile=_profile(values.profile, run),
    )


@contextlib.contextmanager
def _stopped_and_saved():
  """Prints the command that continues training which was asked to stop, and ends."""
  from gpt_jax.training import loop

  try:
    yield
  except loop.Interrupted as stop:
    print(f'stopped and saved; to continue:\n  python {shlex.join(sys.argv)}')
    sys.exit(128 + stop.args[0])


def _profile(text: str | None, run: config.Run) -> tuple[int, int] | None:
  if text is None:
    return None
  first, _, last = text.partition(':')
  most = run.steps or sys.maxsize  # of a task they may follow from the data
  if not (first.isdigit() and last.isdigit() and int(first) < int(last) <= most):
    end = f' <= {run.steps}' if run.steps else ''
    raise UserError(f'--profile={text} must be START:STOP with 0 <= START < STOP{end}')
  return int(first), int(last)


def reproduce_flags(values):
  workdir(values)
  path_flag(values, 'into', None, 'folder to train it in again', is_workdir=True)


def reproduce(values) -> None:
  """Trains a run again from its run.json, and says whether it is the same."""
  from gpt_jax.runs import reproduce

  with _stopped_and_saved():
    if not reproduce.reproduce(values.workdir, values.into, argv=sys.argv):
      sys.exit(1)


def replay_flags(values):
  flags.DEFINE_string(
    'bundle',
    None,
    'folder that a run left whose loss was not finite',
    flag_values=values,
  )
  flags.mark_flag_as_required('bundle', flag_values=values)


def replay(values) -> None:
  """Computes an update again whose loss was not finite, and names the first tensor."""
  from gpt_jax.runs import replay

  replay.replay(values.bundle)


def where_flags(values):
  workdir(values)
  define = lambda kind, *args: kind(*args, flag_values=values)  # noqa: E731
  define(flags.DEFINE_integer, 'step', 0, 'update, from 1, whose row to find')
  define(flags.DEFINE_integer, 'row', 0, 'row of it, from 0')
  define(flags.DEFINE_string, 'file', '', 'file of the text whose rows to find')
  define(flags.DEFINE_integer, 'document', 0, 'number in the file, as NAME:NUMBER says')
  define(flags.DEFINE_integer, 'offset', 0, "bytes of the document's text before it")
  define(flags.DEFINE_string, 'text', '', 'text whose rows to find, wherever it stands')


def where(values) -> None:
  """Says where a training row is in the text, and which rows read a text."""
  from gpt_jax.runs import where

  ways = {'step': ['row'], 'file': ['document', 'offset'], 'text': []}
  chosen = [name for name in ways if values[name].value]
  if len(chosen) != 1:
    raise UserError(
      'give one of --step (and --row), which is a row; --file (and --document, '
      f'--offset), which is a place; and --text; there are {len(chosen)}'
    )
  others = [n for name in ways if name not in chosen for n in (name, *ways[name])]
  refuse(values, others, f'--{chosen[0]}')
  opened = where.Opened(values.workdir)
  if values.step:
    place = where.row_at(opened, values.step, values.row)
    print(f'update {values.step},{where.in_words(place)[1:]}')
    if not place['name']:
      print(where.missing(opened))
    return
  found = where.find(
    opened,
    file=values.file,
    document=values.document,
    offset=values.offset,
    text=values.text,
  )
  for place in found:
    print('\n'.join(where.described(place)))
  if values.text and len(found) >= where.MOST:
    print(f'of each source the first {where.MOST} places; give more text for fewer')


def describe_flags(values):
  experiment(values)
  flags.DEFINE_integer(
    'vocab', 0, "entries of the vocabulary; 0: the config's", flag_values=values
  )
  flags.DEFINE_integer(
    'devices', 0, "how many; 0: as many as the config's layout has", flag_values=values
  )
  on_flag(values)


def describe(values) -> None:
  """Prints a model's architecture, parameters, FLOPs and memory; allocates nothing."""
  import rich

  from gpt_jax.config import length
  from gpt_jax.model.gpt_config import GPTConfig
  from gpt_jax.runs import (
    cost,
    cost_tables,
    dry_run,
    finetune_job,
    rows,
    schedule,
    shape,
  )
  from gpt_jax.training import sharding

  given = run = overridden(values)
  devices = values.devices or sharding.asked_devices(run) or 1
  cfg = None
  if values.on:
    refuse(values, ['devices'], '`describe --on`, which names them')
  if run.is_finetuning:
    refuse(values, ['vocab'], 'a fine-tuning, whose vocabulary is that of init_from')
    run, cfg = finetune_job.unread(run)
  run = shape.resolved(run)
  config.check(run, 1 if values.on else sharding.Layout.imagined(run, devices).parts)
  run = schedule.resolved(run, 0)
  cfg = cfg or GPTConfig.of(run.model, values.vocab or cost.vocabulary(run))
  tables = cost_tables.of_model(run, cfg)
  if not values.on:
    tables += cost_tables.of_devices(run, cfg, devices)
  for table in tables:
    rich.print(table)
    print()
  if values.on:
    print(dry_run.report(given, on=values.on, vocab=values.vocab))
    return
  for line in schedule.lines(run):
    print(line)
  for line in rows.expected(run, cfg.T, length.stages_of(run)):
    print(line)


def sweep_flags(values):
  prepare_flags(values)
  define = lambda kind, *args, **more: kind(  # noqa: E731
    *args, flag_values=values, **more
  )
  path_flag(values, 'sweep', None, 'file with RUNS or SEARCH; see docs/sweeps.md')
  define(
    flags.DEFINE_bool, 'dry_run', False, 'only print the command of each run, or job'
  )
  define(
    flags.DEFINE_integer, 'index', None, 'train only the run of this number, from 0'
  )
  define(
    flags.DEFINE_integer,
    'workers',
    0,
    'runs at a time; 0: one for each GPU or TPU chip, on a CPU one',
    lower_bound=0,
  )
  define(
    flags.DEFINE_integer,
    'retries',
    1,
    'times that a crashed run starts again',
    lower_bound=0,
  )
  define(
    flags.DEFINE_integer,
    'together',
    0,
    'runs that train in one program, of those that differ only in seed and numbers; '
    '0: as many as fit',
    lower_bound=0,
  )
  define(
    flags.DEFINE_string,
    'slurm',
    None,
    'submit an array of jobs: partition=gpu,time=60,... as submitit takes them',
  )


def sweep(values) -> None:
  """Trains many runs of one config; the same command again goes on."""
  from gpt_jax.sweep import run
  from gpt_jax.training import loop

  refused = ['workers', 'retries', 'together']
  if values.index is not None:
    refuse(values, [*refused, 'slurm'], '`sweep --index`')
  if values.slurm is not None:
    refuse(values, refused, '`sweep --slurm`')
  planned = run.planned(
    values.sweep,
    base=values.config,
    given=config_flags.get_override_values(values['config']),
    config_file=config_flags.get_config_filename(values['config']),
    folder=values.workdir,
    argv=sys.argv,
  )
  if values.dry_run:
    print(run.commands(planned, values.index, values.slurm))
    return
  if values.slurm is not None:
    print(run.submit(planned, values.slurm))
    return
  try:
    if values.index is not None:
      run.run_one(planned, values.index)
    else:
      run.run(
        planned,
        workers_at_once=values.workers,
        retries=values.retries,
        together=values.together,
      )
  except loop.Interrupted as stop:
    print(f'stopped and saved; to continue:\n  python {shlex.join(sys.argv)}')
    sys.exit(128 + stop.args[0])
