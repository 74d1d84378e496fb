"""Verbs that use a model: eval, sample, explain; and tokenize."""

import pathlib
import sys

from absl import flags

from gpt_jax.cli.flags import (
  checkpoint,
  few_bits,
  on_flag,
  path_flag,
  refuse,
  weights,
  workdir,
)
from gpt_jax.config import UserError
from gpt_jax.files import read_text
from gpt_jax.paths import not_kept


def eval_flags(values):
  workdir(values)
  checkpoint(values)
  define = lambda kind, *args: kind(*args, flag_values=values)  # noqa: E731
  define(
    flags.DEFINE_bool,
    'baselines',
    False,
    'also a Kneser-Ney 5-gram and xz -9 on the same text',
  )
  path_flag(
    values,
    'held_out',
    '',
    "on the held-out text of this workdir, which has the same tokenizer; '': its own",
  )
  path_flag(
    values,
    'data',
    '',
    'with --tasks: the folder of their folders; of a fine-tuned model: a folder of its '
    "task's files, a file, or hf:NAME:CONFIG ('': the run's)",
    others=['hf:'],
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
  weights(values)
  on_flag(values)


_OF_BENCHMARKS = 'shots', 'seeds', 'limit', 'examples', 'stride'


def evaluate(values) -> None:
  """Prints a model's loss on held-out text, or its scores on tasks."""
  from gpt_jax.data.fidelity import warning
  from gpt_jax.runs import finetune_results
  from gpt_jax.runs.evaluate import baselines, held_out_metrics
  from gpt_jax.runs.workdir import keep_held_out, read_run

  if values.on:
    from gpt_jax.runs import dry_run_model

    others = ['checkpoint', 'baselines', 'held_out', 'data', 'split', 'tasks']
    refuse(values, [*others, *_OF_BENCHMARKS], '`eval --on`, which reads no text')
    print(dry_run_model.evaluation(values.workdir, values.on, few_bits(values)))
    return
  if values.tasks:
    refuse(values, ['baselines', 'held_out'], '`eval --tasks`')
    _benchmark(values)
    return
  fine_tuned = read_run(values.workdir).is_finetuning
  of_text = ['checkpoint', 'int8', 'weights', 'baselines', 'held_out']
  of_task = ['data', 'split']
  kind = 'a fine-tuned model' if fine_tuned else 'a model that was not fine-tuned'
  refused = [*_OF_BENCHMARKS, *(of_text if fine_tuned else of_task)]
  refuse(values, refused, f'`eval` of {kind} without --tasks')
  if fine_tuned:
    split = values.split or 'dev'
    results = finetune_results.evaluate(values.workdir, values.data, split)
    if isinstance(results, dict):
      print(finetune_results.described(results))
    else:
      print(f'no labels: wrote {results}')
    return
  text = values.held_out
  small = few_bits(values)
  scores = held_out_metrics(
    values.workdir, values.checkpoint, held_out=text, weights=small
  )
  of = f' of {text}' if text else ''
  print(f'checkpoint of update {scores["step"]}, on all held-out text{of}:')
  print(f'  {scores["valid_nll"]:.4f} nats/token, perplexity {scores["valid_ppl"]:.2f}')
  for name in [n for n in scores if n.startswith('valid_nll/')]:
    print(f'    {scores[name]:.4f} nats/token  {name.partition("/")[2]}')
  others = baselines(text or values.workdir) if values.baselines else {}
  for name, bits in ({'this GPT': scores['valid_bpb']} | others).items():
    print(f'  {bits:.4f} bits/byte  {name}')
  if scores['lost']:
    print(f'  {warning(scores["lost"])}')
  line = {
    'text': text and pathlib.Path(text).absolute().name,
    'int8': small == 'int8',
    'weights': small,
    **scores,
    'baselines': others,
  }
  with not_kept('the results above'):
    keep_held_out(values.workdir, line)


def _benchmark(values) -> None:
  """Runs tasks on a model; WORKDIR/eval holds the answers and results."""
  from gpt_jax.evaluation.benchmark import plan
  from gpt_jax.runs import benchmark

  if not values.data:
    raise UserError("--tasks needs --data: a folder with each task's folder in it")
  if not all(text.isdecimal() for text in values.shots):
    raise UserError(f'--shots={",".join(values.shots)} must be numbers: 0,1,16')
  benchmarks = plan(
    values.tasks,
    values.data,
    shots=[int(text) for text in values.shots],
    seeds=values.seeds,
    limit=values.limit,
    split=values.split,
    examples=values.examples,
    stride=values.stride,
  )
  benchmark.evaluate(
    values.workdir,
    benchmarks,
    checkpoint_step=values.checkpoint,
    weights=few_bits(values),
  )


def sample_flags(values):
  from gpt_jax.decoding.generation_config import FLAGS

  workdir(values)
  checkpoint(values)
  define = lambda kind, *args: kind(*args, flag_values=values)  # noqa: E731
  define(flags.DEFINE_multi_string, 'prompt', [], 'text to continue; may be repeated')
  path_flag(values, 'prompts_file', '', 'a text file, one prompt a line')
  path_flag(
    values,
    'template',
    '',
    'a text file with {fields}, filled by --fields, up to its {answer} if it has one, '
    'which what follows ends',
  )
  define(flags.DEFINE_multi_string, 'fields', [], 'NAME=VALUE, a field of the template')
  define(flags.DEFINE_bool, 'stream', False, 'print text as it is decided')
  weights(values)
  on_flag(values)
  for name, kind, what in FLAGS:
    define(getattr(flags, f'DEFINE_{kind}'), name, None, what)


def settings_of(values) -> dict:
  """Returns the generation settings among the flags."""
  from gpt_jax.decoding.generation_config import FLAGS

  settings = {name: values[name].value for name, _, _ in FLAGS}
  settings = {name: value for name, value in settings.items() if value is not None}
  if len(settings.get('seed', ())) == 1:
    (settings['seed'],) = settings['seed']
  if settings.get('early_stopping') in ('true', 'false'):
    settings['early_stopping'] = settings['early_stopping'] == 'true'
  return settings


def sample(values) -> None:
  """Continues prompts."""
  from gpt_jax.runs.load import load

  prompts = list(values.prompt)
  if values.prompts_file:
    prompts += read_text(values.prompts_file).splitlines()
  settings = settings_of(values)
  if settings.get('method', 'auto') in ('auto', 'sample', 'minimum_risk') and not (
    settings.keys() & {'beams', 'one_of', 'including'}
  ):
    settings.setdefault('temperature', 0.8)
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
  small = few_bits(values)
  if values.on:
    from gpt_jax.runs import dry_run_model

    refuse(values, ['checkpoint', 'stream'], '`sample --on`, which loads no weights')
    about = dry_run_model.sampling(values.workdir, prompts, settings, values.on, small)
    print(about)
    return
  model = load(values.workdir, values.checkpoint).quantized(small).for_decoding()
  if not settings.get('special'):
    _say_special(model.tokenizer, prompts)
  if values.stream:
    print(prompts[0], end='', flush=True)
    for text in model.stream(prompts[0], **settings):
      print(text, end='', flush=True)
    print()
    return
  generations = model.generate(prompts, **settings)
  for i, generation in enumerate(generations):
    if len(generations) > 1:
      print(
        f'--- {i + 1}, log p {generation.logp:.2f}, perplexity '
        f'{generation.perplexity:.1f}'
      )
    print(prompts[generation.number] + generation.text)
    if settings.get('speculate'):
      n, passes = len(generation.ids), max(1, generation.passes)
      print(f'--- {n} tokens in {passes} forward passes, {n / passes:.2f} each')


def _say_special(tokenizer, prompts: list[str]) -> None:
  """Says which prompts hold names of special tokens, which are plain text here."""
  from gpt_jax.tokenizers import special_tokens

  names = [name for name in special_tokens(tokenizer) if name in ''.join(prompts)]
  if names:
    print(
      f'notice: {", ".join(names)} in a prompt is read as plain text; --special makes '
      'it the token of this name',
      file=sys.stderr,
    )


def _template(values):
  """Returns the template of --template, or None; --fields are checked."""
  from gpt_jax.tasks import templates

  wrong = [text for text in values.fields if '=' not in text]
  if wrong:
    raise UserError(f'--fields={wrong[0]} must be NAME=VALUE')
  if values.fields and not values.template:
    raise UserError('--fields needs --template, a file that names them: {like} {this}')
  return templates.read(values.template) if values.template else None


def tokenize_flags(values):
  path_flag(
    values,
    'tokenizer',
    [],
    "a workdir, a tokenizer's file or folder, or 'bytes'; with --report also a kind to "
    'train, such as bpe or unigram:8192. May be repeated',
    several=True,
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

  from gpt_jax.data import tokenizer_report

  if not values.tokenizer or (values.text is None) == (values.report is None):
    raise UserError(
      'give --tokenizer, and either --text to see it in pieces or --report for a '
      'comparison on a corpus'
    )
  if values.report is not None:
    rows = tokenizer_report.compare(values.tokenizer, values.report, field=values.field)
    rich.print(tokenizer_report.comparison_table(rows))
    return
  for name in values.tokenizer:
    rich.print(tokenizer_report.pieces_table(name, values.text))


def explain_flags(values):
  workdir(values)
  checkpoint(values)
  flags.DEFINE_string('text', None, 'text to read', flag_values=values)
  path_flag(values, 'target', 'explain.html', 'page to write')
  flags.mark_flag_as_required('text', flag_values=values)


def explain(values) -> None:
  """Writes a page that shows what a model does with a text."""
  from gpt_jax.reports import explain
  from gpt_jax.runs.load import load

  model = load(values.workdir, values.checkpoint)
  explain.write(model, values.text, values.target, values.workdir)
  print(f'wrote {values.target}; open it in a browser')
