"""config.json of Hugging Face's gpt2, openai-gpt and gpt_neo, and our config."""

from pathlib import Path
from typing import Any

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.files import read_json, shown
from gpt_jax.model.gpt_config import GPTConfig

MOST = 2**24  # bytes of a JSON file that describes a model; an index has some 100,000
FAMILIES = 'gpt2', 'openai-gpt', 'gpt_neo'
# Names of our activations in config.json; openai-gpt's 'gelu' is the tanh form.
_ACTIVATIONS = {
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu': 'gelu',
  'relu': 'relu',
}
GPT1_ACTIVATIONS = {'gelu': 'gelu_tanh', 'relu': 'relu'}


def read_config(path: Path) -> tuple[str, config.Model, list[str]]:
  """Returns (family, config, what is not supported) of a config.json."""
  theirs = read_json(path, most=MOST)
  family = theirs.get('model_type')
  if family not in FAMILIES:
    raise UserError(
      f'{path}: model_type={shown(family)} must be one of {", ".join(FAMILIES)}'
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
  lacking = [name for name in names.values() if type(theirs.get(name)) is not int]
  if lacking:
    raise UserError(f'{path}: lacks a whole number for {", ".join(lacking)}')
  model = config.Model(**{ours: theirs[name] for ours, name in names.items()})
  names |= {
    'F': 'intermediate_size' if neo else 'n_inner',
    'dropout': 'resid_dropout' if neo else 'resid_pdrop',
    'tied': 'tie_word_embeddings',
    'attention_scale': 'scale_attn_weights',
    'band': 'window_size',
  }
  model.F = theirs.get(names['F']) or 0
  model.F = 0 if model.F == 4 * model.D else model.F  # 0 says it shorter
  model.tied = theirs.get(names['tied'], True)
  model.dropout = theirs.get(names['dropout'], 0.0)
  key, known = 'activation_function', _ACTIVATIONS
  if family == 'openai-gpt':
    key, known = 'afn', GPT1_ACTIVATIONS
    model.norm, model.scaled_init, model.F = 'post', False, 0
  activation = theirs.get(key, next(iter(known)))
  if isinstance(activation, str) and activation in known:
    model.activation = known[activation]
  else:
    wrong.append(f'{key}={shown(activation)} must be one of {", ".join(known)}')
  if family == 'gpt2':
    model.attention_scale = theirs.get(names['attention_scale'], True)
  if neo:
    model.attention_scale, model.qkv_bias = False, False
    model.band = theirs.get(names['band'], 256)
  broken = config.wrong_model(model, names)
  broken += [f'{names["vocab"]}=0 must be at least 1'] if model.vocab == 0 else []
  if broken:  # what follows computes with these numbers
    raise UserError(f'{path}: {"; ".join(broken)}; give the config.json of the weights')
  if neo:
    kinds = _kinds(theirs.get('attention_types'), model.L)
    if kinds:
      model.attention = pattern_of(kinds)
    else:
      wrong.append(
        f'attention_types={shown(theirs.get("attention_types"))} must give global or '
        f'local for each of {model.L} layers'
      )
  for name, only in (
    ('layer_norm_epsilon', 1e-5),
    ('scale_attn_by_inverse_layer_idx', False),
    ('add_cross_attention', False),
  ):
    if theirs.get(name, only) != only:
      wrong.append(f'{name}={shown(theirs[name])} must be {only}')
  if model.D % model.N:
    wrong.append(f'{names["D"]}={model.D} must be a multiple of {names["N"]}={model.N}')
  return family, model, wrong


def _kinds(types: Any, L: int) -> list[str]:
  """Returns the kinds of L layers by attention_types: [[[KIND ...], TIMES] ...].

  [] where it is something else.
  """
  ours, kinds = {'global': 'dense', 'local': 'banded'}, []
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
