"""GPT-2's pre-training in any of its sizes, by nanoGPT's recipe.

Claim: published for 124M on OpenWebText, about 2.85 nats/token of held-out text after
600,000 updates of 0.5M tokens (nanoGPT's README; the paper gives neither optimizer nor
schedule). Source: Radford et al. 2019, table 2; karpathy/nanoGPT. Cost: 2.5e20 FLOPs
for 124M. Not run here: it wants GPUs.

  python launch.py train --config=experiments/gpt2/pretrain.py:124M \
    --workdir=runs/gpt2 --config.data.source=TEXT --config.data.tokenizer=./gpt2

./gpt2 has GPT-2's vocabulary; without it a byte-level BPE of its size is trained on the
text. It takes as many rows at a time as a GPU of 80 GB has room for, by
`train --dry_run --on=h100`; on eight of them --config.accumulate=2 gives each as many.
"""

from gpt_jax import config
from gpt_jax.config import papers

# Updates of 480 rows: how many of them at a time.
_ROWS = {'124M': 32, '355M': 16, '774M': 8, '1558M': 8}


def get_config(size: str = '124M') -> config.Run:
  """Returns the config of one of papers.GPT2_SIZES."""
  model = papers.gpt2(size)
  model.bias = False
  model.dtype = 'bfloat16'
  if size == '1558M':
    model.remat = 'block'
  return config.Run(
    steps=600_000,
    batch=480,
    accumulate=480 // _ROWS[size],
    eval_every=1000,
    eval_tokens=1_000_000,
    data=config.Data(
      source='', tokenizer='byte_bpe', vocab=papers.GPT2_VOCAB, windows='random'
    ),
    model=model,
    optim=config.Optim(lr=6e-4, final_lr=6e-5, warmup=2000),
  )
