"""config.json of Hugging Face's gpt2, openai-gpt and gpt_neo, and our config."""

import json
from pathlib import Path

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.model.gpt_config import GPTConfig

FAMILIES = 'gpt2', 'openai-gpt', 'gpt_neo'
# Names of our activations in config.json; openai-gpt's 'gelu' is the tanh form.
_ACTIVATIONS = {
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu': 'gelu',
  'relu': 'relu',
}
GPT1_ACTIVATIONS = {'gelu': 'gelu_tanh', 'relu': 'relu'}


def read_json(path: Path) -> dict:
  """Returns the object in a JSON file; raises UserError if there is none."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e
  except ValueError as e:
    raise UserError(f'{path}: damaged: {e}') from e
  if not isinstance(value, dict):
    raise UserError(f'{path}: damaged: not an object')
  return value


def read_config(path: Path) -> tuple[str, config.Model, list[str]]:
  """Returns (family, config, what is not supported) of a config.json."""
  theirs = read_json(path)
  family = theirs.get('model_type')
  if family not in FAMILIES:
    raise UserError(
      f'{path}: model_type={family!r} must be one of {", ".join(FAMILIES)}'
    )
  wrong = []
  neo = family == 'gpt_neo'
  names = {
    'L': 'num_layers' if neo else 'n_layer',
    'D': 'hidden_size' if neo else 'n_embd',
    'N': 'num_heads' if neo else 'n_head',
    'T': 'max_position_embeddings' if neo else 'n_positions',
    'vocab': 'vocab_size',
  }
  lacking = [name for name in names.values() if not isinstance(theirs.get(name), int)]
  if lacking:
    raise UserError(f'{path}: lacks a whole number for {", ".join(lacking)}')
  model = config.Model(**{ours: theirs[name] for ours, name in names.items()})
  model.F = theirs.get('intermediate_size' if neo else 'n_inner') or 0
  model.F = 0 if model.F == 4 * model.D else model.F  # 0 says it shorter
  model.tied = theirs.get('tie_word_embeddings', True)
  model.dropout = float(theirs.get('resid_dropout' if neo else 'resid_pdrop', 0.0))
  key, known = 'activation_function', _ACTIVATIONS
  if family == 'openai-gpt':
    key, known = 'afn', GPT1_ACTIVATIONS
    model.norm, model.scaled_init, model.F = 'post', False, 0
  activation = theirs.get(key, next(iter(known)))
  if activation in known:
    model.activation = known[activation]
  else:
    wrong.append(f'{key}={activation!r} must be one of {", ".join(known)}')
  if family == 'gpt2':
    model.attention_scale = theirs.get('scale_attn_weights', True)
  if neo:
    model.attention_scale, model.qkv_bias = False, False
    model.band = theirs.get('window_size', 256)
    kinds = [
      kind
      for pattern, times in theirs.get('attention_types') or []
      for kind in list(pattern) * times
    ]
    if len(kinds) != model.L or set(kinds) - {'global', 'local'}:
      wrong.append(
        f'attention_types={theirs.get("attention_types")} must give global or local '
        f'for each of {model.L} layers'
      )
    else:
      dense = {'global': 'dense', 'local': 'banded'}
      model.attention = pattern_of([dense[kind] for kind in kinds])
  for name, only in (
    ('layer_norm_epsilon', 1e-5),
    ('scale_attn_by_inverse_layer_idx', False),
    ('add_cross_attention', False),
  ):
    if theirs.get(name, only) != only:
      wrong.append(f'{name}={theirs[name]} must be {only}')
  if model.D % model.N:
    wrong.append(f'{names["D"]}={model.D} must be a multiple of {names["N"]}={model.N}')
  return family, model, wrong


def pattern_of(kinds: list[str]) -> str:
  """Returns the shortest pattern that, repeated, gives the kinds of the layers."""
  L = len(kinds)
  for n in range(1, L):
    if [kinds[i % n] for i in range(L)] == kinds:
      return ','.join(kinds[:n])
  return ','.join(kinds)


def config_json(family: str, c: GPTConfig, dropout: float, eos: int) -> dict:
  """Returns the content of config.json."""
  activations = GPT1_ACTIVATIONS if family == 'openai-gpt' else _ACTIVATIONS
  activation = next(n for n, ours in activations.items() if ours == c.activation)
  about = {
    'architectures': [
      {
        'gpt2': 'GPT2LMHeadModel',
        'openai-gpt': 'OpenAIGPTLMHeadModel',
        'gpt_neo': 'GPTNeoForCausalLM',
      }[family]
    ],
    'model_type': family,
    'vocab_size': c.vocab,
    'layer_norm_epsilon': 1e-5,
    'initializer_range': 0.02,
    'tie_word_embeddings': c.tied,
    # GPT-1 has no end-of-text: ours is an id that the model does not know.
    'bos_token_id': eos if eos < c.vocab else None,
    'eos_token_id': eos if eos < c.vocab else None,
    'dtype': 'float32',
  }
  if family == 'gpt_neo':
    names = {'dense': 'global', 'banded': 'local'}
    return about | {
      'num_layers': c.L,
      'hidden_size': c.D,
      'num_heads': c.N,
      'intermediate_size': c.F,
      'max_position_embeddings': c.T,
      'attention_types': [[[names[kind] for kind in c.attention], 1]],
      'window_size': c.band,
      'activation_function': activation,
      'resid_dropout': dropout,
      'embed_dropout': dropout,
      'attention_dropout': dropout,
    }
  about |= {
    'n_layer': c.L,
    'n_embd': c.D,
    'n_head': c.N,
    'n_positions': c.T,
    'resid_pdrop': dropout,
    'embd_pdrop': dropout,
    'attn_pdrop': dropout,
  }
  if family == 'openai-gpt':
    return about | {'afn': activation}
  return about | {
    'n_inner': c.F,
    'activation_function': activation,
    'scale_attn_weights': c.attention_scale,
  }
