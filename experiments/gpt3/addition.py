"""A small GPT that learns two-digit addition in GPT-3's words, and is asked as GPT-3.

Claim: none published of a model that was trained on the task; GPT-3 175B, which was
not, has 76.9 % at K = 0 and 100 % at K = 50, GPT-3 Small 0.70 and 2.00 % (table H.1).
Source: the format of OpenAI's two_digit_addition.jsonl (Brown et al. 2020, section
3.9.1). Cost: see experiments/README.md.

  python experiments/gpt3/addition.py --target=addition.txt \
    --test=FOLDER/gpt3_synthetic/two_digit_addition.jsonl
  python launch.py train --config=experiments/gpt3/addition.py \
    --config.data.source=addition.txt --workdir=runs/addition
  python launch.py eval --workdir=runs/addition --tasks=two_digit_addition \
    --data=FOLDER --shots=0,8

The first writes 10 million characters of sums that the test does not hold: no pair of
operands in that order. So a right answer is not remembered.
"""

import pathlib
import re
import sys

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.files import write_whole
from gpt_jax.tasks import readers

_SUMS = 300_000


def get_config() -> config.Run:
  """Returns the config."""
  return config.Run(
    steps=1500,
    batch=16,
    eval_every=250,
    eval_tokens=50_000,
    prompts=('\n\nQ: What is 98 plus 45?\n\nA:',),
    sample_tokens=5,
    data=config.Data(source='addition.txt', tokenizer='chars'),
    model=config.Model(L=4, D=128, N=4, T=320),
    optim=config.Optim(
      name='muon', lr=1e-2, final_lr=0.0, schedule='linear', warmup=50
    ),
  )


def sums(test: set[tuple[int, int]], count: int, seed: int = 0) -> str:
  """Returns so many questions and answers, none of them of the test.

  Args:
    test: pairs of operands that are left out.
    count: how many; operands are drawn uniformly from 0 to 99.
    seed: of the draw.
  """
  pairs = [(a, b) for a in range(100) for b in range(100) if (a, b) not in test]
  drawn = np.random.default_rng(seed).integers(len(pairs), size=count)
  return ''.join(
    f'\n\nQ: What is {a} plus {b}?\n\nA: {a + b}' for a, b in (pairs[i] for i in drawn)
  )


def operands(path: str) -> set[tuple[int, int]]:
  """Returns the pairs of the official file."""
  pairs = set()
  for row in readers.json_lines(pathlib.Path(path)):
    readers.need(row, ('context',))
    numbers = re.findall(r'\d{1,9}', readers.filled(row, 'context'))
    if len(numbers) != 2:
      raise UserError(f'{row["where"]}: must have two numbers; fetch the file again')
    pairs.add((int(numbers[0]), int(numbers[1])))
  return pairs


def main(argv: list[str]) -> int:
  """Writes the text."""
  del argv
  try:
    text = sums(operands(_TEST.value), _SUMS)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  write_whole(_TARGET.value, text)
  print(f'wrote {_TARGET.value}: {_SUMS:,} sums, {len(text):,} characters')
  return 0


if __name__ == '__main__':
  _TEST = flags.DEFINE_string('test', None, 'two_digit_addition.jsonl', required=True)
  _TARGET = flags.DEFINE_string('target', None, 'text file to write', required=True)
  run_script(main)
