"""Any other tokenizer of Hugging Face: its tokenizer.json, kept whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import field, of_kind, parse_json, read_text, shown
from gpt_jax.tokenizers import byte_level, engines
from gpt_jax.tokenizers.bpe_files import MOST
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.protocol import EOT, KIND, write_kind
from gpt_jax.tokenizers.texts import encodable

# What Hugging Face's clean-up takes out of a text, in this order.
_CLEANED = (
  *((f' {mark}', mark) for mark in '.?!,'),
  (" ' ", "'"),
  *((f' {end}', end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


class TokenizerJson:
  """A tokenizer.json with added tokens, other ways to cut words, or another model.

  Ids and texts are those of `transformers`: `encode` gives what it does with
  `add_special_tokens=False, split_special_tokens=True`, `encode_special` the same
  without the latter, and `decode` with `skip_special_tokens=True`.

  Attributes:
    added: ids of added tokens by their texts. Those that are not special are found by
      `encode` too, as any entry of the vocabulary is: `found_always` has their texts.
    whole: text of the tokenizer.json.

  Differs: `eot` is no text's id and no text's end, also where the file has it as a
  token that is not special; and where the vocabulary has no <|endoftext|>,
  `encode_special` reads that as `eot`.
  """

  kind = 'tokenizer_json'

  def __init__(
    self,
    whole: str,
    eot: int,
    vocab: int,
    facts: Facts | None = None,
    name: str = 'tokenizer.json',
  ):
    """Builds the encoders.

    Args:
      whole: text of the tokenizer.json.
      vocab: number of ids; tokens after these are of no use to a model.
      name: of the file, for errors.

    Raises:
      UserError: the library can't read it, or `eot` is no id.
    """
    if not 0 <= eot < vocab:
      raise UserError(
        f'{name}: the id {eot} of end-of-text must be in 0 .. {vocab - 1}; correct it'
      )
    self.eot, self.vocab, self.facts = eot, vocab, facts
    self.whole, self._name = whole, name
    about = of_kind(parse_json(whole, name), dict, name)
    engines.check(about, name)
    for token in about.get('added_tokens') or []:
      token['special'] = token.get('special', False) or token['id'] == eot
    self._finds = engines.opened(about, name)
    self._splits = engines.opened(about, name)
    for encoder in (self._finds, self._splits):
      encoder.no_truncation()
      encoder.no_padding()
    self._splits.encode_special_tokens = True
    tokens = self._finds.get_added_tokens_decoder()
    self.added = {t.content: i for i, t in sorted(tokens.items()) if i < vocab}
    self._special = {eot, *(i for i, token in tokens.items() if token.special)}
    self.found_always = [t for t, i in self.added.items() if not tokens[i].special]
    self._cleans = _cleans(about['model'], facts.settings if facts else {})
    self.unknown = _unknown(about['model'], self._finds)
    self._bytes = None
    if all(token.special for token in tokens.values()):
      self._bytes = byte_level.of_json(about, self._finds.id_to_token(eot), name)
    if self._bytes:
      self.decode_bytes = self._byte_level_bytes

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text, uint32.

    Raises:
      UserError: the tokenizer has no id for a part of it, not even that of the unknown.
    """
    if self._bytes:
      return self._bytes.encode_array(text)
    return np.array(self.encode(text), np.uint32)

  def encode(self, text: str) -> list[int]:
    if self._bytes:
      return self._bytes.encode(text)
    return self._ids(self._splits, text)

  def encode_special(self, text: str) -> list[int]:
    """Returns the ids of a text in which added tokens are found, special ones too."""
    if self.added.get(EOT) is not None:
      return self._ids(self._finds, text)
    ids = []
    for number, part in enumerate(text.split(EOT)):
      ids += [self.eot] * (number > 0)
      ids += self._ids(self._finds, part) if part else []
    return ids

  def _ids(self, encoder: tokenizers.Tokenizer, text: str) -> list[int]:
    with engines.said(f'{self._name}: it has no ids for {shown(text)}'):
      return encoder.encode(encodable(text), add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; '' for special tokens, `eot` among them."""
    text = self._finds.decode([int(i) for i in ids if i != self.eot])
    if self._cleans:
      for old, new in _CLEANED:
        text = text.replace(old, new)
    return text

  def _byte_level_bytes(self, ids: Sequence[int]) -> bytes:
    """Returns the bytes of ids, as `ByteLevel.decode_bytes`; none for added tokens."""
    return self._bytes.decode_bytes([i for i in ids if i not in self._special])

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._finds.id_to_token(int(i)) for i in ids]

  def save(self, folder: Path) -> None:
    """Writes the tokenizer.json as it is, what a folder said, and kind.json."""
    about = {'kind': self.kind, 'eot': self.eot, 'vocab': self.vocab}
    write_kind(folder, about, self.facts)
    (folder / 'tokenizer.json').write_text(self.whole, encoding='utf-8', newline='')

  @classmethod
  def load(cls, folder: Path, about: dict, facts: Facts | None) -> 'TokenizerJson':
    """Returns what `save` wrote."""
    eot, vocab = (field(about, name, int, folder / KIND) for name in ('eot', 'vocab'))
    path = folder / 'tokenizer.json'
    return cls(read_text(path, most=MOST), eot, vocab, facts, str(path))


def _cleans(model: dict[str, Any], settings: dict[str, Any]) -> bool:
  """Returns whether texts are cleaned up after decoding, which BPE's are not."""
  name = 'clean_up_tokenization_spaces'
  forced = settings.get(f'{name}_for_bpe_even_though_it_will_corrupt_output')
  return bool(settings.get(name) and (forced or model.get('type', 'BPE') != 'BPE'))


def _unknown(model: dict[str, Any], encoder: tokenizers.Tokenizer) -> frozenset[int]:
  """Returns the ids of text that has no entry of its own."""
  if 'unk_id' in model:
    found = [model['unk_id']]
  else:
    found = [encoder.token_to_id(model.get('unk_token') or '')]
  if model.get('byte_fallback'):
    found += [encoder.token_to_id(f'<0x{byte:02X}>') for byte in range(256)]
  return frozenset(each for each in found if each is not None)
