"""The table of experiments/README.md, from result files; and how a run becomes one.

  python experiments/table.py --workdir=runs/quickstart     # keeps what a run gave
  python experiments/table.py                               # writes the table
  python experiments/table.py --check                       # or only compares it

The first writes experiments/results/NAME.json, which is committed, and then the table.
Several --workdir are seeds of one config. NAME is --name, or the experiment's file.

A run gives its held-out loss (on all of the text where `launch.py eval` measured
that, else the best while training) with baselines, its prompted tasks, or the dev
results of a fine-tuning. Scripts write such a file themselves, with --result.

A row is **stale** where the experiment's config is not what it was then, and
**missing** where there is no result file. The code may have changed too: the commit
says since when.
"""

import ast
import importlib.util
import json
import pathlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation.metrics import spread
from gpt_jax.files import write_whole
from gpt_jax.model.gpt import GPTConfig
from gpt_jax.reports import committed, task_results
from gpt_jax.reports.committed import Measured, Result
from gpt_jax.reports.markup import Table, markdown
from gpt_jax.runs import cost, finetune, workdir
from gpt_jax.runs.finetune_results import results as of_task
from gpt_jax.training.metrics_log import read_metrics

_WORKDIR = flags.DEFINE_multi_string('workdir', [], 'run to keep; seeds of one config')
_NAME = flags.DEFINE_string('name', '', 'of its result file')
_CHECK = flags.DEFINE_bool('check', False, 'whether the table is up to date; exit 1')

EXPERIMENTS = pathlib.Path(__file__).resolve().parent
BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'
PLACES = config.fields_with('place')


def experiments(root: pathlib.Path = EXPERIMENTS) -> dict[str, str]:
  """Returns the docstrings of the experiments that claim something, by file."""
  found = {}
  for path in sorted(root.rglob('*.py')):
    words = re.match(r'"""(.*?)"""', path.read_text(encoding='utf-8'), re.DOTALL)
    if words and 'Claim:' in words[1]:
      found[path.relative_to(root).as_posix()] = words[1]
  return found


def claim(docstring: str) -> str:
  """Returns what an experiment claims, in one line."""
  found = re.search(r'Claim:(.*?)(?=\bSource:|\bCost:|\n\n|$)', docstring, re.DOTALL)
  return ' '.join(found[1].split()).rstrip('.')


def base(experiment: str, variant: str, root: pathlib.Path) -> dict[str, Any] | None:
  """Returns an experiment's config by dotted name, as JSON; None: it has none.

  Of `PLACES` those are left out that the experiment leaves empty.
  """
  path = root / experiment
  if not _has_config(path):
    return None
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  run = module.get_config(*([variant] if variant else []))
  return {n: v for n, v in _plain(run).items() if v or n not in PLACES}


def _has_config(path: pathlib.Path) -> bool:
  """Returns whether an experiment is a config; a script would read flags if run."""
  parts = ast.parse(path.read_text(encoding='utf-8')).body
  return any(isinstance(p, ast.FunctionDef) and p.name == 'get_config' for p in parts)


def _plain(run: config.Run) -> dict[str, Any]:
  """Returns a config by dotted name as JSON would give it back."""
  return json.loads(json.dumps(config.flat(run)))


def stale(result: Result, root: pathlib.Path = EXPERIMENTS) -> list[str]:
  """Returns in what an experiment's config is not what it was, in words."""
  if not (root / result.experiment).exists():
    return ['the experiment is gone']
  try:
    now = base(result.experiment, result.variant, root)
  except Exception as error:  # whatever the file does: the row says so
    return [f'get_config({result.variant!r}) fails: {error}']
  if now is None:
    return [] if not result.fields else ['the experiment has no config any more']
  usual = _plain(config.Run())  # a field that only one of them knows has its default
  before, now = usual | result.fields, usual | now
  return [
    f'{name} was {then!r} and is {now.get(name, "no field any more")!r}'
    for name, then in before.items()
    if then != now.get(name)
  ]


def kept(folders: Sequence[str], name: str = '') -> tuple[str, Result]:
  """Returns the name of a result file and what workdirs give for it.

  Raises:
    UserError: a run is of no experiment here, not finished, or not the experiment's
      config with the overrides of its command; or runs differ in more than their seed,
      or not in that.
  """
  found = [pathlib.Path(folder) for folder in folders]
  runs = [workdir.read_run(folder) for folder in found]
  sessions = workdir.sessions(found[0])
  last, commits = sessions[-1], []
  for session in [s for folder in found for s in workdir.sessions(folder)]:
    if session['config']['steps'] != last['config']['steps']:
      raise UserError(
        f'{found[0]} was made longer after it had ended, so that no one command makes '
        'it; train it in one go'
      )
    commits.append(committed.made_of(session['environment'])['commit'])
  path, _, variant = _flag(last['argv'], 'config').partition(':')
  below = committed.experiment(path)
  fields = base(below, variant, EXPERIMENTS)
  _check_same(found, runs, fields, last['overrides'])
  command = committed.command(last['argv'])
  if last['argv'][1:2] == ['sweep']:
    command += f' (its run {found[0].name})'
  data = workdir.read_about(found[0]).get('data', {})
  name = name or below.removesuffix('.py') + (f'.{variant}' if variant else '')
  return name, Result(
    experiment=below,
    variant=variant,
    command=command,
    measured=(_tuned if runs[0].task.name else _trained)(found),
    fields=fields,
    cost=_cost(found, runs),
    made_of=committed.made_of(last['environment'])
    | {'commit': ', '.join(dict.fromkeys(commits))}
    | {'text': data.get('valid_text', data.get('dev', ''))[:12]},
  )


def _check_same(
  found: list[pathlib.Path],
  runs: list[config.Run],
  fields: dict[str, Any],
  overrides: dict[str, Any],
) -> None:
  wanted = json.loads(json.dumps(fields | overrides))
  free = {'seed'} if len(found) > 1 else set()
  if runs[0].task.name:  # filled in, from examples and the model that it starts from
    free |= {'eval_every', 'task.together', *([] if wanted['steps'] else ['steps'])}
    free |= {n for n in fields if n[:6] == 'model.' and n not in finetune.FREE}
  if len({run.seed for run in runs}) < len(runs):
    raise UserError('runs of one config must differ in their seed; leave some out')
  if len({json.dumps(_digests(folder)) for folder in found}) > 1:
    raise UserError('the runs have different data; leave some out')
  for folder, run in zip(found, runs, strict=True):
    own = _plain(run)
    differing = [
      name for name, value in wanted.items() if own[name] != value and name not in free
    ]
    if differing:
      raise UserError(
        f'{folder} is not what its experiment says now, in {", ".join(differing)}; '
        'train it again'
      )
    if workdir.updates_done(folder) < run.steps:
      raise UserError(f'{folder} is not finished; train it to its end')


def _digests(folder: pathlib.Path) -> dict[str, str]:
  data = workdir.read_about(folder).get('data', {})
  return {name: data[name] for name in ('train', 'valid', 'dev') if name in data}


def _flag(argv: Sequence[str], name: str) -> str:
  """Returns the value of a flag in a command, or ''."""
  for i, word in enumerate(argv):
    if word.startswith(f'--{name}='):
      return word.partition('=')[2]
    if word == f'--{name}' and i + 1 < len(argv):
      return argv[i + 1]
  return ''


def _trained(found: list[pathlib.Path]) -> list[Measured]:
  """Returns the held-out losses of runs, and of a single one what else it was asked."""
  judged = [[x for x in read_metrics(f) if 'valid_nll' in x] for f in found]
  if not all(judged):
    raise UserError(f'{found[0]} was never evaluated')
  best = [min(each, key=lambda line: line['valid_nll']) for each in judged]
  of_all = [_on_all(*each) for each in zip(found, best, strict=True)]
  how, lines = (
    ('all held-out text', of_all) if all(of_all) else ('best while training', best)
  )
  made = [
    _mean(f'{unit}, {how}', [line[field] for line in lines])
    for unit, field in (('bits/byte', 'valid_bpb'), ('nats/token', 'valid_nll'))
  ]
  for name, bits in lines[0].get('baselines', {}).items():  # of the same text
    made.append(Measured(f'bits/byte, {name}', bits))
  if len(found) > 1:
    return made
  step = best[0]['step']
  for line in workdir.read_held_out(found[0]):
    if line['text'] and line['step'] == step and not line['int8']:
      what = f'perplexity on the text of {line["text"]}'
      made.append(Measured(what, line['valid_ppl']))
  return made + _asked(found[0], step)


def _on_all(folder: pathlib.Path, best: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the loss of a run's best checkpoint on all of its held-out text, or None.

  Raises:
    UserError: only another checkpoint's was measured.
  """
  own = [x for x in workdir.read_held_out(folder) if not x['text'] and not x['int8']]
  found = [line for line in own if line['step'] == best['step']]
  if own and not found:
    raise UserError(
      f'{folder} was evaluated at update {own[-1]["step"]}, and its best is that of '
      f'{best["step"]}; run `launch.py eval` again'
    )
  return found[-1] if found else None


def _asked(folder: pathlib.Path, step: int) -> list[Measured]:
  """Returns what a run's best checkpoint answered of prompted tasks."""
  if not any((folder / 'eval').glob('*.json')):
    return []
  own = [x for x in task_results.read([folder]) if x.step == step and not x.model.int8]
  made = []
  for key, seeds in task_results.choose(own).shown.items():
    _, task, shots = key
    rule, count = seeds[0].rule, seeds[0].questions
    for metric in task_results.metrics({key: seeds}, task):
      each = task_results.summary(seeds, metric, rule)
      if each is None:
        continue
      what = f'{metric} of {task}, K = {shots}, {count:,} questions'
      if len(seeds) > 1:
        values = [seed.metrics[metric][rule].value for seed in seeds]
        made.append(_mean(what, values, 'draws'))
      else:
        made.append(Measured(what, each.value, each.low, each.high))
  return made


def _mean(what: str, values: Sequence[float], of: str = 'seeds') -> Measured:
  """Returns the mean of several values with its interval, or the only one."""
  if len(values) == 1:
    return Measured(what, values[0])
  over = spread(list(values))
  what += f', mean of {len(values)} {of}'
  return Measured(what, over['mean'], over['low'], over['high'])


def _tuned(found: list[pathlib.Path]) -> list[Measured]:
  """Returns the dev metrics of a fine-tuning."""
  if len(found) > 1:
    raise UserError('record fine-tunings one by one: a workdir holds all seeds of one')
  told = of_task(found[0])
  made = []
  for metric, over in told['over_seeds'].items():
    (first, *others) = told['seeds'].values()
    if others:
      what = f'dev {metric}, mean of {len(told["seeds"])} seeds'
      made.append(Measured(what, over['mean'], over['low'], over['high']))
      made.append(Measured(f'dev {metric}, standard deviation', over['std']))
    else:
      low, high = first['intervals'][metric]
      made.append(Measured(f'dev {metric}', first[metric], low, high))
  return made


def _cost(found: list[pathlib.Path], runs: list[config.Run]) -> dict[str, float]:
  spent = {'updates': runs[0].steps}
  if not runs[0].task.name:
    cfg = GPTConfig.of(runs[0].model, workdir.read_about(found[0])['vocab'])
    spent['parameters'] = cost.parameter_count(cfg)
    spent['tokens'] = cost.tokens_read(runs[0], cfg)
  seconds = sum(map(workdir.seconds_of_training, found)) / len(found)
  return spent | {'seconds': round(seconds)}


def table(found: dict[str, Result], root: pathlib.Path = EXPERIMENTS) -> str:
  """Returns the table: a row for each result, and for each experiment without one."""
  docs, rows = experiments(root), []
  gone = {result.experiment for result in found.values()} - set(docs)
  labels = Counter(map(_label, found.values()))
  for experiment in [*docs, *sorted(gone)]:
    own = {n: r for n, r in found.items() if r.experiment == experiment}
    told = claim(docs[experiment]) if experiment in docs else 'gone'
    for name, result in own.items():
      label = _label(result)
      if labels[label] > 1:
        label += f' ({name.rpartition("/")[2]})'
      rows.append([label, told, *_cells(result, root)])
      told = 'as above'
    if not own and _to_measure(root / experiment, told):
      why = re.search(r'Not run here: ([^.]*)\.', ' '.join(docs[experiment].split()))
      reason = f'not run, {why[1]}' if why else 'no result file'
      rows.append(
        [f'`{experiment}`', told, f'**missing**: {reason}', '-', "the file's"]
      )
  head = ['experiment', 'claim', 'measured [95 %]', 'cost, code', 'command']
  return markdown([Table(head, rows, len(head))])


def _label(result: Result) -> str:
  return f'`{result.experiment}{":" * bool(result.variant)}{result.variant}`'


def _to_measure(path: pathlib.Path, told: str) -> bool:
  """Returns whether a file gives a result, and not only other files or runs to fit."""
  text = path.read_text(encoding='utf-8')
  if told == 'none' or re.search(r'^(RUNS|SEARCH) =', text, re.MULTILINE):
    return False
  gives = _has_config(path) or "DEFINE_string('result'" in text
  return gives or not told.startswith('none')


def _cells(result: Result, root: pathlib.Path) -> Iterable[str]:
  said = '; '.join(f'{_shown(each)} {each.what}' for each in result.measured)
  old = stale(result, root)
  yield f'**stale** ({"; ".join(old)}): {said}' if old else said
  spent, made = result.cost, result.made_of
  parts = [
    f'{spent[name]:,.0f} {name}'
    for name in ('parameters', 'updates', 'tokens', 'seconds')
    if name in spent
  ]
  parts.append(f'{made["device"]}, jax {made["jax"]}, `{made["commit"]}`')
  yield '; '.join(parts)
  yield f'`{result.command}`'


def _shown(each: Measured) -> str:
  def number(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.001:
      return f'{value:.3g}'
    return f'{value:.4f}' if size < 10 else f'{value:,.{1 if size < 1000 else 0}f}'

  if each.low is None:
    return f'**{number(each.value)}**'
  return f'**{number(each.value)}** [{number(each.low)}, {number(each.high)}]'


def read_all(folder: pathlib.Path) -> dict[str, Result]:
  """Returns all results in a folder, by name."""
  return {
    path.relative_to(folder).with_suffix('').as_posix(): committed.read(path)
    for path in sorted(folder.rglob('*.json'))
  }


def renewed(page: str, made: str) -> str:
  """Returns a page with another table between its marks.

  Raises:
    UserError: it has no marks.
  """
  head, begin, rest = page.partition(BEGIN)
  _, end, tail = rest.partition(END)
  if not (begin and end):
    raise UserError(f'experiments/README.md lacks {BEGIN} and {END}; put them back')
  return f'{head}{BEGIN}\n\n{made.strip()}\n\n{END}{tail}'


def main(argv: list[str]) -> int:
  """Keeps a run's result, and writes or compares the table."""
  del argv
  page = EXPERIMENTS / 'README.md'
  try:
    if _WORKDIR.value:
      name, result = kept(_WORKDIR.value, _NAME.value)
      path = EXPERIMENTS / 'results' / f'{name}.json'
      if path.exists() and not _NAME.value:
        before = committed.read(path).command
        if before != result.command:
          raise UserError(
            f'{path} is what {before} gave; give this one a --name, or that, to put it '
            'in its place'
          )
      path.parent.mkdir(parents=True, exist_ok=True)
      committed.write(path, result)
      print(f'wrote {path}')
    before = page.read_text(encoding='utf-8')
    after = renewed(before, table(read_all(EXPERIMENTS / 'results')))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  if _CHECK.value:
    same = before == after
    print(
      'the table is up to date'
      if same
      else 'the table is not what the result files give; run experiments/table.py'
    )
    return int(not same)
  write_whole(page, after)
  print(f'wrote {page}')
  return 0


if __name__ == '__main__':
  app.run(main)
