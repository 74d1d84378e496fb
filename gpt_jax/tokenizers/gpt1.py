"""GPT-1's BPE and the cleaning of text before it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import field
from gpt_jax.tokenizers.bpe_files import Merges, check_bpe, read_bpe, write_bpe
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.protocol import EOT, KIND, write_kind
from gpt_jax.tokenizers.texts import encodable, with_short_words

_LONG_WORDS = re.compile(r'\S{1001,}')  # addresses of web pages are shorter


class GPT1:
  """GPT-1's BPE: cleaned, lower-case words, each closed by </w>. It loses much.

  Attributes:
    cleaning: 'release' cleans and cuts words as the released code does, with ftfy and
      spaCy; 'basic' as BERT does (no accents, every punctuation mark a word, line
      ends lost), which Hugging Face's OpenAIGPTTokenizer always does.

  Differs: GPT-1 has no end-of-text token. `eot` is an id after its 40,478, unless one
  is given. The release gives spaCy words of any length; here those of more than 1,000
  characters are cut.
  """

  kind = 'gpt1'
  facts: Facts | None = None

  def __init__(
    self,
    vocab: dict[str, int],
    merges: Merges,
    *,
    cleaning: str = 'auto',
    eot: int | None = None,
    name: str = 'GPT-1 BPE',
  ):
    """Checks that vocabulary and merges fit and builds the encoder.

    Args:
      vocab: ids by entry.
      merges: pairs of entries, the first to be merged first.
      cleaning: 'release', 'basic', or 'auto': release where ftfy and spaCy are
        installed.
      eot: an entry that ends a text; None: the id after the vocabulary.
      name: of the file, for errors.

    Raises:
      UserError: the two don't fit, 'release' lacks ftfy or spaCy, or `eot` is no id.
    """
    check_bpe(vocab, merges, ('<unk>',), name)
    self.cleaning = _choose_cleaning(cleaning)
    self.eot = len(vocab) if eot is None else eot
    self.vocab = len(vocab) + 1
    if not 0 <= self.eot < self.vocab:
      raise UserError(
        f'{name}: the id {eot} of end-of-text must be in 0 .. {len(vocab)}; correct it'
      )
    self.added = {'<unk>': vocab['<unk>']}
    self.unknown = frozenset([vocab['<unk>']])
    self._vocab, self._merges = vocab, merges
    self._entries = [*sorted(vocab, key=vocab.get), EOT]
    pairs = tokenizers.models.BPE(
      vocab, merges, unk_token='<unk>', end_of_word_suffix='</w>'
    )
    self._encoder = tokenizers.Tokenizer(pairs)
    if self.cleaning == 'basic':
      cleaner = tokenizers.normalizers.BertNormalizer(lowercase=True)
      self._encoder.normalizer = cleaner
      self._encoder.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    else:
      import spacy

      self._cut = spacy.blank('en').tokenizer

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text, uint32; <unk> for what has no entry, never `eot`."""
    return np.array(self.encode(text), np.uint32)

  def encode(self, text: str) -> list[int]:
    text = encodable(text)
    if self.cleaning == 'basic':
      return self._encoder.encode(text).ids
    import ftfy

    # spaCy takes time by the square of what stands between two blanks.
    clean = with_short_words(standardize(ftfy.fix_text(text)), _LONG_WORDS)
    words = [word.text for piece in clean for word in self._cut(piece)]
    # spaCy keeps the blank after a line end; the release reads the two as a line end.
    words = ['\n' if word == '\n ' else word.lower() for word in words]
    return self._encoder.encode(words, is_pretokenized=True).ids if words else []

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids, words apart by single spaces."""
    text = ''.join(self._entries[i] for i in ids if i != self.eot)
    return text.replace('\n</w>', '\n').replace('</w>', ' ').removesuffix(' ')

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._entries[i] for i in ids]

  def save(self, folder: Path) -> None:
    """Writes vocab.json and merges.txt as Hugging Face has them, and kind.json."""
    about = {'kind': self.kind, 'cleaning': self.cleaning}
    about |= {'eot': self.eot} if self.eot < len(self._vocab) else {}
    write_kind(folder, about, self.facts)
    write_bpe(folder, self._vocab, self._merges)

  @classmethod
  def load(cls, folder: Path, about: dict) -> 'GPT1':
    """Returns what `save` wrote."""
    vocab, merges = read_bpe(folder / 'vocab.json', folder / 'merges.txt')
    cleaning = field(about, 'cleaning', str, folder / KIND)
    eot = field(about, 'eot', int, folder / KIND) if 'eot' in about else None
    return cls(vocab, merges, cleaning=cleaning, eot=eot, name=str(folder))


def standardize(text: str) -> str:
  """Returns a text as GPT-1's release writes it before it cuts words.

  Backslashes stay where they are: the release lists them among the marks that it sets
  apart, but in a pattern that is no raw string, so that its two characters for one
  backslash are read as a plus sign.
  """
  for old, new in ('—–―', '-'), ('…', '...'), ('´', "'"):
    text = re.sub(f'[{old}]', new, text)
  text = re.sub(r'([-~!";?+,)(/*\[\]}{|_])\1*', r' \g<0> ', text)
  # As \s*\n\s* would, which goes back over all of a long run of blanks at each of them.
  text = re.sub(r'\s+', lambda run: ' \n ' if '\n' in run[0] else run[0], text)
  return re.sub(r'[^\S\n]+', ' ', text).strip()


def _choose_cleaning(cleaning: str) -> str:
  """Returns 'release' or 'basic'; raises UserError if that can't be had."""
  if cleaning == 'basic':
    return cleaning
  try:
    import ftfy  # noqa: F401
    import spacy  # noqa: F401
  except ImportError as e:
    if cleaning == 'auto':
      return 'basic'
    raise UserError(
      f"GPT-1's cleaning rules need {e.name}; `pip install ftfy spacy`"
    ) from e
  return 'release'
