"""GPT-1's fine-tuning on RTE, whether a text entails a sentence.

Claim: published, 56.0 (test, GLUE server) in accuracy. Source: Radford et al. 2018,
tables 2 to 4; hyper-parameters of section 4.1. Cost: of the original size a GPU; see
experiments/README.md for a small one on a CPU.

  python launch.py train --config=experiments/gpt1/finetune_rte.py \
    --config.init_from=WORKDIR_OR_FOLDER --config.task.data=FOLDER --workdir=runs/rte

FOLDER is GLUE's folder.
finetune_rte.py:VARIANT is an ablation or LoRA (`papers.gpt1_finetuning`).
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config(variant: str = '') -> config.Run:
  """Returns the config."""
  return papers.gpt1_finetuning('rte', variant)
