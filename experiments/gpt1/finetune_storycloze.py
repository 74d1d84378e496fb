"""GPT-1's fine-tuning on Story Cloze, the right end of a story.

Claim: published, 86.5 in accuracy (test); 85.8, the median of 10 runs, in the release.
Source: Radford et al. 2018, tables 2 to 4; hyper-parameters of section 4.1. Cost: of
the original size a GPU; see experiments/README.md for a small one on a CPU.

  python launch.py train --config=experiments/gpt1/finetune_storycloze.py \
    --config.init_from=WORKDIR_OR_FOLDER --config.task.data=FOLDER \
    --workdir=runs/storycloze

FOLDER is the spring 2016 files.
finetune_storycloze.py:VARIANT is an ablation or LoRA (`papers.gpt1_finetuning`).
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config(variant: str = '') -> config.Run:
  """Returns the config."""
  return papers.gpt1_finetuning('storycloze', variant)
