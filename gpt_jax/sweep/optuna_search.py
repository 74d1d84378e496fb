"""Random and successive-halving search by optuna; an extra: pip install optuna."""

from typing import Any

from gpt_jax.config import UserError
from gpt_jax.runs.workdir import logged_folders
from gpt_jax.sweep.algebra import Points
from gpt_jax.sweep.plan import Entry, Sweep
from gpt_jax.sweep.search_space import Search, Space
from gpt_jax.sweep.status import finished, lines, steps_of

_TRIES = 100  # draws for each run that is asked for


def points(search: Search) -> Points:
  """Returns the points of a search, always the same, and no two of them equal.

  Raises:
    UserError: optuna is missing, or the space has not so many points.
  """
  optuna = _optuna()
  study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=search.seed))
  spaces = {name: _distribution(optuna, each) for name, each in search.space.items()}
  made: list[dict] = []
  for _ in range(_TRIES * search.runs):
    drawn = study.ask(spaces).params
    point = {name: _value(search.space[name], drawn[name]) for name in spaces}
    if point not in made:
      made.append(point)
    if len(made) == search.runs:
      return Points(made)
  raise UserError(
    f'search: runs={search.runs}, but its space seems to have only {len(made)} points'
  )


def _distribution(optuna: Any, space: Space) -> Any:
  of = optuna.distributions
  if space.kind == 'choice':  # by number, as optuna keeps few kinds of values
    return of.CategoricalDistribution(range(len(space.values)))
  whole = all(isinstance(value, int) for value in space.values)
  kind = of.IntDistribution if whole else of.FloatDistribution
  return kind(*space.values, log=space.kind == 'log_uniform')


def _value(space: Space, drawn: Any) -> Any:
  if space.kind == 'choice':
    return space.values[drawn]
  return float(f'{drawn:.4g}') if isinstance(drawn, float) else drawn


class Halving:
  """Decides which runs stop early, and remembers it in the sweep's search.db."""

  def __init__(self, sweep: Sweep):
    """Opens what is known of the sweep's runs, or begins."""
    optuna = _optuna()
    self.optuna = optuna
    self.study = optuna.create_study(
      study_name='sweep',
      storage=f'sqlite:///{(sweep.folder / "search.db").resolve()}',
      pruner=optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=sweep.search.halving
      ),
      load_if_exists=True,
    )
    for _ in range(len(sweep.entries) - len(self.study.trials)):
      self.study.ask()
    numbers = {trial.number: trial for trial in self.study.trials}
    self.trials, self.reported, self.stopped = {}, {}, set()
    for number, entry in enumerate(sweep.entries):
      trial = numbers[number]
      self.reported[entry.name] = len(trial.intermediate_values)
      if trial.state == optuna.trial.TrialState.PRUNED:
        self.stopped.add(entry.name)
      elif not trial.state.is_finished():
        self.trials[entry.name] = optuna.trial.Trial(self.study, trial._trial_id)
    self.sizes: dict[str, int] = {}

  def early(self, entry: Entry) -> bool:
    """Returns whether a run is to stop for good, by all that was evaluated so far."""
    name = entry.name
    paths = [folder / 'metrics.jsonl' for folder in logged_folders(entry.workdir)]
    size = sum(path.stat().st_size for path in paths if path.exists())
    if name not in self.trials or self.sizes.get(name) == size:
      return name in self.stopped
    self.sizes[name] = size
    trial, done = self.trials[name], finished(entry)
    held = [line for line in lines(entry) if 'valid_nll' in line]
    for number, line in enumerate(held[self.reported[name] :], self.reported[name] + 1):
      trial.report(line['valid_nll'], number)
      self.reported[name] = number
      if trial.should_prune() and line['step'] < steps_of(entry):
        self.stopped.add(name)
        break
    if name in self.stopped or done:
      of = self.optuna.trial.TrialState
      best = min(line['valid_nll'] for line in held)
      told = {'state': of.PRUNED} if name in self.stopped else {'values': best}
      self.study.tell(self.trials.pop(name), **told)
    return name in self.stopped


def _optuna() -> Any:
  try:
    import optuna
  except ImportError as error:
    raise UserError('SEARCH needs optuna: pip install optuna') from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return optuna
