"""Results of prompted tasks: read from workdirs, and which of them are shown."""

import dataclasses
import json
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.evaluation.statistics import spread
from gpt_jax.tasks.prompted import TASKS, TEXTS

_NUMBER = (int, float)


class Model(NamedTuple):
  """What was evaluated: weights, and how they were read.

  Attributes:
    workdir: of the run, as it was given.
    sha256: of the parameters.
    int8: whether linear layers were in 8 bits.
  """

  workdir: str
  sha256: str
  int8: bool


class Score(NamedTuple):
  """A metric by one rule; low and high are its 95 % interval, None where unknown."""

  value: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True)
class Result:
  """One evaluation: a file of a workdir's `eval` folder.

  Attributes:
    path: of the file.
    model: what was evaluated.
    task: its name in `TASKS` or `TEXTS`.
    rule: the paper's own.
    shots: K, the number of examples.
    seed: of their draw.
    split: of the questions.
    examples: the split that examples came from; None where there are none.
    limit: how many questions were asked for; 0: all.
    stride: of a text, tokens that a window scores; 0: windows side by side.
    questions: how many there were.
    truncated: how many prompts were cut to the model's length.
    metrics: scores by metric and rule.
    chance: a share, or None.
    step: of the checkpoint.
    checkpoint: how it was asked for.
    parameters: how many.
    tokenizer: the model's.
    prompts_sha256: of all prompts.
  """

  path: pathlib.Path
  model: Model
  task: str
  rule: str
  shots: int
  seed: int
  split: str
  examples: str | None
  limit: int
  stride: int
  questions: int
  truncated: int
  metrics: dict[str, dict[str, Score]]
  chance: float | None
  step: int
  checkpoint: str
  parameters: int
  tokenizer: str
  prompts_sha256: str

  @property
  def setting(self) -> tuple:
    """Returns in what results must agree before they are seeds of one mean."""
    own = self.split, self.examples, self.limit, self.questions, self.rule
    return *own, self.stride


Shown = dict[tuple[Model, str, int], list[Result]]  # by model, task and K


class Choice(NamedTuple):
  """Which results are shown.

  Attributes:
    shown: of a model, a task and K the results of its seeds, all of one setting.
    left_out: (a result that is not shown, the one that is in its place).
  """

  shown: Shown
  left_out: list[tuple[Result, Result]]


class Summary(NamedTuple):
  """A metric over the seeds of a task and K.

  Attributes:
    value: the mean.
    low: of one seed its 95 % interval, else the mean less the standard deviation.
    high: likewise.
    std: the standard deviation over seeds, None of one seed.
    seeds: how many.
  """

  value: float
  low: float | None
  high: float | None
  std: float | None
  seeds: int


def read(workdirs: Sequence[str | pathlib.Path]) -> list[Result]:
  """Returns the results of workdirs, in their order.

  Raises:
    UserError: a workdir has none, or a file is damaged.
  """
  found = []
  once = {}
  for workdir in workdirs:
    once.setdefault(pathlib.Path(workdir).resolve(), str(workdir))
  for workdir in once.values():
    paths = sorted(pathlib.Path(workdir, 'eval').glob('*.json'))
    if not paths:
      raise UserError(
        f'workdir={workdir} has no results of tasks (eval/*.json); make them: '
        f'python launch.py eval --workdir={workdir} --tasks=TASK,...'
      )
    found += [_read(path, workdir) for path in paths]
  if not found:
    raise UserError(
      'no workdirs to report; give --workdir of runs with results of '
      '`python launch.py eval --workdir=... --tasks=TASK,...`'
    )
  return found


def _read(path: pathlib.Path, workdir: str) -> Result:
  """Returns the result in a file."""
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))

    def get(name, kind):
      return _checked(fields[name], kind, name)

    return Result(
      path=path,
      model=Model(workdir, get('parameters_sha256', str), fields.get('int8') is True),
      task=get('task', str),
      rule=get('rule', str),
      shots=get('shots', int),
      seed=get('seed', int),
      split=get('split', str),
      examples=fields.get('examples'),
      limit=get('limit', int),
      stride=fields.get('stride') or 0,
      questions=get('questions', int),
      truncated=fields.get('truncated') or 0,
      metrics={
        metric: {rule: _score(score, f'{metric}, {rule}') for rule, score in by.items()}
        for metric, by in get('metrics', dict).items()
      },
      chance=_checked(fields.get('chance'), (*_NUMBER, type(None)), 'chance'),
      step=get('step', int),
      checkpoint=str(fields['checkpoint']),
      parameters=get('parameters', int),
      tokenizer=str(fields['tokenizer']),
      prompts_sha256=get('prompts_sha256', str),
    )
  except (ValueError, TypeError, AttributeError, KeyError) as error:
    what = f'it lacks {error}' if isinstance(error, KeyError) else str(error)
    raise UserError(
      f'{path} is damaged or no result of `launch.py eval --tasks`: {what}; remove it '
      'and evaluate that task again'
    ) from error


def _checked(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
  """Returns a value of the right type; TypeError where it is of another."""
  if not isinstance(value, kind):
    raise TypeError(f'{name}={value!r} has the wrong type')
  return value


def _score(score: dict, name: str) -> Score:
  """Returns a score of a file."""
  low, high = score.get('low'), score.get('high')
  for bound in (low, high):
    _checked(bound, (*_NUMBER, type(None)), name)
  if None in (low, high):
    low = high = None
  return Score(_checked(score['value'], _NUMBER, name), low, high)


def choose(results: Iterable[Result]) -> Choice:
  """Returns which results are shown, and which are not, so that none are mixed.

  Of a model, a task and K, results are shown that agree in their setting:
  those with the most questions, then with the most seeds, then the newest. Of a seed
  with several (the prompts differ), the newest is. A result with the numbers and the
  prompts of another, as seeds have without examples, is the same one and not counted.
  """
  cells = defaultdict(list)
  for result in results:
    cells[result.model, result.task, result.shots].append(result)
  shown, left_out = {}, []
  for cell, all_of_cell in cells.items():
    groups = defaultdict(list)
    for result in sorted(all_of_cell, key=_age, reverse=True):
      groups[result.setting].append(result)
    best, *others = sorted(
      groups.values(),
      key=lambda group: (
        group[0].questions,
        len({result.seed for result in group}),
        _age(group[0]),
      ),
      reverse=True,
    )
    kept, told = {}, []
    for result in best:
      if result.seed in kept:
        left_out.append((result, kept[result.seed]))
      else:
        kept[result.seed] = result
    seeds = []
    for _, result in sorted(kept.items()):
      if (result.prompts_sha256, result.metrics) not in told:
        told.append((result.prompts_sha256, result.metrics))
        seeds.append(result)
    shown[cell] = seeds
    left_out += [(result, seeds[0]) for group in others for result in group]
  return Choice(shown, left_out)


def _age(result: Result) -> tuple[float, str]:
  """Returns what is larger of a newer file."""
  return result.path.stat().st_mtime, result.path.name


def summary(seeds: Sequence[Result], metric: str, rule: str) -> Summary | None:
  """Returns a metric by a rule over seeds, None where they do not have it."""
  scores = [seed.metrics.get(metric, {}).get(rule) for seed in seeds]
  scores = [score for score in scores if score is not None]
  if not scores:
    return None
  if len(scores) == 1:
    return Summary(*scores[0], std=None, seeds=1)
  over = spread([score.value for score in scores])
  mean, std = over['mean'], over['std']
  return Summary(mean, mean - std, mean + std, std, len(scores))


def tasks(shown: Shown) -> list[str]:
  """Returns the tasks of results in the papers' order, then unknown ones."""
  names = {task for _, task, _ in shown}
  known = [name for name in (*TASKS, *TEXTS) if name in names]
  return known + sorted(names.difference(known))


def models(shown: Shown) -> list[Model]:
  """Returns the models of results, in their order."""
  return list(dict.fromkeys(model for model, _, _ in shown))


def shots(shown: Shown, task: str) -> list[int]:
  """Returns the numbers of examples with which a task was evaluated."""
  return sorted({k for _, name, k in shown if name == task})


def metrics(shown: Shown, task: str) -> list[str]:
  """Returns the metrics of a task in the paper's order, then others."""
  found = [
    metric
    for (_, name, _), seeds in shown.items()
    if name == task
    for seed in seeds
    for metric in seed.metrics
  ]
  paper = TASKS[task].metrics if task in TASKS else ()
  paper = (TEXTS[task].metric,) if task in TEXTS else paper
  known = [metric for metric in paper if metric in found]
  return list(dict.fromkeys([*known, *found]))


def is_share(metric: str) -> bool:
  """Returns whether a metric is a share of 1, shown in percent."""
  raw = metric == 'bleu' or 'perplexity' in metric or metric.startswith('bits_')
  return not raw


def labels(shown: Shown) -> dict[Model, str]:
  """Returns a short name of every model: its folder and what tells it from others."""
  steps = {model: seeds[0].step for (model, _, _), seeds in shown.items()}
  folders = {m: pathlib.Path(m.workdir).absolute() for m in steps}
  found = {}
  for model, folder in folders.items():
    same_name = {other for other in folders.values() if other.name == folder.name}
    name = folder.name if len(same_name) == 1 else f'{folder.parent.name}/{folder.name}'
    inside = [other for other in steps if other.workdir == model.workdir]
    if len({other.sha256 for other in inside}) > 1:
      name += f' at {steps[model]}'
    found[model] = name + (' in int8' if model.int8 else '')
  for model, name in found.items():
    if list(found.values()).count(name) > 1:
      found[model] = f'{name} {model.sha256[:8]}'
  return found


def million(parameters: int) -> str:
  """Returns a number of parameters as papers write it."""
  for unit, name in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if parameters >= unit:
      return f'{parameters / unit:.3g}{name}'
  return str(parameters)
