"""A GPT-1 of 30M parameters, pre-trained on novels in three minutes of one GPU.

Claim: published of GPT-1, whose average over its tasks is 14.8 points lower without
pre-training (section 5): here too `finetune.py` from these weights is above
`finetune.py:TASK,no_pretraining`. Source: Radford et al. 2018, sections 4.1 and 5, with
two thirds of the layers and of the width, on 82 books instead of 7,000. Cost: an update
reads 32,768 of 16.0M tokens; `benchmarks/gpu.sh second` sets `steps` to what three
minutes allow, and fine-tunes. Not run here: it wants a GPU.

  python launch.py train --config=experiments/gpt1/minutes.py --workdir=runs/minutes \
    --config.data.source=FOLDER --config.steps=N

FOLDER holds novels as .txt files, one book each.

Differs: GPT-1's BPE is of lower-cased words; this one is GPT-2's kind, of the books.
Muon and a rate that falls from the first update on, because of the few updates.
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config() -> config.Run:
  """Returns the config."""
  model = papers.gpt1()
  model.L, model.D, model.N, model.vocab = 8, 512, 8, 0
  model.dtype = 'bfloat16'
  return config.Run(
    steps=3000,
    batch=64,
    log_every=50,
    eval_every=250,
    eval_batch=64,
    eval_tokens=200_000,
    sample_tokens=64,
    prompts=('', 'It was a dark and stormy night'),
    data=config.Data(
      source='',  # to be given
      split='documents',
      tokenizer='byte_bpe',
      vocab=8192,
    ),
    model=model,
    optim=config.Optim(
      name='muon', lr=4e-3, final_lr=0.0, schedule='linear', warmup=100
    ),
  )
