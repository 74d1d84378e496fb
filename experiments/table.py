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

import importlib.util
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from gpt_jax import config, describe, result_file, workdir
from gpt_jax.config import UserError
from gpt_jax.eval_report import results
from gpt_jax.evaluation.metrics import spread
from gpt_jax.files import write_whole
from gpt_jax.model.gpt import Shape
from gpt_jax.pages import Table, markdown
from gpt_jax.result_file import Measured, Result
from gpt_jax.task_results import results as of_task
from gpt_jax.training.record import read_metrics, seconds_trained

_WORKDIR = flags.DEFINE_multi_string('workdir', [], 'run to keep; seeds of one config')
_NAME = flags.DEFINE_string('name', '', 'of its result file')
_CHECK = flags.DEFINE_bool('check', False, 'whether the table is up to date; exit 1')

EXPERIMENTS = pathlib.Path(__file__).resolve().parent
BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'
# Fields that say where things are.
PLACES = (
  'data.source',
  'data.valid',
  'data.tokens',
  'init_from',
  'task.data',
  'exams.data',
)


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
  """Returns an experiment's config by dotted name, without places; None: no config.

  Raises:
    UserError: there is no such experiment.
  """
  path = root / experiment
  if not path.exists():
    raise UserError(f'{path} is not there any more')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  if 'def get_config' not in path.read_text(encoding='utf-8'):
    return None
  spec.loader.exec_module(module)
  run = module.get_config(*([variant] if variant else []))
  return {n: v for n, v in _plain(run).items() if n not in PLACES}


def _plain(run: config.Run) -> dict[str, Any]:
  """Returns a config by dotted name as JSON would give it back."""
  return json.loads(json.dumps(config.flat(run)))


def stale(result: Result, root: pathlib.Path = EXPERIMENTS) -> list[str]:
  """Returns in what an experiment's config is not what it was, in words."""
  try:
    now = base(result.experiment, result.variant, root)
  except UserError:
    return ['the experiment is gone']
  if now is None:
    return []
  before = _plain(config.Run()) | result.fields  # a newer field had its default
  return [
    f'{name} was {before[name]!r} and is {value!r}'
    for name, value in now.items()
    if before[name] != value
  ]


def kept(folders: Sequence[str], name: str = '') -> tuple[str, Result]:
  """Returns the name of a result file and what workdirs give for it.

  Raises:
    UserError: a run is of no experiment here, not finished, or not the experiment's
      config with the overrides of its command; or runs differ in more than their seed.
  """
  found = [pathlib.Path(folder) for folder in folders]
  runs = [workdir.read_run(folder) for folder in found]
  session = workdir.sessions(found[0])[-1]
  experiment, _, variant = _flag(session['argv'], 'config').partition(':')
  path = pathlib.Path(experiment)
  if 'experiments' not in path.parts:
    raise UserError(
      f'{found[0]} was trained by {experiment or "no file"}; keep runs of experiments/'
    )
  below = '/'.join(path.parts[path.parts.index('experiments') + 1 :])
  fields = base(below, variant, EXPERIMENTS)
  _check_same(found, runs, fields, session['overrides'])
  name = name or below.removesuffix('.py') + (f'.{variant}' if variant else '')
  of_runs = _tuned if runs[0].task.name else _trained
  return name, Result(
    experiment=below,
    variant=variant,
    command=result_file.command(session['argv']),
    measured=of_runs(found),
    fields=fields,
    cost=_cost(found, runs),
    made_of=result_file.made_of(session['environment']),
  )


def _check_same(
  found: list[pathlib.Path],
  runs: list[config.Run],
  fields: dict[str, Any],
  overrides: dict[str, Any],
) -> None:
  wanted = json.loads(json.dumps(fields | overrides))
  free = {*PLACES, *(['seed'] if len(found) > 1 else [])}
  if runs[0].task.name:  # filled in, from examples and the model that it starts from
    free |= {'steps', 'task.together', *(n for n in fields if n.startswith('model.'))}
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
    groups = sorted(folder.glob('seeds_*')) or [folder]
    for group in groups:
      lines = read_metrics(group)
      if not lines or lines[-1]['step'] < run.steps:
        raise UserError(f'{folder} is not finished; train it to its end')


def _flag(argv: Sequence[str], name: str) -> str:
  """Returns the value of a flag in a command, or ''."""
  for i, word in enumerate(argv):
    if word.startswith(f'--{name}='):
      return word.partition('=')[2]
    if word == f'--{name}' and i + 1 < len(argv):
      return argv[i + 1]
  return ''


def _trained(found: list[pathlib.Path]) -> list[Measured]:
  """Returns the held-out losses of runs, their baselines and prompted tasks."""
  of_all = [_on_all(folder) for folder in found]
  if all(of_all):
    how, lines = 'all held-out text', of_all
  else:
    how = 'best while training'
    judged = [[x for x in read_metrics(f) if 'valid_nll' in x] for f in found]
    if not all(judged):
      raise UserError(f'{found[0]} was never evaluated')
    lines = [min(each, key=lambda line: line['valid_nll']) for each in judged]
  made = [
    _over_seeds(f'{unit}, {how}', [line[field] for line in lines])
    for unit, field in (('bits/byte', 'valid_bpb'), ('nats/token', 'valid_nll'))
  ]
  for name, bits in lines[0].get('baselines', {}).items():
    made.append(Measured(f'bits/byte, {name}', bits))
  for line in workdir.read_held_out(found[0]):
    if line['text']:
      made.append(Measured(f'perplexity on {line["text"]}', line['valid_ppl']))
  if any((found[0] / 'eval').glob('*.json')):
    shown = results.choose(results.read(found[:1])).shown
    for (_, task, shots), seeds in shown.items():
      for metric in results.metrics(shown, task):
        each = results.summary(seeds, metric, seeds[0].rule)
        if each is not None:
          what = f'{task}, K = {shots}, {metric}'
          made.append(Measured(what, each.value, each.low, each.high))
  return made


def _on_all(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the best loss on all of a run's held-out text, None: not measured."""
  own = [x for x in workdir.read_held_out(folder) if not x['text'] and not x['int8']]
  return min(own, key=lambda line: line['valid_nll'], default=None)


def _over_seeds(what: str, values: Sequence[float]) -> Measured:
  if len(values) == 1:
    return Measured(what, values[0])
  over = spread(list(values))
  what += f', mean of {len(values)} seeds'
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
  cost = {'updates': runs[0].steps}
  if not runs[0].task.name:
    shape = Shape.of(runs[0].model, workdir.read_about(found[0])['vocab'])
    cost['parameters'] = describe.parameter_count(shape)
    cost['tokens'] = describe.tokens_read(runs[0], shape)
  groups = [g for f in found for g in sorted(f.glob('seeds_*')) or [f]]
  trained = [[x for x in read_metrics(g) if 'loss' in x] for g in groups]
  return cost | {'seconds': round(sum(map(seconds_trained, trained)) / len(found))}


def table(found: dict[str, Result], root: pathlib.Path = EXPERIMENTS) -> str:
  """Returns the table: a row for each result, and for each experiment without one."""
  docs, rows = experiments(root), []
  for experiment in [
    *docs,
    *sorted({r.experiment for r in found.values()} - set(docs)),
  ]:
    own = {n: r for n, r in found.items() if r.experiment == experiment}
    told = claim(docs[experiment]) if experiment in docs else 'gone'
    for number, result in enumerate(own.values()):
      label = f'`{experiment}{":" * bool(result.variant)}{result.variant}`'
      rows.append([label, told if not number else 'as above', *_cells(result, root)])
    if not own and told != 'none':  # that only makes files
      why = re.search(r'Not run here: ([^.]*)\.', ' '.join(docs[experiment].split()))
      reason = (
        f'**missing**: not run, {why[1]}' if why else '**missing**: no result file'
      )
      rows.append([f'`{experiment}`', told, reason, '-', "the file's"])
  head = ['experiment', 'claim', 'measured [95 %]', 'cost, code', 'command']
  return markdown([Table(head, rows, len(head))])


def _cells(result: Result, root: pathlib.Path) -> Iterable[str]:
  said = '; '.join(f'{_shown(each)} {each.what}' for each in result.measured)
  old = stale(result, root)
  yield f'**stale** ({"; ".join(old)}): {said}' if old else said
  cost, made = result.cost, result.made_of
  parts = [
    f'{cost[name]:,.0f} {name}'
    for name in ('parameters', 'updates', 'tokens', 'seconds')
    if name in cost
  ]
  parts.append(f'{made["device"]}, jax {made["jax"]}, `{made["commit"]}`')
  yield '; '.join(parts)
  yield f'`{result.command}`'


def _shown(each: Measured) -> str:
  def number(value: float) -> str:
    size = abs(value)
    return f'{value:.4f}' if size < 10 else f'{value:,.{1 if size < 1000 else 0}f}'

  if each.low is None:
    return f'**{number(each.value)}**'
  return f'**{number(each.value)}** [{number(each.low)}, {number(each.high)}]'


def read_all(folder: pathlib.Path) -> dict[str, Result]:
  """Returns all results in a folder, by name."""
  return {
    path.relative_to(folder).with_suffix('').as_posix(): result_file.read(path)
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
      path.parent.mkdir(parents=True, exist_ok=True)
      result_file.write(path, result)
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
