"""What a Hugging Face folder says besides weights and vocabulary, kept in a workdir.

A workdir that comes from such a folder has hugging_face.json with these files as they
were; `ends` reads from them which ids end a text, and an export writes them back.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.files import (
  field,
  listed,
  of_kind,
  read_json,
  shown,
  write_json,
)
from gpt_jax.weights.config_json import MOST, parse
from gpt_jax.weights.their_fields import DROPOUTS, FLAGS, GENERATION, NO_DEFAULT

KEPT_AS = 'hugging_face.json'
_CONFIG, _GENERATION = 'config.json', 'generation_config.json'
_FILES = _CONFIG, _GENERATION
# What else is read of a folder, or holds nothing of its own.
_READ = (
  'model.safetensors',
  'model-*-of-*.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
  'tokenizer',
  'additional_chat_templates',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  '*.model',
  '.*',
)
_DEFAULT_END = {'gpt2': 50256, 'gpt_neo': 50256, 'openai-gpt': None}  # transformers'


@dataclasses.dataclass(frozen=True)
class Facts:
  """The files of a folder by name, each an object of JSON.

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


def read(folder: str | Path, ignored: Sequence[str] = ()) -> Facts:
  """Returns the facts in a folder of weights; raises UserError if they are damaged.

  Args:
    ignored: see `Facts`.
  """
  paths = {name: Path(folder) / name for name in _FILES}
  files = {n: read_json(path, most=MOST) for n, path in paths.items() if path.exists()}
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
    if name not in _FILES:
      raise UserError(f'{path} is damaged: {name!r:.80} is no file that is kept')
    field(files, name, dict, path)
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


def other_ends(facts: Facts, eot: int, vocab: int) -> tuple[int, ...]:
  """Returns `ends` besides the tokenizer's `eot`."""
  return tuple(end for end in ends(facts, vocab) if end != eot)


def notes(facts: Facts, eot: int, folder: Path) -> list[str]:
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
  ends_said = _notes_on_ends(facts, eot, parsed.model.vocab)
  return ends_said + [text for text, names in said.items() if names]


def _notes_on_ends(facts: Facts, eot: int, vocab: int) -> list[str]:
  """Returns which ids end a text, and where the files differ."""
  theirs, said = ends(facts, vocab), []
  if other_ends(facts, eot, vocab):
    every = dict.fromkeys([*theirs, eot])
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
  if eot < vocab and eot not in theirs:
    said.append(
      f'{eot} is end-of-text to the tokenizer and no eos_token_id: it ends a text '
      'here, and in transformers it does not'
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
  """Writes generation_config.json; `convert.write` writes config.json."""
  if _GENERATION in facts.files:
    text = json.dumps(facts.files[_GENERATION], indent=2, sort_keys=True) + '\n'
    (folder / _GENERATION).write_text(text, encoding='utf-8')
