"""GPT-1's fine-tuning on STS-B, how similar two sentences are.

Claim: published, 82.0 (test, GLUE server) in Pearson's correlation. Source: Radford et
al. 2018, tables 2 to 4; hyper-parameters of section 4.1. Cost: of the original size a
GPU; see experiments/README.md for a small one on a CPU.

  python launch.py train --config=experiments/gpt1/finetune_stsb.py \
    --config.init_from=WORKDIR_OR_FOLDER --config.task.data=FOLDER --workdir=runs/stsb

FOLDER is GLUE's folder, or the benchmark's sts-*.csv.
finetune_stsb.py:VARIANT is an ablation or LoRA (`papers.gpt1_finetuning`).
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config(variant: str = '') -> config.Run:
  """Returns the config."""
  return papers.gpt1_finetuning('stsb', variant)
