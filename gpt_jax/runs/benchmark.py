"""Zero-, one- and few-shot evaluation of a workdir, as GPT-2 and GPT-3 did it.

The answers of each benchmark are kept in WORKDIR/eval/NAME.jsonl and its result in
NAME.json; both names carry a hash of all that the answers depend on.
"""

import collections
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.evaluation import scoring_rules, statistics
from gpt_jax.evaluation.benchmark import Benchmark, plan, run_benchmark
from gpt_jax.files import (
  clear_temporaries,
  field,
  of_kind,
  read_json,
  read_json_lines,
  shown,
  write_whole,
)
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.inference.task_model import task_model
from gpt_jax.paths import not_kept
from gpt_jax.runs import provenance
from gpt_jax.runs.load import load
from gpt_jax.training import checksums


def evaluate(
  workdir: str | pathlib.Path,
  benchmarks: Sequence[Benchmark],
  *,
  checkpoint_step: str | int = 'best',
  weights: str = '',
  report: Callable[[str], None] = print,
) -> list[dict]:
  """Runs benchmarks on a workdir's model; returns their results.

  They are kept in WORKDIR/eval, each after it is reported; what is there already is not
  computed again.

  Args:
    checkpoint_step: as in `load`.
    weights: as in `LanguageModel.quantized`.

  Raises:
    UserError: no such model, or a damaged file of answers; or, after all results are
      reported, the disk refused to keep them.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'run.json').exists():
    raise UserError(
      f'{workdir} is no workdir: it has no run.json; make one of a folder of weights '
      'with `launch.py import`'
    )
  model = load(workdir, checkpoint_step)
  number = sum(x.size for x in jax.tree.leaves(model.params))
  model = model.quantized(weights)
  depends = {
    'parameters_sha256': checksums.digest(model.params),
    'tokenizer': tokenizers.digest(workdir / 'tokenizer'),
    'context': model.config.T,
  }
  folder = workdir / 'eval'
  refusal = _refusal(lambda: _try_writing(folder))
  adapter, results = task_model(model), []
  for benchmark in benchmarks:
    identity = depends | {
      'prompts_sha256': benchmark.digest(),
      'rule': benchmark.rule,
      'stride': benchmark.stride,
      'answer_limit': getattr(benchmark.task, 'limit', 0),
    }
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    path = folder / f'{benchmark.name}-{key}.json'
    if path.exists():
      result = _read(path)
    else:
      answers = None if refusal else path.with_suffix('.jsonl')
      values, cut = run_benchmark(benchmark, adapter, answers)
      result = {
        **_asked(benchmark),
        'truncated': cut,
        'metrics': values,
        'step': model.step,
        'checkpoint': str(checkpoint_step),
        'int8': weights == 'int8',
        'weights': weights,
        'parameters': number,
        **identity,
        'versions': {
          name: importlib.metadata.version(name) for name in ('jax', 'numpy')
        },
        'git': provenance.git_state(),
      }
    report(described(result))
    if not path.exists():
      text = json.dumps(result, indent=1) + '\n'
      refusal = refusal or _refusal(functools.partial(write_whole, path, text))
    results.append(result)
  for text in spreads(results):
    report(text)
  if refusal:
    raise refusal
  return results


def _asked(benchmark: Benchmark) -> dict:
  """Returns what a benchmark asked, and its chance (None: not of questions)."""
  questions = benchmark.questions
  return {
    'task': str(benchmark.task),
    'form': benchmark.form,
    'split': benchmark.split,
    'shots': benchmark.shots,
    'seed': benchmark.seed,
    'limit': benchmark.limit,
    'examples': benchmark.source,
    'questions': len(questions) or len(benchmark.documents),
    'chance': scoring_rules.chance(benchmark.task, questions) if questions else None,
  }


def _try_writing(folder: pathlib.Path) -> None:
  """Makes a folder, and an OSError where nothing can be written into it."""
  folder.mkdir(exist_ok=True)
  clear_temporaries(folder)
  with tempfile.TemporaryFile(dir=folder):
    pass


def _refusal(write: Callable[[], None]) -> UserError | None:
  """Returns why the disk refused what `write` does, or None."""
  try:
    with not_kept('the results above'):
      write()
  except UserError as error:
    return error
  return None


def _read(path: pathlib.Path) -> dict:
  """Returns a result that an earlier command wrote; raises UserError if it can't be."""
  again = 'remove it, and the task is evaluated again'
  result = read_json(path, remedy=again)
  kinds = dict.fromkeys(('task', 'form', 'split', 'rule'), str)
  kinds |= dict.fromkeys(('shots', 'seed', 'questions', 'truncated'), int)
  for name, kind in kinds.items():
    field(result, name, kind, path, again)
  if field(result, 'chance', None, path, again) is not None:
    field(result, 'chance', float, path, again)
  for metric, rules in field(result, 'metrics', dict, path, again).items():
    where = f'{path}: {shown(metric)}'
    for one in of_kind(rules, dict, where, again).values():
      for each in ('value', 'low', 'high'):
        field(of_kind(one, dict, where, again), each, float, where, again)
  return result


def answered(
  workdir: str | pathlib.Path, task: str, data: str | pathlib.Path
) -> Iterator[tuple[dict, Benchmark, list[scoring_rules.Record]]]:
  """Yields each result of a task that a workdir keeps, its questions and its answers.

  Args:
    task: of `TASKS`.
    data: folder of the folders of tasks.

  Raises:
    UserError: `data` has other questions than those that were answered, or a file is
      damaged.
  """
  again = 'remove it, and evaluate the task again'
  for path in sorted((pathlib.Path(workdir) / 'eval').glob(f'{task}-*.json')):
    result = _read(path)
    if result['task'] != task or result['form'] == 'text':
      continue
    asked = plan(
      [task],
      data,
      shots=[result['shots']],
      seeds=result['seed'] + 1,
      limit=field(result, 'limit', int, path, again),
      split=result['split'],
      examples=field(result, 'examples', str, path, again),
    )[-1]
    if asked.digest() != field(result, 'prompts_sha256', str, path, again):
      raise UserError(
        f'{path}: its questions are not those of --data={data}; give the files that it '
        'was evaluated on, or evaluate it again'
      )
    lines = path.with_suffix('.jsonl')
    records = {
      field(each, 'number', int, lines, again): each
      for each in read_json_lines(lines, again)
    }
    missing = [n for n in range(len(asked.questions)) if n not in records]
    if missing:
      raise UserError(f'{lines} lacks the answer to question {missing[0]}; {again}')
    for n, question in enumerate(asked.questions):
      where, options = f'{lines}: answer {n}', len(question.answers)
      scoring_rules.check_record(asked.form, options, records[n], where, again)
    yield result, asked, [records[n] for n in range(len(asked.questions))]


def during(settings: config.Exams) -> Callable[[LanguageModel], dict[str, float]]:
  """Returns a function that runs a config's benchmarks on a model in training.

  All files are read and checked now. The function returns, for each task and number of
  examples, the first metric by the paper's own rule, named like
  'lambada_0shot_accuracy'.

  Raises:
    UserError: as `plan`.
  """
  if not settings.tasks:
    return lambda model: {}
  benchmarks = plan(
    settings.tasks.split(','),
    settings.data,
    shots=[int(text) for text in settings.shots.split(',')],
    limit=settings.limit,
  )

  def values(model):
    by_name = {}
    for benchmark in benchmarks:
      results, _ = run_benchmark(benchmark, task_model(model))
      metric = next(iter(results))
      name = f'{benchmark.task}_{benchmark.shots}shot_{metric}'
      by_name[name] = results[metric][benchmark.rule]['value']
    return by_name

  return values


def described(result: dict) -> str:
  """Returns a result in words, the paper's own rule marked by a star."""
  cut = result['truncated']
  examples = f', {result["shots"]} examples (seed {result["seed"]})'
  lines = [
    f'{result["task"]} ({result["split"]}): {result["questions"]:,} '
    f'{"documents" if result["form"] == "text" else "questions"}'
    + (examples if result['shots'] else '')
    + (f'; prompts cut at their beginning: {cut:,}' if cut else '')
  ]
  for metric, rules in result['metrics'].items():
    own = result['form'] != 'text' or metric == next(iter(result['metrics']))
    for rule, one in rules.items():
      star = '*' if own and rule == result['rule'] else ' '
      lines.append(
        f' {star}{metric:24} {rule:20} {one["value"]:9.4f}  '
        f'[{one["low"]:.4f}, {one["high"]:.4f}]'
      )
  if result['chance'] is not None:
    lines.append(f'  {"by chance":45} {result["chance"]:9.4f}')
  return '\n'.join(lines)


def spreads(results: Sequence[dict]) -> list[str]:
  """Returns, for each task and K with several seeds, how they differ, in words."""
  groups = collections.defaultdict(list)
  for result in results:
    if result['shots']:
      groups[result['task'], result['shots']].append(result)
  lines = []
  for (task, shots), some in groups.items():
    if len(some) < 2:
      continue
    for metric, rules in some[0]['metrics'].items():
      rule = some[0]['rule'] if some[0]['rule'] in rules else next(iter(rules))
      over = statistics.spread(
        [each['metrics'][metric][rule]['value'] for each in some]
      )
      lines.append(
        f'{task}, {shots} examples, {metric} ({rule}): mean {over["mean"]:.4f} '
        f'[{over["low"]:.4f}, {over["high"]:.4f}], standard deviation '
        f'{over["std"]:.4f} over {len(some)} draws of examples'
      )
  return lines
