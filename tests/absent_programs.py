"""What XLA makes of small programs for absent devices, kept for the next run.

A row says what to compile, `facts` what came of it. A program whose StableHLO,
versions and flags are as before, and which is read as before, is not compiled again.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax import config, tokenizers
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import absent, collectives, hlo, roofline
from gpt_jax.runs import cost, dry_run, on_paper
from gpt_jax.training import sharding

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / '.pytest_cache/absent'
VOCAB = 500
# The calls of the kernels that `model/kernels.py` names.
TARGETS = {
  'cudnn': '__cudnn$fmha',
  'triton': '__gpu$xla.gpu.triton',
  'splash': 'tpu_custom_call',
  'mosaic': 'tpu_custom_call',
}


class Row(NamedTuple):
  """An update to compile.

  Attributes:
    on: devices, as `absent.devices` takes them.
    kernel: that is to be chosen for its attention.
    model: fields that differ from `run_of`'s.
    fields: of the run, likewise.
    whole: as in `sharding.Layout`.
  """

  on: str
  kernel: str
  layout: str = ''
  model: dict = {}
  fields: dict = {}
  whole: bool = False


def run_of(row: Row) -> config.Run:
  """Returns a run of two narrow layers with heads as large as GPT-2's.

  No dimension but the context's is 640, or a quarter, a half or three of it.
  """
  run = config.Run(batch=8, layout=row.layout, optim=config.Optim(), **row.fields)
  usual = {'L': 2, 'D': 128, 'N': 2, 'T': 640, 'dtype': 'bfloat16', 'dropout': 0.0}
  run.model = config.Model(**usual | {'vocab': VOCAB} | row.model)
  return run


class Update(NamedTuple):
  """An update, and what XLA makes of it (`facts`)."""

  run: config.Run
  cfg: GPTConfig
  layout: sharding.Layout
  program: on_paper.Program
  facts: dict


def update(row: Row) -> Update:
  """Returns a row's update."""
  run = run_of(row)
  cfg = GPTConfig.of(run.model, VOCAB)
  layout = sharding.Layout.of(run, devices(row.on))
  layout = dataclasses.replace(layout, whole=row.whole)
  config.check(run, layout.parts)
  program = dry_run.update_of(run, cfg, layout)
  return Update(run, cfg, layout, program, facts(program.lowered, row.on))


def devices(on: str) -> list[jax.Device]:
  """Returns absent devices, whose compilers have none of the flags of the tests."""
  jax.devices()  # has read them
  os.environ['XLA_FLAGS'] = ''
  return absent.devices(on)


def facts(lowered: jax.stages.Lowered, on: str, turn: bool = False) -> dict:
  """Returns what XLA makes of a program, as `_facts` says."""
  options = lowered._lowering.compile_args.get('compiler_options_kvs')
  # Kernels that a mesh divides are named by their place in memory.
  key = hashlib.sha256(re.sub(r'\d{12,}', '', lowered.as_text()).encode())
  for package in ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-pjrt'):
    key.update(_version(package).encode())
  key.update(repr((on, turn, options, os.environ.get('LIBTPU_INIT_ARGS'))).encode())
  for source in [pathlib.Path(__file__), *sorted(ROOT.glob('gpt_jax/programs/*.py'))]:
    key.update(source.read_bytes())
  path = KEPT / f'{key.hexdigest()}.json'
  if not path.exists():
    made = _facts(lowered.compile(), on, turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(f'.{os.getpid()}')
    staged.write_text(json.dumps(made))
    staged.rename(path)
  return json.loads(path.read_text())


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def _facts(compiled: jax.stages.Compiled, on: str, turn: bool) -> dict:
  """Returns memory, work and collectives of a program, its calls and its shapes."""
  module = hlo.read(compiled.as_text())
  memory = on_paper.Memory.of(compiled)
  estimate = roofline.estimate(module, on_paper.kind_of(on), turn=turn)
  sent, operations = collectives.by_kind(estimate.collectives)
  lines = [
    line for part in module.computations.values() for line in part.instructions.values()
  ]
  return {
    'arguments': memory.arguments,
    'working': memory.working,
    'kernels': estimate.kernels,
    'bytes': estimate.bytes,
    'flops': estimate.flops,
    'seconds': estimate.total_seconds,
    'sent': sent,
    'operations': operations,
    'targets': sorted({line.target for line in lines} - {''}),
    'shapes': sorted({array.dims for line in lines for array in hlo.arrays(line.type)}),
  }


def square(shapes: list[list[int]], T: int) -> list[list[int]]:
  """Returns the shapes with weights of attention: T, or quarters of it, by as much."""
  quarters = {T * i // 4 for i in range(1, 5)}
  return [dims for dims in shapes if sum(n in quarters for n in dims) > 1]


def counted(found: Update) -> None:
  """Raises `roofline.Impossible` where not all FLOPs of an update are counted."""
  tokens = found.run.batch * found.cfg.T
  number = len(found.layout.devices)
  formula = cost.flops_per_token(found.cfg)
  roofline.check_flops(found.facts['flops'], formula, tokens, devices=number)


def model_of(layout: sharding.Layout) -> LanguageModel:
  """Returns a model of `run_of`'s shape without weights, on a layout's device."""
  run = run_of(Row('', ''))
  cfg = GPTConfig.of(run.model, VOCAB)
  params = layout.placed(jax.eval_shape(lambda: init_params(cfg, 0)))
  gpt = GPT(cfg, layout.execution(run.model))
  return LanguageModel(params, gpt, tokenizers.Bytes())


def huge(layout: sharding.Layout) -> jax.stages.Lowered:
  """Returns a program that takes 32 GiB."""
  x = jax.ShapeDtypeStruct((2**18, 2**14), jnp.float32)
  return jax.jit(jnp.sin).lower(layout.whole_shapes(x))
