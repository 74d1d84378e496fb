"""The table of experiments/README.md, from result files; and how a run becomes one.

A run gives its held-out loss (on all of the text where `launch.py eval` measured that,
else the best while training) with baselines, its prompted tasks, or the dev results of
a fine-tuning. Scripts write their result files themselves, with --result.

A row is **stale** where the experiment's config has changed since, and **missing**
where there is no result file. The code may have changed too: the commit says since
when. `root` is the folder experiments/.
"""

import ast
import importlib.util
import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation.statistics import spread
from gpt_jax.files import write_whole
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import committed, markup, task_results
from gpt_jax.reports.committed import Measured, Result
from gpt_jax.runs import cost, finetune_job, shape, workdir
from gpt_jax.runs.finetune_results import results as of_task
from gpt_jax.training.metrics_log import read_metrics

BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'
# Fields that say where things are.
PLACES = config.fields_with('place')


def experiments(root: pathlib.Path) -> dict[str, str]:
  """Returns the docstrings of the experiments that claim something, by file."""
  docstrings = {}
  for path in sorted(root.rglob('*.py')):
    doc = re.match(r'"""(.*?)"""', path.read_text(encoding='utf-8'), re.DOTALL)
    if doc and 'Claim:' in doc[1]:
      docstrings[path.relative_to(root).as_posix()] = doc[1]
  return docstrings


def claims(docstring: str) -> dict[str, str]:
  """Returns what an experiment claims, in one line.

  A file with several experiments says `  NAME: what it is.` on the line before each
  claim, where NAME begins its argument. The name of the only claim is ''.
  """
  claim = r'(?:^ *(\w+): [^\n]*\n *)?\bClaim:(.*?)(?=\b(?:Source|Cost|Data):|\n\n|\Z)'
  matches = re.findall(claim, docstring, re.DOTALL | re.MULTILINE)
  return {name: ' '.join(words.split()).rstrip('.') for name, words in matches}


def base(experiment: str, variant: str, root: pathlib.Path) -> dict[str, Any] | None:
  """Returns an experiment's config by dotted name, as JSON; None for a script.

  Those of `PLACES` that the experiment leaves empty are left out.

  Raises:
    UserError: there is no such experiment.
  """
  path = root / experiment
  if not path.exists():
    raise UserError(f'{path} is gone; train with an experiment that is there')
  if not _has_config(path):
    return None
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  run = module.get_config(*([variant] if variant else []))
  return {n: v for n, v in _plain(run).items() if v or n not in PLACES}


def _has_config(path: pathlib.Path) -> bool:
  """Returns whether an experiment has a config; a script would read flags if opened."""
  parts = ast.parse(path.read_text(encoding='utf-8')).body
  return any(isinstance(p, ast.FunctionDef) and p.name == 'get_config' for p in parts)


def _plain(run: config.Run) -> dict[str, Any]:
  """Returns a config by dotted name as JSON would give it back."""
  return json.loads(json.dumps(config.flat(run)))


def stale(result: Result, root: pathlib.Path) -> list[str]:
  """Returns the changes of an experiment's config since its result, in words."""
  if not (root / result.experiment).exists():
    return ['the experiment is gone']
  try:
    now = base(result.experiment, result.variant, root)
  except Exception as error:  # any error of the file stands in its row
    return [f'get_config({result.variant!r}) fails: {error}']
  if now is None:
    return [] if not result.fields else ['the experiment has no config any more']
  usual = _plain(config.Run())  # fields that only one of them has
  before, now = usual | result.fields, usual | now
  return [
    f'{name} was {then!r} and is {now.get(name, "no field any more")!r}'
    for name, then in before.items()
    if then != now.get(name)
  ]


def result(
  folders: Sequence[str | pathlib.Path], root: pathlib.Path, name: str = ''
) -> tuple[str, Result]:
  """Returns the name of a result file and its content, from workdirs.

  Raises:
    UserError: a run is of no experiment in `root`, not finished, or not the
      experiment's config with the overrides of its command; or runs do not differ in
      their seed alone.
  """
  workdirs = [pathlib.Path(folder) for folder in folders]
  runs = [workdir.read_run(folder) for folder in workdirs]
  sessions = workdir.sessions(workdirs[0])
  last, commits = sessions[-1], []
  for session in [s for folder in workdirs for s in workdir.sessions(folder)]:
    if session['config']['steps'] != last['config']['steps']:
      raise UserError(
        f'{workdirs[0]} was made longer after it had ended, so that no single command '
        'makes it; train it in one go'
      )
    commits.append(committed.made_of(session['environment'])['commit'])
  path, _, variant = _flag(last['argv'], 'config').partition(':')
  below = committed.experiment(path)
  fields = base(below, variant, root)
  _check_same(workdirs, runs, fields, last['overrides'])
  command = committed.command(last['argv'])
  if last['argv'][1:2] == ['sweep']:
    command += f' (its run {workdirs[0].name})'
  data = workdir.read_about(workdirs[0]).get('data', {})
  name = name or below.removesuffix('.py') + (f'.{variant}' if variant else '')
  return name, Result(
    experiment=below,
    variant=variant,
    command=command,
    measured=(_tuned if runs[0].is_finetuning else _trained)(workdirs),
    fields=fields,
    cost=_cost(workdirs, runs),
    made_of=committed.made_of(last['environment'])
    | {'commit': ', '.join(dict.fromkeys(commits))}
    | {'text': data.get('valid_text', data.get('dev', ''))[:12]},
  )


def _check_same(
  workdirs: list[pathlib.Path],
  runs: list[config.Run],
  fields: dict[str, Any],
  overrides: dict[str, Any],
) -> None:
  wanted = json.loads(json.dumps(fields | overrides))
  free = {'seed'} if len(workdirs) > 1 else set()
  if runs[0].is_finetuning:
    # Filled in, from examples and the model that it starts from.
    free |= set(finetune_job.FILLED) - {'steps'}
  elif runs[0].take_shape:
    free |= set(shape.TAKEN)
  if not wanted['steps']:
    free.add('steps')  # they follow from tokens or epochs
  if len({run.seed for run in runs}) < len(runs):
    raise UserError('runs of one config must differ in their seed; leave some out')
  if len({json.dumps(_digests(folder)) for folder in workdirs}) > 1:
    raise UserError('the runs have different data; leave some out')
  for folder, run in zip(workdirs, runs, strict=True):
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


def _trained(workdirs: list[pathlib.Path]) -> list[Measured]:
  """Returns the held-out losses of runs, and the prompted tasks of a single run."""
  judged = [[x for x in read_metrics(f) if 'valid_nll' in x] for f in workdirs]
  if not all(judged):
    raise UserError(f'{workdirs[0]} was never evaluated')
  best = [min(each, key=lambda line: line['valid_nll']) for each in judged]
  of_all = [_on_all(*each) for each in zip(workdirs, best, strict=True)]
  how, lines = (
    ('all held-out text', of_all) if all(of_all) else ('best while training', best)
  )
  lossy = ' (of a text that its tokenizer changes)' * bool(
    workdir.text_lost(workdirs[0])
  )
  measured = [
    _mean(f'{unit}, {how}', [line[field] for line in lines])
    for unit, field in ((f'bits/byte{lossy}', 'valid_bpb'), ('nats/token', 'valid_nll'))
  ]
  for name, bits in lines[0].get('baselines', {}).items():  # of the same text
    measured.append(Measured(f'bits/byte, {name}', bits))
  if len(workdirs) > 1:
    return measured
  step = best[0]['step']
  for line in workdir.read_held_out(workdirs[0]):
    if line['text'] and line['step'] == step and not line['weights']:
      what = f'perplexity on the text of {line["text"]}'
      measured.append(Measured(what, line['valid_ppl']))
  return measured + _prompted(workdirs[0], step)


def _on_all(folder: pathlib.Path, best: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the loss of a run's best checkpoint on all of its held-out text, or None.

  Raises:
    UserError: all of the text was read by another checkpoint only.
  """
  lines = workdir.read_held_out(folder)
  own = [x for x in lines if not x['text'] and not x['weights']]
  of_best = [line for line in own if line['step'] == best['step']]
  if own and not of_best:
    raise UserError(
      f'{folder} was evaluated at update {own[-1]["step"]}, and its best is that of '
      f'{best["step"]}; run `launch.py eval` again'
    )
  return of_best[-1] if of_best else None


def _prompted(folder: pathlib.Path, step: int) -> list[Measured]:
  """Returns the prompted tasks of a run's checkpoint."""
  if not any((folder / 'eval').glob('*.json')):
    return []
  results = task_results.read([folder])
  own = [x for x in results if x.step == step and not x.model.weights]
  measured = []
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
        measured.append(_mean(what, values, 'draws'))
      else:
        measured.append(Measured(what, each.value, each.low, each.high))
  return measured


def _mean(what: str, values: Sequence[float], of: str = 'seeds') -> Measured:
  """Returns the mean of values with its interval; a single value has none."""
  if len(values) == 1:
    return Measured(what, values[0])
  over = spread(list(values))
  what += f', mean of {len(values)} {of}'
  return Measured(what, over['mean'], over['low'], over['high'])


def _tuned(workdirs: list[pathlib.Path]) -> list[Measured]:
  """Returns the dev metrics of a fine-tuning."""
  if len(workdirs) > 1:
    raise UserError('record one fine-tuning at a time: its workdir holds all seeds')
  results = of_task(workdirs[0])
  measured = []
  for metric, over in results['over_seeds'].items():
    (first, *others) = results['seeds'].values()
    if others:
      what = f'dev {metric}, mean of {len(results["seeds"])} seeds'
      measured.append(Measured(what, over['mean'], over['low'], over['high']))
      measured.append(Measured(f'dev {metric}, standard deviation', over['std']))
    else:
      low, high = first['intervals'][metric]
      measured.append(Measured(f'dev {metric}', first[metric], low, high))
  return measured


def _cost(workdirs: list[pathlib.Path], runs: list[config.Run]) -> dict[str, float]:
  spent = {'updates': runs[0].steps}
  if not runs[0].is_finetuning:
    cfg = GPTConfig.of(runs[0].model, workdir.read_about(workdirs[0])['vocab'])
    spent['parameters'] = cost.parameter_count(cfg)
    spent['tokens'] = config.tokens_read(runs[0])
  seconds = sum(map(workdir.seconds_of_training, workdirs)) / len(workdirs)
  return spent | {'seconds': round(seconds)}


def table(results: dict[str, Result], root: pathlib.Path) -> str:
  """Returns the table: a row for each result, and for each claim without one."""
  docs, rows = experiments(root), []
  gone = {each.experiment for each in results.values()} - set(docs)
  labels = Counter(map(_label, results.values()))
  for experiment in [*docs, *sorted(gone)]:
    by_name = claims(docs[experiment]) if experiment in docs else {'': 'gone'}
    own = {n: r for n, r in results.items() if r.experiment == experiment}
    for claimed, claim in by_name.items():
      measured = {n: r for n, r in own.items() if _claimed(r, by_name) == claimed}
      words = claim
      for name, each in measured.items():
        label = _label(each)
        if labels[label] > 1:
          label += f' ({name.rpartition("/")[2]})'
        rows.append([label, words, *_cells(each, root)])
        words = 'as above'
      if not measured and _to_measure(root / experiment, claim):
        why = re.search(r'Not run here: ([^.]*)\.', ' '.join(docs[experiment].split()))
        missing = f'**missing**: {f"not run, {why[1]}" if why else "no result file"}'
        label = f'`{experiment}{":" * bool(claimed)}{claimed}`'
        rows.append([label, claim, missing, '-', "the file's"])
  head = ['experiment', 'claim', 'measured [95 %]', 'cost, code', 'command']
  return markup.table(head, rows, len(head))


def _claimed(result: Result, by_name: dict[str, str]) -> str:
  """Returns the name of a result's claim, which begins its variant."""
  name = result.variant.partition(',')[0]
  return name if name in by_name else next(iter(by_name))


def _label(result: Result) -> str:
  return f'`{result.experiment}{":" * bool(result.variant)}{result.variant}`'


def _to_measure(path: pathlib.Path, claim: str) -> bool:
  """Returns whether a file gives a result, and not only data or the runs of a sweep."""
  text = path.read_text(encoding='utf-8')
  if claim == 'none' or re.search(r'^(RUNS|SEARCH) =', text, re.MULTILINE):
    return False
  gives = _has_config(path) or "DEFINE_string('result'" in text
  return gives or not claim.startswith('none')


def _cells(result: Result, root: pathlib.Path) -> Iterable[str]:
  numbers = '; '.join(f'{_shown(each)} {each.what}' for each in result.measured)
  old = stale(result, root)
  yield f'**stale** ({"; ".join(old)}): {numbers}' if old else numbers
  spent, made_of = result.cost, result.made_of
  parts = [
    f'{spent[name]:,.0f} {name}'
    for name in ('parameters', 'updates', 'tokens', 'seconds')
    if name in spent
  ]
  parts.append(f'{made_of["device"]}, jax {made_of["jax"]}, `{made_of["commit"]}`')
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


def renewed(page: str, rows: str) -> str:
  """Returns a page with a new table; raises UserError if it lacks the marks."""
  head, begin, rest = page.partition(BEGIN)
  _, end, tail = rest.partition(END)
  if not (begin and end):
    raise UserError(f'experiments/README.md lacks {BEGIN} and {END}; put them back')
  return f'{head}{BEGIN}\n\n{rows.strip()}\n\n{END}{tail}'


def record(folders: Sequence[str], root: pathlib.Path, name: str = '') -> pathlib.Path:
  """Writes the result file of workdirs, and returns its path.

  Raises:
    UserError: see `result`; or another command's result has the default name.
  """
  file, new = result(folders, root, name)
  path = root / 'results' / f'{file}.json'
  if path.exists() and not name:
    before = committed.read(path).command
    if before != new.command:
      raise UserError(
        f'{path} is the result of {before}; give this one a --name, or that name to '
        'replace it'
      )
  path.parent.mkdir(parents=True, exist_ok=True)
  committed.write(path, new)
  return path


def update(root: pathlib.Path, write: bool) -> bool:
  """Returns whether the table of README.md is up to date; if `write`, renews it."""
  path = root / 'README.md'
  before = path.read_text(encoding='utf-8')
  after = renewed(before, table(read_all(root / 'results'), root))
  if write:
    write_whole(path, after)
  return before == after
