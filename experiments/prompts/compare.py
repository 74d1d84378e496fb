"""Compares wordings of a prompt, under several ways to decode, by the answers they get.

Claim: none; wording is worth measuring, as GPT-3 did with its tasks (Brown et al. 2020,
section 2.4). Source: none. Cost: that of answering each question once a setting.

  python experiments/prompts/compare.py --workdir=RUN --data=QUESTIONS.jsonl \
    --template=a.txt --template=b.txt --settings=temperature=0 --settings=beams=4

Each line of QUESTIONS.jsonl is an object: the fields of the templates (others are left
alone), and "answer", a text or a list of texts that are all right. Templates are as in
gpt_jax/tasks/templates.py, settings as in gpt_jax/decoding/generation_config.py,
NAME=VALUE with commas between them. An answer ends at the template's stop, else at a
line break.

Printed is a table of Markdown: of each template, the perplexity a byte that the right
answers have after it (the best of each question's); of each setting the share of right
answers, as SQuAD compares them, with Wilson's 95 % interval, and the mean F1 of words.
"""

import ast
import pathlib
import sys

import numpy as np
from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import gpt_jax
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.evaluation import statistics, text_metrics
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.reports import committed, markup
from gpt_jax.reports.committed import Measured
from gpt_jax.tasks import prompted_files, readers, templates
from gpt_jax.tasks.templates import Template

_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
_DATA = flags.DEFINE_string('data', None, 'questions, JSON lines', required=True)
_TEMPLATE = flags.DEFINE_multi_string('template', None, 'prompt files', required=True)
_SETTINGS = flags.DEFINE_multi_string(
  'settings', ['temperature=0'], 'of decoding: NAME=VALUE,NAME=VALUE'
)
_NEW_TOKENS = 32  # unless settings say max_new_tokens
_SHOWN = 2  # questions whose answers are printed


def read(path: str) -> list[dict]:
  """Returns the questions of a file; their answers are lists.

  Raises:
    UserError: the file can't be read, or a line is no question.
  """
  questions = []
  for question in readers.json_lines(pathlib.Path(path)):
    readers.need(question, ('answer',), 'questions with answers')
    texts = {'answer': list(prompted_files.texts(question, 'answer'))}
    questions.append(question | texts)
  if not questions:
    raise UserError(f'{path}: there is no question')
  return questions


def settings_of(text: str) -> dict:
  """Returns settings of decoding from NAME=VALUE,NAME=VALUE.

  Raises:
    UserError: a part is no NAME=VALUE.
  """
  found = {}
  for part in text.split(','):
    name, equals, value = part.partition('=')
    if not equals:
      raise UserError(f'--settings={text}: {part!r} must be NAME=VALUE')
    try:
      found[name.strip()] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      found[name.strip()] = value  # method=beam
  return found


def prompts_of(wording: Template, questions: list[dict]) -> list[str]:
  """Returns the prompt of each question; fields without a place are passed over."""
  return [
    wording.fill({k: v for k, v in question.items() if k in wording.fields})
    for question in questions
  ]


def byte_perplexity(
  model: LanguageModel, wording: Template, questions: list[dict]
) -> float:
  """Returns the perplexity a byte of the likeliest right answer of each question."""
  logp, size = 0.0, 0
  for prompt, question in zip(prompts_of(wording, questions), questions, strict=True):
    likely = [
      (model.score(prompt, wording.gap + right).logp, len(right.encode()))
      for right in question['answer']
    ]
    best = max(likely, key=lambda found: found[0] / found[1])
    logp, size = logp + best[0], size + best[1]
  return float(np.exp(-logp / size))


def answered(
  model: LanguageModel, wording: Template, questions: list[dict], settings: dict
) -> list[str]:
  """Returns the best answer that a model writes to each question."""
  asked = {'max_new_tokens': _NEW_TOKENS, **settings}
  if not asked.keys() & {'one_of', 'including'}:
    asked.setdefault('stop', wording.stop or '\n')
  made = model.generate(prompts_of(wording, questions), **asked)
  firsts = {}
  for one in made:
    firsts.setdefault(one.number, one.text.strip())
  return [firsts[i] for i in range(len(questions))]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  logging.set_verbosity(logging.ERROR)
  questions = read(_DATA.value)
  wordings = [templates.read(path) for path in _TEMPLATE.value]
  settings = {text: settings_of(text) for text in _SETTINGS.value}
  for wording in wordings:
    prompts_of(wording, questions)  # a missing field stops before any work
  model = gpt_jax.load(_WORKDIR.value)
  header = 'prompt', 'perplexity a byte', 'decoding', 'right', '95 %', 'F1'
  measured = []
  rows = []
  for wording in wordings:
    loss = byte_perplexity(model, wording, questions)
    for text, how in settings.items():
      written = answered(model, wording, questions, how)
      pairs = list(zip(written, (q['answer'] for q in questions), strict=True))
      right = sum(int(text_metrics.em(*pair)) for pair in pairs)
      low, high = statistics.wilson(right, len(pairs))
      what = f'right by {pathlib.Path(wording.name).name}, {text}'
      measured.append(Measured(what, right / len(pairs), low, high))
      rows.append(
        [
          pathlib.Path(wording.name).name,
          f'{loss:.3f}',
          text,
          f'{right / len(pairs):.3f}',
          f'[{low:.3f}, {high:.3f}]',
          f'{np.mean([text_metrics.f1(*pair) for pair in pairs]):.3f}',
        ]
      )
    prompt = prompts_of(wording, questions)[0]
    print(f'{wording.name}: {prompt!r} -> {written[:_SHOWN]}')
  print(markup.table(header, rows, len(header)))
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
