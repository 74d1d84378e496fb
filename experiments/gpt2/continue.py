"""Continues a released GPT-2, or any model of a Hugging Face folder, on your own text.

Claim: none published; the recipe is our own, AdamW at a tenth of the rate of
pre-training and dropout as in the config.json of the released models. Source: Radford
et al. 2019 for the model. Cost: 66M tokens, 5e16 FLOPs for 124M. Not run here: the
weights are to be fetched.

  python launch.py train --config=experiments/gpt2/continue.py \
    --config.init_from=hf:gpt2@REVISION --config.data.source=TEXT --workdir=runs/mine

`init_from` may also be a folder, or a workdir that `launch.py import` made; shape and
tokenizer are those that are there. On a GPU --config.model.dtype=bfloat16 is faster.
The same command again resumes; `launch.py export` makes a Hugging Face folder of it.
"""

from gpt_jax import config


def get_config() -> config.Run:
  """Returns the config; data.source is left to the command line."""
  return config.Run(
    steps=2000,
    batch=32,
    accumulate=8,
    eval_every=200,
    eval_tokens=500_000,
    init_from='hf:gpt2',
    take_shape=True,
    data=config.Data(source=''),
    model=config.Model(dropout=0.1),
    optim=config.Optim(lr=6e-5, final_lr=6e-6, warmup=100),
  )
