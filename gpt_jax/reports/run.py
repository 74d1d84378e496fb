"""The report of one run: curves, results, samples, cost and config."""

import pathlib
import shlex
from typing import Any

import matplotlib.figure
from matplotlib.figure import Figure

from gpt_jax import config
from gpt_jax.config import UserError, papers
from gpt_jax.data.fidelity import warning
from gpt_jax.reports import figures, markup, tasks
from gpt_jax.reports.markup import bullets, code, fenced, heading, picture, plain, table
from gpt_jax.runs import cost
from gpt_jax.runs.finetune_results import read_results
from gpt_jax.runs.load import architecture
from gpt_jax.runs.workdir import (
  logged_folders,
  old_groups,
  read_about,
  read_held_out,
  read_run,
  seconds_of_training,
  seed_folders,
  sessions,
  text_lost,
  updates_done,
)
from gpt_jax.tasks.labelled_table import task_of
from gpt_jax.training.metrics_log import last_samples, read_metrics

_MODEL = 'L', 'D', 'N', 'F', 'T'


def write(
  workdir: str | pathlib.Path, target: str | pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes run.md, its plots and run.html, and returns the paths of the two.

  The run need not be finished; `target` is as in `markup.write`.

  Raises:
    UserError: the workdir holds no run, or one that has no metrics yet, or damaged
      results; or the target is a file.
  """
  workdir = pathlib.Path(workdir)
  run = read_run(workdir)
  if run.is_finetuning and not (old_groups(workdir) or seed_folders(workdir)):
    raise UserError(
      f'{workdir} is a seed of a fine-tuning; report {workdir.absolute().parent}'
    )
  if not any(map(read_metrics, [workdir, *seed_folders(workdir)])):
    raise UserError(f'{workdir} has no metrics to report yet; train it first')
  prompted, figures_of_tasks = [], {}
  if any((workdir / 'eval').glob('*.json')):
    (_, *blocks), figures_of_tasks = tasks.report([workdir])
    prompted = [heading('Prompted tasks'), *markup.lowered(blocks)]
  fine_tuned = run.is_finetuning
  curves = _dev_curves(workdir, run) if fine_tuned else figures.loss_figure(workdir)
  caption = (
    "The task's metric on dev after each epoch, a line for each seed."
    if fine_tuned
    else 'Loss against updates: of single batches, and of held-out text.'
  )
  blocks = [
    heading(f'Run {plain(workdir.absolute().name)}', 1),
    _about(workdir, run),
    fenced(_command(workdir)),
    heading('Curves'),
    picture('run_curves', caption),
    *(_dev(workdir, run) if fine_tuned else _held_out(workdir)),
    *prompted,
    *_samples(workdir),
    heading('What it cost'),
    _cost(workdir, run),
    heading('What it was made of'),
    *_made_of(workdir),
    heading('Config'),
    *_fields(run),
  ]
  return markup.write(target, 'run', blocks, {'run_curves': curves, **figures_of_tasks})


def _about(workdir: pathlib.Path, run: config.Run) -> str:
  cfg = architecture(workdir)
  done = updates_done(workdir)
  state = 'finished' if done >= run.steps else 'not finished'
  size = ', '.join(f'{n} = {getattr(cfg, n):,}' for n in _MODEL)
  of = f' on {task_of(run)}' if run.is_finetuning else ''
  begun = f', started from {code(run.init_from)}' if run.init_from else ''
  return (
    f'A GPT of {cost.parameter_count(cfg):,} parameters ({size}, vocabulary '
    f'{cfg.vocab:,}), trained{of} for {done:,} of {run.steps:,} updates, {state}'
    f'{begun}.'
  )


def _command(workdir: pathlib.Path) -> str:
  argv = sessions(workdir)[-1]['argv']
  return f'python {shlex.join(argv)}' if argv else '(trained from Python)'


def _number(line: dict[str, Any], name: str, form: str) -> str:
  return format(line[name], form) if name in line else '-'


def _held_out(workdir: pathlib.Path) -> list[str]:
  """Returns the losses of held-out text, while training and of all of it after."""
  judged = [line for line in read_metrics(workdir) if 'valid_nll' in line]
  rows = []
  if judged:
    best = min(judged, key=lambda line: line['valid_nll'])
    lines = {'best': best, 'last': judged[-1]}
    if best is judged[-1]:
      lines = {'best and last': best}
    for what, line in lines.items():
      rows.append([f'{what} while training', f'{line["step"]:,}', *_losses(line)])
  for line in read_held_out(workdir):
    bits = plain(line['weights'].removeprefix('int'))
    weights = f' in {bits} bits' if bits else ''
    of = f'all of {plain(line["text"])}' if line['text'] else 'all of it'
    rows.append([f'{of}{weights}', f'{line["step"]:,}', *_losses(line)])
    for name, bits in line['baselines'].items():
      rows.append([plain(name), '-', '-', '-', f'{bits:.4f}'])
  if not rows:
    return [heading('Held-out text'), 'Not measured yet.']
  tokens = read_run(workdir).eval_tokens
  how_much = f'about {tokens:,} tokens, evenly spread' if tokens else 'all of it'
  note = f'Measured while training on {how_much}; the best of several evaluations is a '
  note += 'little too good.'
  if tokens:
    note += ' `launch.py eval --baselines` measures on all of it.'
  changed = {line['lost']: True for line in read_held_out(workdir) if line['lost']}
  changed |= {how: True for how in [text_lost(workdir)] if how}
  note += ''.join(f' Note: {plain(warning(how))}.' for how in changed)
  return [
    heading('Held-out text'),
    note,
    table(['text', 'update', 'nats/token', 'perplexity', 'bits/byte'], rows, 1),
  ]


def _losses(line: dict[str, Any]) -> list[str]:
  forms = ('valid_nll', '.4f'), ('valid_ppl', ',.2f'), ('valid_bpb', '.4f')
  return [_number(line, name, form) for name, form in forms]


def _dev_curves(workdir: pathlib.Path, run: config.Run) -> Figure:
  metric = task_of(run).metrics[0]
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for folder in seed_folders(workdir):
    lines = [line for line in read_metrics(folder) if metric in line]
    axes.plot(
      [line['step'] for line in lines],
      [line[metric] for line in lines],
      marker='o',
      label=folder.name.replace('_', ' '),
    )
  axes.set(xlabel='updates', ylabel=f'{metric} on dev')
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def _dev(workdir: pathlib.Path, run: config.Run) -> list[str]:
  """Returns the results of a fine-tuning on dev, beside the published ones."""
  path = workdir / 'results.json'
  if not path.exists():
    return [heading('Dev'), 'No results yet: the run is not finished.']
  results, rows = read_results(path, task_of(run)), []
  for metric, over in results['over_seeds'].items():
    for seed, best in results['seeds'].items():
      value = _interval(best[metric], *best['intervals'][metric])
      rows.append([metric, f'seed {seed}', f'{best["step"]:,}', value, '-'])
    if len(results['seeds']) > 1:
      value = _interval(over['mean'], over['low'], over['high'])
      rows.append([metric, '**mean of seeds**', '-', value, f'{over["std"]:.4f}'])
    if metric == task_of(run).metrics[0]:
      for name, share in papers.gpt1_fine_tuned(str(task_of(run))).items():
        rows.append([metric, f'{name}, published (test)', '-', f'{share:.3f}', '-'])
  return [
    heading('Dev'),
    f"{results['examples']:,} examples; each seed's best epoch, which is a little too "
    'good. [low, high] is a 95 % interval: of a seed over the examples (bootstrap), '
    "of the mean over seeds (Student's t).",
    table(['metric', 'of', 'update', 'value', 'standard deviation'], rows, 2),
  ]


def _interval(value: float, low: float, high: float) -> str:
  return f'{value:.4f} [{low:.4f}, {high:.4f}]'


def _samples(workdir: pathlib.Path) -> list[str]:
  step, text = last_samples(workdir)
  if not text:
    return []
  how = f'Drawn at temperature 0.8 after {step:,} updates; the prompt is in brackets.'
  return [heading('Samples'), how, fenced(text)]


def _cost(workdir: pathlib.Path, run: config.Run) -> str:
  groups = [read_metrics(folder) for folder in logged_folders(workdir)]
  seconds = seconds_of_training(workdir)
  text = f'{seconds:,.0f} seconds ({seconds / 3600:.2f} hours) of training'
  if not (run.is_finetuning or run.data.dialogues):  # whose rows are of any length
    cfg = architecture(workdir)
    done = max((lines[-1]['step'] for lines in groups if lines), default=0)
    tokens = config.tokens_read(run, done)
    flops = tokens * sum(cost.flops_per_token(cfg).values())
    text += f' for {tokens:,} tokens and {flops:.3g} FLOPs'
  lines = [line for each in groups for line in each]
  rates = sorted(line['tokens_per_s'] for line in lines if 'tokens_per_s' in line)
  if rates:
    text += f'; {rates[len(rates) // 2]:,.0f} tokens a second at the median'
  peaks = [line['peak_memory_mib'] for line in lines if 'peak_memory_mib' in line]
  if peaks:
    text += f'; at most {max(peaks):,.0f} MiB of memory'
  others = sessions(workdir)[-1].get('together', 1) - 1
  if others:
    text += f', in a program that trained {others} other runs too'
  return (
    f'{text}. Compilation and evaluation are in the seconds; start-up, and updates '
    'that were lost when the run was killed, are not.'
  )


def _made_of(workdir: pathlib.Path) -> list[str]:
  about, last = read_about(workdir), sessions(workdir)[-1]
  environment = last['environment']
  git, versions = environment.get('git', {}), environment.get('versions', {})
  commit = git.get('commit', 'unknown')[:12]
  devices = environment.get('devices', [])
  rows = [
    ('code', f'`{commit}`{" and uncommitted changes" if git.get("diff") else ""}'),
    ('Python', environment.get('python', 'unknown')),
    *((name, versions[name]) for name in ('jax', 'flax', 'optax') if name in versions),
    ('devices', plain(f'{len(devices)} x {devices[0]}') if devices else 'unknown'),
    ('processor', plain(environment.get('cpu', 'unknown'))),
    ('seed', str(about['config']['seed'])),
    *(
      (f'sha256 of {name}', f'`{digest[:16]}`')
      for name, digest in about.get('data', {}).items()
      if isinstance(digest, str)
    ),
  ]
  count = len(sessions(workdir))
  return [
    table(['what', 'value'], rows, 2),
    f'Trained in {count} session{"s" * (count > 1)}; run.json has the details, and '
    '`python launch.py reproduce --workdir=RUN --into=DIR` trains it again and '
    'compares.',
  ]


def _fields(run: config.Run) -> list[str]:
  usual = config.flat(config.Run())
  changed = {n: v for n, v in config.flat(run).items() if v != usual[n]}
  if not changed:
    return ['All fields have their defaults.']
  return [
    'Fields that differ from their defaults:',
    bullets([f'`{name}` = {code(repr(value))}' for name, value in changed.items()]),
  ]
