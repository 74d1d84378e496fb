"""GPT-2 124M as released, without training: are the published zero-shot values met?

Claim: the weights that OpenAI released give, here as elsewhere,
  LAMBADA     accuracy 0.3256 and perplexity 40.06 of the last word; 5,153 passages
  HellaSwag   accuracy 0.2859, of mean log-probabilities 0.2955; 10,042 items
  WikiText-2  perplexity of a word 37.37, bits of a byte 0.9769; 62 pages
Source: EleutherAI's lm-evaluation-harness, lambada_openai (its issue 2159) and wikitext
(huggingface/transformers issue 13761); llm.c, dev/data/hellaswag.py. Table 3 of the
paper differs: it scores the last token of LAMBADA, and spaces WikiText by rules that
were never published. Cost: 0.4, 3.2 and 0.3 million tokens are read; at the 260 a
second of 2 busy CPU cores that is 27 minutes, 3.5 hours and 20 minutes.

  python experiments/gpt2/zero_shot.py --weights=hf:gpt2@main \
    --lambada=lambada_test.jsonl --hellaswag=hellaswag_val.jsonl \
    --wikitext=wiki.test.raw

Any of the three files may be left out; --weights may be a workdir or a Hugging Face
folder too. A value gets a verdict only if model and items are those of the published
one. Exit status: 0 if every verdict is good, 1 if one is not, 2 if there is none.

The files: lambada_test.jsonl is OpenAI's, lines with `text`. hellaswag_val.jsonl is
rowanz/hellaswag's, lines with `ctx`, `endings` and `label`. wiki.test.raw is of
wikitext-2-raw-v1.
"""

import dataclasses
import math
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import gpt_jax
from gpt_jax import files
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError, papers
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.tasks import readers

_WEIGHTS = flags.DEFINE_string(
  'weights', 'hf:gpt2@main', 'hf:NAME@REVISION, a workdir or a Hugging Face folder'
)
_LAMBADA = flags.DEFINE_string('lambada', None, 'lambada_test.jsonl')
_HELLASWAG = flags.DEFINE_string('hellaswag', None, 'hellaswag_val.jsonl')
_WIKITEXT = flags.DEFINE_string('wikitext', None, 'wiki.test.raw')


class Published(NamedTuple):
  """A published value of the released 124M weights, and how near ours must come.

  `within` is for rounding, of the digits published and of logits where two words or
  endings are all but equally likely: 5 passages of LAMBADA, 10 items of HellaSwag.
  """

  task: str
  measure: str
  value: float
  within: float
  items: int


PUBLISHED = (
  Published('LAMBADA', 'accuracy', 0.3256, 0.001, 5153),
  Published('LAMBADA', 'perplexity', 40.06, 0.05, 5153),
  Published('HellaSwag', 'accuracy', 0.2859, 0.001, 10_042),
  Published('HellaSwag', 'normalised accuracy', 0.2955, 0.001, 10_042),
  Published('WikiText-2', 'word perplexity', 37.37, 0.02, 62),
  Published('WikiText-2', 'bits per byte', 0.9769, 0.0003, 62),
)


class Measured(NamedTuple):
  """Values by measure, of how many items, and in what these differ, if they do."""

  values: dict[str, float]
  items: int
  other: str = ''


def lambada(model: LanguageModel, lines: list[dict]) -> Measured:
  """Returns accuracy and perplexity of the last word, of all its tokens together.

  More blanks than one before the word belong to it, as in the harness.
  """
  pairs = []
  for line in lines:
    context, _, word = line['text'].rpartition(' ')
    kept = context.rstrip()
    ids = model.tokenizer.encode(f'{context[len(kept) :]} {word}')
    pairs.append((model.prompt_ids(kept), ids))
  found = likelihood.score_continuations(model.params, model.gpt, pairs)
  values = {
    'accuracy': np.mean([all(scores.best) for scores in found]),
    'perplexity': np.exp(-np.mean([sum(scores.logp) for scores in found])),
  }
  return Measured(values, len(lines))


HELLASWAG = 'ctx', 'endings', 'label'
HARNESS = 'query', 'choices', 'gold'  # the same items, a heading before each context


def hellaswag(model: LanguageModel, lines: list[dict]) -> Measured:
  """Returns how often the right ending has the highest log p, in sum and in mean."""
  names = HELLASWAG if 'ctx' in lines[0] else HARNESS
  items = [[line[name] for name in names] for line in lines]
  pairs = [
    (model.prompt_ids(context), model.tokenizer.encode(f' {ending}'))
    for context, endings, _ in items
    for ending in endings
  ]
  found = iter(likelihood.score_continuations(model.params, model.gpt, pairs))
  by_sum, by_mean = [], []
  for _, endings, label in items:
    logp = [next(found).logp for _ in endings]
    by_sum.append(np.argmax([np.sum(each) for each in logp]) == int(label))
    by_mean.append(np.argmax([np.mean(each) for each in logp]) == int(label))
  values = {'accuracy': np.mean(by_sum), 'normalised accuracy': np.mean(by_mean)}
  return Measured(values, len(lines), 'other contexts' if names is HARNESS else '')


def wikitext(model: LanguageModel, text: str) -> Measured:
  """Returns perplexity of a word and bits of a byte, both of the pages as they are.

  The model reads them de-tokenized, in windows of its context: every token once, the
  first after end-of-text, the last window's after as much text as there is room for.
  """
  T, eot = model.config.T, model.tokenizer.eot
  pairs, every = [], list(pages(text))
  for page in every:
    ids = [eot, *model.tokenizer.encode(detokenized(page))]
    pairs += [(ids[max(0, i - T) : i], ids[i : i + T]) for i in range(1, len(ids), T)]
  found = likelihood.score_continuations(model.params, model.gpt, pairs)
  nll = -sum(sum(scores.logp) for scores in found)
  words = sum(len(re.split(r'\s+', page)) for page in every)
  size = sum(len(page.encode()) for page in every)
  values = {
    'word perplexity': math.exp(nll / words),
    'bits per byte': nll / math.log(2) / size,
  }
  return Measured(values, len(every), 'not the raw text' if '<unk>' in text else '')


def pages(text: str) -> Iterator[str]:
  """Yields the pages of a WikiText; a line like ' = Title = ' begins one."""
  page = []
  for line in text.split('\n'):
    heading = line.replace('= = =', '===').replace('= =', '==').strip()
    if heading.startswith('= ') and heading.endswith(' ='):
      if ''.join(page).strip():
        yield '\n'.join(page)
      page = []
    page.append(line)
  yield '\n'.join(page)


_SPACES = (
  ("s '", "s'"),
  *((f' @{mark}@ ', mark) for mark in '-,.'),
  *((f' {mark} ', f'{mark} ') for mark in ':;.!?,'),
)
_MORE_SPACES = (
  ('= = = =', '===='),
  ('= = =', '==='),
  ('= =', '=='),
  (' \N{DEGREE SIGN} ', '\N{DEGREE SIGN}'),
  (' \n', '\n'),
  ('\n ', '\n'),
  (' N ', ' 1 '),
  (" 's", "'s"),
)


def detokenized(page: str) -> str:
  """Returns a page of WikiText spaced like ordinary text, by the harness's rules.

  Differs: without its rule for ' between slashes, which were meant as delimiters.
  """
  for old, new in _SPACES:
    page = page.replace(old, new)
  for left, right in ('()', '[]', '{}', '""', "''"):
    inside = rf'\s*([^{re.escape(right)}]*?)\s*'
    pattern = re.escape(left) + inside + re.escape(right)
    page = re.sub(pattern, rf'{left}\1{right}', page)
  for old, new in _MORE_SPACES:
    page = page.replace(old, new)
  return page


def read_text(path: str) -> str:
  """Returns a text; a UserError says what is wrong with it."""
  text = files.read_text(path)
  if not text.strip():
    raise UserError(f'{path}: is empty')
  return text


def read_lines(path: str, *choices: tuple[str, ...]) -> list[dict]:
  """Returns the objects of a .jsonl file, all with the fields of one of the choices.

  A UserError names the first line that is something else.
  """
  lines = list(readers.json_lines(pathlib.Path(path)))
  if not lines:
    raise UserError(f'{path}: is empty')
  fits = (names for names in choices if lines[0].keys() >= set(names))
  names = next(fits, choices[0])
  for line in lines:
    readers.need(line, names)
  return lines


def verdict(expected: Published, found: Measured, gpt: GPT) -> tuple[bool | None, str]:
  """Returns whether a value is the published one, None if that can't be said, and why.

  Only the released model's, in float32 and over all published items, can.
  """
  free = {'scaled_init': True, 'dropout_wte': False, 'band': 256}
  released = GPTConfig.of(papers.gpt2('124M'), papers.GPT2_VOCAB)
  same = dataclasses.replace(gpt.config, **free) == dataclasses.replace(
    released, **free
  )
  if not same or gpt.execution.dtype != 'float32':
    return None, 'none: not GPT-2 124M in float32'
  if found.other:
    return None, f'none: {found.other}'
  if found.items != expected.items:
    return None, f'none: {found.items:,} items of {expected.items:,}'
  good = abs(found.values[expected.measure] - expected.value) <= expected.within
  return bool(good), f'{"" if good else "NOT "}within {expected.within}'


def report(model: LanguageModel, tasks: dict) -> int:
  """Prints the table, a task as soon as it is measured; returns the exit status.

  Args:
    model: to measure.
    tasks: by name, a function of this file and its items.
  """
  line = '{:<11} {:<20} {:>9} {:>10} {:>7}  {}'.format
  print(line('task', 'measure', 'published', 'measured', 'items', 'verdict'))
  verdicts = []
  for task, (measure, items) in tasks.items():
    try:
      found = measure(model, items)
    except UserError as e:
      print(f'{task}: not measured: {e}')
      continue
    for expected in (each for each in PUBLISHED if each.task == task):
      good, why = verdict(expected, found, model.gpt)
      verdicts += [] if good is None else [good]
      value = f'{found.values[expected.measure]:.5g}'
      published = f'{expected.value:g}', value, f'{found.items:,}'
      print(line(task, expected.measure, *published, why), flush=True)
  if not verdicts:
    return nothing_checked('these are no values of the released model on all items')
  print(
    f'{sum(verdicts)} of {len(verdicts)} values checked are the published ones '
    f'({len(PUBLISHED)} are published)'
  )
  return 0 if all(verdicts) else 1


def nothing_checked(reason: str) -> int:
  """Says that no published value was checked, and why; returns the exit status."""
  print(f'NOTHING WAS CHECKED: {reason}', file=sys.stderr)
  return 2


def main(argv: list[str]) -> int:
  """Measures what the flags say; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  logging.set_verbosity(logging.FATAL)  # Orbax logs much
  tasks = {}
  try:
    if _LAMBADA.value:
      tasks['LAMBADA'] = lambada, read_lines(_LAMBADA.value, ('text',))
    if _HELLASWAG.value:
      tasks['HellaSwag'] = hellaswag, read_lines(_HELLASWAG.value, HELLASWAG, HARNESS)
    if _WIKITEXT.value:
      tasks['WikiText-2'] = wikitext, read_text(_WIKITEXT.value)
    if not tasks:
      raise UserError('no items; give --lambada, --hellaswag or --wikitext')
    model = gpt_jax.load(_WEIGHTS.value)
  except UserError as e:
    return nothing_checked(f'{e}\n(--weights={_WEIGHTS.value})')
  return report(model, tasks)


if __name__ == '__main__':
  run_script(main)
