"""GPT-2's byte-level BPE: from its files, from a tokenizer.json, or trained."""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken
import tokenizers

from gpt_jax.config import UserError
from gpt_jax.files import brief, field, shown
from gpt_jax.tokenizers.bpe_files import Merges, check_bpe, read_bpe, write_bpe
from gpt_jax.tokenizers.engines import OPTIONS
from gpt_jax.tokenizers.facts import Facts
from gpt_jax.tokenizers.protocol import EOT, KIND, write_kind
from gpt_jax.tokenizers.texts import LONG, encodable, even_sample, with_short_words

# GPT-2's words. Possessive (++) where giving back could not help: the same words as
# with the released expression, found faster, also in long runs of blanks.
GPT2_WORDS = (
  r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
  r'|\s++$|\s+(?!\S)|\s'
)
_LONG_WORDS = regex.compile(
  '|'.join(
    rf'{kind}{{{LONG + 1},}}'
    for kind in (r'\p{L}', r'\p{N}', r'[^\s\p{L}\p{N}]', r'\s')
  )
)
_SAMPLE = 32 << 20  # characters that one is trained on, at most
# Ends of text in vocabularies of others, by preference.
_ENDS = EOT, '<|end_of_text|>', '</s>', '<eos>', '<s>', '<bos>'


def _byte_characters() -> dict[int, str]:
  """Returns the printable character that stands for each byte in GPT-2's files."""
  printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = (byte for byte in range(256) if byte not in printable)
  shown = {byte: chr(byte) for byte in printable}
  return shown | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTE_CHARACTERS = _byte_characters()
_TO_LATIN_1 = {ord(character): byte for byte, character in BYTE_CHARACTERS.items()}


class ByteLevel:
  """Byte-level BPE: any text, and any bytes at all, come back unchanged.

  Differs: the released code finds <|endoftext|> nowhere and Hugging Face's everywhere
  in a text; here, as there, no text gives `eot`.
  """

  kind = 'byte_bpe'
  unknown: frozenset[int] = frozenset()
  facts: Facts | None = None

  def __init__(
    self,
    vocab: dict[str, int],
    merges: Merges,
    *,
    eot: str = '',
    words: str = GPT2_WORDS,
    engine: str = '',
    name: str = 'byte-level BPE',
  ):
    """Checks that vocabulary and merges fit and builds the encoder.

    Args:
      vocab: ids by entry, in GPT-2's characters for bytes.
      merges: pairs of entries, the first to be merged first.
      eot: the entry that ends a text; empty: the first of the usual ones there is.
      words: the expression that cuts a text into words, none of which share a token.
      engine: 'tiktoken', 'tokenizers', or empty: the first if it gives the same ids.
      name: of the file, for errors.

    Raises:
      UserError: ids are not 0 .. n - 1, a byte has none, a merge makes no entry, or
        no entry ends a text.
    """
    check_bpe(vocab, merges, BYTE_CHARACTERS.values(), name)
    self.vocab = len(vocab)
    ends = [end for end in ([eot] if eot else _ENDS) if end in vocab]
    if not ends:
      raise UserError(
        f'{name}: has no entry {eot[:80] or " or ".join(_ENDS)}, which must stand '
        'between documents; add one to the vocabulary'
      )
    self.eot = vocab[ends[0]]
    self.added = {ends[0]: self.eot}
    self._vocab, self._merges, self._words, self._end = vocab, merges, words, ends[0]
    self._entries = sorted(vocab, key=vocab.get)

    known = dict.fromkeys(BYTE_CHARACTERS.values())
    known |= dict.fromkeys(a + b for a, b in merges)
    self._bytes = [
      _as_bytes(entry) if entry in known else entry.encode() for entry in self._entries
    ]
    self._bytes[self.eot] = b''
    self._engine = engine or _engine(vocab, merges, len(known))
    self._tiktoken = self._tokenizers = None
    self._name = name
    if words != GPT2_WORDS:
      _check_words(words, name)
    if self._engine == 'tiktoken':
      ranks = {_as_bytes(entry): rank for rank, entry in enumerate(known)}
      # The special token is never allowed. Without any, tiktoken looks for an empty
      # text at every place, which takes as long as all the rest.
      try:
        self._tiktoken = tiktoken.Encoding(
          'gpt_jax',
          pat_str=words,
          mergeable_ranks=ranks,
          special_tokens={EOT: len(ranks)},
        )
      except ValueError as e:  # its language of expressions is not quite Python's
        raise UserError(
          f'{name}: its expression for words, {shown(words)}, can not be used: '
          f'{brief(e)}; correct it'
        ) from e
      self._id_of_rank = np.array([vocab[entry] for entry in known], np.uint32)
    else:
      self._tokenizers = pipeline(vocab, merges, words)

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text, uint32; never `eot`."""
    text = encodable(text)
    if self._tiktoken:
      try:
        ranks = self._tiktoken.encode_to_numpy(text, disallowed_special=())
      except BaseException as e:
        if type(e).__name__ != 'PanicException':  # of Rust, and no Exception
          raise
        raise UserError(
          f'{self._name}: its expression for words, {shown(self._words)}, can not cut '
          f'{shown(text)} ({brief(e)}); correct it'
        ) from None
      return self._id_of_rank[ranks]
    return np.array(self._tokenizers.encode(text).ids, np.uint32)

  def encode(self, text: str) -> list[int]:
    return self.encode_array(text).tolist()

  def encode_bytes(self, content: bytes) -> list[int]:
    """Returns the ids of bytes that need not be UTF-8, for `decode_bytes`.

    Bytes outside UTF-8 are not merged.
    """
    ids = []
    text = content.decode('utf-8', 'surrogateescape')
    for run in re.split('([\udc80-\udcff]+)', text):
      if run and '\udc80' <= run[0] <= '\udcff':
        stray = run.encode('utf-8', 'surrogateescape')
        ids += [self._vocab[BYTE_CHARACTERS[byte]] for byte in stray]
      else:
        ids += self.encode(run)
    return ids

  def decode_bytes(self, ids: Sequence[int]) -> bytes:
    """Returns the bytes that ids stand for; none for `eot`."""
    return b''.join(self._bytes[i] for i in ids)

  def decode(self, ids: Sequence[int]) -> str:
    return self.decode_bytes(ids).decode(errors='replace')

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._entries[i] for i in ids]

  def save(self, folder: Path) -> None:
    """Writes vocab.json and merges.txt as Hugging Face has them, and kind.json."""
    about = {'eot': self._end, 'words': self._words, 'engine': self._engine}
    write_kind(folder, {'kind': self.kind} | about, self.facts)
    write_bpe(folder, self._vocab, self._merges)

  @classmethod
  def load(cls, folder: Path, about: dict) -> 'ByteLevel':
    """Returns what `save` wrote."""
    vocab, merges = read_bpe(folder / 'vocab.json', folder / 'merges.txt')
    settings = {
      name: field(about, name, str, folder / KIND)
      for name in ('eot', 'words', 'engine')
    }
    return cls(vocab, merges, name=str(folder), **settings)

  @classmethod
  def train(cls, texts: Iterable[str], vocab: int) -> 'ByteLevel':
    """Returns one made from an even sample of texts.

    It is laid out as GPT-2's: bytes, merges, `eot`.

    Raises:
      UserError: the texts have fewer pairs to merge than `vocab` asks for.
    """
    if vocab < 257:
      raise UserError(
        f'data.vocab={vocab} is too small: byte-level BPE has 256 bytes and {EOT}; '
        'use --config.data.vocab=257 or more'
      )
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    splitter = tokenizers.pre_tokenizers.ByteLevel
    learner.pre_tokenizer = splitter(add_prefix_space=False, use_regex=True)
    trainer = tokenizers.trainers.BpeTrainer(
      vocab_size=vocab - 1, initial_alphabet=splitter.alphabet(), show_progress=False
    )
    sample = even_sample(texts, _SAMPLE)
    pieces = (with_short_words(encodable(text), _LONG_WORDS) for text in sample)
    learner.train_from_iterator(itertools.chain.from_iterable(pieces), trainer)
    model = json.loads(learner.to_str())['model']
    most = len(model['vocab']) + 1
    if most < vocab:
      raise UserError(
        f'data.vocab={vocab} is too large for this text, which has pairs for {most}; '
        f'use --config.data.vocab={most} or less, or more text'
      )
    entries = model['vocab'] | {EOT: len(model['vocab'])}
    return cls(entries, [tuple(pair) for pair in model['merges']])


def _as_bytes(entry: str) -> bytes:
  """Returns the bytes that an entry of a GPT-2 vocabulary stands for."""
  return entry.translate(_TO_LATIN_1).encode('latin-1')


def of_json(whole: dict[str, Any], eot: str, name: str) -> ByteLevel | None:
  """Returns the byte-level BPE of a tokenizer.json; None: it is or does more.

  Args:
    whole: checked as by `engines.check`. Added tokens are entries like others, but for
      their use in texts.
    eot: as in `ByteLevel`.
    name: of the file, for errors.
  """
  model, words = whole['model'], _words_of(whole.get('pre_tokenizer'))
  decoder = whole.get('decoder') or {}
  more = [whole.get('normalizer'), decoder.get('type') != 'ByteLevel']
  more += [model.get(option) for option in OPTIONS]
  if model.get('type', 'BPE') != 'BPE' or not words or any(more):
    return None
  vocab = dict(model['vocab'])
  for token in whole.get('added_tokens') or []:
    vocab[token['content']] = token['id']
  merges = [
    tuple(pair.split(' ') if isinstance(pair, str) else pair)
    for pair in model['merges']
  ]
  if not all(byte in vocab for byte in BYTE_CHARACTERS.values()):
    return None
  return ByteLevel(vocab, merges, eot=eot, words=words, name=name)


def _words_of(splitter: Any) -> str:
  """Returns the expression by which a tokenizer.json cuts words, '' if by none."""
  if not isinstance(splitter, dict):
    return ''
  steps = splitter.get('pretokenizers', [splitter])
  if not (
    isinstance(steps, list) and steps and all(isinstance(s, dict) for s in steps)
  ):
    return ''
  last = steps[-1]
  if last.get('type') != 'ByteLevel' or last.get('add_prefix_space', True):
    return ''
  if len(steps) == 1:
    return GPT2_WORDS if last.get('use_regex', True) else ''
  first = steps[0]
  plain = first.get('type') == 'Split' and first.get('behavior') == 'Isolated'
  if len(steps) > 2 or not plain or first.get('invert') or last.get('use_regex', True):
    return ''
  pattern = first.get('pattern')
  words = pattern.get('Regex') if isinstance(pattern, dict) else ''
  return words if isinstance(words, str) else ''


_LONGEST = 4000  # characters of an expression for words; GPT-4's has 150
_PROBE = "A b's can't, WE'LL  éü日本 42 ½\n\n\t x=1;--\r\n 12345 \u2028…🙂 end \n "


def _check_words(words: str, name: str) -> None:
  """Raises a UserError unless an expression cuts a text into words without a rest."""
  reason = 'it leaves out a part of a text'
  try:
    if len(words) > _LONGEST:
      raise regex.error(f'it has more than {_LONGEST:,} characters')
    cut = [each.group() for each in regex.finditer(words, _PROBE * 4, timeout=1)]
    if ''.join(cut) == _PROBE * 4 and all(cut):
      return
  except (regex.error, TimeoutError, RecursionError, MemoryError) as e:
    reason = brief(e)
  raise UserError(
    f'{name}: its expression for words, {shown(words)}, can not be used: {reason}; '
    'correct it'
  )


def _engine(vocab: dict[str, int], merges: Merges, entries: int) -> str:
  """Returns 'tiktoken' if it gives the ids that the merges mean, else 'tokenizers'.

  tiktoken merges a pair wherever the two together are an entry, whatever pair the file
  lists for that entry. The ids are the same exactly if each entry is what merging its
  own bytes ends with. `tokenizers` goes by the pairs, four times slower.

  Args:
    entries: how many different ones bytes and merges make.
  """
  pairs = tokenizers.models.BPE(vocab, merges)
  same = entries == 256 + len(merges)
  same = same and all(len(pairs.tokenize(a + b)) == 1 for a, b in merges)
  return 'tiktoken' if same else 'tokenizers'


def pipeline(vocab: dict[str, int], merges: Merges, words: str) -> tokenizers.Tokenizer:
  """Returns an encoder of `tokenizers` for byte-level BPE."""
  splitters = tokenizers.pre_tokenizers
  encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
  gpt2 = words == GPT2_WORDS  # whose possessive marks this engine reads otherwise
  last = splitters.ByteLevel(add_prefix_space=False, use_regex=gpt2)
  first = [] if gpt2 else [splitters.Split(tokenizers.Regex(words), 'isolated')]
  encoder.pre_tokenizer = splitters.Sequence([*first, last])
  return encoder
