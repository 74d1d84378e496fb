"""One run of the scaling laws: bytes of novels, by a GPT as small as the sweep says.

Claim: none. Source: see scaling.py. Cost: as there.

  python launch.py train --config=experiments/sweeps/scaling_run.py \
    --config.data.source=FOLDER --workdir=runs/scaling_run

FOLDER holds novels as .txt files, one book each.
"""

from gpt_jax import config


def get_config() -> config.Run:
  """Returns the config; the sweep sets size and length."""
  return config.Run(
    steps=1000,
    batch=8,
    log_every=20,
    eval_every=10**6,  # at the end
    eval_batch=64,
    eval_tokens=200_000,
    keep=1,
    sample_tokens=0,
    data=config.Data(source='', split='documents', tokenizer='bytes'),
    model=config.Model(L=2, D=64, N=2, T=64, bias=False, activation='relu'),
    optim=config.Optim(
      name='muon', lr=1e-2, final_lr=0.0, schedule='linear', warmup=20
    ),
  )
