"""Zero-, one- and few-shot evaluation of a workdir, as GPT-2 and GPT-3 did it.

Each exam's answers are kept in WORKDIR/eval/NAME.jsonl and its result in NAME.json;
both names carry a hash of all that the answers depend on.
"""

import collections
import hashlib
import importlib.metadata
import json
import pathlib
import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.evaluation import likelihood, scoring_rules, statistics
from gpt_jax.evaluation.benchmark import Exam, TaskModel, exams, take
from gpt_jax.files import write_whole
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.runs import provenance
from gpt_jax.runs.workdir import load

_REQUESTS = 4096  # that are in memory as ids at once
_WINDOWS = 1024  # likewise
_NOTHING = likelihood.TokenScores([], [], [])
_PROMPTS = 16  # whose answers are searched for at once: 64 beams


def student(model: LanguageModel) -> TaskModel:
  """Returns a model as one who takes exams."""
  T = model.config.T

  def ids(requests):
    encode = {}
    for request in requests:
      if request.context not in encode:
        encode[request.context] = model.prompt_ids(request.context)
    return [
      (encode[request.context], model.tokenizer.encode(request.continuation)[-T:])
      for request in requests
    ]

  def answer(task, requests):
    banned = scoring_rules.banned(task, model.tokenizer, model.config.V)
    # Apart: examples that all questions share are read once if nothing is without.
    alone = [i for i, r in enumerate(requests) if r.context == task.unconditional]
    asked = [i for i, r in enumerate(requests) if r.context != task.unconditional]
    for numbers in (asked, alone):
      for at in range(0, len(numbers), _REQUESTS):
        some = numbers[at : at + _REQUESTS]
        pairs = dict(zip(some, ids([requests[i] for i in some]), strict=True))
        # Nothing is certain to follow, if that is what is asked.
        yield from ((i, _NOTHING) for i, (_, after) in pairs.items() if not after)
        pairs = {i: pair for i, pair in pairs.items() if pair[1]}
        found = likelihood.scores(
          model.params, model.config, list(pairs.values()), banned
        )
        known = list(pairs)
        yield from ((known[i], scores) for i, scores in found)

  def write(task, prompts):
    settings = {
      'beam': {'beams': 4, 'length_penalty': 0.6, 'penalty_form': 'gnmt'},
      'top_k_2': {'top_k': 2},
    }[task.rule]
    room = max(1, T - task.limit)
    read = [model.prompt_ids(each)[-room:] for each in prompts]
    order = sorted(range(len(read)), key=lambda i: len(read[i]))
    for at in range(0, len(order), _PROMPTS):
      some = order[at : at + _PROMPTS]
      made = model.generate_ids(
        [read[i] for i in some],
        max_new_tokens=task.limit,
        stop=task.stop,
        # A draw depends on its prompt, not on what else is asked or known already.
        seed=[zlib.crc32(prompts[i].encode()) for i in some],
        **settings,
      )
      yield from ((some[one.number], one.text) for one in made)

  def window(pairs):
    for at in range(0, len(pairs), _WINDOWS):
      some = pairs[at : at + _WINDOWS]
      for i, found in likelihood.scores(model.params, model.config, some):
        yield at + i, -sum(found.logp)

  return TaskModel(answer, write, window, model.prompt_ids, T)


def evaluate(
  workdir: str | pathlib.Path,
  wanted: Sequence[Exam],
  *,
  checkpoint_step: str | int = 'best',
  int8: bool = False,
  report: Callable[[str], None] = print,
) -> list[dict]:
  """Has a workdir's model take exams; returns their results, also in WORKDIR/eval.

  What is there already is not computed again.

  Args:
    workdir: of the model.
    wanted: of `exams`.
    checkpoint_step: as of `workdir.load`.
    int8: with the weights of linear layers in 8 bits.
    report: is told the results as they come.

  Raises:
    UserError: no such model, or a damaged file of answers.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / 'run.json').exists():
    raise UserError(
      f'{workdir} is no workdir: it has no run.json; make one of a folder of weights '
      'with `launch.py import`'
    )
  model = load(workdir, checkpoint_step)
  number = sum(x.size for x in jax.tree.leaves(model.params))
  model = model.int8() if int8 else model
  depends = {
    'parameters_sha256': parameters_digest(model.params),
    'tokenizer': tokenizers.digest(workdir / 'tokenizer'),
    'context': model.config.T,
  }
  folder = workdir / 'eval'
  folder.mkdir(exist_ok=True)
  who, found = student(model), []
  for exam in wanted:
    identity = depends | {
      'prompts_sha256': exam.digest(),
      'rule': exam.rule,
      'stride': exam.stride,
      'answer_limit': getattr(exam.task, 'limit', 0),
    }
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    path = folder / f'{exam.name}-{key}.json'
    if path.exists():
      result = json.loads(path.read_text(encoding='utf-8'))
    else:
      values, cut = take(exam, who, path.with_suffix('.jsonl'))
      chance = None
      if exam.questions:
        chance = scoring_rules.chance(exam.task, exam.questions)
      result = {
        'task': exam.task.name,
        'form': exam.form,
        'split': exam.split,
        'shots': exam.shots,
        'seed': exam.seed,
        'limit': exam.limit,
        'examples': exam.source,
        'questions': len(exam.questions) or len(exam.documents),
        'truncated': cut,
        'metrics': values,
        'chance': chance,
        'step': model.step,
        'checkpoint': str(checkpoint_step),
        'int8': int8,
        'parameters': number,
        **identity,
        'versions': {
          name: importlib.metadata.version(name) for name in ('jax', 'numpy')
        },
        'git': provenance.git_state(),
      }
      write_whole(path, json.dumps(result, indent=1) + '\n')
    report(described(result))
    found.append(result)
  for text in spreads(found):
    report(text)
  return found


def during(wanted: config.Exams) -> Callable[[LanguageModel], dict[str, float]]:
  """Returns what examines a model while it is trained; all is read and checked now.

  It returns, for each task and number of examples, the first metric by the paper's own
  rule, named like 'lambada_0shot_accuracy'.

  Raises:
    UserError: as `exams`.
  """
  if not wanted.tasks:
    return lambda model: {}
  every = exams(
    wanted.tasks.split(','),
    wanted.data,
    shots=[int(text) for text in wanted.shots.split(',')],
    limit=wanted.limit,
  )

  def examine(model):
    found = {}
    for exam in every:
      metrics_found, _ = take(exam, student(model))
      metric = next(iter(metrics_found))
      name = f'{exam.task.name}_{exam.shots}shot_{metric}'
      found[name] = metrics_found[metric][exam.rule]['value']
    return found

  return examine


def parameters_digest(params: dict) -> str:
  """Returns the sha256 of a tree of parameters: names, shapes, types and values."""
  whole = hashlib.sha256()
  for path, value in jax.tree_util.tree_leaves_with_path(params):
    value = np.ascontiguousarray(value)
    name = f'{jax.tree_util.keystr(path)} {value.shape} {value.dtype}\n'
    whole.update(name.encode())
    whole.update(value.tobytes())
  return whole.hexdigest()


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
