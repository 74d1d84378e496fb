"""A small DialoGPT, from scratch, on the dialogues of DialogSum; and its backward twin.

Claim: none published; measured in experiments/README.md by docs/dialogue.md's commands.
Source: Zhang et al. 2020, sections 3.1 and 3.2, on Chen et al. 2021's 12,460 dialogues
of everyday life. Cost: 2.2 million parameters, 600 updates of 16 examples; 23 minutes
on 2 CPU cores that did much else.

  python launch.py train --config=experiments/dialogpt/dialogsum.py \
    --workdir=runs/forward --config.data.source=FOLDER/train.jsonl \
    --config.data.valid=FOLDER/dev.jsonl

`dialogsum.py:reverse` trains P(source | target) to rank replies by; it must have the
tokenizer of the model that it serves: --config.data.tokenizer=./runs/forward/tokenizer.
"""

from gpt_jax import config
from gpt_jax.config import UserError


def get_config(direction: str = 'forward') -> config.Run:
  """Returns the config: 'forward', or 'reverse'."""
  if direction not in ('forward', 'reverse'):
    raise UserError(f'dialogsum.py:{direction} must be forward or reverse')
  return config.Run(
    steps=600 if direction == 'forward' else 400,
    batch=16,
    eval_every=150,
    eval_batch=32,
    keep=1,
    prompts=('Good morning. How can I help you?', 'Do you want to see a movie?'),
    sample_tokens=32,
    data=config.Data(
      source='',  # to be given
      tokenizer='byte_bpe',
      vocab=2048,
      duplicates='drop',
      dialogues=128,
      reverse=direction == 'reverse',
    ),
    model=config.Model(L=4, D=192, N=4, T=256, bias=False, activation='relu'),
    optim=config.Optim(
      name='muon', lr=6e-3, final_lr=0.0, schedule='linear', warmup=20
    ),
  )
