"""Results of prompted tasks, as read from workdirs, and the choice of those to show."""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.evaluation.statistics import spread
from gpt_jax.files import field, of_kind, read_json, shown
from gpt_jax.tasks.prompted import TASKS, TEXTS

_AGAIN = 'remove it and evaluate that task again'


class Model(NamedTuple):
  """The weights that were evaluated.

  Attributes:
    workdir: as the user wrote it.
    sha256: of the parameters.
    weights: 'int8' or 'int4'; '': as trained.
  """

  workdir: str
  sha256: str
  weights: str


class Score(NamedTuple):
  """A metric by one scoring rule, with its 95 % interval where that is known."""

  value: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True)
class Result:
  """One evaluation: a file of a workdir's `eval` folder.

  Attributes:
    task: its name in `TASKS` or `TEXTS`.
    rule: the paper's own scoring rule.
    shots: K, the number of solved examples in the prompt.
    examples: the split of the examples; None where there are none.
    limit: of questions; 0 means all.
    stride: of a text, tokens that a window scores; 0: windows do not overlap.
    truncated: how many prompts were cut to the model's context.
    metrics: scores by metric and rule.
    chance: accuracy of a random guess.
    step: updates before the checkpoint.
    checkpoint: 'best', 'latest' or a number, as in the command.
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
    """Returns what results have in common if they are averaged over seeds."""
    own = self.split, self.examples, self.limit, self.questions, self.rule
    return *own, self.stride


Shown = dict[tuple[Model, str, int], list[Result]]  # by model, task and K


class Choice(NamedTuple):
  """The results that are shown, and those that are not.

  Attributes:
    shown: results over seeds, of one setting for each model, task and K.
    left_out: (a result that is not shown, the one shown in its place).
  """

  shown: Shown
  left_out: list[tuple[Result, Result]]


class Summary(NamedTuple):
  """A metric over the seeds of a task and K.

  Attributes:
    low, high: mean -/+ standard deviation; of one seed its 95 % interval.
    std: the standard deviation over seeds, None for one seed.
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
  results, folders = [], {}
  for workdir in workdirs:
    folders.setdefault(pathlib.Path(workdir).resolve(), str(workdir))
  for workdir in folders.values():
    paths = sorted(pathlib.Path(workdir, 'eval').glob('*.json'))
    if not paths:
      raise UserError(
        f'workdir={workdir} has no results of tasks (eval/*.json); make them: '
        f'python launch.py eval --workdir={workdir} --tasks=TASK,...'
      )
    results += [_read(path, workdir) for path in paths]
  if not results:
    raise UserError(
      'no workdirs to report; give --workdir of runs with results of '
      '`python launch.py eval --workdir=... --tasks=TASK,...`'
    )
  return results


def _read(path: pathlib.Path, workdir: str) -> Result:
  fields = read_json(path, remedy=_AGAIN)

  def get(name, kind):
    return field(fields, name, kind, path, _AGAIN)

  def optional(name, kind, usual):
    return usual if fields.get(name) is None else get(name, kind)

  older = 'int8' if fields.get('int8') is True else ''
  weights = optional('weights', str, older)
  return Result(
    path=path,
    model=Model(workdir, get('parameters_sha256', str), weights),
    task=get('task', str),
    rule=get('rule', str),
    shots=get('shots', int),
    seed=get('seed', int),
    split=get('split', str),
    examples=optional('examples', str, None),
    limit=get('limit', int),
    stride=optional('stride', int, 0),
    questions=get('questions', int),
    truncated=optional('truncated', int, 0),
    metrics={
      metric: {
        rule: _score(score, f'{path}: {shown(metric)}')
        for rule, score in of_kind(by, dict, f'{path}: metrics', _AGAIN).items()
      }
      for metric, by in get('metrics', dict).items()
    },
    chance=optional('chance', float, None),
    step=get('step', int),
    checkpoint=str(get('checkpoint', None)),
    parameters=get('parameters', int),
    tokenizer=str(get('tokenizer', None)),
    prompts_sha256=get('prompts_sha256', str),
  )


def _score(score: Any, where: str) -> Score:
  value = field(of_kind(score, dict, where, _AGAIN), 'value', float, where, _AGAIN)
  bounds = [score.get('low'), score.get('high')]
  if None in bounds:
    return Score(value, None, None)
  return Score(value, *(of_kind(bound, float, where, _AGAIN) for bound in bounds))


def choose(results: Iterable[Result]) -> Choice:
  """Returns which results are shown and which are not.

  For each model, task and K, the results shown have one setting: that with the most
  questions, then the most seeds, then the newest. If a seed has several results, the
  newest is shown. Results with the same prompts and numbers, as all seeds have without
  examples, are counted once.
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
    kept, counted = {}, []
    for result in best:
      if result.seed in kept:
        left_out.append((result, kept[result.seed]))
      else:
        kept[result.seed] = result
    seeds = []
    for _, result in sorted(kept.items()):
      if (result.prompts_sha256, result.metrics) not in counted:
        counted.append((result.prompts_sha256, result.metrics))
        seeds.append(result)
    shown[cell] = seeds
    left_out += [(result, seeds[0]) for group in others for result in group]
  return Choice(shown, left_out)


def _age(result: Result) -> tuple[float, str]:
  """Returns a key that is larger for a newer file."""
  return result.path.stat().st_mtime, result.path.name


def summary(seeds: Sequence[Result], metric: str, rule: str) -> Summary | None:
  """Returns a metric by a rule over seeds, None where no seed has it."""
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
  """Returns the tasks in the papers' order, then unknown ones."""
  names = {task for _, task, _ in shown}
  known = [name for name in (*TASKS, *TEXTS) if name in names]
  return known + sorted(names.difference(known))


def models(shown: Shown) -> list[Model]:
  """Returns the models in the order of their workdirs."""
  return list(dict.fromkeys(model for model, _, _ in shown))


def shots(shown: Shown, task: str) -> list[int]:
  """Returns the values of K with which a task was evaluated."""
  return sorted({k for _, name, k in shown if name == task})


def metrics(shown: Shown, task: str) -> list[str]:
  """Returns the metrics of a task in the paper's order, then others."""
  measured = [
    metric
    for (_, name, _), seeds in shown.items()
    if name == task
    for seed in seeds
    for metric in seed.metrics
  ]
  paper = TASKS[task].metrics if task in TASKS else ()
  paper = (TEXTS[task].metric,) if task in TEXTS else paper
  known = [metric for metric in paper if metric in measured]
  return list(dict.fromkeys([*known, *measured]))


def is_share(metric: str) -> bool:
  """Returns whether a metric is a share from 0 to 1, shown in percent."""
  raw = metric == 'bleu' or 'perplexity' in metric or metric.startswith('bits_')
  return not raw


def labels(shown: Shown) -> dict[Model, str]:
  """Returns a short name for each model: its folder, and more where names are equal."""
  steps = {model: seeds[0].step for (model, _, _), seeds in shown.items()}
  folders = {m: pathlib.Path(m.workdir).absolute() for m in steps}
  names = {}
  for model, folder in folders.items():
    same_name = {other for other in folders.values() if other.name == folder.name}
    name = folder.name if len(same_name) == 1 else f'{folder.parent.name}/{folder.name}'
    inside = [other for other in steps if other.workdir == model.workdir]
    if len({other.sha256 for other in inside}) > 1:
      name += f' at {steps[model]}'
    names[model] = name + (f' in {model.weights}' if model.weights else '')
  for model, name in names.items():
    if list(names.values()).count(name) > 1:
      names[model] = f'{name} {model.sha256[:8]}'
  return names


def million(parameters: int) -> str:
  """Returns a number of parameters as papers write it: 124M."""
  for unit, name in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if parameters >= unit:
      return f'{parameters / unit:.3g}{name}'
  return str(parameters)
