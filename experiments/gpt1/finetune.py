"""GPT-1's fine-tuning on a labelled task, with its published hyper-parameters.

  python launch.py train --config=experiments/gpt1/finetune.py:TASK \
    --config.init_from=WORKDIR_OR_FOLDER --config.task.data=FOLDER --workdir=runs/TASK

finetune.py:TASK,VARIANT is an ablation, no_pretraining, no_aux, frozen or layers=N, or
lora (`papers.gpt1_finetuning`). Source: Radford et al. 2018, tables 2 to 4;
hyper-parameters of section 4.1; MCTest is not in the paper. Cost: of the original size
a GPU; see experiments/README.md for a small one on a CPU. The tasks, with what was
published and what FOLDER holds:

  cola: CoLA, whether a sentence is acceptable.
    Claim: published, 45.4 (test, GLUE server) in Matthews' correlation.
    Data: CoLA's or GLUE's folder.
  mctest: MCTest, questions about stories, in RACE's form.
    Claim: none published.
    Data: the folder of the 500 stories, with .tsv and .ans.
  mnli: MNLI, entailment over ten genres.
    Claim: published, 82.1 matched and 81.4 mismatched (test) in accuracy.
    Data: GLUE's folder.
  mrpc: MRPC, whether two sentences are paraphrases.
    Claim: published, 82.3 (test, GLUE server) in F1.
    Data: GLUE's folder, or Microsoft's files.
  qnli: QNLI, whether a sentence answers a question.
    Claim: published, 88.1 (test, GLUE server) in accuracy.
    Data: GLUE's folder.
  qqp: QQP, whether two questions ask the same.
    Claim: published, 70.3 (test, GLUE server) in F1.
    Data: GLUE's folder.
  race: RACE, English exams.
    Claim: published, 59.0 (test; 62.9 middle, 57.4 high) in accuracy.
    Data: RACE's folder, with train/ and dev/.
  rte: RTE, whether a text entails a sentence.
    Claim: published, 56.0 (test, GLUE server) in accuracy.
    Data: GLUE's folder.
  scitail: SciTail, entailment from science questions.
    Claim: published, 88.3 (test) in accuracy.
    Data: the folder of SciTail 1.1.
  snli: SNLI, entailment of captions.
    Claim: published, 89.9 (test) in accuracy.
    Data: the folder of SNLI 1.0.
  sst2: SST-2, sentiment of phrases and sentences.
    Claim: published, 91.3 (test, GLUE server) in accuracy.
    Data: GLUE's folder: train.tsv, dev.tsv.
  storycloze: Story Cloze, the right end of a story.
    Claim: published, 86.5 in accuracy (test); 85.8, the median of 10 runs, in the
      release.
    Data: the spring 2016 files.
  stsb: STS-B, how similar two sentences are.
    Claim: published, 82.0 (test, GLUE server) in Pearson's correlation.
    Data: GLUE's folder, or the benchmark's sts-*.csv.
"""

from gpt_jax import config
from gpt_jax.config import UserError, nearest, papers
from gpt_jax.tasks.labelled_table import TASKS


def get_config(argument: str = '') -> config.Run:
  """Returns the config of TASK or TASK,VARIANT."""
  task, _, variant = argument.partition(',')
  if task not in TASKS:
    raise UserError(
      f'finetune.py:{argument}: the task {task!r} must be one of {", ".join(TASKS)}, '
      f'as in finetune.py:sst2 or finetune.py:sst2,lora.{nearest(task, TASKS)}'
    )
  return papers.gpt1_finetuning(task, variant)
