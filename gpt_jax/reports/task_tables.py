"""The report as parts: the papers' table, all rules, and how each was made."""

from collections import defaultdict
from collections.abc import Iterable

from gpt_jax.reports.markup import Notes, Part, Picture, Table, Title, Words
from gpt_jax.reports.task_results import (
  Choice,
  Model,
  Result,
  Shown,
  Summary,
  is_share,
  labels,
  metrics,
  million,
  models,
  shots,
  summary,
  tasks,
)
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.tasks.published import published

PUBLISHED = ('GPT-2 117M', 'GPT-2 1542M', 'GPT-3 Small', 'GPT-3 175B')
_LEGEND = """\
Shares (accuracy, F1, exact match, ROUGE) are in percent; BLEU, perplexity and bits are
as they are. All are by the paper's own rule; K is the number of solved examples in the
prompt. [low, high] is the 95 % interval over questions. Where n is given, the number is
the mean over n draws of examples, and ± their standard deviation. Published numbers are
of the papers' splits; those beside a K above 1 are few-shot, with the K of GPT-3's
paper in brackets where it is another. GPT-2's LAMBADA counts the last token, and its
accuracy leaves stop words out (`last_token_filtered`). Chance is that of accuracy."""

_PLOTS = (  # name, what it shows, why it may be missing
  (
    'curves_K',
    'Scores against the number of examples K.',
    'no task was evaluated with two numbers K',
  ),
  (
    'curves_size',
    "Scores against parameters, beside GPT-3's sizes.",
    'no task has models of two sizes',
  ),
)
_CURVES = """\
The first metric of each task by the paper's rule. Of a task with more than four K,
`curves_size.png` shows the two least and the largest."""


def words(k: int) -> str:
  """Returns what GPT-3's paper calls a number of examples: zero, one or few."""
  return ('zero', 'one')[k] if k < 2 else 'few'


def parts(choice: Choice, drawn: set[str]) -> list[Part]:
  """Returns the whole report.

  Args:
    choice: of results.
    drawn: names of the plots there are.
  """
  shown = choice.shown
  notes = [*_incomparable(shown), *_left_out(choice)]
  made = [Title('Evaluation of prompted tasks', 1), Words(_LEGEND), _main(shown)]
  if notes:
    made.append(Notes(notes))
  made += [Title('Curves'), Words(_CURVES)]
  for name, what, missing in _PLOTS:
    if name in drawn:
      made.append(Picture(name, what))
    else:
      made.append(Words(f'`{name}.png` is not written: {missing}.'))
  return [
    *made,
    Title('All rules'),
    *_rules(shown),
    Title('How they were made'),
    _models(shown),
    _made(shown),
  ]


def _number(value: float, metric: str, like: float | None = None) -> str:
  """Returns a metric to three digits or so: those of `like`, where it is given."""
  factor = 100 if is_share(metric) else 1
  size = abs((value if like is None else like) * factor)
  if metric.startswith('bits_'):
    digits = 3
  else:
    digits = 2 if size < 10 else 1 if size < 1000 else 0
  return f'{value * factor:,.{digits}f}'


def _cell(found: Summary | None, metric: str) -> str:
  """Returns a metric of a model with how sure it is."""
  if found is None:
    return '-'

  def number(value):
    return _number(value, metric, found.value)

  if found.std is not None:
    return f'{number(found.value)} ± {number(found.std)} (n={found.seeds})'
  if found.low is None:
    return number(found.value)
  return f'{number(found.value)} [{number(found.low)}, {number(found.high)}]'


def _main(shown: Shown) -> Table:
  """Returns the table shaped as the papers'."""
  names, sizes = labels(shown), {m: s[0].parameters for (m, _, _), s in shown.items()}
  printed = {
    (task, each.model, each.metric, each.shots): f'{each.value:g}'
    for task in tasks(shown)
    for each in published(task)
  }
  rows = []
  for task in tasks(shown):
    for metric in metrics(shown, task):
      for k in shots(shown, task):
        row = [task, metric, k]
        for model in names:
          seeds = shown.get((model, task, k), [])
          found = summary(seeds, metric, seeds[0].rule) if seeds else None
          row.append(_cell(found, metric))
        for model in PUBLISHED:
          value = printed.get((task, model, metric, words(k)), '-')
          of = TASKS[task].shots if task in TASKS else 0
          other = model.startswith('GPT-3') and k > 1 and of not in (0, k)
          row.append(value + (f' (K={of})' if other and value != '-' else ''))
        rows.append([*row, _chance(shown, task, metric, k)])
  first = 3 + len(names)
  kept = [
    i
    for i in range(first + len(PUBLISHED) + 1)
    if i not in range(first, first + len(PUBLISHED))
    or any(row[i] != '-' for row in rows)
  ]
  head = [
    *('task', 'metric', 'K'),
    *(f'{name}, {million(sizes[model])}' for model, name in names.items()),
    *PUBLISHED,
    'chance',
  ]
  return Table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], 2)


def _chance(shown: Shown, task: str, metric: str, k: int) -> str:
  """Returns the chance of a row; of models that were asked others, all of them."""
  if metric != 'accuracy':
    return '-'
  found = {
    _number(seed.chance, metric)
    for model in models(shown)
    for seed in shown.get((model, task, k), [])
    if seed.chance is not None
  }
  return ' / '.join(sorted(found)) or '-'


def _incomparable(shown: Shown) -> Iterable[str]:
  """Yields what a reader must know before comparing numbers of the main table."""
  names, found = labels(shown), defaultdict(lambda: defaultdict(list))
  for task in tasks(shown):
    known = TASKS.get(task) or TEXTS.get(task)
    for model, name in names.items():
      own = [
        s
        for (m, t, _), seeds in shown.items()
        if (m, t) == (model, task)
        for s in seeds
      ]
      limits = {seed.questions for seed in own if seed.limit}
      if limits:
        found[f'only {_list(limits)} questions were asked (limit)'][task].append(name)
      splits = {seed.split for seed in own}
      if known and splits - {known.split}:
        what = f'measured on {_list(splits)}, where the papers report {known.split}'
        found[what][task].append(name)
  for what, by_task in found.items():
    of_tasks = (f'{task} ({", ".join(own)})' for task, own in by_task.items())
    yield f'{what}: {", ".join(of_tasks)}'
  for task in tasks(shown):
    differing = [k for k in shots(shown, task) if _asked_otherwise(shown, task, k)]
    if differing:
      yield (
        f'{task}, K={_list(differing)}: not all models were asked the same prompts; '
        'see how they were made'
      )


def _asked_otherwise(shown: Shown, task: str, k: int) -> bool:
  """Returns whether models differ in the prompts of a seed, or in their setting."""
  cells = [
    seeds for (_, name, shots), seeds in shown.items() if (name, shots) == (task, k)
  ]
  prompts = {}
  for seeds in cells:
    for seed in seeds:
      prompts.setdefault(seed.seed, set()).add(seed.prompts_sha256)
  settings = {seeds[0].setting for seeds in cells}
  return len(settings) > 1 or any(len(hashes) > 1 for hashes in prompts.values())


def _list(values: Iterable) -> str:
  return ', '.join(map(str, sorted(values)))


def _left_out(choice: Choice) -> Iterable[str]:
  """Yields what was found and is not in the tables."""
  names = labels(choice.shown)
  for result, instead in choice.left_out:
    differing = [
      f'{what} {a} instead of {b}'
      for what, a, b in (
        ('questions', result.questions, instead.questions),
        ('limit', result.limit or 'none', instead.limit or 'none'),
        ('stride', result.stride or 'none', instead.stride or 'none'),
        ('split', result.split, instead.split),
        ('examples of', result.examples, instead.examples),
        ('rule', result.rule, instead.rule),
        ('prompts', result.prompts_sha256[:8], instead.prompts_sha256[:8]),
      )
      if a != b and (what != 'prompts' or result.seed == instead.seed)
    ]
    yield (
      f'not shown: {result.task}, K={result.shots}, seed {result.seed} of '
      f'{names[result.model]} in `{result.path.name}` '
      f'({"; ".join(differing) or "older"})'
    )


def _rules(shown: Shown) -> Iterable[Part]:
  """Yields a table of every task that was scored by several rules."""
  names, single = labels(shown), []
  for task in tasks(shown):
    own = {key: seeds for key, seeds in shown.items() if key[1] == task}
    papers = {seed.rule for seeds in own.values() for seed in seeds}
    rules = list(
      dict.fromkeys(
        rule
        for seeds in own.values()
        for seed in seeds
        for by_rule in seed.metrics.values()
        for rule in by_rule
      )
    )
    if len(rules) == 1:
      single.append(f'{task} ({rules[0]})')
      continue
    rows = [
      [metric, k, name]
      + [_cell(summary(own[model, task, k], metric, rule), metric) for rule in rules]
      for metric in metrics(shown, task)
      for k in shots(shown, task)
      for model, name in names.items()
      if (model, task, k) in own
    ]
    head = [f"**{rule}** (the paper's)" if rule in papers else rule for rule in rules]
    yield Title(task, 3)
    yield Table(['metric', 'K', 'model', *head], rows, 3)
  if single:
    yield Words(f'By one rule only: {", ".join(single)}.')


def _models(shown: Shown) -> Table:
  """Returns the table of models."""

  def row(model: Model, name: str) -> list:
    own = [s for (m, _, _), seeds in shown.items() if m == model for s in seeds]
    return [
      name,
      f'`{model.workdir}`',
      ', '.join(dict.fromkeys(seed.checkpoint for seed in own)),
      own[0].step,
      f'{own[0].parameters:,}',
      f'`{model.sha256[:12]}`',
      own[0].tokenizer,
      'int8' if model.int8 else 'as trained',
    ]

  head = 'model,workdir,checkpoint,step,parameters,their sha256,tokenizer,weights'
  return Table(head.split(','), [row(*each) for each in labels(shown).items()], 8)


def _made(shown: Shown) -> Table:
  """Returns the table of results: what each was measured on."""
  names = labels(shown)

  def row(result: Result) -> list:
    return [
      result.task,
      result.shots,
      names[result.model],
      result.seed,
      result.split,
      result.questions,
      result.limit or 'none',
      result.stride or 'none',
      result.truncated,
      result.examples or '-' if result.shots else '-',
      f'`{result.prompts_sha256[:12]}`',
      f'`{result.path.name}`',
    ]

  head = (
    'task,K,model,seed,split,questions,limit,stride,truncated,examples of,prompts,file'
  )
  return Table(
    head.split(','),
    [
      row(result)
      for task in tasks(shown)
      for k in shots(shown, task)
      for model in names
      for result in shown.get((model, task, k), [])
    ],
    12,
  )
