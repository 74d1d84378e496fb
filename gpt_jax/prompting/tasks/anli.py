"""Adversarial NLI (Nie et al. 2020), rounds 1 to 3."""

from functools import partial

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question


def _question(row: Row, number: int) -> Question:
  name = f'anli {number}: ' * 2  # twice, as in the paper's figures
  asked = f'Question: {text(row, "hypothesis")} True, False, or Neither?'
  return Question(
    f'{name}{text(row, "premise")}\n{asked}',
    (' True', ' False', ' Neither'),
    (files.choice(row, 'label', 'e|0', 'c|2', 'n|1'),),
  )


ANLI = tuple(
  PromptedTask(
    f'anli_r{number}',
    'choices',
    'per_token',
    ('accuracy',),
    files.hub(),
    f'dl.fbaipublicfiles.com/anli/anli_v1.0.zip: R{number}/test.jsonl with context, '
    'hypothesis, label',
    files.table,
    ('premise|context', 'hypothesis', 'label'),
    partial(_question, number=number),
    folder=f'anli_v1.0/R{number}',
    split='test',
    shots=50,
  )
  for number in (1, 2, 3)
)
