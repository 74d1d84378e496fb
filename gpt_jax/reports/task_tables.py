"""The text and tables of prompted tasks: the papers' table, all rules, settings."""

from collections import defaultdict
from collections.abc import Iterable

from gpt_jax.data.fidelity import lost
from gpt_jax.reports.markup import bullets, code, heading, picture, plain, table
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
Accuracy, F1, exact match and ROUGE are in percent; BLEU, perplexity and bits are not.
All are scored by the paper's own rule; K is the number of solved examples in the
prompt. [low, high] is the 95 % interval over questions. Where n is given, the number is
the mean over n draws of examples, and ± their standard deviation. Published numbers are
of the papers' splits; those beside a K above 1 are few-shot, with the K of GPT-3's
paper in brackets where it differs. GPT-2's LAMBADA counts the last token, and its
accuracy leaves stop words out (`last_token_filtered`). Chance is that of accuracy."""

_PLOTS = (  # name, caption, why it may be missing
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
The first metric of each task by the paper's rule. Where a task has more than four
values of K, `curves_size.png` shows the two smallest and the largest."""


def words(k: int) -> str:
  """Returns what GPT-3's paper calls a number of examples: zero, one or few."""
  return ('zero', 'one')[k] if k < 2 else 'few'


def blocks(choice: Choice, drawn: set[str]) -> list[str]:
  """Returns the whole report, with the plots that are named in `drawn`."""
  shown = choice.shown
  notes = [*_incomparable(shown), *_left_out(choice)]
  report = [heading('Evaluation of prompted tasks', 1), _LEGEND, _main(shown)]
  if notes:
    report.append(bullets(notes))
  report += [heading('Curves'), _CURVES]
  for name, caption, missing in _PLOTS:
    if name in drawn:
      report.append(picture(name, caption))
    else:
      report.append(f'`{name}.png` is not written: {missing}.')
  return [
    *report,
    heading('All rules'),
    *_rules(shown),
    heading('How they were made'),
    _models(shown),
    _results(shown),
  ]


def _number(value: float, metric: str, like: float | None = None) -> str:
  """Returns a metric to about three digits, as many as `like` gets if there is one."""
  factor = 100 if is_share(metric) else 1
  size = abs((value if like is None else like) * factor)
  if metric.startswith('bits_'):
    digits = 3
  else:
    digits = 2 if size < 10 else 1 if size < 1000 else 0
  return f'{value * factor:,.{digits}f}'


def _cell(score: Summary | None, metric: str) -> str:
  """Returns a score with its interval or standard deviation."""
  if score is None:
    return '-'

  def number(value):
    return _number(value, metric, score.value)

  if score.std is not None:
    return f'{number(score.value)} ± {number(score.std)} (n={score.seeds})'
  if score.low is None:
    return number(score.value)
  return f'{number(score.value)} [{number(score.low)}, {number(score.high)}]'


def _main(shown: Shown) -> str:
  """Returns the table in the form of the papers'."""
  names, sizes = _names(shown), {m: s[0].parameters for (m, _, _), s in shown.items()}
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
          score = summary(seeds, metric, seeds[0].rule) if seeds else None
          row.append(_cell(score, metric))
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
  return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], 2)


def _names(shown: Shown) -> dict[Model, str]:
  return {model: plain(label) for model, label in labels(shown).items()}


def _chance(shown: Shown, task: str, metric: str, k: int) -> str:
  """Returns the chance of a row; several, where models were asked other questions."""
  if metric != 'accuracy':
    return '-'
  chances = {
    _number(seed.chance, metric)
    for model in models(shown)
    for seed in shown.get((model, task, k), [])
    if seed.chance is not None
  }
  return ' / '.join(sorted(chances)) or '-'


def _incomparable(shown: Shown) -> Iterable[str]:
  """Yields why some numbers of the main table can't be compared."""
  names, notes = _names(shown), defaultdict(lambda: defaultdict(list))
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
        notes[f'only {_list(limits)} questions were asked (limit)'][task].append(name)
      splits = {seed.split for seed in own}
      if known and splits - {known.split}:
        what = f'measured on {_list(splits)}, where the papers report {known.split}'
        notes[what][task].append(name)
      changed = {lost({}, seed.tokenizer) for seed in own if task in TEXTS} - {''}
      if changed:
        what = f'not comparable with other tokenizers, as {_list(changed)}'
        notes[what][task].append(name)
  for what, by_task in notes.items():
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
  """Yields the results that are not in the tables, and why."""
  names = _names(choice.shown)
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
      f'{names[result.model]} in {code(result.path.name)} '
      f'({"; ".join(differing) or "older"})'
    )


def _rules(shown: Shown) -> Iterable[str]:
  """Yields a table for each task that was scored by several rules."""
  names, single = _names(shown), []
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
    yield heading(plain(task), 3)
    yield table(['metric', 'K', 'model', *head], rows, 3)
  if single:
    yield f'By one rule only: {", ".join(single)}.'


def _models(shown: Shown) -> str:
  """Returns the table of models."""

  def row(model: Model, name: str) -> list:
    own = [s for (m, _, _), seeds in shown.items() if m == model for s in seeds]
    return [
      name,
      code(model.workdir),
      ', '.join(dict.fromkeys(seed.checkpoint for seed in own)),
      own[0].step,
      f'{own[0].parameters:,}',
      f'`{model.sha256[:12]}`',
      plain(own[0].tokenizer),
      plain(model.weights) or 'as trained',
    ]

  head = 'model,workdir,checkpoint,step,parameters,their sha256,tokenizer,weights'
  return table(head.split(','), [row(*each) for each in _names(shown).items()], 8)


def _results(shown: Shown) -> str:
  """Returns the table of results: what each was measured on."""
  names = _names(shown)

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
      code(result.path.name),
    ]

  head = (
    'task,K,model,seed,split,questions,limit,stride,truncated,examples of,prompts,file'
  )
  return table(
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
