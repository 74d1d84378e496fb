"""The models of the papers as functions, each with its table.

A function returns a `config.Model`, ready for an experiment's `get_config`. Sizes have
the names in use today; GPT-2's paper labels them 117M, 345M, 762M and 1542M, counts
that its authors corrected later (openai/gpt-2, README).
"""

from gpt_jax import config
from gpt_jax.config import UserError

GPT1_VOCAB = 40_478  # entries of the released BPE (openai/finetune-transformer-lm)
GPT2_VOCAB = 50_257  # 256 bytes, 50,000 merges, end-of-text (GPT-2, section 2.2)

# name: layers, width, heads. GPT-2, table 2; heads as in the released hparams.json.
_GPT2 = {
  '124M': (12, 768, 12),
  '355M': (24, 1024, 16),
  '774M': (36, 1280, 20),
  '1558M': (48, 1600, 25),
}
# name: layers, width, heads. GPT-3, table 2.1.
# Differs: in two misprints. The table gives XL 24 heads of 128, which is not its width
# of 2048; 16 heads are, and a width of 2048 gives table D.1's 1,320M parameters. It
# gives 13B a width of 5140, which is not 40 heads of 128; 5120 is, and gives table
# D.1's 12,850M parameters.
_GPT3 = {
  'Small': (12, 768, 12),
  'Medium': (24, 1024, 16),
  'Large': (24, 1536, 16),
  'XL': (24, 2048, 16),
  '2.7B': (32, 2560, 32),
  '6.7B': (32, 4096, 32),
  '13B': (40, 5120, 40),
  '175B': (96, 12288, 96),
}
# task: its first metric on test in per cent, with and without pre-training. GPT-1's
# paper, tables 2 to 4 (MNLI matched), and table 5, where MNLI has 81.8 with it.
_GPT1_FINE_TUNED = {
  'mnli': (82.1, 75.7),
  'snli': (89.9, None),
  'scitail': (88.3, None),
  'qnli': (88.1, 71.2),
  'rte': (56.0, 53.8),
  'storycloze': (86.5, None),
  'race': (59.0, None),
  'cola': (45.4, 18.9),
  'sst2': (91.3, 84.0),
  'mrpc': (82.3, 79.4),
  'stsb': (82.0, 30.9),
  'qqp': (70.3, 65.5),
}
# The 117M, 345M and 762M of DialoGPT are shapes of GPT-2 (Zhang et al. 2020, table 2).
_DIALOGPT = {'117M': '124M', '345M': '355M', '762M': '774M'}

GPT2_SIZES, GPT3_SIZES, DIALOGPT_SIZES = map(tuple, (_GPT2, _GPT3, _DIALOGPT))


def gpt1() -> config.Model:
  """Returns GPT-1 (Radford et al. 2018, section 4.1): 116,534,784 parameters.

  Post-norm without a last LayerNorm, no residual scaling at initialisation, dropout on
  the embedding matrices themselves (openai/finetune-transformer-lm, train.py).
  """
  return config.Model(
    L=12,
    D=768,
    N=12,
    T=512,
    vocab=GPT1_VOCAB,
    norm='post',
    scaled_init=False,
    dropout=0.1,
    dropout_wte=True,
  )


def gpt1_fine_tuned(task: str) -> dict[str, float]:
  """Returns the published results of GPT-1 on a task's test split, by model.

  The models are 'GPT-1' and 'GPT-1 without pre-training', the results the task's first
  metric, a share or a correlation (Radford et al. 2018, tables 2 to 5); what was not
  published is left out.
  """
  names = 'GPT-1', 'GPT-1 without pre-training'
  values = _GPT1_FINE_TUNED.get(task, (None, None))
  return {
    name: value / 100
    for name, value in zip(names, values, strict=True)
    if value is not None
  }


def gpt1_finetuning(task: str, variant: str = '') -> config.Run:
  """Returns GPT-1's fine-tuning on a task (Radford et al. 2018, section 4.1).

  Adam at 6.25e-5, 32 examples an update, 3 epochs, linear decay after a warm-up over
  0.2 % of the updates, dropout of 0.1, lambda of 0.5; clipping at 1 as in the release.

  Args:
    task: one of `tasks.labelled_table.TASKS`.
    variant: '' or an ablation of section 5: 'no_pretraining', 'no_aux', 'frozen' (only
      head and new embeddings are trained), 'layers=N' (N layers are transferred); or
      'lora'.

  Raises:
    UserError: there is no such variant.
  """
  run = config.Run(
    steps=0,
    batch=32,
    log_every=10,
    eval_every=10**6,  # an epoch at most
    keep=1,
    sample_tokens=0,
    model=gpt1(),
    optim=config.Optim(
      name='adam_gpt1',
      lr=6.25e-5,
      final_lr=0.0,
      schedule='linear',
      warmup=0,  # task.warmup says it
      beta2=0.999,
      weight_decay=0.01,
    ),
    task=config.Task(name=task),
  )
  name, number = variant, ''
  if variant.startswith('layers='):
    name, _, number = variant.partition('=')
  if name == 'no_pretraining':
    run.task.transfer = 'none'
  elif name == 'no_aux':
    run.task.aux = 0.0
  elif name in ('frozen', 'lora'):
    run.task.train = name
  elif name == 'layers':
    run.task.transfer = number
  elif variant:
    raise UserError(
      f'{variant!r} is no variant of fine-tuning; there are no_pretraining, no_aux, '
      'frozen, lora and layers=N'
    )
  return run


def gpt2(size: str = '124M') -> config.Model:
  """Returns a GPT-2 (Radford et al. 2019, section 2.3 and table 2).

  The paper gives no dropout rate; it is 0, as in the open reproductions.

  Args:
    size: one of GPT2_SIZES.
  """
  L, D, N = _one_of(_GPT2, size)
  return config.Model(L=L, D=D, N=N, T=1024, vocab=GPT2_VOCAB)


def gpt3(size: str = 'Small', banded: bool = True) -> config.Model:
  """Returns a GPT-3 (Brown et al. 2020, section 2.1 and table 2.1).

  Args:
    size: one of GPT3_SIZES.
    banded: whether dense and locally banded layers alternate, as in the paper, which
      gives neither the width of the band nor the order; False makes all layers dense,
      as in the open reproductions.
  """
  L, D, N = _one_of(_GPT3, size)
  attention = 'dense,banded' if banded else 'dense'
  return config.Model(L=L, D=D, N=N, T=2048, vocab=GPT2_VOCAB, attention=attention)


def dialogpt(size: str = '345M') -> config.Model:
  """Returns a DialoGPT (Zhang et al. 2020, section 3.1): GPT-2 with dropout 0.1.

  Args:
    size: one of DIALOGPT_SIZES.
  """
  model = gpt2(_one_of(_DIALOGPT, size))
  model.dropout = 0.1
  return model


def _one_of(table: dict, size: str):
  if size not in table:
    raise UserError(
      f'size {size!r} must be one of {", ".join(table)}.{config.nearest(size, table)}'
    )
  return table[size]
