"""The rules of a config: `check` lists every rule that a run breaks, at once."""

import copy
import dataclasses
import decimal
import math
from collections.abc import Mapping
from typing import Any

from gpt_jax.config.length import resolved, tokens_read
from gpt_jax.config.mixture import wrong_mixture
from gpt_jax.config.schema import (
  TRAINED,
  Data,
  Model,
  Optim,
  Run,
  UserError,
)
from gpt_jax.config.values import fields, flat, from_flat, nearest

# Optimizers whose rate for a wider model is known (training/optim.py, `_kernel_rate`).
_MUP_OPTIMIZERS = 'adamw', 'adam_gpt1', 'adam_dialogpt', 'muon'
_MOST_PARAMETERS = 10**14  # no machine holds more
_MOST_LAYERS = 10**5  # each is a part of the program
LARGEST = 2**63  # whole numbers are smaller, so that numpy can hold them


def _multiples(number: int, unit: int) -> str:
  """Returns the multiples of `unit` next to `number`, in words."""
  near = {number // unit * unit, -(-number // unit) * unit} - {0}
  return ' or '.join(map(str, sorted(near)))


def check(config: Run, devices: int = 1) -> None:
  """Raises one UserError that lists every rule the config breaks.

  Args:
    devices: the parts that the rows of a batch are divided into, each on devices of
      its own.
  """
  if not isinstance(config, Run):
    raise UserError(f'get_config() returned {type(config).__name__}, not config.Run')
  wrong = _no_fields(config)
  wrong += [rule for each in fields(config) if (rule := _wrong_type(*each))]
  if wrong:  # rules compare numbers, and would fail
    raise UserError('\n'.join(wrong))
  wrong = [rule for each in fields(config) if (rule := _wrong_value(*each))]
  wrong += (
    _wrong_data(config.data) + _wrong_exams(config) + _wrong_sampling(config.data)
  )
  wrong += wrong_mixture(config.data) + _wrong_dialogues(config)
  wrong += _wrong_model(config.model, config.optim) + _wrong_batches(config, devices)
  wrong += _wrong_length(config) + _wrong_schedule(config) + _wrong_task(config)
  if wrong:
    raise UserError('\n'.join(wrong))


def check_early(config: Run) -> None:
  """Checks what can be before data and source are read.

  They tell a fine-tuning its layers, and where steps=0 its updates.
  """
  early = copy.deepcopy(config)
  if config.is_finetuning:
    early.steps = config.steps or 1
    if str(config.task.transfer).isdigit():
      early.model.L = max(early.model.L, int(config.task.transfer))
  check(early)


def _no_fields(section: Any, prefix: str = '') -> list[str]:
  """Returns which attributes were set that are no fields, and so change nothing."""
  names = [each.name for each in dataclasses.fields(section)]
  wrong = []
  for name, value in vars(section).items():
    if name not in names:
      near = nearest(name, names)
      wrong.append(f'there is no {prefix}{name}, which is set to {value!r}.{near}')
    elif dataclasses.is_dataclass(value):
      wrong += _no_fields(value, f'{prefix}{name}.')
  return wrong


def _wrong_type(name: str, declared: dataclasses.Field, value: Any) -> str:
  """Returns how a value is not of its field's type, or ''."""
  usual = declared.default
  if isinstance(usual, tuple):
    texts = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    if not texts:
      return f'{name}={value!r:.80} must be a tuple of texts, like ("a", "b")'
    return ''
  kinds = (int, float) if isinstance(usual, float) else type(usual)
  if isinstance(usual, bool) == isinstance(value, bool) and isinstance(value, kinds):
    return ''
  return f'{name}={value!r:.80} must be of type {type(usual).__name__}'


def _wrong_value(name: str, declared: dataclasses.Field, value: Any) -> str:
  """Returns how a value is not among its field's choices or in its range, or ''."""
  choices, low, below = map(declared.metadata.get, ('choices', 'low', 'below'))
  if isinstance(value, int) and abs(value) >= LARGEST:
    return f'{name} must be smaller than 2^63'
  if choices and value not in choices:
    return f'{name}={value!r:.80} must be one of {", ".join(choices)}'
  if low is None or (low <= value and (below is None or value < below)):
    return ''
  if math.isnan(value):
    return f'{name}={value} must be a number'
  if below is not None:
    return f'{name}={value} must be in [{low}, {below})'
  return f'{name}={value} must ' + (f'be at least {low}' if low else 'not be negative')


def _wrong_data(data: Data) -> list[str]:
  """Returns the rules that are broken about the text and its tokenizer."""
  wrong = []
  if not 0 < data.holdout < 1 and not data.valid:
    wrong.append(
      f'data.holdout={data.holdout} must be in (0, 1), or name the held-out '
      'text in data.valid'
    )
  addresses = f'{data.source},{data.valid},{data.mixture}'.count('://')
  if addresses != len([s for s in data.sha256.split(',') if s.strip()]):
    wrong.append(
      f'data.sha256={data.sha256!r} must name one checksum for each web address '
      f'in data.source, data.valid and data.mixture, in their order; there are '
      f'{addresses} (for '
      'files on this machine alone: --config.data.sha256=)'
    )
  name = data.tokenizer
  if name not in TRAINED and not set(name) & set('./'):
    wrong.append(
      f'data.tokenizer={name!r} must be one of {", ".join(TRAINED)}, or a path, '
      f'with a / or a dot in it.{nearest(name, TRAINED)}'
    )
  return wrong


def _wrong_sampling(data: Data) -> list[str]:
  """Returns the rule that is broken about drawing pieces, or nothing."""
  name = data.tokenizer
  if not data.sampling or name in ('bpe', 'unigram'):
    return []
  return [
    f'data.sampling={data.sampling} must be 0 for data.tokenizer={name}: only '
    'bpe and unigram, trained here, draw their pieces'
  ]


def _wrong_dialogues(config: Run) -> list[str]:
  """Returns the rules that are broken about dialogues."""
  data = config.data
  if not data.dialogues:
    return [
      'data.reverse=True must come with data.dialogues, the tokens beyond which a '
      'dialogue is divided, such as 128: texts have no turns'
    ] * data.reverse
  # What is read of texts alone, or counts tokens of rows that are all of one length.
  texts = {'mixture', 'errors', 'field', 'bad_lines', 'separator', 'sampling'}
  texts |= {'windows', 'split'}
  others = {'tokens', 'batch_start', 'model.documents', 'optim.by'}
  wrong = {f'data.{name}' for name in texts} | others
  usual = flat(Run())
  return [
    f'{name}={value!r} must be {usual[name]!r} with data.dialogues, whose rows are '
    'examples of any length'
    for name, value in flat(config).items()
    if name in wrong and value != usual[name]
  ]


def _wrong_model(m: Model, o: Optim) -> list[str]:
  """Returns the rules that are broken about the model."""
  wrong = _wrong_size(m)
  if set(m.attention.split(',')) - {'dense', 'banded'}:
    wrong.append(
      f"model.attention={m.attention!r} must be 'dense', 'banded' or a comma-separated "
      "pattern of the two, which the layers repeat, like 'dense,banded'"
    )
  if min(m.D, m.N) >= 1 and m.D % m.N:
    wrong.append(
      f'model.D={m.D} must be a multiple of model.N={m.N} (D = N * H); '
      f'use {_multiples(m.D, m.N)}'
    )
  if m.mup_base and o.name not in _MUP_OPTIMIZERS:
    wrong.append(
      f'optim.name={o.name!r} must be one of {", ".join(_MUP_OPTIMIZERS)} with '
      f'model.mup_base={m.mup_base}: how its rate changes with the width is not known '
      'here; choose one of them, or model.mup_base=0'
    )
  part = m.mup_base_N or m.D // max(m.N, 1)
  if m.mup_base_N and not m.mup_base:
    wrong.append(
      f'model.mup_base_N={m.mup_base_N} must come with model.mup_base, the width that '
      'has so many heads'
    )
  elif part > 0 and m.mup_base % part:
    heads = (
      f'model.mup_base_N={part}' if m.mup_base_N else f'the size of a head, {part}'
    )
    wrong.append(
      f'model.mup_base={m.mup_base} must be a multiple of {heads}; with heads of '
      'another size at that width, give their number there as model.mup_base_N'
    )
  return wrong


def _wrong_size(m: Model) -> list[str]:
  """Returns the rules that are broken about the size of a model."""
  wrong = []
  if m.L > _MOST_LAYERS:
    wrong.append(
      f'model.L={m.L} must be at most {_MOST_LAYERS:,}: each layer is a part of the '
      'program'
    )
  matrices = m.L * (4 * m.D**2 + 2 * m.D * (m.F or 4 * m.D))
  number = matrices + (m.vocab * (1 if m.tied else 2) + m.T) * m.D
  if number > _MOST_PARAMETERS:
    wrong.append(
      f'model: L={m.L}, D={m.D}, F={m.F}, T={m.T} and vocab={m.vocab} make '
      f'{decimal.Decimal(number):.1e} parameters, which must be at most 1e14, 400 TB; '
      'lower one of them'
    )
  return wrong


def wrong_model(m: Model, names: Mapping[str, str]) -> list[str]:
  """Returns how fields of a model are of another type, or out of range; and its size.

  Args:
    names: of fields where they were read, for errors.
  """
  wrong = [
    _wrong_type(shown, declared, value) or _wrong_value(shown, declared, value)
    for name, declared, value in fields(m)
    for shown in [names.get(name, f'model.{name}')]
  ]
  return [rule for rule in wrong if rule] or _wrong_size(m)


def recorded(values: Mapping[str, Any], where: str, remedy: str) -> Run:
  """Returns the run that a file has by dotted names; others have their defaults.

  Args:
    where: names the file in an error.
    remedy: what to do about it, for the error.

  Raises:
    UserError: a field is unknown, of another type or out of range.
  """
  known = flat(Run())
  wrong = [
    f'there is no field {name!r:.80} in a config.{nearest(name, known)}'
    for name in values
    if name not in known
  ]
  for name, value in values.items() if not wrong else ():
    if isinstance(known[name], tuple) and not isinstance(value, list | tuple):
      wrong.append(f'{name} is {type(value).__name__}, not a list of texts')
  if not wrong:
    run = from_flat(dict(values))
    rules = (_wrong_type(*each) or _wrong_value(*each) for each in fields(run))
    wrong = [rule for rule in rules if rule] or _wrong_size(run.model)
  if wrong:
    raise UserError(f'{where} is damaged: {"; ".join(wrong[:3])}; {remedy}')
  return run


def _wrong_batches(config: Run, devices: int) -> list[str]:
  """Returns the rules that are broken about the rows of an update."""
  wrong = []
  rows = config.accumulate * devices
  for name in ('batch', 'batch_start') if config.batch_start else ('batch',):
    number = getattr(config, name)
    if min(number, rows) >= 1 and number % rows:
      wrong.append(
        f'{name}={number} must be a multiple of accumulate * devices = '
        f'{config.accumulate} * {devices}; use {_multiples(number, rows)}, or choose '
        'fewer devices with --config.devices'
      )
  if bool(config.batch_start) != bool(config.batch_ramp):
    wrong.append(
      f'batch_start={config.batch_start} and batch_ramp={config.batch_ramp} belong '
      'together: set both, or neither'
    )
  elif config.batch_start and config.batch % config.batch_start:
    wrong.append(
      f'batch={config.batch} must be a multiple of batch_start={config.batch_start}, '
      'by which it grows'
    )
  if config.batch_stages == 1 and config.batch > config.batch_start > 0:
    wrong.append(
      'batch_stages=1 must be at least 2, as updates grow from '
      f'batch_start={config.batch_start} to batch={config.batch} rows'
    )
  if config.loss_chunk and config.model.T % config.loss_chunk:
    wrong.append(f'loss_chunk={config.loss_chunk} must divide model.T={config.model.T}')
  return wrong


def _wrong_length(config: Run) -> list[str]:
  """Returns the rule that is broken about how long a run is, or nothing."""
  given = [n for n in ('steps', 'tokens', 'epochs') if getattr(config, n) > 0]
  if given == ['epochs'] and config.data.mixture:
    return [
      f'epochs={config.epochs} of data.mixture: its sources have epochs of their own; '
      'say the length by --config.tokens= or --config.steps='
    ]
  if len(given) == 1:
    return []
  if not given:
    return [
      f'steps={config.steps} must be at least 1; 0 needs another length of the run, '
      '--config.tokens= or --config.epochs='
    ]
  values = ' and '.join(f'{name}={getattr(config, name)}' for name in given)
  return [
    f'{values} each say how long the run is: leave one, and set the others to 0, like '
    f'--config.{given[0]}=0'
  ]


def _wrong_schedule(config: Run) -> list[str]:
  """Returns the rules that are broken about the learning rate's schedule.

  Nothing is said of a run whose steps are not known yet.
  """
  o, wrong = config.optim, []
  sizes = config.batch, config.batch_start or config.batch, config.model.T
  if (o.by == 'tokens' or config.tokens) and min(sizes) < 1:
    return []  # another rule's
  steps, unit = resolved(config).steps, 'steps'
  if o.by == 'tokens' and steps:
    steps, unit = tokens_read(config, steps), f'the tokens of {steps} updates'
  if o.schedule == 'noam' and o.by == 'tokens':
    wrong.append(
      "optim.by='tokens' must be 'updates' for the noam schedule, whose height is set "
      'by the updates of the warm-up; rsqrt has the same shape'
    )
  if o.final_lr > o.lr and o.schedule in ('cosine', 'linear', 'wsd'):
    wrong.append(f'optim.final_lr={o.final_lr} must not exceed optim.lr={o.lr}')
  if o.until and o.schedule not in ('cosine', 'linear'):
    wrong.append(
      f'optim.until={o.until} must be 0 for the {o.schedule} schedule: only cosine and '
      'linear have an end of their own'
    )
  if 0 < o.until < o.warmup:
    wrong.append(
      f'optim.until={o.until} must be at least optim.warmup={o.warmup}: both count '
      "from the run's start"
    )
  if not steps:
    return wrong
  if o.schedule != 'constant' and o.warmup > steps:
    wrong.append(
      f'optim.warmup={o.warmup} must not exceed {unit}={steps} (schedule '
      f'{o.schedule}); lower it with --config.optim.warmup'
    )
  if o.schedule == 'wsd' and not 1 <= o.cooldown <= steps - o.warmup:
    wrong.append(
      f'optim.cooldown={o.cooldown} must be in 1..{unit} - warmup = '
      f'{steps - o.warmup} for the wsd schedule'
    )
  return wrong


def _wrong_exams(config: Run) -> list[str]:
  """Returns the rules that a run breaks about the tasks it answers in training."""
  e, wrong = config.exams, []
  if not e.tasks:
    return wrong
  if config.is_finetuning:
    wrong.append(
      f"exams.tasks={e.tasks!r} must be '' for the fine-tuning of {config.task.name}: "
      'only language models answer tasks untrained'
    )
  if not e.data:
    wrong.append(
      "exams.data='' must name the folder of the folders of tasks: --config.exams.data="
    )
  if not all(shots.isdecimal() for shots in e.shots.split(',')):
    wrong.append(f'exams.shots={e.shots!r} must be numbers: 0,1,16')
  if e.every % config.eval_every:
    near = _multiples(e.every, config.eval_every)
    wrong.append(
      f'exams.every={e.every} must be a multiple of eval_every={config.eval_every}: '
      f'{near}'
    )
  return wrong


def _wrong_task(config: Run) -> list[str]:
  """Returns the rules that a run breaks about fine-tuning."""
  t, wrong = config.task, []
  if not t.name:
    if config.seeds > 1:
      wrong.append(
        f'seeds={config.seeds} must be 1 without a task: only fine-tuning trains '
        'several; start one run for each seed'
      )
    if config.take_shape and not config.init_from:
      wrong.append(
        "init_from='' must name a workdir or a folder of Hugging Face's with "
        'take_shape=True, which takes the shape of its model: --config.init_from='
      )
    return wrong
  if not config.init_from:
    wrong.append(
      "init_from='' must name a workdir or a folder of Hugging Face's, whose tokenizer "
      'and shape a fine-tuned model has, and whose weights unless task.transfer=none'
    )
  if not t.data:
    wrong.append(
      f"task.data='' must name the folder with the files of {t.name}, or its data set: "
      '--config.task.data=FOLDER or hf:NAME:CONFIG@REVISION'
    )
  if 'context' in config.layout:
    wrong.append(
      f'layout={config.layout!r} must have no context with a task, whose texts are of '
      'any length; use data, fsdp and tensor'
    )
  layers = config.model.L
  if t.transfer not in ('all', 'none') and not (
    t.transfer.isdigit() and int(t.transfer) <= layers
  ):
    wrong.append(
      f"task.transfer={t.transfer!r} must be 'all', 'none' or a number of layers up to "
      f'{layers}'
    )
  elif t.transfer != 'all' and t.train != 'full':
    wrong.append(
      f"task.transfer={t.transfer!r} must be 'all' with task.train={t.train}, which "
      'leaves the body as it is'
    )
  if t.train == 'lora' and config.model.scan:
    wrong.append(
      'model.scan=True must be False with task.train=lora, whose changes a loop over '
      'layers does not have'
    )
  if config.optim.warmup:
    wrong.append(
      f'optim.warmup={config.optim.warmup} must be 0 with a task: task.warmup, a share '
      'of the updates, says it'
    )
  for name, declared, value in fields(config):
    off = declared.default
    if value != off and not declared.metadata.get('tasks', True):
      wrong.append(f'{name}={value!r} must be {off!r} while a task is trained')
  return wrong
