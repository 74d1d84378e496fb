"""Adversarial NLI (Nie et al. 2020), rounds 1 to 3."""

from functools import partial

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row, number: int) -> Question:
  name = f'anli {number}: ' * 2  # twice, as in the paper's figures
  asked = f'Question: {text(row, "hypothesis")} True, False, or Neither?'
  return Question(
    f'{name}{text(row, "premise")}\n{asked}',
    (' True', ' False', ' Neither'),
    (prompted_files.choice(row, 'label', 'e|0', 'c|2', 'n|1'),),
  )


ANLI = tuple(
  PromptedTask(
    f'anli_r{number}',
    'choices',
    'per_token',
    ('accuracy',),
    prompted_files.hub(),
    f'dl.fbaipublicfiles.com/anli/anli_v1.0.zip: R{number}/test.jsonl with context, '
    'hypothesis, label',
    prompted_files.table,
    ('premise|context', 'hypothesis', 'label'),
    partial(_question, number=number),
    folder=f'anli_v1.0/R{number}',
    split='test',
    shots=50,
  )
  for number in (1, 2, 3)
)
