"""Figure 2, right: what a GPT-1 knows of tasks, update by update, without fine-tuning.

Claim: over pre-training all heuristics rise steadily from a random guess. Source:
Radford et al. 2018, section 5 and figure 2, which prints no numbers. Cost: see
experiments/README.md.

  python experiments/gpt1/zero_shot.py --workdir=WORKDIR --data=FOLDER --limit=1000

WORKDIR is a finished pre-training run with its checkpoints (train with --config.keep=30
or so). FOLDER has a folder for each task, called as in --tasks, with the files of its
official distribution. Judged are dev splits.

Written into WORKDIR: zero_shot.jsonl, a line for each checkpoint and task as soon as it
is measured, which the same command continues, and zero_shot.png.

  cola        A sentence is acceptable if the mean log p of its tokens reaches a
              threshold: the mean of that training sentence with which Matthews'
              correlation on the training split (with --limit, of as many examples) is
              highest. The first token is read and not scored: GPT-1 has no token that
              stands before it.
  sst2        ' very' is appended, and ' positive' compared with ' negative' by log p,
              summed where the word is several tokens; so a tokenizer to which only one
              of them is one token leans to that.
  storycloze, race, mctest
              The answer with the highest mean log p of its tokens after the passage
              (and question). What outgrows the context is left off its beginning.
  winogrande  Each option stands for the blank, and the one after which the rest of the
              sentence has the highest mean log p is taken.

Differs: the paper's scale ends at the best single model then known, ours at GPT-1's own
fine-tuned result (tables 2 to 4, on test splits), or where there is none at all answers
right. MCTest stands in for RACE where that can't be had, WinoGrande for the easier
Winograd schemas of DPRD.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import gpt_jax
from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError, nearest
from gpt_jax.evaluation import likelihood, metrics, statistics
from gpt_jax.files import field, read_json_lines, write_whole
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.reports import committed, figures
from gpt_jax.reports.committed import Measured
from gpt_jax.runs.workdir import read_run
from gpt_jax.tasks import labelled, prompted_files
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.prompted.winogrande import WINOGRANDE

_WORKDIR = flags.DEFINE_string('workdir', None, 'of a pre-training run', required=True)
_DATA = flags.DEFINE_string(
  'data', None, 'folder of the folders of tasks', required=True
)
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_TASKS = flags.DEFINE_list('tasks', 'cola,sst2,storycloze,mctest,winogrande', 'which')
_LIMIT = flags.DEFINE_integer(
  'limit', 0, 'examples of a split, drawn evenly from all; 0 means all', lower_bound=0
)


class Items(NamedTuple):
  """The examples of a task: those that are judged, and cola's of training."""

  dev: list[Example]
  train: list[Example]


def examples(task: str, folder: pathlib.Path, limit: int) -> Items:
  """Returns the examples of a task, at most `limit` of a split unless that is 0."""
  if task == 'winogrande':
    questions = prompted_files.read(WINOGRANDE, folder)
    every = [
      Example((each.context, each.completion), each.answers, each.gold[0], each.id)
      for each in questions
    ]
    return Items(labelled.drawn(every, limit), [])
  dev, train = (
    labelled.drawn(labelled.read(task, folder, split), limit) if wanted else []
    for split, wanted in (('dev', True), ('train', task == 'cola'))
  )
  return Items(dev, train)


def acceptable(model: LanguageModel, items: Items) -> np.ndarray:
  """Returns 1 for each sentence whose mean log p reaches the training's threshold."""
  encoded = [model.tokenizer.encode(each.texts[0]) for each in items.train + items.dev]
  mean = _mean_logp(model, [(ids[:1], ids[1:]) for ids in encoded])
  train, dev = np.split(mean, [len(items.train)])
  labels = np.array([each.label for each in items.train])
  return (dev >= threshold(train, labels)).astype(int)


def threshold(scores: np.ndarray, labels: np.ndarray) -> float:
  """Returns the score from which on to say 1, so that Matthews' correlation is highest.

  Args:
    scores: of the training examples.
    labels: 0 or 1 for each.
  """
  there = np.unique(scores)
  return float(
    there[np.argmax([metrics.matthews(scores >= each, labels) for each in there])]
  )


def positive(model: LanguageModel, items: Items) -> np.ndarray:
  """Returns 1 for each text after which, and ' very', ' positive' is the likelier."""
  words = [model.tokenizer.encode(word) for word in (' negative', ' positive')]
  contexts = [model.prompt_ids(f'{each.texts[0]} very') for each in items.dev]
  pairs = [(context, word) for context in contexts for word in words]
  found = likelihood.score_continuations(model.params, model.gpt, pairs)
  logp = np.array([sum(each.logp) for each in found])
  return logp.reshape(-1, 2).argmax(1)


def likeliest_answer(model: LanguageModel, items: Items) -> np.ndarray:
  """Returns the answer of the highest mean log p after the texts, for each example."""
  pairs = [
    (model.prompt_ids(' '.join(each.texts)), model.tokenizer.encode(f' {answer}'))
    for each in items.dev
    for answer in each.choices
  ]
  return _mean_logp(model, pairs).reshape(len(items.dev), -1).argmax(1)


def likeliest_rest(model: LanguageModel, items: Items) -> np.ndarray:
  """Returns the option that gives what follows it the highest mean log p."""
  pairs = [
    (model.prompt_ids(each.texts[0] + option), model.tokenizer.encode(each.texts[1]))
    for each in items.dev
    for option in each.choices
  ]
  return _mean_logp(model, pairs).reshape(len(items.dev), -1).argmax(1)


def _mean_logp(
  model: LanguageModel, pairs: list[tuple[list[int], list[int]]]
) -> np.ndarray:
  """Returns the mean log p of the tokens of each continuation [nats]."""
  found = likelihood.score_continuations(model.params, model.gpt, pairs)
  return np.array([np.mean(each.logp) for each in found])


class Heuristic(NamedTuple):
  """How a task is guessed, and the scale on which that is shown.

  Attributes:
    guess: from a model and items to a prediction for each dev example.
    metric: of `gpt_jax.evaluation.metrics`.
    chance: its value for a random guess.
    reference: the value that is shown as 1: GPT-1's, fine-tuned, or all right.
  """

  guess: Callable[[LanguageModel, Items], np.ndarray]
  metric: str
  chance: float
  reference: float


HEURISTICS = {
  'cola': Heuristic(acceptable, 'matthews', 0.0, 0.454),
  'sst2': Heuristic(positive, 'accuracy', 0.5, 0.913),
  'storycloze': Heuristic(likeliest_answer, 'accuracy', 0.5, 0.865),
  'race': Heuristic(likeliest_answer, 'accuracy', 0.25, 0.59),
  'mctest': Heuristic(likeliest_answer, 'accuracy', 0.25, 1.0),
  'winogrande': Heuristic(likeliest_rest, 'accuracy', 0.5, 1.0),
}


def measured(task: str, model: LanguageModel, items: Items) -> dict:
  """Returns how good the guesses are, and how alike.

  That is metric, value, low and high (95 % bootstrap interval), and alike: the share of
  examples with the commonest guess, 1 where a model gives one answer to everything.
  """
  how = HEURISTICS[task]
  labels = np.array([each.label for each in items.dev])
  guesses = how.guess(model, items)
  metric = getattr(metrics, how.metric)
  low, high = statistics.interval(metric, guesses, labels)
  value = metric(guesses, labels)
  return {
    'metric': how.metric,
    'value': value,
    'low': low,
    'high': high,
    'alike': float(np.bincount(guesses).max() / len(guesses)),
  }


def checkpoints(workdir: pathlib.Path) -> list[int]:
  """Returns the numbers of updates of a run's checkpoints."""
  found = (workdir / 'checkpoints').glob('*')
  steps = sorted(int(folder.name) for folder in found if folder.name.isdigit())
  if not steps:
    raise UserError(f'workdir={workdir} has no checkpoint yet; train it first')
  return steps


def _digest(items: Items) -> str:
  return hashlib.sha256(repr(items).encode()).hexdigest()[:16]


_NUMBERS = 'value', 'low', 'high', 'alike', 'chance', 'reference'
_AGAIN = 'remove the file, and all is evaluated again'


def lines_there(path: pathlib.Path, data: dict[str, Items]) -> dict[tuple, dict]:
  """Returns the lines of zero_shot.jsonl by step and task.

  Raises:
    UserError: a line of a task of `data` is of other examples.
  """
  lines = read_json_lines(path, _AGAIN) if path.exists() else []
  for number, line in enumerate(lines, 1):
    kinds = {'task': str, 'sha256': str, 'metric': str}
    kinds |= {'step': int, 'examples': int, 'tokens': int}
    kinds |= dict.fromkeys(_NUMBERS, float)
    for name, kind in kinds.items():
      field(line, name, kind, f'{path}: line {number}', _AGAIN)
    if line['reference'] == line['chance']:
      raise UserError(f'{path}: line {number} is damaged: chance=reference; {_AGAIN}')
    task = line['task']
    if task in data and line['sha256'] != _digest(data[task]):
      raise UserError(
        f'{path} has values of {task} on other examples, {line["examples"]:,} of them, '
        f'not on these {len(data[task].dev):,}; give the --data and --limit of then, '
        'or remove the file'
      )
  return {(line['step'], line['task']): line for line in lines}


_ROW = '{:>7} {:>11} {:<10} {:<8} {:>7} {:>17} {:>10} {:>6} {:>8}'.format


def described(line: dict) -> str:
  """Returns a line as a row of the table."""
  return _ROW(
    line['step'],
    f'{line["tokens"]:,}',
    line['task'],
    line['metric'],
    f'{line["value"]:.4f}',
    f'[{line["low"]:.4f}, {line["high"]:.4f}]',
    f'{figures.normalised(line, line["value"]):.3f}',
    f'{line["alike"]:.2f}',
    f'{line["examples"]:,}',
  )


def measure(workdir: pathlib.Path, data: dict[str, Items]) -> list[dict]:
  """Measures what zero_shot.jsonl lacks, and prints the table; returns all lines.

  Args:
    workdir: of the run.
    data: the items of each task.
  """
  run, path = read_run(workdir), workdir / 'zero_shot.jsonl'
  there = lines_there(path, data)
  header = 'updates', 'tokens', 'task', 'metric', 'value', '95 %', 'normalised'
  print(_ROW(*header, 'alike', 'examples'))
  for step in checkpoints(workdir):
    model = None
    for task, items in data.items():
      if (step, task) not in there:
        model = model or gpt_jax.load(workdir, step)
        there[step, task] = {
          'task': task,
          'step': step,
          'tokens': config.tokens_read(run, step),
          **measured(task, model, items),
          'chance': HEURISTICS[task].chance,
          'reference': HEURISTICS[task].reference,
          'examples': len(items.dev),
          'sha256': _digest(items),
        }
        lines = [json.dumps(line) + '\n' for line in there.values()]
        write_whole(path, ''.join(lines))
      print(described(there[step, task]), flush=True)
  return list(there.values())


def ends(lines: list[dict]) -> list[Measured]:
  """Returns each task's value after the fewest and the most updates."""
  found = []
  for task in dict.fromkeys(line['task'] for line in lines):
    own = sorted((w for w in lines if w['task'] == task), key=lambda w: w['step'])
    for line in own[:1] + own[1:][-1:]:
      what = f'{task} {line["metric"]} after {line["step"]} updates, '
      what += f'{line["examples"]:,} examples'
      found.append(Measured(what, line['value'], line['low'], line['high']))
  return found


def main(argv: list[str]) -> None:
  """Measures what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  logging.set_verbosity(logging.FATAL)  # Orbax logs much
  workdir, folder = pathlib.Path(_WORKDIR.value), pathlib.Path(_DATA.value)
  data = {}
  for task in _TASKS.value:
    if task not in HEURISTICS:
      raise UserError(
        f'--tasks: there is no {task!r}, only {", ".join(HEURISTICS)}.'
        f'{nearest(task, HEURISTICS)}'
      )
    data[task] = examples(task, folder / task, _LIMIT.value)
  lines = measure(workdir, data)
  figures.zero_shot_curves(lines, workdir / 'zero_shot.png')
  if _RESULT.value:
    asked = [line for line in lines if line['task'] in data]
    committed.of_script(_RESULT.value, __file__, ends(asked))
  print(f'written: {workdir / "zero_shot.jsonl"} and zero_shot.png')


if __name__ == '__main__':
  run_script(main)
