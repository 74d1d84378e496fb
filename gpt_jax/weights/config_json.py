"""config.json of Hugging Face's gpt2, openai-gpt and gpt_neo, and our config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.files import read_json, shown
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.weights.their_fields import (
  ALIASES,
  CONFIG,
  DROPOUTS,
  FAMILIES,
  GENERATION,
  may_change_the_function,
)

MOST = 2**24  # bytes of a JSON file that describes a model; an index has some 100,000
_BY_LAYER = 'scale_attn_by_inverse_layer_idx'
_THEIR_KINDS = {'dense': 'global', 'banded': 'local'}
# Our activations by their names in config.json; several are one function, and differ in
# how it is computed. The first of a function is what an export writes.
_ACTIVATIONS = {
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_python_tanh': 'gelu_tanh',
  'gelu_accurate': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'gelu': 'gelu',
  'gelu_python': 'gelu',
  'relu': 'relu',
}
GPT1_ACTIVATIONS = {'gelu': 'gelu_tanh', 'relu': 'relu'}  # its 'gelu' is the tanh form
ACTIVATIONS = {
  'gpt2': _ACTIVATIONS,
  'openai-gpt': GPT1_ACTIVATIONS,
  'gpt_neo': _ACTIVATIONS,
}
_OLDER = {
  'L': 'n_layer',
  'D': 'n_embd',
  'N': 'n_head',
  'T': 'n_positions',
  'vocab': 'vocab_size',
  'dropout': 'resid_pdrop',
  'tied': 'tie_word_embeddings',
}
_NAMES = {  # our fields of a model by theirs
  'gpt2': _OLDER | {'F': 'n_inner', 'attention_scale': 'scale_attn_weights'},
  'openai-gpt': _OLDER,
  'gpt_neo': {
    'L': 'num_layers',
    'D': 'hidden_size',
    'N': 'num_heads',
    'T': 'max_position_embeddings',
    'vocab': 'vocab_size',
    'F': 'intermediate_size',
    'dropout': 'resid_dropout',
    'tied': 'tie_word_embeddings',
    'band': 'window_size',
  },
}


class Parsed(NamedTuple):
  """What a config.json says of a model.

  Attributes:
    wrong: what is not supported, a sentence each.
    by_layer: whether layer i, from 0, divides its attention logits by i + 1.
    unknown: fields that are kept and not known here.
  """

  family: str
  model: config.Model
  wrong: list[str]
  by_layer: bool
  unknown: list[str]


def read_config(path: Path) -> tuple[str, config.Model, list[str]]:
  """Returns (family, config, what is not supported) of a config.json."""
  parsed = parse(read_json(path, most=MOST), str(path))
  return parsed.family, parsed.model, parsed.wrong


def parse(theirs: dict, path: str, ignore: Sequence[str] = ()) -> Parsed:
  """Returns what the object in a config.json says.

  Args:
    path: names it in an error.
    ignore: unknown fields that are passed over, though their names are those of parts
      of a model.

  Raises:
    UserError: the architecture is another, or the model has no size.
  """
  family = theirs.get('model_type')
  if family not in FAMILIES:
    raise UserError(
      f'{path}: model_type={shown(family)} must be one of {", ".join(FAMILIES)}'
    )
  theirs, wrong = _without_aliases(theirs, family)
  wrong += _refused(theirs, family, ignore)
  names, neo = _NAMES[family], family == 'gpt_neo'
  needed = [names[letter] for letter in ('L', 'D', 'N', 'T', 'vocab')]
  lacking = [name for name in needed if type(theirs.get(name)) is not int]
  if lacking:
    raise UserError(f'{path}: lacks a whole number for {", ".join(lacking)}')
  given = {our: theirs[name] for our, name in names.items() if name in theirs}
  # Where nothing is said, transformers' own default.
  model = config.Model(**{'dropout': 0.0 if neo else 0.1} | given)
  model.F = model.F or 0
  model.F = 0 if model.F == 4 * model.D else model.F  # 0 says it shorter
  if family == 'openai-gpt':
    model.norm, model.scaled_init, model.F = 'post', False, 0
  if neo:
    model.attention_scale, model.qkv_bias = False, False
  activation, why = _activation(theirs, family)
  model.activation = activation or model.activation
  wrong += why
  broken = config.wrong_model(model, names)
  broken += [f'{names["vocab"]}=0 must be at least 1'] if model.vocab == 0 else []
  by_layer = theirs.get(_BY_LAYER, False) if family == 'gpt2' else False
  if not isinstance(by_layer, bool):
    broken.append(f'{_BY_LAYER}={shown(by_layer)} must be of type bool')
  if broken:  # what follows computes with these numbers
    raise UserError(f'{path}: {"; ".join(broken)}; give the config.json of the weights')
  if neo:
    model.attention, why = _attention(theirs, model.L)
    wrong += why
  if model.D % model.N:
    wrong.append(f'{names["D"]}={model.D} must be a multiple of {names["N"]}={model.N}')
  unknown = [name for name in theirs if name not in CONFIG[family] | GENERATION]
  return Parsed(family, model, wrong, by_layer, unknown)


def _without_aliases(theirs: dict, family: str) -> tuple[dict, list[str]]:
  """Returns fields by the names in `CONFIG`, and which are given two values."""
  plain, wrong = dict(theirs), []
  for alias, name in ALIASES[family].items():
    if alias not in plain:
      continue
    value = plain.pop(alias)
    if plain.setdefault(name, value) != value:
      wrong.append(
        f'{alias}={shown(value)} must be {name}={shown(plain[name])}, of which it is '
        'another name; leave one of them out'
      )
  return plain, wrong


def _refused(theirs: dict, family: str, ignore: Sequence[str]) -> list[str]:
  """Returns which fields have a value that is not supported."""
  wrong = []
  for name, value in theirs.items():
    field = CONFIG[family].get(name)
    if field is None and name not in GENERATION:
      if may_change_the_function(name, value) and name not in ignore:
        wrong.append(
          f'{name:.80}={shown(value)} is unknown, and may change what the model '
          f'computes; if it does not: import --ignore={name:.80}'
        )
    elif field and field.fate == 'only' and value not in field.only:
      wrong.append(f'{name}={shown(value)} must be {field.only[0]}: {field.note}')
  return wrong


def _activation(theirs: dict, family: str) -> tuple[str, list[str]]:
  """Returns our name of the activation, and why there is none."""
  known = ACTIVATIONS[family]
  name = 'afn' if family == 'openai-gpt' else 'activation_function'
  given = theirs.get(name, next(iter(known)))
  if isinstance(given, str) and given in known:
    return known[given], []
  return '', [f'{name}={shown(given)} must be one of {", ".join(known)}']


def _attention(theirs: dict, L: int) -> tuple[str, list[str]]:
  """Returns our pattern of GPT-Neo's layers, and what is wrong with theirs."""
  types = theirs.get('attention_types')
  types = [[['global', 'local'], 12]] if types is None else types  # the default
  kinds = _kinds(types, L)
  if not kinds:
    return 'dense', [
      f'attention_types={shown(types)} must give global or local for each of {L} layers'
    ]
  layers = theirs.get('attention_layers')
  if layers is not None and layers != [_THEIR_KINDS[kind] for kind in kinds]:
    return 'dense', [
      f'attention_layers={shown(layers)} must be as attention_types says'
    ]
  return pattern_of(kinds), []


def _kinds(types: Any, L: int) -> list[str]:
  """Returns the kinds of L layers by attention_types: [[[KIND ...], TIMES] ...].

  [] where it is something else.
  """
  ours, kinds = {theirs: kind for kind, theirs in _THEIR_KINDS.items()}, []
  for part in types if isinstance(types, list) else ():
    if not (isinstance(part, list) and [type(each) for each in part] == [list, int]):
      return []
    pattern, times = part
    known = all(isinstance(kind, str) and kind in ours for kind in pattern)
    if not known or len(pattern) * times > L:
      return []
    kinds += [ours[kind] for kind in pattern] * times
  return kinds if len(kinds) == L else []


def pattern_of(kinds: list[str]) -> str:
  """Returns the shortest pattern that, repeated, gives the kinds of the layers."""
  L = len(kinds)
  for n in range(1, L):
    if [kinds[i % n] for i in range(L)] == kinds:
      return ','.join(kinds[:n])
  return ','.join(kinds)


def config_json(
  family: str, c: GPTConfig, dropout: float, eos: int, found: dict | None = None
) -> dict:
  """Returns the content of config.json.

  Args:
    found: that of the folder that the model came from; its fields are written as they
      were, where they still say the same.
  """
  activation = next(
    name for name, ours in ACTIVATIONS[family].items() if ours == c.activation
  )
  sizes = {'L': c.L, 'D': c.D, 'N': c.N, 'T': c.T, 'vocab': c.vocab, 'F': c.F}
  sizes |= {'tied': c.tied, 'attention_scale': c.attention_scale, 'band': c.band}
  about = {
    'architectures': [
      {
        'gpt2': 'GPT2LMHeadModel',
        'openai-gpt': 'OpenAIGPTLMHeadModel',
        'gpt_neo': 'GPTNeoForCausalLM',
      }[family]
    ],
    'model_type': family,
    **{name: sizes[our] for our, name in _NAMES[family].items() if our != 'dropout'},
    **dict.fromkeys(DROPOUTS[family], dropout),
    'layer_norm_epsilon': 1e-5,
    'initializer_range': 0.02,
    # GPT-1 has no end-of-text: ours is an id that the model does not know.
    'bos_token_id': eos if eos < c.vocab else None,
    'eos_token_id': eos if eos < c.vocab else None,
    'dtype': 'float32',
    'afn' if family == 'openai-gpt' else 'activation_function': activation,
  }
  if family == 'gpt_neo':
    about['attention_types'] = [[[_THEIR_KINDS[kind] for kind in c.attention], 1]]
  return _as_found(about, found or {})


def _as_found(about: dict, found: dict) -> dict:
  """Returns a config.json with what another says besides, or in other words."""
  family = about['model_type']
  if found.get('model_type') != family:
    return about
  meant, written = parse(about, 'config.json').model, dict(about)
  for name, value in found.items():
    field = CONFIG[family].get(name)
    if name in ALIASES[family] or name in ('architectures', 'model_type'):
      continue
    value = False if name == _BY_LAYER else value  # is in the weights
    if field and field.fate == 'used':
      trial = parse(written | {name: value}, 'config.json')
      if name in ('dtype', 'torch_dtype') or trial.wrong or trial.model != meant:
        continue
    written[name] = value
  rate, *others = DROPOUTS[family]
  if written[rate] != found.get(rate, written[rate]):
    written |= {name: about[name] for name in others}
  return written
