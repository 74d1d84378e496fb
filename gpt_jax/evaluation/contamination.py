"""How much of a benchmark is in a corpus, and what it does to a score.

GPT-3's analysis (Brown et al. 2020, appendix C): an example is *dirty* if any N words
in a row of it are in any document of the corpus, else *clean*, and a model's score on
the clean ones is set beside that on all. N is the 5th percentile of the examples'
lengths in words, at least 8 and at most 13; less for synthetic tasks. Words are in
lower case without punctuation. The text of an example is its question with the right
answer, without the instruction that all share.

GPT-2's (Radford et al. 2019, section 4): which share of a text's 8-grams is in the
training text; words are runs of letters and digits, in lower case. Differs: it put the
training text's 8-grams into a Bloom filter with at most one false positive in 10^8.
Here the examples' are kept, exactly, and the corpus streams past them: they are few,
and memory does not grow with the corpus.
"""

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import UserError, nearest
from gpt_jax.data.curation import components, grams
from gpt_jax.data.curation.decontaminate import Index, index_in
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import joined, opened, written
from gpt_jax.evaluation import scoring_rules
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.tasks.prompted.synthetic import SCRAMBLES
from gpt_jax.tasks.prompts import PromptedTask, Question

LEAST, MOST = 8, 13
GPT2 = 8
# Of a scrambled word two words at most are the example's (appendix C).
_SHORTER = {str(task): 2 for task in SCRAMBLES} | {'random_insertion_in_word': 7}
_RUNS = re.compile(r'[^\W_]+')
BARE, RUNS = 'bare', 'runs'  # what a word is: GPT-3's, GPT-2's


class Overlap(NamedTuple):
  """What a corpus has of some texts.

  Attributes:
    n: words of a gram.
    dirty: [texts], whether any gram of the text is in the corpus.
    short: texts of fewer than n words, which have no gram and count as clean.
    grams: of all texts together, as often as they stand there.
    found: those that are in the corpus.
  """

  n: int
  dirty: np.ndarray
  short: int
  grams: int
  found: int


def text_of(question: Question) -> str:
  """Returns the text of an example: the question and its (first) right answer."""
  if question.gold:
    return question.example()
  return question.context + question.answers[0] + question.completion


def texts_of(names: Sequence[str], data: str | Path, split: str = '') -> Iterator[str]:
  """Yields the texts of the examples of tasks, and of texts whose perplexity is asked.

  Args:
    names: of `TASKS` and `TEXTS`.
    data: folder of the folders of their files.
    split: '': the paper's.

  Raises:
    UserError: an unknown task, or a missing or damaged file.
  """
  for name in names:
    if name in TASKS:
      yield from map(text_of, prompted_files.read(TASKS[name], data, split))
    elif name in TEXTS:
      documents = prompted_files.read_documents(TEXTS[name], data, split)
      yield from (document.text for document in documents)
    else:
      raise UserError(f'there is no task {name!r}.{nearest(name, [*TASKS, *TEXTS])}')


def gram_length(task: str, texts: Sequence[str]) -> int:
  """Returns N of a task: the 5th percentile of lengths in words, from 8 to 13."""
  if task in _SHORTER:
    return _SHORTER[task]
  ends = grams.words(texts, grams.BARE).ends
  return int(np.clip(np.percentile(np.diff(ends, prepend=0), 5), LEAST, MOST))


def _grams(texts: Sequence[str], n: int, kind: str) -> tuple[np.ndarray, ...]:
  """Returns the n-grams of texts, which text each is of, and their numbers of words."""
  if kind == RUNS:
    texts = [' '.join(_RUNS.findall(text.lower())) for text in texts]
  words = grams.words(texts, grams.BARE if kind == BARE else grams.LOWER)
  numbers, begins = grams.grams(words.numbers, words.ends, n)
  owners = np.searchsorted(words.ends, begins, 'right')
  return numbers, owners, np.diff(words.ends, prepend=0)


def overlaps(
  engine: Engine,
  shards: Sequence[str],
  texts: dict[str, Sequence[str]],
  lengths: dict[str, int],
  kind: str = BARE,
) -> dict[str, Overlap]:
  """Returns what a corpus has of the texts of several tasks; it is read once.

  Args:
    shards: of the corpus; paths.
    texts: of the examples of each task, as `texts_of` yields them.
    lengths: N of each task.
    kind: of words: `BARE` (GPT-3's) or `RUNS` (GPT-2's).
  """
  every = {task: _grams(some, lengths[task], kind) for task, some in texts.items()}
  known, places = {}, []
  for n in sorted({*lengths.values()}):
    numbers = [every[task][0] for task in texts if lengths[task] == n]
    known[n] = np.unique(np.concatenate([np.empty(0, np.uint64), *numbers]))
    digest = hashlib.blake2b(known[n].tobytes(), digest_size=8).hexdigest()
    path = joined(engine.state, f'{kind}-{n}-{digest}')
    with written(path) as stream:
      stream.write(known[n].tobytes())
    places.append((n, path))
  name = f'overlap-{hashlib.blake2b(repr(places).encode(), digest_size=8).hexdigest()}'
  folder = joined(engine.state, name, 'found')
  engine.map(
    name, functools.partial(_look, tuple(places), kind, folder), enumerate(shards)
  )
  there = {n: np.zeros(len(numbers), bool) for n, numbers in known.items()}
  for shard in range(len(shards)):
    for n in known:
      with opened(joined(folder, f'{shard:06d}-{n}')) as stream:
        there[n][np.frombuffer(stream.read(), '<u4')] = True
  result = {}
  for task, (numbers, owners, sizes) in every.items():
    n = lengths[task]
    found = there[n][np.searchsorted(known[n], numbers)]
    dirty = np.bincount(owners[found], minlength=len(sizes)) > 0
    short = int((sizes < n).sum())
    result[task] = Overlap(n, dirty, short, len(numbers), int(found.sum()))
  return result


def _look(
  places: Sequence[tuple[int, str]], kind: str, folder: str, numbered: tuple[int, str]
) -> list[int]:
  """Writes which grams of each index a shard has; returns how many."""
  shard, path = numbered
  indices: dict[int, Index] = {n: index_in(place) for n, place in places}
  found = {n: [np.empty(0, np.int64)] for n in indices}
  for _, some in components.batches(path):
    texts = [each.text for each in some]
    for n, known in indices.items():
      found[n].append(np.unique(known.find(_grams(texts, n, kind)[0])[1]))
  counts = []
  for n, several in found.items():
    at = np.unique(np.concatenate(several))
    counts.append(len(at))
    with written(joined(folder, f'{shard:06d}-{n}')) as stream:
      stream.write(at.astype('<u4').tobytes())
  return counts


def scores(
  task: PromptedTask,
  questions: Sequence[Question],
  records: Sequence[scoring_rules.Record],
  dirty: np.ndarray,
) -> dict[str, dict[str, Any] | None]:
  """Returns a model's score on all, clean and dirty questions, by the paper's rule.

  Args:
    records: of `scoring_rules`, one a question.
    dirty: [questions].

  Returns:
    For 'all', 'clean' and 'dirty' the value of the task's first metric with its 95 %
    interval and the number of questions; None where there are none.

  Raises:
    UserError: there are not as many of each.
  """
  if not len(questions) == len(records) == len(dirty):
    raise UserError(
      f'{len(records)} answers to {len(questions)} questions of {task}, of which '
      f'{len(dirty)} were looked for; there must be as many of each'
    )
  result: dict[str, dict[str, Any] | None] = {}
  for name, some in (('all', dirty | ~dirty), ('clean', ~dirty), ('dirty', dirty)):
    at = np.flatnonzero(some).tolist()
    result[name] = None
    if at:
      rules = scoring_rules.results(
        task, [questions[i] for i in at], [records[i] for i in at]
      )[task.metrics[0]]
      rule = task.rule if task.rule in rules else next(iter(rules))
      result[name] = rules[rule] | {'questions': len(at)}
  return result


def tables(result: dict[str, Any]) -> list[Any]:
  """Returns what `runs.contamination.analysed` found as tables of rich."""
  from rich.table import Table

  several = []
  if result['tasks']:
    table = Table(title='examples that share N words in a row with the corpus')
    for name in ('task', 'N', 'examples', 'clean', 'score of all', 'clean', 'dirty'):
      table.add_column(name, justify='left' if name == 'task' else 'right')
    table.add_column('clean to all', justify='right')
    for task, one in result['tasks'].items():
      clean = 1 - one['dirty'] / one['examples']
      about = [task, str(one['n']), f'{one["examples"]:,}', f'{clean:.1%}']
      for scored in one['scores'] or [None]:
        table.add_row(*about, *(_cells(scored) if scored else []))
    several.append(table)
  if result['texts']:
    table = Table(title='share of the N-grams of texts that the corpus has')
    for name in ('text', 'N', 'grams', 'in the corpus'):
      table.add_column(name, justify='left' if name == 'text' else 'right')
    for task, one in result['texts'].items():
      share = one['grams_found'] / max(1, one['grams'])
      table.add_row(task, str(one['n']), f'{one["grams"]:,}', f'{share:.2%}')
    several.append(table)
  return several


def _cells(scored: dict[str, Any]) -> list[str]:
  """Returns the cells of a score: all, clean, dirty, and the relative change."""
  cells = []
  for name in ('all', 'clean', 'dirty'):
    one = scored[name]
    shown = '{value:.4f} [{low:.4f}, {high:.4f}]'
    cells.append(shown.format(**one) if one else '-')
  every, clean = scored['all'], scored['clean']
  change = clean['value'] / every['value'] - 1 if clean and every['value'] else None
  return [*cells, '-' if change is None else f'{change:+.1%}']
