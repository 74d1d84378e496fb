"""Fine-tunes the GPT of stories.py as a language model of short jokes in dialogue.

Claim: none published; the last step of the tutorial path, fine-tuning on a text of
one's own, which costs something on the first one. Source: Russian anecdotes (Koziev,
CC0). Cost: see experiments/README.md.

  python experiments/ru/dialogues.py --source=FILE --target=jokes.jsonl
  python launch.py train --config=experiments/ru/jokes.py --workdir=runs/ru_jokes \
    --config.init_from=runs/ru_stories --config.data.source=jokes.jsonl
  python launch.py eval --workdir=runs/ru_stories --held_out=runs/ru_jokes   # before
  python launch.py eval --workdir=runs/ru_jokes                              # after
  python launch.py eval --workdir=runs/ru_jokes --held_out=runs/ru_stories   # the cost

FILE holds dialogues with empty lines between them.
"""

from gpt_jax import config


def get_config() -> config.Run:
  """Returns the config."""
  return config.Run(
    steps=400,
    batch=32,
    eval_every=100,
    eval_batch=32,
    eval_tokens=50_000,
    prompts=('', '- Доктор, '),
    init_from='runs/ru_stories',
    data=config.Data(source='jokes.jsonl'),
    model=config.Model(L=4, D=192, N=3, T=128, bias=False, activation='relu'),
    optim=config.Optim(name='muon', lr=3e-3, final_lr=0.0, warmup=20),
  )
