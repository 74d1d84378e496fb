"""A small GPT-1, pre-trained on novels: the body that `finetune.py` starts from.

Claim: none published. Source: GPT-1 (Radford et al. 2018, section 4.1) with half its
layers and width on 82 books instead of 7,000; Muon and no dropout because of the few
updates. Cost: see experiments/README.md.

  python launch.py train --config=experiments/gpt1/novels.py \
    --config.data.source=FOLDER --workdir=runs/gpt1_novels
  python launch.py train --config=experiments/gpt1/novels.py:more \
    --config.data.source=FOLDER --config.init_from=runs/gpt1_novels \
    --workdir=runs/gpt1_more

FOLDER holds novels as .txt files, one book each. The second goes on with the weights of
the first and a lower rate.

Differs: GPT-1's BPE is of lower-cased words; this one is GPT-2's kind, of the books.
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config(length: str = '') -> config.Run:
  """Returns the config of the first updates, or of 'more'."""
  more = {'': False, 'more': True}[length]
  model = papers.gpt1()
  model.L, model.D, model.N, model.T, model.vocab = 6, 384, 6, 256, 0
  model.dropout, model.dropout_wte = 0.0, False
  optim = config.Optim(
    name='muon', lr=4e-3, final_lr=0.0, schedule='wsd', warmup=50, cooldown=300
  )
  if more:
    optim.lr, optim.schedule, optim.cooldown = 3e-3, 'linear', 0
  return config.Run(
    steps=3500 if more else 1200,
    batch=16,
    eval_every=250 if more else 100,
    eval_batch=16,
    eval_tokens=50_000,
    keep=30,  # for the curves of zero_shot.py
    prompts=('', 'It was a dark and stormy night', '"My dear,"'),
    data=config.Data(
      source='',  # to be given
      split='documents',
      tokenizer='byte_bpe',
      vocab=8192,
    ),
    model=model,
    optim=optim,
  )
