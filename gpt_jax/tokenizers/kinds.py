"""The kinds of tokenizers: trained from texts, opened from files, loaded again."""

from collections.abc import Iterable
from pathlib import Path

from gpt_jax.config import TRAINED, UserError
from gpt_jax.files import field, read_json, shown
from gpt_jax.tokenizers import from_folder
from gpt_jax.tokenizers.assemble import class_of
from gpt_jax.tokenizers.bpe_files import MOST, read_bpe
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.characters import (
  Bytes,
  Characters,
  Numbers,
  read_characters,
)
from gpt_jax.tokenizers.facts import Facts, read_facts
from gpt_jax.tokenizers.folder import Folder, read_folder
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.protocol import KIND, Tokenizer
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece
from gpt_jax.tokenizers.tokenizer_json import TokenizerJson


def train(kind: str, texts: Iterable[str], vocab: int) -> Tokenizer:
  """Returns a tokenizer made from texts, the same for the same texts.

  Args:
    kind: one of TRAINED.
    texts: for 'chars' all the text that it will see, held-out text included.
      SentencePiece and byte-level BPE learn from an even sample of long texts.
    vocab: number of ids; 'chars' and 'bytes' have as many as they need.

  Raises:
    UserError: `vocab` does not suit the text, or the kind is unknown.
  """
  if kind == 'bytes':
    return Bytes()
  if kind == 'chars':
    return Characters(''.join(sorted(set().union(*map(set, texts)))))
  if kind == 'byte_bpe':
    return ByteLevel.train(texts, vocab)
  if kind in ('bpe', 'unigram'):
    return SentencePiece.train(kind, texts, vocab)
  raise UserError(f'tokenizer {kind!r} must be one of {", ".join(TRAINED)}')


def open_model(
  path: str | Path, kind: str = 'sentencepiece', eot: int | None = None
) -> SentencePiece:
  """Returns the tokenizer in a SentencePiece .model file.

  Its documents end with its own <|endoftext|>, else its </s>, else its <s>. Most such
  models normalise text: they do not give back every character.

  Args:
    kind, eot: as in `SentencePiece`.

  Raises:
    UserError: there is no such file, or it is not a SentencePiece model.
  """
  try:
    return SentencePiece(Path(path).read_bytes(), kind, str(path), eot)
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e


# Files that mark a folder of a release: GPT-1's, GPT-2's.
_RELEASED = (
  ('encoder_bpe_40000.json', 'vocab_40000.bpe'),
  ('encoder.json', 'vocab.bpe'),
)


def open_path(
  path: str | Path,
  cleaning: str = 'auto',
  eot: int | None = None,
  last: int | None = None,
) -> Tokenizer:
  """Returns the tokenizer in a file or folder, ours or of others.

  Args:
    path: a folder of `save`, or a workdir that has one; a folder with the vocabulary
      and merges of GPT-1 or GPT-2 as released; a folder of Hugging Face's, of which
      all is read that is about the tokenizer; a tokenizer.json alone; a SentencePiece
      .model; a .json of characters (`characters.read_characters`).
    cleaning: as in `gpt1.GPT1`.
    eot: id that ends a text; None: what the tokenizer says. Not for a folder of
      `save`, which has its own.
    last: the same where a folder of Hugging Face's names none, as its model's
      config.json may.

  Raises:
    UserError: there is none, it is damaged or of an unknown kind, or says what is not
      supported.
  """
  path = Path(path).expanduser()
  if path.is_file() and (characters := read_characters(path)):
    return characters
  if path.is_file():
    if path.suffix == '.json':
      return from_folder.opened(Folder(path, read_json(path, most=MOST)), cleaning, eot)
    return open_model(path, eot=eot)
  for folder in (path, path / 'tokenizer'):
    if (folder / KIND).exists():
      return load(folder)
  for vocab, merges in _RELEASED:
    if (path / vocab).exists() and (path / merges).exists():
      ids, pairs = read_bpe(path / vocab, path / merges)
      if class_of(ids) == 'OpenAIGPTTokenizer':
        return GPT1(ids, pairs, cleaning=cleaning, eot=eot, name=str(path))
      return ByteLevel(ids, pairs, eot=_entry(ids, eot, path), name=str(path))
  pair = all((path / name).exists() for name in ('vocab.json', 'merges.txt'))
  if pair or (path / 'tokenizer.json').exists():
    return from_folder.opened(read_folder(path), cleaning, eot, last)
  if len(models := sorted(path.glob('*.model'))) == 1:
    return from_folder.with_model(read_folder(path), models[0], eot)
  raise UserError(
    f'{path}: holds no tokenizer; give one of {", ".join(TRAINED)}, a .model file, a '
    'tokenizer.json, or a folder with vocab.json and merges.txt'
  )


def _entry(vocab: dict[str, int], eot: int | None, where: Path) -> str:
  """Returns the entry with an id, '' for None."""
  found = [entry for entry, number in vocab.items() if number == eot]
  if eot is not None and not found:
    raise UserError(
      f'{where}: the id {eot} of end-of-text has no entry in the vocabulary of '
      f'{len(vocab)}; correct it'
    )
  return found[0] if found else ''


def _with_facts(tokenizer: Tokenizer, facts: Facts | None) -> Tokenizer:
  """Returns a tokenizer with what the folder of Hugging Face says that it is from."""
  tokenizer.facts = facts
  return tokenizer


def load(folder: str | Path) -> Tokenizer:
  """Returns the tokenizer that `save` wrote into a folder.

  Raises:
    UserError: there is none, or a file of it is missing or damaged.
  """
  folder = Path(folder)
  path = folder / KIND
  if not path.exists():
    raise UserError(f'{folder}: holds no tokenizer: there is no {KIND} in it')
  about = read_json(path)
  kind = field(about, 'kind', str, path)
  facts, model = read_facts(folder), folder / 'sentencepiece.model'
  if kind in ('bpe', 'unigram', 'sentencepiece'):
    eot = field(about, 'eot', int, path) if 'eot' in about else None
    return _with_facts(open_model(model, kind, eot), facts)
  if kind == 'byte_bpe':
    return _with_facts(ByteLevel.load(folder, about), facts)
  if kind == 'gpt1':
    return _with_facts(GPT1.load(folder, about), facts)
  if kind == 'tokenizer_json':
    return TokenizerJson.load(folder, about, facts)
  if kind == 'chars':
    return Characters.load(folder, about)
  if kind == 'bytes':
    return Bytes()
  if kind == 'numbers':
    vocab, eot = (field(about, name, int, path) for name in ('vocab', 'eot'))
    return Numbers(vocab, eot, str(path))
  raise UserError(f'{path}: kind={shown(kind)} is unknown to this version')
