"""GPT-3's pre-training in any of its sizes: tables 2.1 and appendix B.

Claim: published, none in nats; table D.1 has 2.25e20 FLOPs for Small and 3.14e23 for
175B, which `describe` finds again (it adds attention). Source: Brown et al. 2020,
section 2.1, table 2.1, appendices B and D. Cost: those FLOPs. Not run here.

  python launch.py describe --config=experiments/gpt3/pretrain.py:175B
  python launch.py train --config=experiments/gpt3/pretrain.py:Small \
    --workdir=runs/gpt3 --config.data.source=TEXT

Dense and banded layers alternate; `--config.model.attention=dense` switches it off.

The batch grows from 32k tokens (appendix B), here over the first 4 billion; GPT-3's
took 4 to 12, by size, and which took how many was not published. Differs: the cosine
falls to a tenth over all 300 billion tokens, not over the first 260.
"""

from gpt_jax import config
from gpt_jax.config import papers
from gpt_jax.data import windows

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


def get_config(size: str = 'Small') -> config.Run:
  """Returns the config of one of papers.GPT3_SIZES."""
  model = papers.gpt3(size)
  model.dtype = 'bfloat16'
  tokens, rate = _TRAINING[size]
  batch, start, ramp = tokens // model.T, 2**15 // model.T, 4_000_000_000
  last = windows.stages(batch, start, ramp, model.T)[-1]
  return config.Run(
    steps=last.update + round((300e9 / model.T - last.row) / batch),
    batch=batch,
    batch_start=start,
    batch_ramp=ramp,
    eval_every=1000,
    eval_tokens=1_000_000,
    data=config.Data(source='', tokenizer='byte_bpe', vocab=papers.GPT2_VOCAB),
    model=model,
    optim=config.Optim(lr=rate, final_lr=rate / 10, warmup=round(375e6 / tokens)),
  )
