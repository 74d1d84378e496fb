"""Speed of scoring beside lm-eval with its Hugging Face model.

  pip install -r benchmarks/requirements.txt
  python -m benchmarks.eval --gpt2=FOLDER --tasks=FOLDER

GPT-2 124M with random weights, float32, on HellaSwag (four endings a question) and
LAMBADA (the last word of a passage), asked as lm-eval asks them. Both score the same
token ids; reading files and tokenizing is not timed. lm-eval works at whichever batch
size is fastest on the first --sample of each task. Each side lives in a process of its
own and they work in turn, round after round; medians of the rounds, and a ratio is the
median of the rounds' ratios. --gpt2 holds GPT-2's vocab.json and merges.txt, --tasks
hellaswag/validation_sample.jsonl and lambada/lambada_test.jsonl.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import decode, turns
from gpt_jax.cli.messages import shown

BATCHES = 1, 4, 8, 16, 32
LIMIT = 1e-3  # how far apart the log p of a continuation may be [nats]
Pair = tuple[list[int], list[int]]
Found = list[tuple[float, bool]]


class Question(NamedTuple):
  """What is asked: likelihoods of answers after a context.

  Attributes:
    context: what all answers follow.
    answers: one or more, each with the blank before it.
    gold: number of the right one.
  """

  context: str
  answers: list[str]
  gold: int


def setup_gpt_jax(folder: Path) -> dict[str, Callable]:
  """Returns our jobs.

  'take' (name, pairs of ids of context and continuation) keeps what is to be scored;
  'score' (name) -> (log p [nats], whether greedy decoding gives it) of each.
  """
  import gpt_jax
  from gpt_jax.evaluation.likelihood import score_continuations

  model, taken = gpt_jax.load(folder), {}

  def score(name):
    found = score_continuations(model.params, model.gpt, taken[name])
    return [(sum(one.logp), all(one.best)) for one in found]

  return {'take': taken.__setitem__, 'score': score}


def setup_lm_eval(folder: Path) -> dict[str, Callable]:
  """Returns the jobs of lm-eval: those of ours, 'batch' (size) and 'pairs' (texts)."""
  import torch

  logging.disable(logging.WARNING)
  os.environ['HF_HUB_OFFLINE'] = '1'
  from lm_eval.models.huggingface import HFLM

  torch.set_num_threads(os.cpu_count())
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model, taken = HFLM(str(folder), device=device, dtype='float32'), {}

  def take(name, pairs):
    taken[name] = [(None, *pair) for pair in pairs]

  def score(name):
    return model._loglikelihood_tokens(taken[name], disable_tqdm=True)

  def batch(size):
    model.batch_size_per_gpu = size

  def pairs(texts):
    return [model._encode_pair(*text) for text in texts]

  return {'take': take, 'score': score, 'batch': batch, 'pairs': pairs}


def hellaswag(tasks: Path, number: int) -> list[Question]:
  """Returns the first questions of the sample."""
  rows = _rows(tasks / 'hellaswag/validation_sample.jsonl', number)
  return [
    Question(row['query'], [f' {choice}' for choice in row['choices']], row['gold'])
    for row in rows
  ]


def lambada(tasks: Path, number: int) -> list[Question]:
  """Returns the first passages; the only answer is the last word."""
  rows = _rows(tasks / 'lambada/lambada_test.jsonl', number)
  cut = [row['text'].rpartition(' ') for row in rows]
  return [Question(before, [f' {word}'], 0) for before, _, word in cut]


def _rows(path: Path, number: int) -> list[dict]:
  with open(path, encoding='utf-8') as lines:
    return [json.loads(line) for line, _ in zip(lines, range(number), strict=False)]


def run(worker: turns.Worker, job: str, *arguments):
  """Returns the result of a job."""
  worker.start(job, *arguments)
  return worker.wait()


def correct(questions: list[Question], found: Found) -> float:
  """Returns the share whose likeliest answer is right, or whose only one is greedy."""
  right, found = 0, iter(found)
  for question in questions:
    scores = [next(found) for _ in question.answers]
    best = max(range(len(scores)), key=lambda i: scores[i][0])
    right += best == question.gold if len(scores) > 1 else scores[0][1]
  return right / len(questions)


def fastest_batch(theirs: turns.Worker) -> tuple[int, dict[int, float]]:
  """Returns the batch size that scores the sample fastest, and the seconds of all."""
  seconds = {}
  for size in BATCHES:
    run(theirs, 'batch', size)
    turns.seconds([theirs], 'score', 'sample')
    seconds[size] = turns.seconds([theirs], 'score', 'sample')
  return min(seconds, key=seconds.get), seconds


def measure(
  name: str,
  questions: list[Question],
  ours: turns.Worker,
  theirs: turns.Worker,
  rounds: int,
  sample: int,
) -> tuple[str, str]:
  """Returns a task's lines of the table of speeds and of that of batch sizes."""
  texts = [(q.context, answer) for q in questions for answer in q.answers]
  pairs: list[Pair] = run(theirs, 'pairs', texts)
  first = sum(len(q.answers) for q in questions[:sample])
  run(theirs, 'take', 'sample', pairs[:first])
  size, tried = fastest_batch(theirs)
  run(theirs, 'batch', size)
  found, compiling, times = {}, {}, {}
  for side, worker in {'ours': ours, 'theirs': theirs}.items():
    run(worker, 'take', name, pairs)
    begun = time.perf_counter()
    found[side] = run(worker, 'score', name)
    compiling[side], times[side] = time.perf_counter() - begun, []
  for _ in range(rounds):
    for side, worker in {'ours': ours, 'theirs': theirs}.items():
      time.sleep(0.3)  # until the threads of the one before have gone to sleep
      times[side].append(turns.seconds([worker], 'score', name))
  n = len(questions)
  logps = zip(found['ours'], found['theirs'], strict=True)
  apart = max(abs(a[0] - b[0]) for a, b in logps)
  greedy = [[one[1] for one in side] for side in found.values()]
  equal = apart <= LIMIT and greedy[0] == greedy[1]
  shares = [f'{correct(questions, side):.1%}' for side in found.values()]
  cells = [f'{name}, {n}', str(len(pairs))]
  cells += [f'{n / statistics.median(times[side]):.2f}' for side in times]
  cells.append(f'{turns.median_ratio(times["theirs"], times["ours"]):.2f}')
  cells += [f'{compiling["ours"]:.1f} s, {compiling["theirs"]:.1f} s', str(size)]
  cells += [f'{apart:.0e}' + ('' if equal else ': NOT EQUAL'), ', '.join(shares)]
  speeds = [f'{len(questions[:sample]) / tried[size]:.2f}' for size in BATCHES]
  return f'| {" | ".join(cells)} |', f'| {name} | {" | ".join(speeds)} |'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--gpt2', required=True, help='folder of vocab.json, merges.txt')
  parser.add_argument('--tasks', required=True, type=Path, help="of the tasks' files")
  parser.add_argument('--questions', type=int, default=200, help='of HellaSwag')
  parser.add_argument('--passages', type=int, default=500, help='of LAMBADA')
  parser.add_argument('--sample', type=int, default=32, help='to choose the batch size')
  parser.add_argument('--rounds', type=int, default=5)
  flags = parser.parse_args()
  todo = {
    'HellaSwag': hellaswag(flags.tasks, flags.questions),
    'LAMBADA': lambada(flags.tasks, flags.passages),
  }
  with tempfile.TemporaryDirectory() as place:
    folder = Path(place) / 'gpt2'
    decode.make_weights(flags.gpt2, folder)
    ours = turns.Worker(setup_gpt_jax, folder)
    theirs = turns.Worker(setup_lm_eval, folder)
    print(f'{platform.machine()}, {os.cpu_count()} cores, Python', end=' ')
    print(platform.python_version(), end='\n\n')
    print('| task, questions | texts | gpt_jax, questions/s ', end='')
    print('| lm-eval, questions/s | ratio | first turn, with compilation ', end='')
    print('| batch of lm-eval ', end='')
    print('| log p apart, at most | accuracy |')
    print(f'|{"---|" * 9}', flush=True)
    lines = []
    for name, questions in todo.items():
      speeds, batches = measure(
        name, questions, ours, theirs, flags.rounds, flags.sample
      )
      print(speeds, flush=True)
      lines.append(batches)
    print('\nlm-eval on the sample, questions/s by batch size:\n')
    print(f'| task | {" | ".join(map(str, BATCHES))} |')
    print(f'|{"---|" * (len(BATCHES) + 1)}')
    print('\n'.join(lines))
    ours.close()
    theirs.close()


if __name__ == '__main__':
  with shown():
    main()
