"""The fields of a run's config, and what is known about each.

An experiment is a Python file whose `get_config()` returns a `Run`. Every field can be
set on the command line: `--config.optim.lr=3e-4`. Where a number can be switched off,
0 means off; an empty string means "not given".
"""

import dataclasses

from gpt_jax.config.setting import setting


class UserError(ValueError):
  """An error that the user can fix: the message says what, by which rule, and how.

  `launch.py` prints it without a traceback; any other exception is a bug of ours.
  """


TRAINED = 'bpe', 'unigram', 'byte_bpe', 'chars', 'bytes'  # tokenizers trained here


@dataclasses.dataclass
class Data:
  """Where the text comes from and how it becomes tokens.

  Attributes:
    source: 'python:docs' (the documentation that comes with Python) or a
      comma-separated list of files, folders, globs, https:// addresses and hf:NAME
      (see data/sources.py): .txt, .jsonl, .parquet, compressed or not.
    sha256: checksums of the files behind https:// sources, comma-separated, in their
      order; required for them.
    valid: sources of the held-out text; empty: `holdout` is split off `source`.
    holdout: share of the text that is held out, in (0, 1).
    split: 'documents' holds out whole documents, evenly spread; 'position' the end
      of every document; 'auto' is 'documents' from 10 documents on, else 'position'.
    errors: at invalid UTF-8, 'strict' stops; 'replace' reads U+FFFD instead.
    field: key of a JSON line, or column of a table, that holds the text.
    bad_lines: at a JSON line without that text, 'stop'; or 'skip' it, and count.
    separator: text between the documents of a .txt, such as '<|endoftext|>'; empty: a
      file is one document.
    duplicates: 'keep' counts documents that are equal or nearly equal; 'drop' leaves
      out all but the first, and training documents that data.valid has too.
    tokenizer: 'bpe' or 'unigram' (SentencePiece) or 'byte_bpe' (GPT-2's kind), trained
      on the training text; 'chars'; 'bytes'; or a path: a SentencePiece .model, a
      tokenizer.json, or a folder with GPT-1's or GPT-2's vocabulary.
    vocab: size of a tokenizer trained here, special tokens included.
    sampling: how 'bpe' and 'unigram' split the training text: 0 takes the best pieces,
      above 0 samples them: BPE drops merges at this rate, unigram samples by
      probability to this power.
    cleaning: of text before GPT-1's BPE: 'release' (needs ftfy and spaCy), 'basic', or
      'auto': 'release' where those are installed.
    processes: that encode text; 0 means one for each core.
    tokens: a folder that `launch.py prepare` filled; empty: the workdir itself.
    windows: 'epochs' visits every window of T tokens once an epoch, shuffled;
      'random' draws windows at random offsets, as nanoGPT does.
    mixture: sources to draw from instead of `source`, 'NAME=SOURCE; NAME=SOURCE'.
    weights: shares of the training rows, 'NAME=60, NAME=40; 5000: NAME=1': from update
      5000 on others. They are divided by their sum; '': all alike.
    dialogues: above 0, `source` and `valid` are files of dialogues, a row is one
      example of them, and a dialogue of more tokens is several (the release of DialoGPT
      has 128; tasks/dialogues.py); 0: they are texts.
    reverse: whether dialogues are read from the last turn to the first, for a model of
      P(source | target) (DialoGPT, section 3.2).
  """

  source: str = setting('python:docs', role='place')
  sha256: str = ''
  valid: str = setting('', role='place')
  holdout: float = 0.1
  split: str = setting('auto', choices=('auto', 'documents', 'position'))
  errors: str = setting('strict', choices=('strict', 'replace'))
  field: str = 'text'
  bad_lines: str = setting('stop', choices=('stop', 'skip'))
  separator: str = ''
  duplicates: str = setting('keep', choices=('keep', 'drop'))
  tokenizer: str = 'bpe'
  vocab: int = setting(4096, low=1)
  sampling: float = setting(0.0, low=0, below=1)
  cleaning: str = setting('auto', choices=('auto', 'release', 'basic'))
  processes: int = setting(0, low=0, role='execution')
  tokens: str = setting('', role='place')
  windows: str = setting('epochs', choices=('epochs', 'random'), role='training')
  mixture: str = setting('', role='place length', tasks=False)
  weights: str = setting('', role='length', tasks=False)
  dialogues: int = setting(0, low=0, tasks=False)
  reverse: bool = setting(False, tasks=False)


@dataclasses.dataclass
class Model:
  """The model; letters as in docs/design.md.

  Attributes:
    L: layers.
    D: width of the residual stream.
    N: attention heads; divides D.
    F: width of the MLP; 0 means 4 * D.
    T: context length in tokens.
    vocab: tokens that can be predicted; 0 means as many as the tokenizer has.
    norm: where a block has its LayerNorms: 'pre', before each branch, and one after
      the last block (GPT-2, GPT-3); 'post', after each sum, and none at the end
      (GPT-1).
    activation: 'gelu' (exact), 'gelu_tanh' (GPT-1, 2, 3) or 'relu'.
    attention: 'dense', 'banded', or a comma-separated pattern that the layers repeat:
      'dense,banded' alternates as in GPT-3 (section 2.1).
    band: positions that a banded layer sees, its own included. GPT-3's paper gives
      neither the width nor which layers are banded; 256 is GPT-Neo's.
    attention_scale: whether attention logits are divided by sqrt(H) (GPT-Neo: no).
    tied: whether the output matrix is `wte`.
    bias: whether linear layers and LayerNorms have biases (as in nanoGPT).
    qkv_bias: whether query, key and value have biases too, with `bias` (GPT-Neo: no).
    scaled_init: whether weights that write to the residual stream start smaller, by
      1 / sqrt(2 L) (GPT-2, section 2.3; GPT-1: no).
    dropout: rate on embeddings, attention weights and residual branches.
    dropout_wte: whether dropout of the embeddings acts on the entries of `wte` and
      `wpe`, for look-up and output alike (GPT-1's released code), not on their sum.
    dtype: of the computation, 'float32' or 'bfloat16'; parameters are float32.
    documents: 'joined', a token of a training or held-out window sees all before it,
      of other documents too (GPT-3, appendix B: "not masked in any special way");
      'apart', only its own document, whose positions begin at 0.
    remat: what the backward pass recomputes instead of keeping: 'none', 'attention'
      (the attention weights) or 'block' (all of a layer but its input).
    flash: 'auto' takes a flash attention where one can compute the model
      (model/kernels.py), which is printed; 'plain' never does.
    gradients: 'written' by hand, faster on a CPU; 'plain', autodiff's, which `jax.jvp`,
      Hessian-vector products and `jax.linearize` need.
    scan: whether training loops over the layers in compiled code: quicker to compile
      and, with remat, smaller; unrolled is faster. Parameters are the same.
    mup_base: width at which the hyper-parameters were tuned, for the maximal update
      parametrisation (docs/design.md), which carries them over to width D. 0: the
      standard parametrisation.
    mup_base_N: heads at that width; 0: as many as keep the size of a head.
  """

  L: int = setting(4, low=1)
  D: int = setting(128, low=1)
  N: int = setting(4, low=1)
  F: int = setting(0, low=0)
  T: int = setting(128, low=1)
  vocab: int = setting(0, low=0)
  norm: str = setting('pre', choices=('pre', 'post'))
  activation: str = setting('gelu_tanh', choices=('gelu', 'gelu_tanh', 'relu'))
  attention: str = 'dense'
  band: int = setting(256, low=1)
  attention_scale: bool = True
  tied: bool = True
  bias: bool = True
  qkv_bias: bool = True
  scaled_init: bool = setting(True, role='start')
  dropout: float = setting(0.0, low=0, below=1, role='number')
  dropout_wte: bool = setting(False, role='training')
  dtype: str = setting('float32', choices=('float32', 'bfloat16'), role='training')
  documents: str = setting(
    'joined', choices=('joined', 'apart'), role='training', tasks=False
  )
  remat: str = setting('none', choices=('none', 'attention', 'block'), role='execution')
  flash: str = setting('auto', choices=('auto', 'plain'), role='execution')
  gradients: str = setting('written', choices=('written', 'plain'), role='execution')
  scan: bool = setting(False, role='execution')
  mup_base: int = setting(0, low=0, tasks=False)
  mup_base_N: int = setting(0, low=0)


@dataclasses.dataclass
class Optim:
  """How gradients become updates.

  Attributes:
    name: 'adamw', 'adam_gpt1' and 'adam_dialogpt' (GPT-1's and DialoGPT's released
      code), 'muon' (for the kernels of linear layers; AdamW for the rest), 'adafactor',
      'lion' or 'sgd'; see `training.optim.transformation`.
    lr: highest learning rate; of 'noam' the number that DialoGPT's release calls so.
    final_lr: learning rate at the end of 'cosine', 'linear' and 'wsd'.
    schedule: after the warm-up: 'cosine', 'linear', 'rsqrt' (inverse square root of
      the update), 'noam' (the same, its height set by width and warm-up), 'constant',
      or 'wsd' (constant, then linear over `cooldown`).
    by: what warmup, until and cooldown count: 'updates', or the 'tokens' that updates
      have read, whatever their size (GPT-3, appendix B).
    warmup: updates, or tokens, of linear warm-up.
    until: from the run's start to where 'cosine' and 'linear' reach `final_lr`, which
      they keep; 0: to the run's end.
    cooldown: updates, or tokens, of the last phase of 'wsd'.
    muon_momentum: Muon's Nesterov momentum.
    beta1, beta2, eps: of Adam; Lion has the first two, Adafactor its own.
    weight_decay: decoupled, on weight matrices and embeddings only; SGD has none.
    clip: largest global norm of the gradient, of 'adam_dialogpt' largest norm of each
      tensor's; 0 means off.
    ema: decay per update of an exponential moving average of the weights, which is
      evaluated and loaded instead of them; 0 means off.
    guard: at a spike, a loss that is not finite or is `guard_sigmas` standard
      deviations above its running mean: 'off' does nothing; 'skip' leaves the update
      out; 'rollback' returns to the last checkpoint and continues with later data
      (PaLM, section 5.1).
    guard_sigmas: standard deviations that make a spike.
  """

  name: str = setting(
    'adamw',
    choices=(
      *('adamw', 'adam_gpt1', 'adam_dialogpt', 'muon', 'adafactor', 'lion', 'sgd'),
    ),
  )
  lr: float = setting(1e-3, low=0, role='number')
  final_lr: float = setting(1e-4, low=0, role='number')
  schedule: str = setting(
    'cosine', choices=('cosine', 'linear', 'rsqrt', 'noam', 'constant', 'wsd')
  )
  by: str = setting('updates', choices=('updates', 'tokens'), tasks=False)
  warmup: int = setting(100, low=0, role='number')
  until: int = setting(0, low=0, role='number', tasks=False)
  cooldown: int = setting(0, low=0, role='number')
  muon_momentum: float = setting(0.95, low=0, below=1, role='number')
  beta1: float = setting(0.9, low=0, below=1, role='number')
  beta2: float = setting(0.95, low=0, below=1, role='number')
  eps: float = setting(1e-8, low=0, role='number')
  weight_decay: float = setting(0.1, low=0, role='number')
  clip: float = setting(1.0, low=0, role='number')
  ema: float = setting(0.0, low=0, below=1, role='number')
  guard: str = setting('off', choices=('off', 'skip', 'rollback'))
  guard_sigmas: float = setting(6.0, low=0, role='number')


@dataclasses.dataclass
class Task:
  """A labelled task that a model is fine-tuned on (GPT-1, sections 3.2 and 3.3).

  Attributes:
    name: one of `tasks.labelled_table.TASKS`; empty: the run is language modelling.
    data: a folder with the files of the task's official distribution; or a Hugging Face
      data set, hf:NAME or hf:NAME:CONFIG, either with @REVISION behind it:
      hf:nyu-mll/glue:sst2@main; `tasks.labelled_table` has one for each task. hf:FOLDER
      opens one that `save_to_disk` wrote, without network.
    examples: training examples, drawn once from all; 0 means all.
    epochs: passes over them.
    warmup: share of the updates that are warm-up.
    aux: weight of the language-model loss beside the task's (lambda of section 3.2).
    dropout: rate before the head.
    transfer: what is taken from `init_from`: 'all', a number of layers (and the
      embeddings), or 'none', which trains a new model of the same shape.
    train: 'full'; 'frozen', only the head and the embeddings of the new tokens; or
      'lora', those and a low-rank change of every linear layer (Hu et al. 2021).
    rank: of that change.
    alpha: the change is scaled by alpha / rank.
    batches: 'length' fills batches with examples of about one length, which needs
      little padding; 'random' with any.
    together: seeds that train in one program; 0 means as many as fit into memory.
  """

  name: str = ''
  data: str = setting('', role='place')
  examples: int = setting(0, low=0)
  epochs: int = setting(3, low=1)
  warmup: float = setting(0.002, low=0, below=1)
  aux: float = setting(0.5, low=0)
  dropout: float = setting(0.1, low=0, below=1)
  transfer: str = 'all'
  train: str = setting('full', choices=('full', 'frozen', 'lora'))
  rank: int = setting(8, low=1)
  alpha: float = setting(16.0, low=0)
  batches: str = setting('length', choices=('length', 'random'))
  together: int = setting(0, low=0, role='execution')


@dataclasses.dataclass
class Exams:
  """Tasks that a model answers during training, without being trained on them.

  Attributes:
    tasks: comma-separated names from docs/tasks.md; empty: none.
    data: the folder that holds a folder for each task.
    shots: comma-separated numbers of solved examples before a question.
    limit: largest number of questions of a task; 0 means all.
    every: updates from one benchmark to the next, a multiple of `eval_every`; 0 means
      only at the end. There is always one after the last update.
  """

  tasks: str = setting('', role='logging')
  data: str = setting('', role='logging place')
  shots: str = setting('0', role='logging')
  limit: int = setting(200, low=0, role='logging')
  every: int = setting(0, low=0, role='logging')


@dataclasses.dataclass
class Run:
  """A training run.

  Attributes:
    seed: of initialisation, data order and dropout.
    seeds: how many runs a fine-tuning trains, with seeds from `seed` on.
    steps: optimizer updates; with a task, 0 means as many as `task.epochs` need; else
      as many as read `tokens`, or `epochs`, one of which must be given then.
    tokens: that a language model is trained on; needs steps=0.
    epochs: passes over the training tokens, for a language model; needs steps=0.
    batch: rows (windows of T tokens) per update, over all devices.
    batch_start: rows of the first updates; with `batch_ramp`, updates grow from them to
      `batch` rows, by so many at a time (GPT-3, section 2.3). 0 means no ramp.
    batch_ramp: tokens over which they grow, evenly.
    batch_stages: sizes of updates at most, each a program to compile: multiples of
      `batch_start`, evenly spread, each the one that is nearest to an even growth.
      0: all multiples, each when an even growth has reached it.
    accumulate: micro-batches that an update is split into.
    loss_chunk: positions of a row whose logits exist at a time, to save memory; 0 means
      all.
    devices: how many to use; 0 means all.
    layout: how they share the work: '', each a part of the rows; or a product of
      'data' (a part of the rows), 'fsdp' (a part of the rows, and of the parameters
      and optimizer state), 'tensor' (a part of each layer) and 'context' (a part of the
      tokens of each row), like 'data=2,fsdp=4'.
      One number may be left out.
    init_from: what to start from, its weights and its tokenizer: a workdir, whose best
      weights it is, a Hugging Face folder, or hf:NAME@REVISION. With a task the model's
      shape is that of `init_from`, and `model` sets only what training may choose.
    take_shape: whether that is so without a task too; else `model` must have the shape
      of `init_from`.
    log_every: updates between lines of metrics.
    eval_every: updates between evaluations on held-out text, each followed by
      samples and a checkpoint; with a task, at most an epoch. There is always one after
      the last update.
    eval_tokens: held-out tokens read by an evaluation during training; 0 means all.
    eval_batch: rows per device of an evaluation step.
    keep: latest checkpoints kept beside the best one.
    prompts: texts continued at each evaluation; '' starts a document.
    sample_tokens: new tokens of each of these continuations; 0 means no samples.
  """

  seed: int = setting(0, low=0, below=2**32, role='number')
  seeds: int = setting(1, low=1)
  steps: int = setting(1000, low=0, role='length')
  tokens: int = setting(0, low=0, role='length', tasks=False)
  epochs: float = setting(0.0, low=0, below=1e6, role='length', tasks=False)
  batch: int = setting(16, low=1)
  batch_start: int = setting(0, low=0)
  batch_ramp: int = setting(0, low=0)
  batch_stages: int = setting(0, low=0)
  accumulate: int = setting(1, low=1, role='execution')
  loss_chunk: int = setting(0, low=0, role='execution')
  devices: int = setting(0, low=0, role='execution')
  layout: str = setting('', role='execution')
  init_from: str = setting('', role='place')
  take_shape: bool = setting(False, tasks=False)
  log_every: int = setting(10, low=1, role='logging')
  eval_every: int = setting(250, low=1, role='logging')
  eval_tokens: int = setting(0, low=0, role='logging')
  eval_batch: int = setting(16, low=1, role='logging')
  keep: int = setting(2, low=1, role='logging')
  prompts: tuple[str, ...] = setting(('',), role='logging')
  sample_tokens: int = setting(64, low=0, role='logging')
  data: Data = dataclasses.field(default_factory=Data)
  model: Model = dataclasses.field(default_factory=Model)
  optim: Optim = dataclasses.field(default_factory=Optim)
  task: Task = dataclasses.field(default_factory=Task)
  exams: Exams = dataclasses.field(default_factory=Exams)

  @property
  def is_finetuning(self) -> bool:
    """Whether a labelled task is trained, and not a language model."""
    return bool(self.task.name)
