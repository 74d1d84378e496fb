"""The one entry: `python launch.py VERB --flags`; without a verb it lists them."""

import contextlib
import errno
import os
import pathlib
import shlex
import sys

from absl import flags, logging
from ml_collections import config_flags

from gpt_jax import config
from gpt_jax.config import UserError


def _workdir(values):
  flags.DEFINE_string('workdir', None, 'folder of the run', flag_values=values)
  flags.mark_flag_as_required('workdir', flag_values=values)


def _config(values):
  config_flags.DEFINE_config_file(
    'config',
    None,
    'experiment file, with an argument for its get_config after a colon; '
    '--config.FIELD=VALUE sets a field',
    flag_values=values,
  )
  flags.mark_flag_as_required('config', flag_values=values)


def _checkpoint(values):
  flags.DEFINE_string(
    'checkpoint', 'best', "'best', 'latest' or a number of updates", flag_values=values
  )


def _int8(values):
  flags.DEFINE_bool(
    'int8', False, "with the linear layers' weights in 8 bits", flag_values=values
  )


def prepare_flags(values):
  _config(values)
  _workdir(values)


def prepare(values) -> None:
  """Makes the tokenizer and token files of a config."""
  from gpt_jax.workdir import prepared

  run = _overridden(values)
  _without_task(run, 'prepare')
  config.check(run)
  workdir = pathlib.Path(values.workdir)
  data = prepared(run, workdir)
  for name, file in (('train', data.train), ('valid', data.valid)):
    print(
      f'{name}: {len(file.ids) - 1:,} tokens of {file.bytes:,} bytes in '
      f'{file.documents:,} documents'
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


def train(values) -> None:
  """Trains, or continues: the same command again goes on where it stopped."""
  from gpt_jax import runs
  from gpt_jax.training import parallel

  run = _overridden(values)
  if values.dry_run:
    from gpt_jax import dry_run

    _without_task(run, 'train --dry_run')
    print(dry_run.report(run, values.workdir, values.device_gib))
    return
  if values.distributed:
    _without_task(run, 'train --distributed')
    parallel.start(values.distributed)
  with _stopped_and_saved():
    runs.train(
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
  _workdir(values)
  flags.DEFINE_string('into', None, 'folder to train it in again', flag_values=values)
  flags.mark_flag_as_required('into', flag_values=values)


def reproduce(values) -> None:
  """Trains a run again from its run.json, and says whether it is the same."""
  from gpt_jax import manifest

  with _stopped_and_saved():
    if not manifest.reproduce(values.workdir, values.into, argv=sys.argv):
      sys.exit(1)


def describe_flags(values):
  _config(values)
  flags.DEFINE_integer(
    'vocab', 0, "entries of the vocabulary; 0: the config's", flag_values=values
  )
  flags.DEFINE_integer(
    'devices', 0, "how many; 0: as many as the config's layout has", flag_values=values
  )


def describe(values) -> None:
  """Prints a model's architecture, parameters, FLOPs and memory; allocates nothing."""
  import rich

  from gpt_jax import describe
  from gpt_jax.training import parallel

  run = _overridden(values)
  _without_task(run, 'describe')
  devices = values.devices or parallel.asked_devices(run) or 1
  config.check(run, parallel.Layout.imagined(run, devices).parts)
  vocab = values.vocab or describe.vocabulary(run)
  for table in describe.tables(run, vocab, devices):
    rich.print(table)
    print()


def eval_flags(values):
  _workdir(values)
  _checkpoint(values)
  define = lambda kind, *args: kind(*args, flag_values=values)  # noqa: E731
  define(
    flags.DEFINE_bool,
    'baselines',
    False,
    'also a Kneser-Ney 5-gram and xz -9 on the same text',
  )
  define(
    flags.DEFINE_string,
    'held_out',
    '',
    "on the held-out text of this workdir, which has the same tokenizer; '': its own",
  )
  define(
    flags.DEFINE_string,
    'data',
    '',
    'with --tasks: the folder of their folders; of a fine-tuned model: a folder of its '
    "task's files, a file, or hf:NAME:CONFIG ('': the run's)",
  )
  define(
    flags.DEFINE_string,
    'split',
    '',
    "which split of a task; '': of a fine-tuned model dev, with --tasks the paper's. A "
    'fine-tuned model answers one without labels in WORKDIR/predictions.tsv',
  )
  define(
    flags.DEFINE_list,
    'tasks',
    [],
    'answer tasks without training, as GPT-2 and GPT-3 did: lambada,hellaswag,... of '
    'docs/tasks.md',
  )
  define(flags.DEFINE_list, 'shots', ['0'], 'solved examples before a question: 0,1,16')
  define(flags.DEFINE_integer, 'seeds', 1, 'draws of those examples')
  define(flags.DEFINE_integer, 'limit', 0, 'questions of a task at most; 0: all')
  define(
    flags.DEFINE_string,
    'examples',
    '',
    "where examples come from: train, dev, test or itself; '': as in the paper",
  )
  define(
    flags.DEFINE_integer,
    'stride',
    0,
    'of texts: tokens that a window scores, after as many as fit; 0: side by side',
  )
  _int8(values)


_OF_EXAMS = 'shots', 'seeds', 'limit', 'examples', 'stride'


def evaluate(values) -> None:
  """Prints a model's loss on held-out text, or its scores on tasks."""
  from gpt_jax import runs, task_results
  from gpt_jax.workdir import read_run

  if values.tasks:
    _refuse(values, ['baselines', 'held_out'], '`eval --tasks`')
    _examine(values)
    return
  fine_tuned = bool(read_run(values.workdir).task.name)
  of_text = ['checkpoint', 'int8', 'baselines', 'held_out']
  of_task = ['data', 'split']
  kind = 'a fine-tuned model' if fine_tuned else 'a model that was not fine-tuned'
  refused = [*_OF_EXAMS, *(of_text if fine_tuned else of_task)]
  _refuse(values, refused, f'`eval` of {kind} without --tasks')
  if fine_tuned:
    split = values.split or 'dev'
    found = task_results.evaluate(values.workdir, values.data, split)
    told = isinstance(found, dict)
    print(task_results.described(found) if told else f'no labels: wrote {found}')
    return
  text = values.held_out
  found = runs.evaluate(
    values.workdir, values.checkpoint, held_out=text, int8=values.int8
  )
  of = f' of {text}' if text else ''
  print(f'checkpoint of update {found["step"]}, on all held-out text{of}:')
  print(f'  {found["valid_nll"]:.4f} nats/token, perplexity {found["valid_ppl"]:.2f}')
  rows = {'this GPT': found['valid_bpb']}
  if values.baselines:
    rows |= runs.baselines(text or values.workdir)
  for name, bits in rows.items():
    print(f'  {bits:.4f} bits/byte  {name}')


def _refuse(values, names: list[str], of: str) -> None:
  """Raises a UserError where a flag was given that says nothing to a command."""
  for name in names:
    if values[name].present:
      raise UserError(f'--{name} says nothing to {of}; leave it out')


def _examine(values) -> None:
  """Has a model answer tasks; WORKDIR/eval holds the answers and results."""
  from gpt_jax import few_shot
  from gpt_jax.evaluation.exams import exams

  if not values.data:
    raise UserError("--tasks needs --data: a folder with each task's folder in it")
  if not all(text.isdecimal() for text in values.shots):
    raise UserError(f'--shots={",".join(values.shots)} must be numbers: 0,1,16')
  wanted = exams(
    values.tasks,
    values.data,
    shots=[int(text) for text in values.shots],
    seeds=values.seeds,
    limit=values.limit,
    split=values.split,
    examples=values.examples,
    stride=values.stride,
  )
  few_shot.evaluate(
    values.workdir, wanted, checkpoint_step=values.checkpoint, int8=values.int8
  )


def sample_flags(values):
  from gpt_jax.decoding.settings import FLAGS

  _workdir(values)
  _checkpoint(values)
  define = lambda kind, *args: kind(*args, flag_values=values)  # noqa: E731
  define(flags.DEFINE_multi_string, 'prompt', [], 'text to continue; may be repeated')
  define(flags.DEFINE_string, 'prompts_file', '', 'a text file, one prompt a line')
  define(
    flags.DEFINE_string,
    'template',
    '',
    'a text file with {fields}, filled by --fields, up to its {answer} if it has one, '
    'which what follows ends',
  )
  define(flags.DEFINE_multi_string, 'fields', [], 'NAME=VALUE, a field of the template')
  define(flags.DEFINE_bool, 'stream', False, 'print text as it is decided')
  _int8(values)
  for name, kind, what in FLAGS:
    define(getattr(flags, f'DEFINE_{kind}'), name, None, what)


def _settings(values) -> dict:
  """Returns the settings of generation that were given, and a temperature."""
  from gpt_jax.decoding.settings import FLAGS

  found = {name: values[name].value for name, _, _ in FLAGS}
  found = {name: value for name, value in found.items() if value is not None}
  if len(found.get('seed', ())) == 1:
    (found['seed'],) = found['seed']
  if found.get('early_stopping') in ('true', 'false'):
    found['early_stopping'] = found['early_stopping'] == 'true'
  if found.get('method', 'auto') in ('auto', 'sample', 'minimum_risk') and not (
    found.keys() & {'beams', 'one_of', 'including'}
  ):
    found.setdefault('temperature', 0.8)
  return found


def sample(values) -> None:
  """Continues prompts."""
  from gpt_jax.workdir import load

  prompts = list(values.prompt)
  if values.prompts_file:
    try:
      text = pathlib.Path(values.prompts_file).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f'--prompts_file={values.prompts_file}: {error}') from error
    prompts += text.splitlines()
  settings = _settings(values)
  if template := _template(values):
    if prompts and template.stop:
      raise UserError(
        f'--template={values.template} ends its answer by {template.stop!r}, which '
        'would end those to --prompt and --prompts_file too; leave them out'
      )
    prompts.append(template.fill(dict(text.split('=', 1) for text in values.fields)))
    if template.stop and not settings.keys() & {'one_of', 'including'}:
      settings.setdefault('stop', [template.stop])
  prompts = prompts or ['']
  if values.stream and len(prompts) > 1:
    raise UserError('--stream shows one continuation of one prompt; leave it out')
  model = load(values.workdir, values.checkpoint)
  model = model.int8() if values.int8 else model
  if values.stream:
    print(prompts[0], end='', flush=True)
    for text in model.stream(prompts[0], **settings):
      print(text, end='', flush=True)
    print()
    return
  made = model.generate(prompts, **settings)
  for i, generation in enumerate(made):
    if len(made) > 1:
      print(
        f'--- {i + 1}, log p {generation.logp:.2f}, perplexity '
        f'{generation.perplexity:.1f}'
      )
    print(prompts[generation.number] + generation.text)


def _template(values):
  """Returns the template of --template, or None; --fields are checked."""
  from gpt_jax.prompting import template

  wrong = [text for text in values.fields if '=' not in text]
  if wrong:
    raise UserError(f'--fields={wrong[0]} must be NAME=VALUE')
  if values.fields and not values.template:
    raise UserError('--fields needs --template, a file that names them: {like} {this}')
  return template.read(values.template) if values.template else None


def tokenize_flags(values):
  flags.DEFINE_multi_string(
    'tokenizer',
    [],
    "a workdir, a tokenizer's file or folder, or 'bytes'; with --report also a kind to "
    'train, such as bpe or unigram:8192. May be repeated',
    flag_values=values,
  )
  flags.DEFINE_string('text', None, 'text to show in pieces', flag_values=values)
  flags.DEFINE_string(
    'report',
    None,
    'text to compare tokenizers on: sources as in data.source, which may be labelled: '
    'English=novels,Russian=ru/*.txt',
    flag_values=values,
  )
  flags.DEFINE_string(
    'field', 'text', 'of a JSON line or table that holds the text', flag_values=values
  )


def tokenize(values) -> None:
  """Shows a text in pieces and ids, or compares tokenizers on a corpus."""
  import rich

  from gpt_jax.data import compare

  if not values.tokenizer or (values.text is None) == (values.report is None):
    raise UserError(
      'give --tokenizer, and either --text to see it in pieces or --report for a '
      'comparison on a corpus'
    )
  if values.report is not None:
    rows = compare.compare(values.tokenizer, values.report, field=values.field)
    rich.print(compare.comparison_table(rows))
    return
  for name in values.tokenizer:
    rich.print(compare.pieces_table(name, values.text))


def import_flags(values):
  flags.DEFINE_string(
    'source',
    None,
    'folder of weights (Hugging Face gpt2, openai-gpt or gpt_neo, or as OpenAI '
    'released them), or hf:NAME@REVISION',
    flag_values=values,
  )
  flags.mark_flag_as_required('source', flag_values=values)
  flags.DEFINE_string(
    'tokenizer', '', 'path of one, where the weights come without', flag_values=values
  )
  _workdir(values)


def import_(values) -> None:
  """Makes a workdir of other people's weights."""
  from gpt_jax import runs

  print(runs.import_model(values.source, values.workdir, values.tokenizer))


def export_flags(values):
  _workdir(values)
  _checkpoint(values)
  flags.DEFINE_string('target', None, 'folder to make', flag_values=values)
  flags.mark_flag_as_required('target', flag_values=values)


def export(values) -> None:
  """Writes a model as a Hugging Face folder, and compares what it wrote."""
  from gpt_jax import runs

  print(runs.export_model(values.workdir, values.checkpoint, values.target))


def sweep_flags(values):
  prepare_flags(values)
  define = lambda kind, *args, **more: kind(  # noqa: E731
    *args, flag_values=values, **more
  )
  define(
    flags.DEFINE_string, 'sweep', None, 'file with RUNS or SEARCH; see docs/sweeps.md'
  )
  flags.mark_flag_as_required('sweep', flag_values=values)
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
  from gpt_jax.sweep import local
  from gpt_jax.training import loop

  refused = ['workers', 'retries', 'together']
  if values.index is not None:
    _refuse(values, [*refused, 'slurm'], '`sweep --index`')
  if values.slurm is not None:
    _refuse(values, refused, '`sweep --slurm`')
  planned = local.planned(
    values.sweep,
    base=values.config,
    given=config_flags.get_override_values(values['config']),
    config_file=config_flags.get_config_filename(values['config']),
    folder=values.workdir,
    argv=sys.argv,
  )
  if values.dry_run:
    print(local.commands(planned, values.index, values.slurm))
    return
  if values.slurm is not None:
    print(local.submit(planned, values.slurm))
    return
  try:
    if values.index is not None:
      local.run_one(planned, values.index)
    else:
      local.run(
        planned,
        workers_at_once=values.workers,
        retries=values.retries,
        together=values.together,
      )
  except loop.Interrupted as stop:
    print(f'stopped and saved; to continue:\n  python {shlex.join(sys.argv)}')
    sys.exit(128 + stop.args[0])


def plot_flags(values):
  _workdir(values)
  flags.DEFINE_string('target', None, 'PNG file to write', flag_values=values)
  flags.mark_flag_as_required('target', flag_values=values)


def plot(values) -> None:
  """Draws the loss curves of a run."""
  from gpt_jax import report

  report.loss_curves(values.workdir, values.target)
  print(f'wrote {values.target}')


def compare_flags(values):
  flags.DEFINE_multi_string(
    'workdir', None, 'folder of a run; to be given twice', flag_values=values
  )
  flags.DEFINE_string('target', '', 'PNG file to draw curves into', flag_values=values)
  flags.mark_flag_as_required('workdir', flag_values=values)


def compare(values) -> None:
  """Compares two runs: configs, curves at equal cost, and a paired test."""
  import rich

  from gpt_jax import compare_runs

  if len(values.workdir) != 2:
    raise UserError(
      f'{len(values.workdir)} --workdir cannot be compared; give two: --workdir=A '
      '--workdir=B'
    )
  found = compare_runs.compare(*values.workdir)
  for part in compare_runs.tables(found):
    print(part) if isinstance(part, str) else rich.print(part)
  if values.target:
    compare_runs.plot(found, values.target)
    print(f'wrote {values.target}')


def report_flags(values):
  flags.DEFINE_multi_string(
    'workdir',
    None,
    'folder of an evaluated run, may be repeated; or of a sweep',
    flag_values=values,
  )
  flags.DEFINE_string('target', None, 'folder to write into', flag_values=values)
  flags.mark_flags_as_required(['workdir', 'target'], flag_values=values)


def write_report(values) -> None:
  """Compares models on prompted tasks with the papers, or the runs of a sweep."""
  sweeps = [w for w in values.workdir if (pathlib.Path(w) / 'sweep.json').exists()]
  if sweeps:
    if len(values.workdir) > 1:
      raise UserError(f'--workdir={sweeps[0]} is a sweep; report it alone')
    from gpt_jax import sweep_report

    for path in sweep_report.write(sweeps[0], values.target):
      print(f'wrote {path}')
    return
  from gpt_jax import eval_report  # without jax, and so at once

  print(f'wrote {eval_report.write(values.workdir, values.target)}')


def explain_flags(values):
  _workdir(values)
  _checkpoint(values)
  flags.DEFINE_string('text', None, 'text to read', flag_values=values)
  flags.DEFINE_string('target', 'explain.html', 'page to write', flag_values=values)
  flags.mark_flag_as_required('text', flag_values=values)


def explain(values) -> None:
  """Writes a page that shows what a model does with a text."""
  from gpt_jax import explain_page
  from gpt_jax.workdir import load

  model = load(values.workdir, values.checkpoint)
  explain_page.write(model, values.text, values.target, values.workdir)
  print(f'wrote {values.target}; open it in a browser')


VERBS = {
  'prepare': (prepare_flags, prepare),
  'train': (train_flags, train),
  'reproduce': (reproduce_flags, reproduce),
  'describe': (describe_flags, describe),
  'eval': (eval_flags, evaluate),
  'sample': (sample_flags, sample),
  'import': (import_flags, import_),
  'export': (export_flags, export),
  'tokenize': (tokenize_flags, tokenize),
  'sweep': (sweep_flags, sweep),
  'plot': (plot_flags, plot),
  'compare': (compare_flags, compare),
  'explain': (explain_flags, explain),
  'report': (report_flags, write_report),
}


def _values(verb: str) -> flags.FlagValues:
  """Returns the flags of a verb, not parsed: only its own, so others are errors."""
  values = flags.FlagValues()
  VERBS[verb][0](values)
  return values


def _overridden(values: flags.FlagValues) -> config.Run:
  """Returns the config, and prints what the command line changed in it."""
  changed = config_flags.get_override_values(values['config'])
  for name, value in changed.items():
    print(f'--config.{name}={value!r}')
  return values.config


def _without_task(run: config.Run, command: str) -> None:
  """Raises a UserError where a command that knows no tasks is given one."""
  if run.task.name:
    raise UserError(
      f'`{command}` is for language modelling, and this config is of the task '
      f'{run.task.name}; `train` prints what it will do before it begins'
    )


def _parse(verb: str, arguments: list[str]) -> flags.FlagValues:
  """Returns the verb's flags with the values of the command line.

  Raises:
    UserError: an unknown flag or field (with the nearest names), a flag of another
      verb, a value of the wrong type, a missing flag.
  """
  values = _values(verb)
  try:
    rest = values([verb, *arguments])
  except KeyError as error:  # config_flags: a field that the schema does not have
    given = [a.split('=')[0].removeprefix('--config.') for a in arguments]
    known = config.flat(config.Run())
    wrong = [
      f'there is no --config.{name}.{config.nearest(name, known)}'
      for name in given
      if not name.startswith('-') and name not in known
    ]
    raise UserError('\n'.join(wrong) or str(error)) from error
  except flags.UnrecognizedFlagError as error:
    name = error.flagname
    owners = [v for v in VERBS if v != verb and name in _values(v)]
    if name.startswith('config.'):
      why = 'a field needs the experiment before it: --config=FILE'
    elif owners:
      why = f'it belongs to `{"`, `".join(owners)}`'
    else:
      why = config.nearest(name, list(values)).strip() or 'it is unknown'
    raise UserError(f'--{name} is no flag of `{verb}`: {why}') from error
  except (flags.Error, OSError) as error:
    raise UserError(str(error)) from error
  if rest[1:]:
    raise UserError(f'{rest[1]!r} is not a flag; write --name=value')
  return values


def _keep_compiled() -> None:
  """Has jax keep compiled programs, so that the same command starts faster again.

  JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps none.
  """
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache / 'gpt_jax/compiled'))


def main() -> None:
  """Runs the verb; what a user can mend is a message, anything else a traceback."""
  verb, *arguments = sys.argv[1:] or ['--help']
  if verb not in VERBS:
    lines = [
      f'  {name:10}{call.__doc__.splitlines()[0]}' for name, (_, call) in VERBS.items()
    ]
    print('python launch.py VERB --help, where VERB is\n' + '\n'.join(lines))
    if verb not in ('--help', '-h', 'help'):
      sys.exit(f'{verb!r} is no verb.{config.nearest(verb, VERBS)}')
    return
  if '--help' in arguments:
    print(_values(verb).get_help())
    return
  _keep_compiled()
  # Orbax logs what its threads raise, with a traceback, and raises it again for us.
  logging.set_verbosity(logging.FATAL)
  try:
    values = _parse(verb, arguments)
    VERBS[verb][1](values)
  except UserError as error:
    sys.exit(f'error: {error}')
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    sys.exit(
      f'error: {error.filename or "a file"} could not be written: {error.strerror}. '
      'Free disk space, then run the same command again'
    )
  except KeyboardInterrupt:
    sys.exit('interrupted')


if __name__ == '__main__':
  main()
