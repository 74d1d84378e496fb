"""Compiles one program for devices that are not there, and keeps XLA's text of it.

usage: python benchmarks/absent_row.py ROW_AS_JSON FOLDER

A part of `benchmarks.absent`, run for the code of this tree or of an older one, which
PYTHONPATH names. Prints the hash of the program, under which FOLDER has TEXT.txt.gz and
the numbers beside it; a program that is there is not compiled again.
"""

import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import sys
from typing import Any

import gpt_jax

# An older tree has no devices that are not there: it takes those of this one.
# ruff: noqa: E402
gpt_jax.__path__.append(str(pathlib.Path(__file__).resolve().parent.parent / 'gpt_jax'))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.data.windows import Batch
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model import quantize
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import absent
from gpt_jax.runs import cost
from gpt_jax.training import sharding
from gpt_jax.training.members import Alone

VERSIONS = 'jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin', 'nvidia-cudnn-cu13'


class _Ids:
  """What decoding asks of a tokenizer: no text is read or written here."""

  vocab = papers.GPT2_VOCAB
  eot = papers.GPT2_VOCAB - 1


def model_of(size: str, **fields: Any) -> config.Model:
  """Returns a model of the GPT-2 or GPT-3 paper in bfloat16, without dropout."""
  of = papers.gpt2 if size in papers.GPT2_SIZES else papers.gpt3
  model = of(size)
  model.vocab, model.dtype, model.dropout = papers.GPT2_VOCAB, 'bfloat16', 0.0
  for name, value in fields.items():
    setattr(model, name, value)
  return model


def update(row: dict, devices: list[jax.Device]) -> tuple[jax.stages.Lowered, dict]:
  """Returns the update of a pre-training, and facts about it."""
  run = config.Run(batch=row['rows'], layout=row.get('layout', ''))
  run.accumulate = row.get('accumulate', 1)
  run.loss_chunk = row.get('loss_chunk', 0)
  run.model = model_of(row['size'], **row.get('model', {}))
  cfg = GPTConfig.of(run.model, run.model.vocab)
  layout = sharding.Layout.of(run, devices)
  if hasattr(cost, 'scheduled'):
    from gpt_jax.runs import on_paper  # which an older tree does not have

    limit, _ = on_paper.room(row['device'], devices[0])
    layout, _ = cost.scheduled(run, cfg, layout, limit)
  alone = Alone.of(run, cfg, layout)
  ids = jax.ShapeDtypeStruct((run.batch, cfg.T), np.int32)
  weights, rows = ids.update(dtype=np.float32), ids.update(shape=(run.batch,))
  batch = Batch(ids, ids, weights, rows)
  facts = {
    'tokens': run.batch * cfg.T,
    'formula': cost.flops_per_token(cfg),
  }
  if hasattr(alone, 'lowered'):
    return alone.lowered(batch), facts
  where = layout._batch_sharding(True)
  divided = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (run.accumulate, run.batch // run.accumulate, *leaf.shape[1:]),
      leaf.dtype,
      sharding=where,
    ),
    batch,
  )
  one = SingleDeviceSharding(devices[0])
  if layout.mesh is not None:
    one = NamedSharding(layout.mesh, P())
  numbers = _shapes(jax.tree.map(jnp.asarray, alone.hp), one)
  return alone.jitted.lower(alone.like, {}, divided, numbers), facts


def token(row: dict, devices: list[jax.Device]) -> tuple[jax.stages.Lowered, dict]:
  """Returns the loop that continues prompts, whose turn is a token, and facts."""
  model = model_of(row['size'])
  cfg = GPTConfig.of(model, model.vocab)
  layout = sharding.Layout.of(config.Run(devices=1), devices)
  gpt = GPT(cfg, layout.execution(model))
  here = functools.partial(_shapes, sharding=SingleDeviceSharding(devices[0]))
  params = jax.eval_shape(lambda: init_params(cfg, 0))
  if bits := row.get('bits', 0):
    of = (bits,) if bits != 8 else ()
    params = jax.eval_shape(lambda tree: quantize.quantized(tree, *of), params)
  # Prompt and new tokens are half of the cache each.
  half, rows, beams = row['slots'] // 2, row['rows'], row.get('beams', 1)
  lm = LanguageModel(here(params), gpt, _Ids())
  prompts = [[1] * half] * rows
  facts = {'tokens': rows, 'turn': True}
  if hasattr(lm, 'lowered'):
    how = {'beams': beams} if beams > 1 else {'method': 'greedy'}
    programs = lm.lowered(prompts, here, max_new_tokens=half, **how)
    lowered, _ = programs['search' if beams > 1 else 'tokens']
    return lowered, facts
  return _old_token(lm, here, prompts, half, beams), facts


def _old_token(lm, here, prompts, half, beams) -> jax.stages.Lowered:
  """Returns the same of code that does not lower what it decodes."""
  from gpt_jax.decoding import beam, sampling
  from gpt_jax.decoding.selection import Sampling

  rules = sampling.NO_RULES
  static = {'gpt': lm.gpt, 'rules': rules, 'eot': lm.tokenizer.eot}
  if beams > 1:
    arrays, G = beam.prepare(prompts, lm.config.T, half, rules)
    *arrays, history = arrays
    numbers = beam.Numbers(*map(np.float32, (0, 1)), np.int32(0), np.float32(0))
    start = np.zeros(len(arrays[0]), np.int32)
    given = here(jax.tree.map(jnp.asarray, (*arrays, numbers)))
    return beam._search.lower(
      lm.params, *given, None, history, None, None, here(start), K=beams, M=1, G=G,
      **static,
    )  # fmt: skip
  ids, length = sampling.padded(prompts, len(prompts))
  keys = np.zeros((len(prompts), 2), np.uint32)
  arrays = here(jax.tree.map(jnp.asarray, (ids, length, keys, np.int32(0))))
  static['sampling'] = Sampling()
  state = jax.eval_shape(
    functools.partial(sampling._begin, G=half, **static), lm.params, *arrays, None, None
  )
  return sampling._run.lower(lm.params, here(state), here(jnp.int32(0)), None, **static)


def _shapes(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      np.shape(leaf), jnp.result_type(leaf), sharding=sharding
    ),
    tree,
  )


def key_of(lowered: jax.stages.Lowered, device: str) -> str:
  """Returns a hash of a program, of the device, and of what compiles it."""
  versions = []
  for name in VERSIONS:
    try:
      versions.append(f'{name} {importlib.metadata.version(name)}')
    except importlib.metadata.PackageNotFoundError:
      versions.append(f'no {name}')
  flags = [os.environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')]
  text = '\n'.join([device, *versions, *flags, lowered.as_text()])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
  row, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
  devices = absent.devices(row['device'])
  lowered, facts = (update if row['what'] == 'update' else token)(row, devices)
  key = key_of(lowered, row['device'])
  if not (folder / f'{key}.json').exists():
    facts['devices'] = len(devices)
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      # A TPU's compiler refuses what does not fit.
      used = re.search(r'Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm', str(error))
      if not used:
        raise
      facts['too_large'] = list(used.groups())
    else:
      memory = compiled.memory_analysis()
      results = memory.output_size_in_bytes - memory.alias_size_in_bytes
      facts['arguments'] = memory.argument_size_in_bytes
      facts['working'] = memory.temp_size_in_bytes + results
      with gzip.open(folder / f'{key}.txt.gz', 'wt', encoding='utf-8') as file:
        file.write(compiled.as_text())
    written = folder / f'{key}.part'
    written.write_text(json.dumps(facts))
    written.rename(folder / f'{key}.json')
  print(key)


if __name__ == '__main__':
  with shown():
    main()
