"""Published facts as functions: the models of the papers, each with its table.

A function returns a `config.Model`, ready for an experiment's `get_config`. Sizes go
by the names in use today; GPT-2's paper labels them 117M, 345M, 762M and 1542M, counts
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
# name: layers, width, heads. GPT-3, table 2.1, but for two misprints:
# XL has 24 heads of 128 there, which is not its width of 2048; 16 are, and table D.1's
# 1,320M parameters fit a width of 2048. 13B has a width of 5140 there, which 40 heads
# of 128 do not fill; 5120 does, and fits table D.1's 12,850M parameters.
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
# task: by its first metric in per cent on test, as published, and without pre-training.
# GPT-1, tables 2 to 4 (MNLI matched), and table 5, whose MNLI is 81.8 with it.
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

  Post-norm without a last LayerNorm, no residual scaling at the start, dropout on the
  embedding matrices themselves (openai/finetune-transformer-lm, train.py).
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
  """Returns what GPT-1 was published to reach on a task's test split, with its name.

  Shares and correlations, by the task's first metric (Radford et al. 2018, tables 2 to
  5), 'GPT-1' and 'GPT-1 without pre-training'; what was not published is left out.
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
      head and new embeddings), 'layers=N' (those transferred); or 'lora'.

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

  The paper gives no dropout; none is used, as in the open reproductions.

  Args:
    size: one of GPT2_SIZES.
  """
  L, D, N = _one_of(_GPT2, size)
  return config.Model(L=L, D=D, N=N, T=1024, vocab=GPT2_VOCAB)


def gpt3(size: str = 'Small', banded: bool = True) -> config.Model:
  """Returns a GPT-3 (Brown et al. 2020, section 2.1 and table 2.1).

  Args:
    size: one of GPT3_SIZES.
    banded: whether dense and locally banded layers alternate, as the paper says
      without the width of the band or the order; False makes all layers dense, as the
      open reproductions do.
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
