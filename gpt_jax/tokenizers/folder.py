"""What a Hugging Face folder says of its tokenizer: each file and field of it.

The rules of precedence are those of `transformers` 5 (`AutoTokenizer.from_pretrained`),
and so are the ids. What it would pass over in silence is said or refused here.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from gpt_jax.config import UserError
from gpt_jax.files import field, listed, of_kind, read_json, read_text, shown
from gpt_jax.tokenizers.bpe_files import MOST
from gpt_jax.tokenizers.facts import NAMED, check_template
from gpt_jax.tokenizers.protocol import EOT

# The class of tokenizers that a type of model has, where no file names one.
_OF_MODELS = {
  'gpt2': 'GPT2Tokenizer',
  'gpt_neo': 'GPT2Tokenizer',
  'openai-gpt': 'OpenAIGPTTokenizer',
}
# Classes that read tokenizer.json as it is.
_GENERIC = 'TokenizersBackend', 'PreTrainedTokenizer', 'PythonBackend'
# Tokens that a class has where no file names others.
OF_CLASSES = {
  'GPT2Tokenizer': dict.fromkeys(('unk_token', 'bos_token', 'eos_token'), EOT),
  'OpenAIGPTTokenizer': {'unk_token': '<unk>'},
}
# Fields of tokenizer_config.json that make another tokenizer of the files.
_REFUSED = {
  'auto_map': 'its tokenizer is a program of its own',
  'fast_tokenizer_files': 'its tokenizer.json depends on the version that reads it',
  'fix_mistral_regex': 'it changes how words are cut',
  'gguf_file': 'its vocabulary is in a GGUF file',
  'init_inputs': 'its tokenizer is made with arguments without names',
  'merges': 'it gives merges beside those of the files',
  'post_processor': 'only tokenizer.json can have one',
  'tokenizer_object': 'only tokenizer.json can have one',
  'vocab': 'it gives a vocabulary beside that of the files',
}
_FLAGS = 'single_word', 'lstrip', 'rstrip', 'normalized', 'special'


@dataclasses.dataclass(frozen=True)
class Folder:
  """The files of a folder, read and checked, but for the vocabulary.

  Attributes:
    file: tokenizer.json's path.
    whole: of tokenizer.json; None: there is none.
    settings: of tokenizer_config.json.
    mapped: of special_tokens_map.json.
    added: of added_tokens.json.
    config: of config.json, the model's.
    templates: as in `Facts`.
    notes: what to say; grows.
  """

  file: Path
  whole: dict[str, Any] | None = None
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  mapped: dict[str, Any] = dataclasses.field(default_factory=dict)
  added: dict[str, int] = dataclasses.field(default_factory=dict)
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  templates: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def path(self) -> Path:
    """The folder."""
    return self.file.parent

  @functools.cached_property
  def kind(self) -> str:
    """The class of tokenizers that reads it; '': any, tokenizer.json as it is.

    Raises:
      UserError: it is not supported.
    """
    files = (self.settings, 'tokenizer_config.json'), (self.config, 'config.json')
    for about, file in files:
      name = about.get('tokenizer_class')
      if name is None:
        continue
      where = self.path / file
      name = of_kind(name, str, where, name='tokenizer_class').removesuffix('Fast')
      if name in _GENERIC:
        return ''
      if name not in OF_CLASSES:
        raise UserError(
          f'{where}: tokenizer_class={shown(about["tokenizer_class"])} is none of '
          f'{", ".join([*OF_CLASSES, "PreTrainedTokenizerFast"])}; save it with '
          'transformers as PreTrainedTokenizerFast(tokenizer_object=tokenizer.'
          'backend_tokenizer, ...)'
        )
      return name
    kind = self.config.get('model_type')
    return _OF_MODELS.get(kind, '') if isinstance(kind, str) else ''


def read_folder(path: Path) -> Folder:
  """Returns what the files of a folder say.

  Raises:
    UserError: one is damaged, or asks for what is not supported.
  """
  read, notes = {}, []
  for name in ('tokenizer_config', 'special_tokens_map', 'added_tokens', 'config'):
    file = path / f'{name}.json'
    read[name] = read_json(file, most=MOST) if file.exists() else {}
  settings, where = read['tokenizer_config'], path / 'tokenizer_config.json'
  for name, reason in _REFUSED.items():
    if settings.get(name) not in (None, [], {}, False):
      raise UserError(
        f'{where}: {name}={shown(settings[name])} is not supported: {reason}; save the '
        'tokenizer as a tokenizer.json of its own, without this field'
      )
  for token, number in read['added_tokens'].items():
    file = path / 'added_tokens.json'
    of_kind(number, int, file, name=shown(_proper(token, file)))
  templates = {}
  files = [path / 'chat_template.jinja']
  files += sorted((path / 'additional_chat_templates').glob('*.jinja'))
  for file in files:
    if file.exists():
      name = file.relative_to(path).as_posix()
      check_template(name, str(path))
      templates[name] = read_text(file, most=MOST)
  if templates and settings.get('chat_template') is not None:
    notes.append(
      f'{where}: chat_template is passed over for {listed(list(templates))}, as '
      'transformers does; both are kept'
    )
  file = path / 'tokenizer.json'
  return Folder(
    file,
    read_json(file, most=MOST) if file.exists() else None,
    settings,
    read['special_tokens_map'],
    read['added_tokens'],
    read['config'],
    templates,
    notes,
  )


def token_of(about: Any, where: Path | str, special: bool | None = None) -> AddedToken:
  """Returns an added token as a file describes it."""
  about = {**of_kind(about, dict, where)}
  for name in ('id', '__type'):
    about.pop(name, None)
  text = _proper(field(about, 'content', str, where), where)
  flags = {n: v for n, v in about.items() if n != 'content'}
  for name, value in flags.items():
    if name not in _FLAGS:
      raise UserError(
        f'{where}: the added token {shown(text)} has {name}={shown(value)}, which is '
        f'none of {", ".join(_FLAGS)}; remove it'
      )
    of_kind(value, bool, where, name=name)
  if special is not None:
    flags['special'] = special
  return AddedToken(text, **flags)


Named = dict[str, AddedToken | str]


def special(
  said: Folder, of_class: dict[str, str]
) -> tuple[dict[int, AddedToken], Named, list[AddedToken | str]]:
  """Returns the tokens by id, by attribute, and those without either.

  Args:
    of_class: tokens of attributes that no file names.
  """
  where = said.path / 'tokenizer_config.json'
  about = dict(said.settings)
  if 'additional_special_tokens' in about and not about.get('extra_special_tokens'):
    about['extra_special_tokens'] = about.pop('additional_special_tokens')
  added: dict[int, AddedToken] = {}
  if 'added_tokens_decoder' in about:
    decoder = of_kind(about['added_tokens_decoder'], dict, where)
    for number, token in decoder.items():
      if not number.isdecimal():
        raise UserError(
          f'{where}: added_tokens_decoder has {shown(number)} where an id must be; '
          'correct it'
        )
      added[int(number)] = token_of(token, f'{where}: added_tokens_decoder')
    _passed_over(said, about)
  else:
    about |= _mapped(said, about)
    special = {str(_named(about[n], where)) for n in NAMED if about.get(n)}
    extra = about.get('extra_special_tokens')
    special |= set(map(str, extra)) if isinstance(extra, list) else set()
    for token, number in said.added.items():
      one = token in special
      added[number] = AddedToken(token, normalized=not one, special=one)
    places = f'{said.file}: added_tokens'
    for token in of_kind((said.whole or {}).get('added_tokens') or [], list, places):
      added[field(token, 'id', int, places)] = token_of(token, places)
  if 'extra_special_tokens' not in about:
    about['extra_special_tokens'] = about.get('additional_special_tokens')
  extra = about['extra_special_tokens'] or []
  others = extra if isinstance(extra, dict) else {}
  found: Named = {}
  for name, value in (of_class | about | others).items():
    texts = isinstance(value, (str, dict, AddedToken)) and name.endswith('_token')
    if value is not None and (name in NAMED or name in others or texts):
      found[name] = _named(value, f'{where}: {name}')
  order = [n for n in (*NAMED, *found) if n in found]
  found = {n: found[n] for n in order}
  extra = [] if isinstance(extra, dict) else of_kind(extra, list, where)
  return added, found, [_named(each, where) for each in extra]


def _proper(text: str, where: Path | str) -> str:
  """Returns the text of a token, which must be one that a text can have."""
  try:
    text.encode()
  except UnicodeEncodeError:
    raise UserError(
      f'{where}: the token {ascii(text[:80])} has half of a surrogate pair; correct it'
    ) from None
  return text


def _named(value: Any, where: Path | str) -> AddedToken | str:
  """Returns a token that a file names by its text or describes."""
  if isinstance(value, str):
    return _proper(value, where)
  if isinstance(value, AddedToken):
    return value
  return token_of(of_kind(value, dict, where), where)


def _mapped(said: Folder, about: dict) -> dict[str, Any]:
  """Returns what special_tokens_map.json changes of tokenizer_config.json."""
  where, changed = said.path / 'special_tokens_map.json', {}
  for name, value in said.mapped.items():
    if isinstance(value, dict) and name != 'extra_special_tokens':
      value = token_of(value, f'{where}: {name}', special=True)
    elif name == 'extra_special_tokens' and isinstance(value, list):
      before = about.get(name) or []
      tokens = [
        token_of(each, where, special=True) if isinstance(each, dict) else each
        for each in value
      ]
      value = [*before, *(each for each in tokens if each not in before)]
    was = about.get(name)
    if name in NAMED and was is not None and _text(was) != _text(value):
      said.notes.append(
        f'{where}: {name}={shown(_text(value))} counts and not {shown(_text(was))} of '
        'tokenizer_config.json, as transformers does'
      )
    changed[name] = value
  return changed


def _passed_over(said: Folder, about: dict) -> None:
  """Notes what of special_tokens_map.json `added_tokens_decoder` makes void."""
  for name, value in said.mapped.items():
    if name in NAMED and _text(value) != _text(about.get(name)):
      said.notes.append(
        f'{said.path / "special_tokens_map.json"}: {name}={shown(_text(value))} is '
        f'passed over for {shown(_text(about.get(name)))} of tokenizer_config.json, as '
        'transformers does where that has added_tokens_decoder'
      )


def _text(value: Any) -> Any:
  """Returns the text of a token, however it is given."""
  if isinstance(value, dict):
    return value.get('content')
  return value.content if isinstance(value, AddedToken) else value
