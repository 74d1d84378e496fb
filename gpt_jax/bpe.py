"""Byte pair encoding as GPT-1 and GPT-2 have it, from their vocabulary files.

GPT-2's works on bytes and loses nothing; GPT-1's works on cleaned, lower-case words.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers

from gpt_jax.config import UserError

EOT = '<|endoftext|>'
KIND = 'kind.json'  # beside the files of every saved tokenizer
# GPT-2's words. Possessive (++) where giving back could not help: the same words as
# with the released expression, found faster, also in long runs of blanks.
GPT2_WORDS = (
  r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
  r'|\s++$|\s+(?!\S)|\s'
)
# Ends of text in vocabularies of others, by preference.
_ENDS = EOT, '<|end_of_text|>', '</s>', '<eos>', '<s>', '<bos>'

Merges = list[tuple[str, str]]


def _byte_characters() -> dict[int, str]:
  """Returns the printable character that stands for each byte in GPT-2's files."""
  printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  others = (byte for byte in range(256) if byte not in printable)
  shown = {byte: chr(byte) for byte in printable}
  return shown | {byte: chr(256 + n) for n, byte in enumerate(others)}


_CHARACTER = _byte_characters()
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


class ByteLevel:
  """Byte-level BPE: any text, and any bytes at all, come back unchanged.

  Differs: the released code finds <|endoftext|> nowhere and Hugging Face's everywhere
  in a text; here, as there, no text gives `eot`.
  """

  kind = 'byte_bpe'
  unknown: frozenset[int] = frozenset()

  def __init__(
    self,
    vocab: dict[str, int],
    merges: Merges,
    *,
    eot: str = '',
    words: str = GPT2_WORDS,
    name: str = 'byte-level BPE',
  ):
    """Checks that vocabulary and merges fit and builds the encoder.

    Args:
      vocab: ids by entry, in GPT-2's characters for bytes.
      merges: pairs of entries, the first to be merged first.
      eot: the entry that ends a text; empty: the first of the usual ones there is.
      words: the expression that cuts a text into words, none of which share a token.
      name: of the file, for errors.

    Raises:
      UserError: ids are not 0 .. n - 1, a byte has none, a merge makes no entry, or
        no entry ends a text.
    """
    _check(vocab, merges, _CHARACTER.values(), name)
    self.vocab = len(vocab)
    ends = [end for end in ([eot] if eot else _ENDS) if end in vocab]
    if not ends:
      raise UserError(
        f'{name}: has no entry {eot or " or ".join(_ENDS)}, which must stand between '
        'documents; add one to the vocabulary'
      )
    self.eot = vocab[ends[0]]
    self._vocab, self._merges, self._words, self._end = vocab, merges, words, ends[0]
    self._entries = sorted(vocab, key=vocab.get)

    made = dict.fromkeys(_CHARACTER.values()) | dict.fromkeys(a + b for a, b in merges)
    self._bytes = [
      _as_bytes(entry) if entry in made else entry.encode() for entry in self._entries
    ]
    self._bytes[self.eot] = b''
    # tiktoken merges a pair wherever the two together are an entry, whatever pair the
    # file lists for it. That is the same exactly if each entry is what merging its own
    # bytes ends with; else we leave merging to `tokenizers`, four times slower.
    pairs = tokenizers.models.BPE(vocab, merges)
    exact = len(made) == 256 + len(merges)
    exact = exact and all(len(pairs.tokenize(a + b)) == 1 for a, b in merges)
    self._tiktoken = self._tokenizers = None
    if exact:
      ranks = {_as_bytes(entry): rank for rank, entry in enumerate(made)}
      self._tiktoken = tiktoken.Encoding(
        'gpt_jax', pat_str=words, mergeable_ranks=ranks, special_tokens={}
      )
      self._id_of_rank = np.array([vocab[entry] for entry in made], np.uint32)
    else:
      self._tokenizers = _byte_level_pipeline(pairs, words)

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text, uint32; never `eot`."""
    text = encodable(text)
    if self._tiktoken:
      ranks = self._tiktoken.encode_to_numpy(text, disallowed_special=())
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
        ids += [self._vocab[_CHARACTER[byte]] for byte in stray]
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
    write_kind(folder, {'kind': self.kind, 'eot': self._end, 'words': self._words})
    _write(folder, self._vocab, self._merges)

  @classmethod
  def load(cls, folder: Path, about: dict) -> 'ByteLevel':
    """Returns what `save` wrote."""
    vocab, merges = read(folder / 'vocab.json', folder / 'merges.txt')
    return cls(vocab, merges, eot=about['eot'], words=about['words'], name=str(folder))

  @classmethod
  def open_json(cls, path: Path) -> 'ByteLevel':
    """Returns the byte-level BPE of a tokenizer.json.

    Raises:
      UserError: it is no such file, or does more than byte-level BPE.
    """
    try:
      whole = json.loads(path.read_text(encoding='utf-8'))
      model = whole['model']
      unsupported = [
        f'{part}={value!r}'
        for part, value, plain in (
          ('model.type', model.get('type', 'BPE'), ('BPE',)),
          ('normalizer', whole.get('normalizer'), (None,)),
          ('continuing_subword_prefix', model.get('continuing_subword_prefix'), _NONE),
          ('end_of_word_suffix', model.get('end_of_word_suffix'), _NONE),
        )
        if value not in plain
      ]
      words = _words_of(whole.get('pre_tokenizer') or {})
      if unsupported or not words:
        unsupported += [] if words else [f'pre_tokenizer={whole.get("pre_tokenizer")}']
        raise UserError(
          f'{path}: {"; ".join(unsupported)} is not the byte-level BPE of GPT-2; '
          'tokenizers of other kinds are not read'
        )
      merges = [
        tuple(m.split(' ')) if isinstance(m, str) else tuple(m) for m in model['merges']
      ]
      vocab = dict(model['vocab'])
      vocab |= {t['content']: t['id'] for t in whole.get('added_tokens') or []}
    except OSError as e:
      raise UserError(f'{path}: can not be read: {e.strerror or e}') from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
      if isinstance(e, UserError):
        raise
      raise UserError(f'{path}: not a tokenizer.json: {e!r}') from e
    return cls(vocab, merges, words=words, name=str(path))

  @classmethod
  def train(cls, texts: Iterable[str], vocab: int) -> 'ByteLevel':
    """Returns one made from texts, laid out as GPT-2's: bytes, merges, `eot`.

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
    learner.train_from_iterator((encodable(text) for text in texts), trainer)
    model = json.loads(learner.to_str())['model']
    found = len(model['vocab']) + 1
    if found < vocab:
      raise UserError(
        f'data.vocab={vocab} is too large for this text, which has pairs for {found}; '
        f'use --config.data.vocab={found} or less, or more text'
      )
    entries = model['vocab'] | {EOT: len(model['vocab'])}
    return cls(entries, [tuple(pair) for pair in model['merges']])


_NONE = None, ''


def _as_bytes(entry: str) -> bytes:
  """Returns the bytes that an entry of a GPT-2 vocabulary stands for."""
  return bytes(_BYTE[character] for character in entry)


def _words_of(splitter: dict) -> str:
  """Returns the expression by which a tokenizer.json cuts words, '' if by none."""
  steps = splitter.get('pretokenizers', [splitter])
  last = steps[-1]
  if last.get('type') != 'ByteLevel' or last.get('add_prefix_space', True):
    return ''
  if len(steps) == 1:
    return GPT2_WORDS if last.get('use_regex', True) else ''
  first = steps[0]
  plain = first.get('type') == 'Split' and first.get('behavior') == 'Isolated'
  if len(steps) > 2 or not plain or first.get('invert') or last.get('use_regex', True):
    return ''
  return first['pattern'].get('Regex', '')


def _byte_level_pipeline(
  pairs: tokenizers.models.BPE, words: str
) -> tokenizers.Tokenizer:
  """Returns an encoder of `tokenizers` for byte-level BPE."""
  splitters = tokenizers.pre_tokenizers
  made = tokenizers.Tokenizer(pairs)
  gpt2 = words == GPT2_WORDS  # whose possessive marks this engine reads otherwise
  last = splitters.ByteLevel(add_prefix_space=False, use_regex=gpt2)
  first = [] if gpt2 else [splitters.Split(tokenizers.Regex(words), 'isolated')]
  made.pre_tokenizer = splitters.Sequence([*first, last])
  return made


class GPT1:
  """GPT-1's BPE: cleaned, lower-case words, each closed by </w>. It loses much.

  Attributes:
    cleaning: 'release' cleans and cuts words as the released code does, with ftfy and
      spaCy; 'basic' as BERT does (no accents, every punctuation mark a word, line
      ends lost), which Hugging Face's OpenAIGPTTokenizer always does.

  Differs: GPT-1 has no end-of-text token. `eot` is an id after its 40,478.
  """

  kind = 'gpt1'

  def __init__(
    self,
    vocab: dict[str, int],
    merges: Merges,
    *,
    cleaning: str = 'auto',
    name: str = 'GPT-1 BPE',
  ):
    """Checks that vocabulary and merges fit and builds the encoder.

    Args:
      vocab: ids by entry.
      merges: pairs of entries, the first to be merged first.
      cleaning: 'release', 'basic', or 'auto': release where ftfy and spaCy are
        installed.
      name: of the file, for errors.

    Raises:
      UserError: the two don't fit, or 'release' lacks ftfy or spaCy.
    """
    _check(vocab, merges, ('<unk>',), name)
    self.cleaning = _choose_cleaning(cleaning)
    self.eot = len(vocab)
    self.vocab = len(vocab) + 1
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

    words = [word.text for word in self._cut(standardize(ftfy.fix_text(text)))]
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
    write_kind(folder, {'kind': self.kind, 'cleaning': self.cleaning})
    _write(folder, self._vocab, self._merges)

  @classmethod
  def load(cls, folder: Path, about: dict) -> 'GPT1':
    """Returns what `save` wrote."""
    vocab, merges = read(folder / 'vocab.json', folder / 'merges.txt')
    return cls(vocab, merges, cleaning=about['cleaning'], name=str(folder))


def standardize(text: str) -> str:
  """Returns a text as GPT-1's release writes it before it cuts words."""
  for old, new in ('—–―', '-'), ('…', '...'), ('´', "'"):
    text = re.sub(f'[{old}]', new, text)
  text = re.sub(r'([-~!";?+,)(\\/*\[\]}{|_])\1*', r' \g<0> ', text)
  text = re.sub(r'\s*\n\s*', ' \n ', text)
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


def read(vocab: Path, merges: Path) -> tuple[dict[str, int], Merges]:
  """Returns the ids and the merges in the two files of a BPE.

  Raises:
    UserError: one can't be read or is not such a file.
  """
  path = vocab
  try:
    ids = json.loads(vocab.read_text(encoding='utf-8'))
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
      raise ValueError('not an object of ids')
    path, pairs = merges, []
    # Not splitlines: U+0085 and others are entries of vocabularies, not line ends.
    for number, line in enumerate(merges.read_text(encoding='utf-8').split('\n'), 1):
      pair = tuple(line.removesuffix('\r').split(' '))
      if line.startswith('#version') or not line:
        continue
      if len(pair) != 2:
        raise ValueError(f'line {number} is not two entries: {line!r}')
      pairs.append(pair)
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e
  except ValueError as e:
    raise UserError(f'{path}: not a file of a BPE vocabulary: {e}') from e
  return ids, pairs


def _write(folder: Path, vocab: dict[str, int], merges: Merges) -> None:
  """Writes vocab.json and merges.txt."""
  text = json.dumps(vocab, ensure_ascii=False)
  (folder / 'vocab.json').write_text(text, encoding='utf-8')
  lines = ['#version: 0.2', *(f'{a} {b}' for a, b in merges)]
  text = '\n'.join(lines) + '\n'
  (folder / 'merges.txt').write_text(text, encoding='utf-8', newline='\n')


def write_kind(folder: Path, about: dict) -> None:
  """Writes the file that says what a tokenizer folder holds."""
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(about, indent=1) + '\n'
  (folder / KIND).write_text(text, encoding='utf-8')


def _check(
  vocab: dict[str, int], merges: Merges, needed: Iterable[str], name: str
) -> None:
  """Raises a UserError unless vocabulary and merges fit each other."""
  if sorted(vocab.values()) != list(range(len(vocab))):
    raise UserError(
      f'{name}: the ids of its {len(vocab)} entries must be 0 .. {len(vocab) - 1}, '
      'each once'
    )
  lacking = [entry for entry in needed if entry not in vocab]
  if lacking:
    raise UserError(
      f'{name}: the vocabulary lacks {len(lacking)} entries it must have, among them '
      f'{lacking[0]!r}: another kind of vocabulary?'
    )
  for number, (a, b) in enumerate(merges, 1):
    missing = [entry for entry in (a, b, a + b) if entry not in vocab]
    if missing:
      raise UserError(
        f'{name}: merge {number} ({a} {b}) does not fit the vocabulary, which has no '
        f'{missing[0]!r}: files of two tokenizers?'
      )


def encodable(text: str) -> str:
  """Returns the text with its lone surrogates, which have no UTF-8, as U+FFFD."""
  try:
    text.encode()
    return text
  except UnicodeEncodeError:
    return re.sub('[\ud800-\udfff]', '\ufffd', text)
