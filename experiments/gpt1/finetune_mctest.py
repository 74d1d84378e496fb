"""GPT-1's fine-tuning on MCTest, questions about stories, in RACE's form.

Claim: none published. Source: not in the paper; hyper-parameters of section 4.1. Cost:
of the original size a GPU; see experiments/README.md for a small one on a CPU.

  python launch.py train --config=experiments/gpt1/finetune_mctest.py \
    --config.init_from=WORKDIR_OR_FOLDER --config.task.data=FOLDER --workdir=runs/mctest

FOLDER is the folder of the 500 stories, with .tsv and .ans.
finetune_mctest.py:VARIANT is an ablation or LoRA (`papers.gpt1_finetuning`).
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config(variant: str = '') -> config.Run:
  """Returns the config."""
  return papers.gpt1_finetuning('mctest', variant)
