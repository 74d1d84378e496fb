"""What evaluating and sampling would take of devices that are not there.

Nothing is loaded: the shapes of a model follow from its workdir's run.json.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch
from gpt_jax.evaluation import likelihood
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model import kernels
from gpt_jax.model.gpt import GPT
from gpt_jax.model.gpt_config import attention_kernel, decode_kernel
from gpt_jax.programs import absent
from gpt_jax.runs import load, on_paper
from gpt_jax.runs.on_paper import Memory, Program, TooLarge, size
from gpt_jax.runs.workdir import read_run
from gpt_jax.training.objective import LanguageModeling
from gpt_jax.training.sharding import Layout


def evaluation(workdir: str | pathlib.Path, on: str, weights: str = '') -> str:
  """Returns what batches of held-out text and of a benchmark take of devices.

  Args:
    on: the devices, as `absent.devices` takes them.
    weights: as in `LanguageModel.quantized`.
  """
  devices = absent.devices(on)
  run = read_run(workdir)
  model = _model(workdir, devices[0], weights)
  layout = Layout.of(config.Run(), devices)
  gpt = GPT(model.config, layout.execution(run.model))
  params = layout.placed(model.params)
  B, T = run.eval_batch * layout.parts, model.config.T
  ids = jax.ShapeDtypeStruct((B, T), np.int32)
  weights, row = ids.update(dtype=np.float32), ids.update(shape=(B,))
  first_BT = ids if run.model.documents == 'apart' else None
  rows = layout.batch_shapes(Batch(ids, ids, weights, row, first_BT))
  step = layout.eval_step(LanguageModeling.of(run, gpt), params)
  parameters = layout.bytes_each(params)
  here = [device for device in devices if not device.process_index]
  scored = likelihood.lowered(model.params, model.gpt, here)
  held = {'parameters': parameters, 'batch': layout.bytes_each(rows)}
  programs = [
    Program(
      f'held-out text, {B} rows of {T} tokens', step.lower(params, rows), held, B * T
    ),
    Program(
      f'a benchmark reads {scored.tokens:,} tokens of its prompts',
      scored.states,
      {'parameters': parameters},
      scored.tokens,
      rest='rows',
    ),
    Program(
      'it scores a quarter of them',
      scored.judged,
      {'parameters': parameters},
      scored.tokens,
      rest='states',
    ),
  ]
  kernel, why = attention_kernel(run.model, layout.devices)
  head = f'compiled for {len(devices)} x {devices[0].device_kind}, {layout}; not run'
  numbers = [len(devices), len(here), len(here)]
  return '\n'.join(
    [
      head,
      f'attention {kernel}: {why}',
      *_described(programs, numbers, on, devices[0], 'a smaller eval_batch'),
    ]
  )


def sampling(
  workdir: str | pathlib.Path,
  prompts: Sequence[str],
  settings: dict,
  on: str,
  weights: str = '',
) -> str:
  """Returns what continuing prompts takes of a device.

  Args:
    settings: of `GenerationConfig`.
    on: the device, as `absent.devices` takes it.
    weights: as in `LanguageModel.quantized`.
  """
  devices = absent.devices(on)
  if len(devices) > 1:
    raise UserError(
      f'--on={on} has {len(devices)} devices, and texts are continued on one; give one'
    )
  run, model = read_run(workdir), _model(workdir, devices[0], weights)
  layout = Layout((devices[0],))
  ids = [model.prompt_ids(prompt, bool(settings.get('special'))) for prompt in prompts]
  lowered = model.lowered(ids, layout.whole_shapes, **settings)
  held = {'parameters': layout.bytes_each(model.params)}
  longest = max(map(len, ids))
  of = {
    'prompt': (f'prompts, {{}} of {longest} tokens or fewer', longest, False),
    'tokens': ('one token of each of {} rows', 1, True),
    'search': ('one token of each of {} beam searches', 1, True),
  }
  programs = []
  for name, (each, rows) in lowered.items():
    what, tokens, turn = of[name]
    what, tokens = what.format(rows), tokens * rows
    rest = 'prompts' if name == 'prompt' else 'cache and texts'
    programs.append(Program(what, each, held, tokens, turn, rest))
  kernel, why = attention_kernel(run.model, devices)
  head = [
    f'compiled for {devices[0].device_kind}; not run',
    f'attention {kernel}: {why}, for the prompts',
    token_line(run.model, devices, weights),
  ]
  fewer = 'fewer prompts, or --max_new_tokens'
  numbers = [1] * len(programs)
  about = _described(programs, numbers, on, devices[0], fewer)
  return '\n'.join([*head, *about])


def token_line(
  model: config.Model, devices: Sequence[jax.Device], weights: str = ''
) -> str:
  """Returns how decoding reads a token, and why, as a line.

  Args:
    weights: as in `LanguageModel.quantized`.
  """
  form, why = decode_kernel(model, devices)
  line = f'a token   {form}: {why}'
  if weights:
    small, why = kernels.of_quantized(devices)
    line += f'; {weights} by {small}: {why}'
  return line


def _model(
  workdir: str | pathlib.Path, device: jax.Device, weights: str
) -> LanguageModel:
  model = load.shapes(workdir, device)

  def small(params):
    return dataclasses.replace(model, params=params).quantized(weights).params

  params = Layout((device,)).placed(jax.eval_shape(small, model.params))
  return dataclasses.replace(model, params=params)


def _described(
  programs: Sequence[Program],
  numbers: Sequence[int],
  on: str,
  device: jax.Device,
  change: str,
) -> list[str]:
  """Returns the lines about some programs, and whether all of them fit.

  Args:
    numbers: of devices that share each.
    change: the first to make where one does not fit.
  """
  limit, free = on_paper.room(on, device)
  lines, most = [], 0
  for program, number in zip(programs, numbers, strict=True):
    lines.append(f'{program.what}:')
    try:
      compiled = on_paper.compiled(program.lowered)
    except TooLarge as error:
      most = max(most, error.needed)
      lines.append(f'  memory    {size(error.needed)}: it was not compiled')
      continue
    memory = Memory.of(compiled)
    most = max(most, memory.total)
    about = [on_paper.memory_line(program, memory)]
    about += on_paper.lines(program, compiled, on, number)
    lines += [f'  {line}' for line in about]
  fits = f'in {free}' if most <= limit else f'not in {free}. First change: {change}'
  return [*lines, f'fits      {fits}']
