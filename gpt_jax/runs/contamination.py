"""Benchmarks looked for in a corpus, with the scores that a workdir has of them."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.curation.engine import Engine
from gpt_jax.evaluation import contamination
from gpt_jax.evaluation.contamination import Overlap
from gpt_jax.runs.benchmark import answered
from gpt_jax.tasks.prompted import TASKS, TEXTS


def analysed(
  engine: Engine,
  shards: Sequence[str],
  tasks: Sequence[str],
  data: str | pathlib.Path,
  *,
  split: str = '',
  n: int = 0,
  workdir: str | pathlib.Path = '',
) -> dict[str, Any]:
  """Returns what a corpus has of tasks and texts, as values of JSON.

  Args:
    shards: of the corpus; paths.
    tasks: of `TASKS` (GPT-3's analysis) and `TEXTS` (GPT-2's).
    data: folder of the folders of their files.
    split: '': the paper's.
    n: words of a gram; 0: the papers'.
    workdir: of a run whose answers are scored; '': none.

  Raises:
    UserError: an unknown task, a missing file, or what `answered` raises.
  """
  every = {task: list(contamination.texts_of([task], data, split)) for task in tasks}
  examples = {task: some for task, some in every.items() if task in TASKS}
  lengths = {
    task: n or contamination.gram_length(task, some) for task, some in examples.items()
  }
  found = contamination.overlaps(engine, shards, examples, lengths)
  texts = {task: some for task, some in every.items() if task in TEXTS}
  of_texts = dict.fromkeys(texts, n or contamination.GPT2)
  in_text = contamination.overlaps(engine, shards, texts, of_texts, contamination.RUNS)
  return {
    'tasks': {
      task: _described(overlap)
      | {'scores': _scores(workdir, task, data, examples[task], overlap)}
      for task, overlap in found.items()
    },
    'texts': {task: _described(overlap) for task, overlap in in_text.items()},
  }


def _described(overlap: Overlap) -> dict[str, Any]:
  """Returns an overlap as values of JSON."""
  return {
    'n': overlap.n,
    'examples': len(overlap.dirty),
    'dirty': int(overlap.dirty.sum()),
    'short': overlap.short,
    'grams': overlap.grams,
    'grams_found': overlap.found,
    'dirty_examples': np.flatnonzero(overlap.dirty).tolist(),
  }


def _scores(
  workdir: str | pathlib.Path,
  task: str,
  data: str | pathlib.Path,
  texts: Sequence[str],
  overlap: Overlap,
) -> list[dict[str, Any]]:
  """Returns the scores of each result of a task in a workdir, if one is given."""
  if not workdir:
    return []
  dirty = dict(zip(texts, overlap.dirty.tolist(), strict=True))
  scores = []
  for result, asked, records in answered(workdir, task, data):
    own = [contamination.text_of(question) for question in asked.questions]
    if lost := [text for text in own if text not in dirty]:
      raise UserError(
        f'{workdir}: {len(lost)} answered questions of {task} are of the split '
        f'{result["split"]}; give --split={result["split"]}'
      )
    marks = np.array([dirty[text] for text in own])
    about = {name: result[name] for name in ('shots', 'seed', 'split')}
    by_kind = contamination.scores(asked.task, asked.questions, records, marks)
    scores.append(about | {'metric': asked.task.metrics[0]} | by_kind)
  return scores
