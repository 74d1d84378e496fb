"""The tutorial's GPT: one small bilingual model, in minutes on a laptop.

Claim: none published; docs/tutorial.md shows what it learns. Source: none; its text is
made by experiments/tutorial/corpus.py, its recipe is the quickstart's. Cost: 271 CPU
seconds.

  python experiments/tutorial/corpus.py --target=runs/tutorial/corpus.jsonl
  python launch.py train --config=experiments/tutorial/model.py \
    --workdir=runs/tutorial/model

`model.py:FILE` is its fine-tuning on a small text of one's own, of which the last tenth
is held out; give the weights to start from with --config.init_from=runs/tutorial/model.
"""

from gpt_jax import config


def get_config(text: str = '') -> config.Run:
  """Returns the config, of training or of fine-tuning on the text in a file."""
  run = config.Run(
    steps=1000,
    batch=8,
    eval_every=200,
    eval_batch=32,
    sample_tokens=0,
    data=config.Data(
      source='runs/tutorial/corpus.jsonl', tokenizer='byte_bpe', vocab=1024
    ),
    model=config.Model(L=4, D=128, N=4, T=128, bias=False, activation='relu'),
    optim=config.Optim(name='muon', lr=1e-2, final_lr=0.0, warmup=50),
  )
  if text:
    run.steps, run.eval_every, run.optim.lr, run.optim.warmup = 60, 10, 2e-3, 5
    run.data.source = text
  return run
