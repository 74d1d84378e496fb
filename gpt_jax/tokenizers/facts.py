"""What a Hugging Face folder says of its tokenizer besides the ids of texts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.files import field, of_kind, read_json

FACTS = 'hugging_face.json'  # beside kind.json
# Attributes of a tokenizer of `transformers` that name one special token each.
NAMED = tuple(f'{n}_token' for n in 'bos eos unk sep pad cls mask'.split())
# Fields of tokenizer_config.json that say where it lay, or that stand elsewhere now.
_ELSEWHERE = {
  *('name_or_path', 'special_tokens_map_file', 'tokenizer_file', 'tokenizer_class'),
  *('added_tokens_decoder', 'additional_special_tokens', 'extra_special_tokens'),
  *('add_bos_token', 'add_eos_token'),
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a folder says, kept to be written back.

  Attributes:
    named: special tokens by attribute, {'eos_token': '</s>'}.
    extra: special tokens of no attribute.
    settings: tokenizer_config.json as it stands, but for places on a disk.
    templates: chat templates in files of their own, by path within the folder.
    before, after: ids that Hugging Face's puts before and after a text, which `encode`
      does not.
    notes: what whoever opens the folder should know; not kept.
  """

  named: dict[str, str]
  extra: tuple[str, ...] = ()
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  templates: dict[str, str] = dataclasses.field(default_factory=dict)
  before: tuple[int, ...] = ()
  after: tuple[int, ...] = ()
  notes: tuple[str, ...] = ()

  def save(self, folder: Path) -> None:
    """Writes the file that `read_facts` reads."""
    about = {
      each.name: getattr(self, each.name)
      for each in dataclasses.fields(self)
      if each.name != 'notes'
    }
    text = json.dumps(about, indent=1) + '\n'
    (folder / FACTS).write_text(text, encoding='utf-8')

  def write(self, folder: Path, context: int, ends: dict[str, str]) -> None:
    """Writes tokenizer_config.json and chat templates, for `AutoTokenizer`.

    Args:
      context: tokens that the model can read, if the folder said nothing of that.
      ends: `bos_token` and `eos_token`, for a folder that named no end of text.
    """
    about = {'model_max_length': context, 'clean_up_tokenization_spaces': False}
    # A tokenizer.json that pads would name one.
    about |= {'pad_token': None} if self.named else {}
    about |= {n: v for n, v in self.settings.items() if n not in _ELSEWHERE}
    loose = {n: t for n, t in self.named.items() if not n.endswith('_token')}
    named = {n: t for n, t in self.named.items() if n not in loose}
    about |= (ends if 'eos_token' not in named else {}) | named
    if self.extra or loose:
      about['extra_special_tokens'] = loose or list(self.extra)
    # Other classes build their own from parts of tokenizer.json.
    about = {'tokenizer_class': 'PreTrainedTokenizerFast'} | about
    text = json.dumps(about, indent=2, ensure_ascii=False) + '\n'
    (folder / 'tokenizer_config.json').write_text(text, encoding='utf-8')
    for name, text in self.templates.items():
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text, encoding='utf-8', newline='')


def read_facts(folder: Path) -> Facts | None:
  """Returns what `save` wrote into a folder; None: nothing.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / FACTS
  if not path.exists():
    return None
  about = read_json(path)
  found = {
    'named': field(about, 'named', dict, path),
    'extra': tuple(field(about, 'extra', list, path)),
    'settings': field(about, 'settings', dict, path),
    'templates': field(about, 'templates', dict, path),
    'before': tuple(field(about, 'before', list, path)),
    'after': tuple(field(about, 'after', list, path)),
  }
  texts = [*found['named'].values(), *found['extra'], *found['templates'].values()]
  for value in texts:
    of_kind(value, str, path)
  for value in (*found['before'], *found['after']):
    of_kind(value, int, path)
  for name in found['templates']:
    check_template(name, str(path))
  return Facts(**found)


def check_template(name: str, where: str) -> None:
  """Raises a UserError unless a chat template's path is one that Hugging Face has."""
  folder, _, file = name.rpartition('/')
  alone = not folder and file == 'chat_template.jinja'
  inside = folder == 'additional_chat_templates' and file.endswith('.jinja')
  if not (alone or inside and '\\' not in file):
    raise UserError(
      f'{where}: the chat template {name[:80]!r} must be chat_template.jinja or lie in '
      'additional_chat_templates/; rename it'
    )
