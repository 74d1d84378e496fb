"""Weights in and out: Hugging Face's gpt2, openai-gpt and gpt_neo, OpenAI's originals.

A Hugging Face folder holds config.json and model.safetensors, whole or in shards with
model.safetensors.index.json. `_tensors` says once, for each architecture, which of its
tensors is which of our parameters; reading and writing both follow it.
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.files import listed, read_json
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.weights import safetensors_files
from gpt_jax.weights.config_json import GPT1_ACTIVATIONS, MOST, config_json, parse
from gpt_jax.weights.openai_files import read_gpt1, read_tensorflow

# Masks and positions that older versions saved beside the weights.
_BUFFER = re.compile(
  r'(transformer\.)?(h\.\d+\.attn\.(attention\.)?(bias|masked_bias)|position_ids)'
)
_QUERY = re.compile(r'h_(\d+)/attn/q/(kernel|bias)')
_SHARD = 5 << 30  # bytes, as in Hugging Face's own folders


class _Tensor(NamedTuple):
  """A tensor of a Hugging Face file.

  Attributes:
    name: without the leading 'transformer.'.
    shape: in the file.
    paths: of the parameters that make it up, side by side along the last axis.
    transposed: whether the file has a kernel as [out, in].
  """

  name: str
  shape: tuple[int, ...]
  paths: tuple[str, ...]
  transposed: bool = False


def _tensors(family: str, c: GPTConfig) -> Iterator[_Tensor]:
  """Yields the tensors of an architecture, with all the biases that it has."""

  def linear(name, paths, rows, columns, *, bias=True, transposed=False):
    shape = (columns, rows) if transposed else (rows, columns)
    kernels = tuple(f'{path}/kernel' for path in paths)
    yield _Tensor(f'{name}.weight', shape, kernels, transposed)
    if bias:
      biases = tuple(f'{path}/bias' for path in paths)
      yield _Tensor(f'{name}.bias', (columns,), biases)

  def norm(name, path):
    yield _Tensor(f'{name}.weight', (c.D,), (f'{path}/scale',))
    yield _Tensor(f'{name}.bias', (c.D,), (f'{path}/bias',))

  tokens, positions = ('wte', 'wpe')
  if family == 'openai-gpt':
    tokens, positions = ('tokens_embed', 'positions_embed')
  neo = family == 'gpt_neo'
  yield _Tensor(f'{tokens}.weight', (c.vocab, c.D), ('wte',))
  yield _Tensor(f'{positions}.weight', (c.T, c.D), ('wpe',))
  for i in range(c.L):
    h, ours = f'h.{i}', f'h_{i}'
    yield from norm(f'{h}.ln_1', f'{ours}/ln_1')
    if neo:
      for x in 'qkv':
        name, path = f'{h}.attn.attention.{x}_proj', f'{ours}/attn/{x}'
        yield from linear(name, [path], c.D, c.D, bias=False, transposed=True)
      name = f'{h}.attn.attention.out_proj'
      yield from linear(name, [f'{ours}/attn/o'], c.D, c.D, transposed=True)
    else:
      qkv = [f'{ours}/attn/{x}' for x in 'qkv']
      yield from linear(f'{h}.attn.c_attn', qkv, c.D, 3 * c.D)
      yield from linear(f'{h}.attn.c_proj', [f'{ours}/attn/o'], c.D, c.D)
    yield from norm(f'{h}.ln_2', f'{ours}/ln_2')
    up, down = [f'{ours}/mlp/up'], [f'{ours}/mlp/down']
    yield from linear(f'{h}.mlp.c_fc', up, c.D, c.F, transposed=neo)
    yield from linear(f'{h}.mlp.c_proj', down, c.F, c.D, transposed=neo)
  if c.norm == 'pre':
    yield from norm('ln_f', 'ln_f')
  if not c.tied:
    yield _Tensor('lm_head.weight', (c.vocab, c.D), ('lm_head',))


class Weights(NamedTuple):
  """What a folder of weights holds.

  Attributes:
    params: float32 parameters (numpy); rows of the vocabulary's padding are zero.
    notes: what the reader of a report should know of how they were read.
  """

  model: config.Model
  params: dict
  notes: list[str]


def read(folder: str | Path, ignore: Sequence[str] = ()) -> tuple[config.Model, dict]:
  """Returns the config and the parameters of a folder of weights; see `read_all`."""
  weights = read_all(folder, ignore)
  return weights.model, weights.params


def read_all(folder: str | Path, ignore: Sequence[str] = ()) -> Weights:
  """Returns what is in a folder of weights.

  Args:
    folder: Hugging Face's, or OpenAI's: GPT-2's TensorFlow checkpoint with
      hparams.json, GPT-1's params_*.npy with params_shapes.json.
    ignore: names of tensors, which may have *, and of fields of config.json that are
      passed over.

  Raises:
    UserError: with a line for every setting and tensor that is missing, extra, of
      another shape or not supported; or there is nothing to ignore.
  """
  folder, notes, wrong, by_layer, fields = Path(folder), [], [], False, []
  if (folder / 'params_shapes.json').exists():
    family, model, arrays = _openai_gpt1(folder)
  elif (folder / 'hparams.json').exists():
    family, model, arrays = _openai_gpt2(folder)
  else:
    path = folder / 'config.json'
    theirs = read_json(path, most=MOST)
    family, model, wrong, by_layer, unknown = parse(theirs, str(path), ignore)
    fields = [name for name in unknown if name in ignore]
    arrays, types = safetensors_files.read(folder, _BUFFER)
    if types != ['float32']:
      notes.append(
        f'weights of {" and ".join(types)} are read as float32, and exported so'
      )
    if by_layer:
      notes.append(
        'scale_attn_by_inverse_layer_idx goes into the weights of the query, and an '
        'export says false'
      )
  arrays = _plain_names(arrays, wrong)
  arrays, passed = _without(arrays, [name for name in ignore if name not in fields])
  if passed or fields:
    notes.append(f'passed over: {listed(fields + passed)}')
  if len(arrays) < model.L:  # each layer has several
    raise UserError(
      f'{folder}: {model.L} layers by its config, but the weights are {len(arrays)} '
      'tensors: files of two models?'
    )
  cfg = GPTConfig.of(model, model.vocab)
  params, misfits = _from_file(arrays, list(_tensors(family, cfg)), cfg, by_layer)
  wrong += misfits
  if wrong:
    raise UserError(f'{folder}: not a {family} that can be read:\n' + '\n'.join(wrong))
  return Weights(model, params, notes)


def _plain_names(
  arrays: dict[str, np.ndarray], wrong: list[str]
) -> dict[str, np.ndarray]:
  """Returns tensors by their names without 'transformer.'; adds to what is wrong."""
  plain = {}
  for name, array in arrays.items():
    short = name.removeprefix('transformer.')
    if short in plain and not np.array_equal(plain[short], array):
      wrong.append(f'{short}: there are two, with and without transformer. before it')
    plain[short] = array
  return plain


def _without(
  arrays: dict[str, np.ndarray], ignore: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns the tensors that are not passed over, and the names of those that are."""
  passed = []
  for pattern in ignore:
    short = pattern.removeprefix('transformer.')
    matched = [name for name in arrays if fnmatch.fnmatchcase(name, short)]
    if not matched:
      raise UserError(
        f'ignore={pattern:.80} must be the name of a tensor of these weights, which '
        'may have *, or of an unknown field of config.json; there is none such'
      )
    passed += matched
  return {n: a for n, a in arrays.items() if n not in passed}, sorted(set(passed))


def _untie(
  arrays: dict[str, np.ndarray], embedding: str
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns tensors with a tied matrix once, as the embedding; and what is wrong."""
  head = arrays.get('lm_head.weight')
  if head is None:
    return arrays, []
  if embedding in arrays and not np.array_equal(head, arrays[embedding]):
    return arrays, [
      f'lm_head.weight differs from {embedding}, and tie_word_embeddings=true says '
      'that they are one: set it to false in config.json, or remove the one that '
      'does not belong there'
    ]
  rest = {name: array for name, array in arrays.items() if name != 'lm_head.weight'}
  return rest | {embedding: head}, []


def _from_file(
  arrays: dict[str, np.ndarray], tensors: list[_Tensor], cfg: GPTConfig, by_layer: bool
) -> tuple[dict, list[str]]:
  """Returns the parameter tree of a file's tensors, and what does not fit.

  Args:
    by_layer: whether layer i, from 0, divides its attention logits by i + 1; here its
      queries are.
  """
  wrong = []
  if cfg.tied:
    embedding = next(t.name for t in tensors if t.paths == ('wte',))
    arrays, wrong = _untie(arrays, embedding)
  wanted = {tensor.name: tensor for tensor in tensors}
  wrong += [
    f'missing: {name}, {list(wanted[name].shape)}' for name in wanted - arrays.keys()
  ]
  extra = sorted(arrays.keys() - wanted)
  wrong += [f'extra: {name:.100}, {list(arrays[name].shape)}' for name in extra]
  params = {}
  for tensor in tensors:
    array = arrays.get(tensor.name)
    if array is None:
      continue
    if array.shape != tensor.shape:
      wrong.append(
        f'{tensor.name}: shape {list(array.shape)}, must be {list(tensor.shape)}'
      )
      continue
    array = np.asarray(array, np.float32)
    if tensor.transposed:
      array = array.T
    for path, part in zip(
      tensor.paths, np.split(array, len(tensor.paths), axis=-1), strict=True
    ):
      if path in ('wte', 'lm_head'):
        part = np.pad(part, ((0, cfg.V - cfg.vocab), (0, 0)))
      if by_layer and (query := _QUERY.fullmatch(path)):
        part = part / np.float32(int(query[1]) + 1)
      params[path] = np.ascontiguousarray(part)
  heads = sorted({name.partition('.')[0] for name in extra} - {'h', 'lm_head'})
  hint = [_pass_over(heads)] if heads else []
  return unflatten_dict(params, sep='/'), sorted(wrong) + hint


def _pass_over(heads: list[str]) -> str:
  """Returns how to leave out tensors that begin with these names."""
  flags = ' '.join(f"--ignore='{head:.40}*'" for head in heads[:12])
  return (
    'what begins with none of the names of a language model may be the head of a '
    f'classifier or of values; to pass over it: launch.py import {flags}'
  )


def _openai_gpt2(folder: Path) -> tuple[str, config.Model, dict[str, np.ndarray]]:
  """Returns GPT-2 as OpenAI released it: hparams.json and a TensorFlow checkpoint."""
  path = folder / 'hparams.json'
  hparams = read_json(path, most=MOST)
  names = {
    'L': 'n_layer',
    'D': 'n_embd',
    'N': 'n_head',
    'T': 'n_ctx',
    'vocab': 'n_vocab',
  }
  lacking = [name for name in names.values() if type(hparams.get(name)) is not int]
  if lacking:
    raise UserError(f'{path}: lacks a whole number for {", ".join(lacking)}')
  model = config.Model(**{ours: hparams[name] for ours, name in names.items()})
  if broken := config.wrong_model(model, names):
    raise UserError(f'{path}: {"; ".join(broken)}; give that of the weights')
  arrays = {}
  for name, array in read_tensorflow(folder).items():
    # A kernel's leading 1 is the width of a convolution.
    plain = array[0] if array.ndim == 3 and len(array) == 1 else array
    arrays[_renamed(name.removeprefix('model/'))] = plain
  return 'gpt2', model, arrays


def _openai_gpt1(folder: Path) -> tuple[str, config.Model, dict[str, np.ndarray]]:
  """Returns GPT-1 as OpenAI released it; its heads are 64 wide (section 4.1)."""
  arrays = read_gpt1(folder)
  (vocab, D), (T, _) = arrays['wte'].shape, arrays['wpe'].shape
  L = len({name.split('/')[0] for name in arrays if name.startswith('h')})
  model = config.Model(
    L=L, D=D, N=D // 64 or 1, T=T, vocab=vocab, norm='post', scaled_init=False
  )
  names = {'wte.weight': 'tokens_embed.weight', 'wpe.weight': 'positions_embed.weight'}
  renamed = {_renamed(name): array for name, array in arrays.items()}
  return 'openai-gpt', model, {names.get(n, n): a for n, a in renamed.items()}


def _renamed(name: str) -> str:
  """Returns an OpenAI name as Hugging Face has it: h.0.ln_1.weight for h0/ln_1/g."""
  if name in ('wte', 'wpe'):
    return f'{name}.weight'
  *above, last = re.sub(r'^h(\d+)/', r'h/\1/', name).split('/')
  return '.'.join([*above, {'w': 'weight', 'g': 'weight', 'b': 'bias'}.get(last, last)])


def family_of(params: dict, c: GPTConfig) -> str:
  """Returns the architecture of Hugging Face that computes what the model does.

  Raises:
    UserError: there is none, with a line for every reason.
  """
  flat = flatten_dict(params, sep='/')
  banded = 'banded' in c.attention
  biased = c.bias and c.qkv_bias
  if c.norm == 'post':
    family, rules = (
      'openai-gpt',
      {
        'model.attention must be dense': not banded,
        'model.attention_scale must be True': c.attention_scale,
        f'model.F={c.F} must be 4 * model.D': c.F == 4 * c.D,
        f'model.activation={c.activation} must be gelu_tanh or relu': c.activation
        in GPT1_ACTIVATIONS.values(),
      },
    )
  elif banded or (c.bias and not c.qkv_bias):
    zero = not biased or not any(
      flat[f'h_{i}/attn/{x}/bias'].any() for i in range(c.L) for x in 'qkv'
    )
    family, rules = (
      'gpt_neo',
      {'the biases of q, k and v must be zero (train with model.qkv_bias=False)': zero},
    )
  else:
    family, rules = 'gpt2', {}
  wrong = [rule for rule, holds in rules.items() if not holds]
  if wrong:
    raise UserError(
      f'this model can not be written as {family}, the nearest architecture of Hugging '
      'Face:\n' + '\n'.join(wrong)
    )
  return family


def write(
  params: dict,
  c: GPTConfig,
  dropout: float,
  eos: int,
  folder: Path,
  found: dict | None = None,
) -> str:
  """Writes config.json and model.safetensors as Hugging Face has them.

  Biases that the model lacks are written as zeros. If the model scales attention
  differently (gpt_neo does not scale it), the factor goes into the query's weights; the
  scale of the output (`GPTConfig.width`) goes into the last LayerNorm.

  Args:
    found: see `config_json`.

  Returns:
    The architecture: its model_type.

  Raises:
    UserError: no architecture of Hugging Face computes what the model does.
  """
  family = family_of(params, c)
  flat = {path: np.asarray(x) for path, x in flatten_dict(params, sep='/').items()}
  theirs = (c.D // c.N) ** -0.5 if c.attention_scale and family != 'gpt_neo' else 1.0
  last = 'ln_f/' if c.norm == 'pre' else f'h_{c.L - 1}/ln_2/'
  arrays = {}
  for tensor in _tensors(family, c):
    parts = []
    for path in tensor.paths:
      part = flat.get(path)
      if part is None:
        part = np.zeros(tensor.shape[-1] // len(tensor.paths), np.float32)
      if '/attn/q/' in path:
        part = part * np.float32(c.query_scale / theirs)
      if path.startswith(last):
        part = part / np.float32(c.width)
      parts.append(part[: c.vocab] if path in ('wte', 'lm_head') else part)
    array = np.concatenate(parts, axis=-1)
    name = (
      tensor.name if tensor.name.startswith('lm_head') else f'transformer.{tensor.name}'
    )
    arrays[name] = np.ascontiguousarray(array.T if tensor.transposed else array)
  _write_safetensors(arrays, folder)
  about = config_json(family, c, dropout, eos, found)
  text = json.dumps(about, indent=2, sort_keys=True) + '\n'
  (folder / 'config.json').write_text(text, encoding='utf-8')
  return family


def _write_safetensors(arrays: dict[str, np.ndarray], folder: Path) -> None:
  """Writes tensors into one file, or into shards with an index."""
  shards, size = [{}], 0
  for name, array in arrays.items():
    if size + array.nbytes > _SHARD and shards[-1]:
      shards.append({})
      size = 0
    shards[-1][name] = array
    size += array.nbytes
  names = ['model.safetensors']
  if len(shards) > 1:
    n = len(shards)
    names = [f'model-{i:05}-of-{n:05}.safetensors' for i in range(1, n + 1)]
    total = sum(array.nbytes for array in arrays.values())
    index = {
      'metadata': {'total_size': total},
      'weight_map': {
        t: name for name, shard in zip(names, shards, strict=True) for t in shard
      },
    }
    text = json.dumps(index, indent=2) + '\n'
    (folder / 'model.safetensors.index.json').write_text(text, encoding='utf-8')
  for name, shard in zip(names, shards, strict=True):
    safetensors.numpy.save_file(shard, folder / name, metadata={'format': 'pt'})
