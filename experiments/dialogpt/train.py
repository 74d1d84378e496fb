"""DialoGPT in its three sizes, from GPT-2 or from scratch, forward and backward.

Claim: published for the 345M from GPT-2 on the 6k multi-reference test: NIST-4 3.06,
BLEU-4 4.56, METEOR 9.81, Entropy-4 9.13, Dist-2 26.3, by beams 3.50, 7.92, 10.74,
10.48, 48.74 (microsoft/DialoGPT, README). Source: Zhang et al. 2020, table 1 and
sections 3 and 4. Cost: 5 epochs of 147 million dialogues, 3 for the 762M; the paper had
16 V100. Not run here: it wants GPUs, and comments of Reddit (docs/dialogue.md).

  python launch.py train --config=experiments/dialogpt/train.py:345M \
    --workdir=runs/dialogpt --config.init_from=hf:gpt2-medium@REVISION \
    --config.data.source=train.tsv --config.data.valid=dev.tsv

Behind the size: `reverse` trains P(source | target), which ranks replies; `scratch`
begins with new weights and a byte-level BPE of the text, and takes no init_from. The
paper chose rates by the held-out loss; optim.lr is the release's number.
"""

from gpt_jax import config
from gpt_jax.config import UserError, papers


def get_config(variant: str = '345M') -> config.Run:
  """Returns the config of one of papers.DIALOGPT_SIZES, `reverse` or `scratch`."""
  size, *words = variant.split(',')
  if unknown := set(words) - {'reverse', 'scratch'}:
    raise UserError(
      f'train.py:{variant}: {", ".join(sorted(unknown))} must be reverse or scratch'
    )
  model = papers.dialogpt(size)
  model.dtype = 'bfloat16'
  return config.Run(
    steps=0,
    epochs=3.0 if size == '762M' else 5.0,
    batch=512,
    accumulate=8,
    log_every=100,
    eval_every=10_000,
    prompts=('Does money buy happiness?',),
    data=config.Data(
      source='',  # to be given
      tokenizer='byte_bpe',
      vocab=papers.GPT2_VOCAB,
      duplicates='drop',
      dialogues=128,
      reverse='reverse' in words,
    ),
    model=model,
    optim=config.Optim(
      name='adam_dialogpt',
      lr=1e-5,
      schedule='noam',
      warmup=16_000,
      beta2=0.999,
      eps=1e-6,
      weight_decay=0.01,
    ),
  )
