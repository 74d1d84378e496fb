"""GPT-3's pre-training in any of its sizes: tables 2.1 and appendix B.

Claim: published, none in nats; table D.1 has 2.25e20 FLOPs for Small and 3.14e23 for
175B, which `describe` finds again (it adds attention). Source: Brown et al. 2020,
section 2.1, table 2.1, appendices B and D. Cost: those FLOPs. Not run here.

  python launch.py describe --config=experiments/gpt3/pretrain.py:175B
  python launch.py train --config=experiments/gpt3/pretrain.py:Small \
    --workdir=runs/gpt3 --config.data.source=TEXT

Dense and banded layers alternate; `--config.model.attention=dense` switches it off.

The schedules are appendix B's, in tokens: the rate rises over the first 375 million,
falls by a cosine to a tenth at 260 billion and stays there to 300 billion. The batch
grows evenly from 32k tokens over the first 4 to 12 billion, in at most 8 sizes, as each
is a program to compile. Differs: which size grew over how many tokens was not
published; ours grow the longer, the larger the batch is (`_RAMPS`). And updates are
whole, so that the last one may pass 300 billion tokens by less than itself.
"""

from gpt_jax import config
from gpt_jax.config import papers

# Tokens of a batch and learning rate: table 2.1. 0.5M is 2**19, and so on.
_TRAINING = {
  'Small': (2**19, 6.0e-4),
  'Medium': (2**19, 3.0e-4),
  'Large': (2**19, 2.5e-4),
  'XL': (2**20, 2.0e-4),
  '2.7B': (2**20, 1.6e-4),
  '6.7B': (2**21, 1.2e-4),
  '13B': (2**21, 1.0e-4),
  '175B': (3_276_800, 0.6e-4),
}
# Tokens of a batch and those over which it grows: a choice within the published 4 to 12
# billion.
_RAMPS = {2**19: 4 * 10**9, 2**20: 6 * 10**9, 2**21: 9 * 10**9, 3_276_800: 12 * 10**9}


def get_config(size: str = 'Small') -> config.Run:
  """Returns the config of one of papers.GPT3_SIZES."""
  model = papers.gpt3(size)
  model.dtype = 'bfloat16'
  tokens, rate = _TRAINING[size]
  return config.Run(
    steps=0,
    tokens=300 * 10**9,
    batch=tokens // model.T,
    batch_start=2**15 // model.T,
    batch_ramp=_RAMPS[tokens],
    batch_stages=8,
    eval_every=1000,
    eval_tokens=1_000_000,
    data=config.Data(source='', tokenizer='byte_bpe', vocab=papers.GPT2_VOCAB),
    model=model,
    optim=config.Optim(
      lr=rate,
      final_lr=rate / 10,
      by='tokens',
      warmup=375 * 10**6,
      until=260 * 10**9,
    ),
  )
