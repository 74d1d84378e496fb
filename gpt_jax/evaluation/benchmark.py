"""Benchmarks: the prompts of a task, and running a model on them.

`plan` reads, checks and draws all prompts before a model sees any. `run_benchmark`
appends answers to a file as they come, so that an interrupted benchmark resumes.
"""

import collections
import hashlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import rich.console
import rich.progress

from gpt_jax.config import UserError, nearest
from gpt_jax.evaluation import scoring_rules, statistics
from gpt_jax.files import field, lines, parse_json_line
from gpt_jax.tasks import labelled, prompted_files
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.tasks.prompted.lambada import STOP_WORDS
from gpt_jax.tasks.prompts import (
  Document,
  PromptedTask,
  Question,
  TextSet,
  draw,
  prompt,
)

Results = dict[str, dict[str, dict[str, float]]]


class Benchmark(NamedTuple):
  """Questions of a task as a model reads them, or documents of a text.

  Attributes:
    shots: solved examples before each question.
    seed: draws the examples.
    limit: most questions; 0: no limit.
    source: the split of the examples; '' without any.
    stride: tokens of a text that a window scores; 0: as many as fit.
    questions: [] if the task is a text.
    prompts: the text before each answer, examples first.
    documents: [] if the task is not a text.
  """

  task: PromptedTask | TextSet
  split: str
  shots: int
  seed: int
  limit: int
  source: str
  stride: int
  questions: list[Question]
  prompts: list[str]
  documents: list[Document]

  @property
  def form(self) -> str:
    """The task's form, or 'text'."""
    return self.task.form if isinstance(self.task, PromptedTask) else 'text'

  @property
  def rule(self) -> str:
    """The paper's own rule."""
    return self.task.rule if self.form != 'text' else 'windows'

  @property
  def name(self) -> str:
    """A name for people and files, unique among the benchmarks of a plan."""
    if self.form == 'text':
      return str(self.task)
    seed = f'-seed{self.seed}' if self.shots else ''
    return f'{self.task}-{self.shots}shot{seed}'

  def digest(self) -> str:
    """Returns the sha256 of all prompts, questions and rules."""
    whole = hashlib.sha256()
    if self.form != 'text':
      how = [self.form, self.rule, self.task.metrics, self.task.unconditional]
      how += [self.task.stop, self.task.limit, sorted(STOP_WORDS)]
      whole.update(json.dumps(how).encode() + b'\n')
    for text, question in zip(self.prompts, self.questions, strict=True):
      asked = [text, question.answers, question.completion, question.gold]
      whole.update(json.dumps([*asked, question.group]).encode() + b'\n')
    for document in self.documents:
      whole.update(json.dumps(document).encode() + b'\n')
    return whole.hexdigest()


class TaskModel(NamedTuple):
  """What a benchmark needs of a model (`inference.task_model` makes one).

  Attributes:
    score: yields (number, scores) of requests, in any order.
    write: yields (number, text) of prompts, in any order; the task says how.
    window: yields (number, -log p [nats]) of pairs (ids of context, ids), in any order.
  """

  score: Callable[[PromptedTask, list[scoring_rules.Request]], Iterator]
  write: Callable[[PromptedTask, list[str]], Iterator]
  window: Callable[[list[tuple[list[int], list[int]]]], Iterator]
  encode: Callable[[str], list[int]]
  T: int


def plan(
  names: Sequence[str],
  data: str | pathlib.Path,
  *,
  shots: Sequence[int] = (0,),
  seeds: int = 1,
  limit: int = 0,
  split: str = '',
  examples: str = '',
  stride: int = 0,
) -> list[Benchmark]:
  """Returns the benchmarks of tasks: one for each number of examples and each seed.

  Args:
    names: of `TASKS` and `TEXTS`.
    data: folder of the folders of their files.
    shots: numbers of examples; a text has none.
    seeds: draws of examples; without examples there is one benchmark.
    limit: most questions of a task, drawn evenly and always the same (if several rows
      are about one question, all of them); of a text the first documents. 0: all.
    split: '': the paper's.
    examples: 'train', 'dev', 'test' or 'itself'; '': the paper's.
    stride: of texts: tokens that a window scores, after as much context as fits; 0:
      windows side by side.

  Raises:
    UserError: an unknown task, a missing or damaged file, a number out of its range,
      more examples than there are.
  """
  known = [*TASKS, *TEXTS]
  wrong = [
    f'there is no task {n!r}.{nearest(n, known)}' for n in names if n not in known
  ]
  wrong += [] if names else ['tasks= names no task; see docs/tasks.md']
  wrong += [f'shots={k} must be 0 or more' for k in shots if k < 0]
  wrong += [] if shots else ['shots= is empty; give 0 for no examples']
  wrong += [] if seeds >= 1 else [f'seeds={seeds} must be 1 or more']
  wrong += [] if limit >= 0 else [f'limit={limit} must be 0 (all) or more']
  wrong += [] if stride >= 0 else [f'stride={stride} must be 0 (side by side) or more']
  if wrong:
    raise UserError('\n'.join(wrong))
  benchmarks = []
  for name in names:
    if name in TEXTS:
      task = TEXTS[name]
      every = prompted_files.read_documents(task, data, split)
      most = limit if limit < len(every) else 0
      about = task, split or task.split, 0, 0, most, '', stride
      benchmarks.append(Benchmark(*about, [], [], every[: most or None]))
      continue
    benchmarks += _of_task(TASKS[name], data, shots, seeds, limit, split, examples)
  return benchmarks


def _of_task(
  task: PromptedTask,
  data: str | pathlib.Path,
  shots: Sequence[int],
  seeds: int,
  limit: int,
  split: str,
  examples: str,
) -> Iterator[Benchmark]:
  """Yields the benchmarks of a task; arguments are those of `plan`."""
  source = examples or task.examples
  if any(shots) and pathlib.Path(data).is_file() and source != 'itself':
    raise UserError(
      f'data={data} is one file: there is none of the split {source} to take examples '
      "from; give the folder, or examples='itself'"
    )
  numbered = list(enumerate(prompted_files.read(task, data, split)))
  some = labelled.drawn(numbered, limit)
  if 'question_accuracy' in task.metrics:
    groups = labelled.drawn(list(dict.fromkeys(q.group for _, q in numbered)), limit)
    kept = set(groups)
    some = [(number, q) for number, q in numbered if q.group in kept]
  limit = limit if len(some) < len(numbered) else 0
  questions = [question for _, question in some]
  pool = prompted_files.examples(task, data, split, examples) if any(shots) else []
  for K in dict.fromkeys(shots):
    for seed in range(seeds if K else 1):
      prompts = [
        prompt(task, question, draw(task, pool, question, number, K, seed))
        for number, question in some
      ]
      about = task, split or task.split, K, seed, limit, source if K else '', 0
      yield Benchmark(*about, questions, prompts, [])


def run_benchmark(
  benchmark: Benchmark, model: TaskModel, path: pathlib.Path | None = None
) -> tuple[Results, int]:
  """Returns the results (`scoring_rules.results`) and how many prompts were cut.

  `path` is a file of answers, to resume from and to append to; None: no file.
  """
  if benchmark.form == 'text':
    return _read_text(benchmark, model, path)
  every = [
    scoring_rules.requests(benchmark.task, question, text)
    for question, text in zip(benchmark.questions, benchmark.prompts, strict=True)
  ]
  options = [len(question.answers) for question in benchmark.questions]
  with _Answers(benchmark.name, path, benchmark.form, options) as answers:
    left = [n for n in range(len(every)) if n not in answers.records]
    if benchmark.form == 'free':
      for i, text in model.write(benchmark.task, [benchmark.prompts[n] for n in left]):
        answers.add(left[i], {'text': text})
    else:
      _score(benchmark.task, model, {n: every[n] for n in left}, answers)
  records = [answers.records[n] for n in range(len(every))]
  results = scoring_rules.results(benchmark.task, benchmark.questions, records)
  return results, sum(_is_cut(benchmark, model, *each) for each in enumerate(every))


def _score(
  task: PromptedTask,
  model: TaskModel,
  every: dict[int, list[scoring_rules.Request]],
  answers: '_Answers',
) -> None:
  """Adds an answer for each question once all of its requests are scored.

  Requests that are the same, as those without a context often are, are scored once.
  """
  owners = collections.defaultdict(list)
  for n, requests in every.items():
    for request in requests:
      owners[request].append(n)
  unique, scores_of = list(owners), {}
  waits = {n: len(set(requests)) for n, requests in every.items()}
  for i, scores in model.score(task, unique):
    scores_of[unique[i]] = scores
    for n in dict.fromkeys(owners[unique[i]]):
      waits[n] -= 1
      if not waits[n]:
        scores_of_n = [scores_of[request] for request in every[n]]
        answers.add(n, scoring_rules.record(task, scores_of_n))


def _is_cut(
  benchmark: Benchmark,
  model: TaskModel,
  number: int,
  requests: list[scoring_rules.Request],
) -> bool:
  """Returns whether a prompt loses its beginning to make room for an answer."""
  if benchmark.form == 'free':
    room = max(1, model.T - benchmark.task.limit)
    return len(model.encode(benchmark.prompts[number])) > room
  # Tokens are no shorter than a byte: most texts need not be encoded to be sure.
  if max(len(''.join(each).encode()) for each in requests) < model.T:
    return False
  contexts = {each.context for each in requests}
  lengths = {context: len(model.encode(context)) for context in contexts}
  return any(
    lengths[each.context] + len(model.encode(each.continuation)) > model.T + 1
    for each in requests
  )


def _read_text(
  benchmark: Benchmark, model: TaskModel, path: pathlib.Path | None
) -> tuple[Results, int]:
  """Returns perplexities of a text, the paper's first, per unit of the original.

  Every token of a document counts, the first after end-of-text.
  """
  T, pairs = model.T, []
  step = min(benchmark.stride or T, T)
  for document in benchmark.documents:
    ids = [*model.encode(''), *model.encode(document.text)]
    for i in range(1, len(ids), step):
      pairs.append((ids[max(0, i - T) : i], ids[i : i + step]))
  with _Answers(benchmark.name, path, 'text', [0] * len(pairs)) as answers:
    left = [n for n in range(len(pairs)) if n not in answers.records]
    for i, nll in model.window([pairs[n] for n in left]):
      answers.add(left[i], {'nll': nll})
  nll = np.array([answers.records[n]['nll'] for n in range(len(pairs))])
  tokens = np.array([len(window) for _, window in pairs], np.float64)

  def mean(nll, tokens):  # of the windows that are drawn
    return float(nll.sum() / tokens.sum())

  low, high = statistics.interval(mean, nll, tokens)
  of = {'value': mean(nll, tokens), 'low': low, 'high': high}
  units = {
    name: sum(getattr(document, name) for document in benchmark.documents)
    for name in ('words', 'lines', 'bytes', 'characters')
  }
  total = tokens.sum()

  def per(unit, f):
    return {'windows': {k: float(f(v * total / unit)) for k, v in of.items()}}

  def perplexity(nats):
    return math.exp(min(nats, 700))

  results = {
    'word_perplexity': per(units['words'], perplexity),
    'word_and_line_perplexity': per(units['words'] + units['lines'], perplexity),
    'token_perplexity': per(total, perplexity),
    'bits_per_byte': per(units['bytes'], lambda nats: nats / math.log(2)),
    'bits_per_character': per(units['characters'], lambda nats: nats / math.log(2)),
  }
  own = benchmark.task.metric
  return {own: results.pop(own)} | results, 0


class _Answers:
  """The answers of a benchmark, appended to a file, with a progress bar."""

  def __init__(
    self, name: str, path: pathlib.Path | None, form: str, options: Sequence[int]
  ):
    """Takes what the answers are to.

    Args:
      form: of the task, or 'text'.
      options: of each question.
    """
    self.records: dict[int, scoring_rules.Record] = {}
    self.name, self.path, self.form, self.options = name, path, form, options
    self.count = len(options)
    self.file = None
    self.begin = self.printed = time.monotonic()
    console = rich.console.Console(stderr=True)
    self.terminal = console.is_terminal and path is not None
    self.bar = rich.progress.Progress(console=console, disable=not self.terminal)

  def __enter__(self) -> '_Answers':
    if self.path is not None:
      self.records = _whole_lines(self.path)
      for number, each in self.records.items():
        where = f'{self.path}: answer {number}'
        if number >= len(self.options):
          raise UserError(f'{where} is of no question; {_AGAIN}')
        scoring_rules.check_record(self.form, self.options[number], each, where, _AGAIN)
      self.file = open(self.path, 'a', encoding='utf-8')
    self.first = len(self.records)
    self.bar.start()
    self.shown = self.bar.add_task(
      self.name, total=self.count, completed=len(self.records)
    )
    return self

  def __exit__(self, *_) -> None:
    self.bar.stop()
    if self.file:
      self.file.close()

  def add(self, number: int, record: scoring_rules.Record) -> None:
    self.records[number] = record
    if not self.file:
      return
    self.file.write(json.dumps({'number': number} | record) + '\n')
    self.bar.update(self.shown, completed=len(self.records))
    now = time.monotonic()
    if now - self.printed > 5:
      self.file.flush()
      done = len(self.records)
      left = (now - self.begin) / (done - self.first) * (self.count - done)
      if not self.terminal:
        text = f'{self.name}: {done:,} of {self.count:,}, {left:.0f} s left'
        print(text, file=sys.stderr, flush=True)
      self.printed = now


def _whole_lines(path: pathlib.Path) -> dict[int, scoring_rules.Record]:
  """Returns the answers of a file, by number, after cutting off a last half line."""
  if not path.exists():
    return {}
  found, whole = {}, 0
  with open(path, 'r+b') as file:
    for number, line in lines(file, path):
      if line.endswith(b'\n'):
        whole += len(line)
        where = f'{path}: line {number}'
        answer = parse_json_line(line, where, _AGAIN)
        found[field(answer, 'number', int, where, _AGAIN)] = answer
        del answer['number']
    file.truncate(whole)
  return found


_AGAIN = 'remove the file, and all is answered again'
