"""A small GPT on Russian stories for children.

Claim: none published; a first GPT in another language than English. Source: TinyStories
(Eldan and Li 2023) in Russian, 2,800 stories. Cost: see experiments/README.md.

  python launch.py train --config=experiments/ru/stories.py --workdir=runs/ru_stories \
    --config.data.source=FOLDER
  python launch.py sample --workdir=runs/ru_stories --prompt='Жила-была'

FOLDER holds .jsonl files with the field `story`.
"""

from gpt_jax import config


def get_config() -> config.Run:
  """Returns the config."""
  return config.Run(
    steps=700,
    batch=32,
    eval_every=100,
    eval_batch=32,
    prompts=('', 'Жила-была', 'Мама сказала: "'),
    data=config.Data(
      source='',  # to be given
      field='story',
      tokenizer='byte_bpe',
      vocab=4096,
    ),
    model=config.Model(L=4, D=192, N=3, T=128, bias=False, activation='relu'),
    optim=config.Optim(name='muon', lr=1e-2, final_lr=0.0, warmup=50),
  )
