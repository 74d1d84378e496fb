"""What a Hugging Face folder says besides weights and vocabulary, kept in a workdir.

A workdir that comes from such a folder has hugging_face.json with these files as they
were; `ends` reads from them which ids end a text, and an export writes them back.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers as their_library

from gpt_jax.config import UserError
from gpt_jax.files import (
  field,
  listed,
  of_kind,
  read_json,
  read_text,
  shown,
  write_json,
)
from gpt_jax.tokenizers import Tokenizer
from gpt_jax.tokenizers.protocol import special_tokens
from gpt_jax.weights.config_json import MOST, parse
from gpt_jax.weights.their_fields import DROPOUTS, FLAGS, GENERATION, NO_DEFAULT

KEPT_AS = 'hugging_face.json'
_CONFIG, _GENERATION = 'config.json', 'generation_config.json'
_TOKENIZER, _SPECIAL = 'tokenizer_config.json', 'special_tokens_map.json'
_KINDS = {
  _CONFIG: dict,
  _GENERATION: dict,
  _TOKENIZER: dict,
  _SPECIAL: dict,
  'chat_template.jinja': str,
}
# What else is read of a folder, or holds nothing of its own.
_READ = (
  'model.safetensors',
  'model-*-of-*.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
  'tokenizer',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  '*.model',
  '.*',
)
# Of tokenizer_config.json, what the files of an export decide.
_OF_FILES = (
  'tokenizer_class added_tokens_decoder auto_map backend is_local local_files_only '
  'name_or_path tokenizer_file vocab_file merges_file'
).split()
_DEFAULT_END = {'gpt2': 50256, 'gpt_neo': 50256, 'openai-gpt': None}  # transformers'


@dataclasses.dataclass(frozen=True)
class Facts:
  """The files of a folder by name: an object of JSON, or text.

  Attributes:
    ignored: what the import passed over: tensors, and fields of config.json.
    where: names their place in an error.
  """

  files: dict[str, Any]
  ignored: tuple[str, ...] = ()
  where: str = ''

  @property
  def config(self) -> dict:
    """The fields of config.json that were not passed over; {} where there is none."""
    about = self.files.get(_CONFIG, {})
    return {name: v for name, v in about.items() if name not in self.ignored}


def read(
  folder: str | Path, ignored: Sequence[str] = (), *, tokenizer: bool = True
) -> Facts:
  """Returns the facts in a folder of weights; raises UserError if they are damaged.

  Args:
    ignored: see `Facts`.
    tokenizer: whether its tokenizer is used; else what is said of that is not read.
  """
  folder, files = Path(folder), {}
  for name, kind in _KINDS.items():
    path = folder / name
    if name in (_TOKENIZER, _SPECIAL) and not tokenizer:
      continue
    if path.exists() and kind is str:
      files[name] = read_text(path, most=MOST)
    elif path.exists():
      files[name] = read_json(path, most=MOST)
  return Facts(files, tuple(ignored), str(folder))


def keep(facts: Facts, workdir: str | Path) -> None:
  """Writes a workdir's hugging_face.json, where there are facts."""
  if facts.files:
    about = {'files': facts.files, 'ignored': list(facts.ignored)}
    write_json(Path(workdir) / KEPT_AS, about)


def kept(workdir: str | Path) -> Facts:
  """Returns the facts that a workdir keeps; raises UserError if they are damaged.

  A workdir that comes from no folder has none.
  """
  path = Path(workdir) / KEPT_AS
  if not path.exists():
    return Facts({})
  about = read_json(path, most=8 * MOST)
  files = field(about, 'files', dict, path)
  for name in files:
    if name not in _KINDS:
      raise UserError(f'{path} is damaged: {name!r:.80} is no file that is kept')
    field(files, name, _KINDS[name], path)
  ignored = field(about, 'ignored', list, path)
  for name in ignored:
    of_kind(name, str, path, name='ignored')
  return Facts(files, tuple(ignored), str(path))


def ends(facts: Facts, vocab: int) -> tuple[int, ...]:
  """Returns the ids that end a text as in transformers' generate, in their order.

  generation_config.json says them, or where there is none config.json.

  Left out are what the model does not predict: `vocab` itself, and the default of
  transformers' classes, which files have that nobody set.

  Raises:
    UserError: another is no whole number in 0 .. vocab.
  """
  name, value = _said_ends(facts)
  found = []
  for end in _listed(value):
    if end is None or isinstance(end, bool) or _is_default(facts, end, vocab):
      continue
    if type(end) is not int or not 0 <= end <= vocab:
      raise UserError(
        f'{facts.where}: {name}: eos_token_id={shown(end)} must be in 0 .. {vocab}, '
        'its vocab_size; correct it'
      )
    found += [end] if end < vocab and end not in found else []
  return tuple(found)


def _is_default(facts: Facts, end: Any, vocab: int) -> bool:
  """Returns whether an end is only transformers' default, and is not predicted."""
  return type(end) is int and end == _default(facts.config) and end >= vocab


def _default(about: dict) -> int | None:
  """Returns the eos_token_id of a config.json that does not say it."""
  family = about.get('model_type')
  return _DEFAULT_END.get(family) if isinstance(family, str) else None


def _said_ends(facts: Facts) -> tuple[str, Any]:
  """Returns the file that says eos_token_id, and the value."""
  if _GENERATION in facts.files:
    return _GENERATION, facts.files[_GENERATION].get('eos_token_id')
  return _CONFIG, _config_end(facts)


def _config_end(facts: Facts) -> Any:
  """Returns config.json's eos_token_id; a default that is not predicted is none."""
  about = facts.config
  default = _default(about)
  vocab = about.get('vocab_size')
  known = type(vocab) is int and default is not None and default < vocab
  return about.get('eos_token_id', default if known else None)


def all_ends(facts: Facts, tokenizer: Tokenizer, vocab: int) -> tuple[int, ...]:
  """Returns the ids besides `tokenizer.eot` that end a text.

  They are `ends`, and the eos_token of tokenizer_config.json and
  special_tokens_map.json.
  """
  found = list(ends(facts, vocab))
  special = special_tokens(tokenizer)
  found += [special[name] for name in _end_names(facts) if name in special]
  others = dict.fromkeys(end for end in found if end != tokenizer.eot and end < vocab)
  return tuple(others)


def _end_names(facts: Facts) -> list[str]:
  """Returns the names of end-of-text in the files of the tokenizer."""
  names = [
    _token(facts.files.get(f, {}).get('eos_token')) for f in (_TOKENIZER, _SPECIAL)
  ]
  return [name for name in dict.fromkeys(names) if name]


def _token(value: Any) -> str:
  """Returns the text of a special token: a text, or an object with its content."""
  value = value.get('content') if isinstance(value, dict) else value
  return value if isinstance(value, str) else ''


def notes(facts: Facts, tokenizer: Tokenizer, folder: Path) -> list[str]:
  """Returns what a report of an import says of the facts, a sentence each."""
  about, generation = facts.config, facts.files.get(_GENERATION, {})
  if not about:
    return []
  parsed = parse(about, facts.where, facts.ignored)
  rate = parsed.model.dropout
  first, *others = DROPOUTS[parsed.family]
  apart = [name for name in others if about.get(name, rate) != rate]
  unasked = [
    name
    for name, value in generation.items()
    if value is not None and name in GENERATION and GENERATION[name].note in NO_DEFAULT
  ]
  flags = ' '.join(
    f'--{FLAGS[name]}={shown(generation[name])}' for name in unasked if name in FLAGS
  )
  strange = [name for name in generation if name not in GENERATION]
  left = [
    path.name
    for path in sorted(folder.iterdir())
    if path.name not in facts.files and not any(map(path.match, _READ))
  ]
  said = {
    f'{_CONFIG}: {_values(about, parsed.unknown)}: unknown, and kept': parsed.unknown,
    f'{_CONFIG}: {_values(about, apart)}: kept, not used; model.dropout is '
    f'{first}={rate}': apart,
    f'{_GENERATION}: {_values(generation, strange)}: unknown, and kept': strange,
    f'{_GENERATION}: {_values(generation, unasked)}: kept, and no defaults here'
    + (f'; sample takes {flags}' if flags else ''): unasked,
    f'not read: {listed(left)}': left,
  }
  ends_said = _notes_on_ends(facts, tokenizer, parsed.model.vocab)
  return ends_said + [text for text, names in said.items() if names]


def _notes_on_ends(facts: Facts, tokenizer: Tokenizer, vocab: int) -> list[str]:
  """Returns which ids end a text, and where the files differ."""
  theirs, others = ends(facts, vocab), all_ends(facts, tokenizer, vocab)
  said = []
  if others:
    every = dict.fromkeys([*theirs, *others, tokenizer.eot])
    said.append(f'a text ends at {", ".join(map(str, every))}')
  if _GENERATION in facts.files:
    value, counts = _config_end(facts), facts.files[_GENERATION].get('eos_token_id')
    if _listed(value) != _listed(counts):
      said.append(
        f'eos_token_id is {shown(value)} in {_CONFIG} and {shown(counts)} in '
        f'{_GENERATION}, which counts, as in transformers'
      )
  for end in _listed(_said_ends(facts)[1]):
    if _is_default(facts, end, vocab):
      said.append(
        f'eos_token_id={end}, the default of transformers, is not in the vocabulary: '
        'it ends nothing'
      )
  special = special_tokens(tokenizer)
  for name in _end_names(facts):
    if name not in special:
      said.append(f'eos_token={name!r:.80} is no special token of the tokenizer')
  more = [i for i in (tokenizer.eot, *others) if i < vocab and i not in theirs]
  if more:
    said.append(
      f'{", ".join(map(str, more))} is end-of-text to the tokenizer and no '
      'eos_token_id: it ends a text here, and in transformers it does not'
    )
  return said


def _listed(value: Any) -> list:
  return value if isinstance(value, list) else [value]


def _values(about: dict, names: Sequence[str]) -> str:
  return listed([f'{name:.80}={shown(about[name])}' for name in names])


def to_write(facts: Facts, eot: int, vocab: int, trained: bool) -> Facts:
  """Returns the facts that an export writes.

  Args:
    trained: whether the model was trained here, where documents end with `eot`; then
      that is one of their ends.
  """
  if not facts.config:
    return facts
  files = dict(facts.files)
  about = {'eos_token_id': _config_end(facts)} | facts.config
  about = {'bos_token_id': about['eos_token_id']} | about
  found = ends(facts, vocab)
  changed = {}
  if trained and eot < vocab and eot not in found:
    changed = {'eos_token_id': [*found, eot] if found else eot}
  files[_CONFIG] = about | changed
  if _GENERATION in files:
    files[_GENERATION] = files[_GENERATION] | changed
  return Facts(files, facts.ignored, facts.where)


def write(facts: Facts, folder: Path) -> None:
  """Writes the facts into a folder that has weights and perhaps a tokenizer.

  Of the tokenizer's settings those stay that its files need.
  """
  made = folder / 'tokenizer.json'
  known = their_library.Tokenizer.from_file(str(made)) if made.exists() else None
  for name, value in facts.files.items():
    path = folder / name
    if name == _CONFIG:
      continue
    if name in (_TOKENIZER, _SPECIAL):
      written = read_json(path) if path.exists() else {}
      value = {
        key: each
        for key, each in value.items()
        if not (key in _OF_FILES or (known and _is_lost(key, each, known)))
      }
      value = written | value
    text = value if isinstance(value, str) else json.dumps(value, indent=2) + '\n'
    path.write_text(text, encoding='utf-8')


def _is_lost(key: str, value: Any, known: their_library.Tokenizer) -> bool:
  """Returns whether a setting names a special token that a tokenizer does not have."""
  named = key.endswith('_token') and _token(value)
  return bool(named) and known.token_to_id(_token(value)) is None
